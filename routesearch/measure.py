"""The one ruler: a trained network and a split to operating points. No method measures itself."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from routesearch.data.base import Data, Images
from routesearch.errors import RunFailed
from routesearch.method import Knob, RoutedNet, Scores, plan, run
from routesearch.points import OperatingPoint
from routesearch.pricing import executed
from routesearch.routing import Plan, Routed

BATCH = 256
DISAGREE = 0.02
"""Share of images (and two at least) whose stored decision may differ from the executed one: scores at a
threshold round differently in another batch. Beyond it the method's ``decide`` is wrong."""


def measure(
    net: RoutedNet, data: Data, images: Images, device: torch.device, knobs: Sequence[Knob] | None = None
) -> list[OperatingPoint]:
    """Accuracy and mean MACs of ``net`` on ``images``, at the given knobs or all that the method proposes.

    Where the method offers scores, the split is passed through once and each knob costs a look-up: the
    method decides, the core looks up whether that route's label is right and what the route costs. Scores
    without predictions (routes too many to list) only choose the knobs; each knob is then run.

    Raises:
        RunFailed: where stored decisions and executed ones differ, where work was done outside the meter,
            or where logits are not finite.
    """
    net.eval()
    labels = images.labels.to(device)
    scores = _observe(net, data, images, device)
    if scores is not None and bool(scores.scores.isnan().any()):
        raise RunFailed(f"{net.name}: scores must be numbers, got NaN")
    if knobs is None:
        knobs = net.knobs(scores, labels)
    priced = plan(type(net), net.config, net.backbone, net.trunk)
    first = data.inputs(next(images.chunks(BATCH)).pixels.to(device))
    if scores is None or not scores.predictions.shape[1]:
        _audited(net, first, knobs[0])
        return [_executed(net, data, images, device, knob, len(priced.routes)) for knob in knobs]
    some = {0, len(knobs) // 3, 2 * len(knobs) // 3}  # ends tell little: there all images go one way
    _spot_check(net, first, scores, priced, [knobs[i] for i in some])
    return _looked_up(net, scores, labels, priced, knobs)


def _observe(net: RoutedNet, data: Data, images: Images, device: torch.device) -> Scores | None:
    parts: list[Scores] = []
    with torch.inference_mode():
        for chunk in images.chunks(BATCH):
            part = net.observe(data.inputs(chunk.pixels.to(device)))
            if part is None:
                return None
            parts.append(part)
    return Scores(torch.cat([p.scores for p in parts]), torch.cat([p.predictions for p in parts]))


def _looked_up(
    net: RoutedNet, scores: Scores, labels: Tensor, priced: Plan, knobs: Sequence[Knob]
) -> list[OperatingPoint]:
    routes = scores.predictions.shape[1]
    prices = [priced.routes[r] for r in range(routes)]
    if any(p.min != p.max for p in prices):
        raise RunFailed(f"{net.name}: a route that can be looked up must have one price, got {prices}")
    correct = scores.predictions.eq(labels[:, None])
    price = torch.tensor([p.min for p in prices], dtype=torch.float64, device=labels.device)
    points = []
    for knob in knobs:  # one at a time: thousands of knobs over all images at once take hundreds of MB
        taken = net.decide(scores.scores, knob)
        shares = torch.bincount(taken, minlength=routes).double() / len(labels)
        right = correct.gather(1, taken[:, None]).double().mean().item()
        points.append(OperatingPoint(knob, right, (shares @ price).item(), _shares(shares)))
    return points


def _executed(
    net: RoutedNet, data: Data, images: Images, device: torch.device, knob: Knob, routes: int
) -> OperatingPoint:
    parts: list[Routed] = [
        run(net, data.inputs(chunk.pixels.to(device)), knob) for chunk in images.chunks(BATCH)
    ]
    logits, labels = torch.cat([p.logits for p in parts]), images.labels.to(device)
    _check_finite(net, logits, knob)
    macs = torch.cat([p.macs for p in parts]).double().mean().item()
    sites = max(p.ran.shape[1] for p in parts)  # fewer where no image of a batch met one
    if sites:
        shares = torch.cat([F.pad(p.ran, (0, sites - p.ran.shape[1])) for p in parts]).double().mean(0)
    else:
        shares = torch.bincount(torch.cat([p.route for p in parts]), minlength=routes).double() / len(labels)
    accuracy = logits.argmax(1).eq(labels).double().mean().item()
    return OperatingPoint(knob, accuracy, macs, _shares(shares))


def _audited(net: RoutedNet, inputs: Tensor, knob: Knob) -> Routed:
    """Route a batch, and hold the bill against everything that ran.

    Raises:
        RunFailed: where work was done outside the meter, or charged and not done.
    """
    run(net, inputs, knob)  # prices what it meets for the first time, which would count as work below
    with executed(net) as work:
        routed = run(net, inputs, knob)
    _check_finite(net, routed.logits, knob)
    billed = int(routed.macs.sum())
    if work.macs != billed:
        law = "every block must run through the meter"
        raise RunFailed(f"{net.name}: {law}, got {work.macs:,} MACs of work and a bill of {billed:,}")
    return routed


def _spot_check(
    net: RoutedNet,
    inputs: Tensor,
    scores: Scores,
    priced: Plan,
    knobs: Sequence[Knob],
) -> None:
    """Hold stored decisions, labels and prices of the first images against executed ones."""
    for knob in knobs:
        really = _audited(net, inputs, knob)
        said = net.decide(scores.scores[: len(inputs)], knob)
        labels = scores.predictions[: len(inputs)].gather(1, said[:, None]).squeeze(1)
        differ = int((said.ne(really.route) | labels.ne(really.logits.argmax(1))).sum())
        if differ > max(2, DISAGREE * len(inputs)):
            law = "decide(observe(x)) must agree with route(x)"
            raise RunFailed(f"{net.name}: {law}, got {differ} of {len(inputs)} different at {dict(knob)}")
        for route, macs in set(zip(really.route.tolist(), really.macs.tolist(), strict=True)):
            price = priced.routes[route]
            if macs not in price:
                law = "an image must cost what its route was priced at"
                raise RunFailed(f"{net.name}: {law}, got {macs:,} and {price} on route {route}")


def _check_finite(net: RoutedNet, logits: Tensor, knob: Knob) -> None:
    if not bool(torch.isfinite(logits).all()):
        raise RunFailed(f"{net.name}: logits must be finite, got NaN or infinity at knob {dict(knob)}")


def _shares(shares: Tensor) -> tuple[float, ...]:
    return tuple(round(share, 6) for share in shares.tolist())
