"""The one ruler: a trained network and a split to operating points. No method measures itself."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from routesearch.data.base import Data, Images
from routesearch.errors import RunFailed
from routesearch.method import Knob, RoutedNet, Scores, plan, run
from routesearch.points import OperatingPoint
from routesearch.routing import Plan, Routed

BATCH = 256
DISAGREE = 0.02
"""Share of images whose stored decision may differ from the executed one (scores at a threshold round
differently in another batch); beyond it the method's ``decide`` is wrong."""


def measure(
    net: RoutedNet, data: Data, images: Images, device: torch.device, knobs: Sequence[Knob] | None = None
) -> list[OperatingPoint]:
    """Accuracy and mean MACs of ``net`` on ``images``, at the given knobs or all that the method proposes.

    Where the method offers scores, the split is passed through once and each knob costs a look-up: the
    method decides, the core looks up whether that route's label is right and what the route costs.

    Raises:
        RunFailed: where stored decisions and executed ones differ.
    """
    net.eval()
    labels = images.labels.to(device)
    scores = _observe(net, data, images, device)
    if knobs is None:
        knobs = net.knobs(scores, labels)
    if scores is None:
        return [_executed(net, data, images, device, knob) for knob in knobs]
    priced = plan(type(net), net.config, net.backbone)
    _spot_check(net, data, images, device, scores, (knobs[0], knobs[len(knobs) // 2]))
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
    # One accumulation over all knobs: how many images of each route are there, and how many right.
    correct = scores.predictions.eq(labels[:, None])
    taken = torch.stack([net.decide(scores.scores, knob) for knob in knobs])  # knobs x N
    count = torch.zeros(len(knobs), routes, dtype=torch.int64, device=labels.device)
    count.scatter_add_(1, taken, torch.ones_like(taken))
    right = correct.gather(1, taken.T).sum(0)
    price = torch.tensor([p.min for p in prices], dtype=torch.float64, device=labels.device)
    macs = (count.double() @ price) / len(labels)
    return [
        OperatingPoint(knob, right[i].item() / len(labels), macs[i].item(), _shares(count[i] / len(labels)))
        for i, knob in enumerate(knobs)
    ]


def _executed(net: RoutedNet, data: Data, images: Images, device: torch.device, knob: Knob) -> OperatingPoint:
    parts: list[Routed] = [run(net, data.inputs(p.to(device)), knob) for p in images.pixels.split(BATCH)]
    logits, labels = torch.cat([p.logits for p in parts]), images.labels.to(device)
    if not bool(torch.isfinite(logits).all()):
        raise RunFailed(f"{net.name}: logits must be finite, got NaN or infinity at knob {dict(knob)}")
    macs = torch.cat([p.macs for p in parts]).double().mean().item()
    sites = max(p.ran.shape[1] for p in parts)
    if sites:
        shares = torch.cat([p.ran for p in parts]).double().mean(0)
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
        said = net.decide(scores.scores[: len(pixels)], knob)
        labels = scores.predictions[: len(pixels)].gather(1, said[:, None]).squeeze(1)
        differ = (said.ne(really.route) | labels.ne(really.logits.argmax(1))).double().mean().item()
        if differ > DISAGREE:
            law = "decide(observe(x)) must agree with route(x)"
            raise RunFailed(f"{net.name}: {law}, got {differ:.0%} different at {dict(knob)}")


def _shares(shares: Tensor) -> tuple[float, ...]:
    return tuple(round(share, 6) for share in shares.tolist())
