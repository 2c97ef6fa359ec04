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
    method decides, the core looks up whether that route's label is right and what the route costs.

    Raises:
        RunFailed: where stored decisions and executed ones differ, or logits are not finite.
    """
    net.eval()
    labels = images.labels.to(device)
    scores = _observe(net, data, images, device)
    if scores is not None and bool(scores.scores.isnan().any()):
        raise RunFailed(f"{net.name}: scores must be numbers, got NaN")
    if knobs is None:
        knobs = net.knobs(scores, labels)
    priced = plan(type(net), net.config, net.backbone)
    if scores is None:
        return [_executed(net, data, images, device, knob, len(priced.routes)) for knob in knobs]
    some = {0, len(knobs) // 3, 2 * len(knobs) // 3}  # ends tell little: there all images go one way
    _spot_check(net, data, images, device, scores, [knobs[i] for i in some])
    return _looked_up(net, scores, labels, priced, knobs)


def _observe(net: RoutedNet, data: Data, images: Images, device: torch.device) -> Scores | None:
    parts: list[Scores] = []
    with torch.inference_mode():
        for pixels in images.pixels.split(BATCH):
            part = net.observe(data.inputs(pixels.to(device)))
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
    parts: list[Routed] = [run(net, data.inputs(p.to(device)), knob) for p in images.pixels.split(BATCH)]
    logits, labels = torch.cat([p.logits for p in parts]), images.labels.to(device)
    _check_finite(net, logits, knob)
    macs = torch.cat([p.macs for p in parts]).double().mean().item()
    sites = max(p.ran.shape[1] for p in parts)  # fewer where no image of a batch met one
    if sites:
        shares = torch.cat([F.pad(p.ran, (0, sites - p.ran.shape[1])) for p in parts]).double().mean(0)
    else:
        routes = len(plan(type(net), net.config, net.backbone).routes)
        shares = torch.bincount(torch.cat([p.route for p in parts]), minlength=routes).double() / len(labels)
    accuracy = logits.argmax(1).eq(labels).double().mean().item()
    return OperatingPoint(knob, accuracy, macs, _shares(shares))


def _spot_check(
    net: RoutedNet, data: Data, images: Images, device: torch.device, scores: Scores, knobs: Sequence[Knob]
) -> None:
    pixels = images.pixels[:BATCH].to(device)
    for knob in knobs:
        really = run(net, data.inputs(pixels), knob)
        _check_finite(net, really.logits, knob)
        said = net.decide(scores.scores[: len(pixels)], knob)
        labels = scores.predictions[: len(pixels)].gather(1, said[:, None]).squeeze(1)
        differ = int((said.ne(really.route) | labels.ne(really.logits.argmax(1))).sum())
        if differ > max(2, DISAGREE * len(pixels)):
            law = "decide(observe(x)) must agree with route(x)"
            raise RunFailed(f"{net.name}: {law}, got {differ} of {len(pixels)} different at {dict(knob)}")


def _check_finite(net: RoutedNet, logits: Tensor, knob: Knob) -> None:
    if not bool(torch.isfinite(logits).all()):
        raise RunFailed(f"{net.name}: logits must be finite, got NaN or infinity at knob {dict(knob)}")


def _shares(shares: Tensor) -> tuple[float, ...]:
    return tuple(round(share, 6) for share in shares.tolist())
