"""Operating points of a trained network on a split, measured in the same way for every method."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from routesearch.data.base import Data, Images
from routesearch.errors import RunFailed, noted
from routesearch.errors.texts import shown
from routesearch.methods.base import Knob, RoutedNet, Scores
from routesearch.methods.running import check_knobs, price, run
from routesearch.results.points import OperatingPoint
from routesearch.routing.billing import BatchMeter, Routed
from routesearch.routing.cost import image_macs
from routesearch.routing.counter import check, counted
from routesearch.routing.pricing import RoutePrices

LOOKED_UP = 1 << 20
"""Decisions (images x knobs) that are looked up at a time, 40 bytes each."""
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
    priced = price(type(net), net.config, net.backbone, net.trunk)
    scores = observe_all(net, data, images, device)
    if scores is not None:
        if bool(scores.scores.isnan().any()):
            raise RunFailed(f"{net.name}: scores must be numbers, got NaN")
        scores = replace(scores, prices=_prices(priced, scores.predictions.shape[1], device))
    if knobs is None:
        knobs = net.knobs(scores, labels)
        if not knobs:
            raise RunFailed(f"{net.name}: knobs must give one setting or more with scores, got none")
        check_knobs(net.name, knobs)
    first, _ = next(data.chunks(images, device))
    if scores is None or not scores.predictions.shape[1]:
        points = [_executed(net, data, images, device, knob, priced) for knob in knobs]
        for i in _apart_in_cost(points):
            _audited(net, first, knobs[i])
        return points
    points = _looked_up(net, scores, labels, priced, knobs)
    _spot_check(net, first, scores, priced, [knobs[i] for i in _spot_check_indices(points)])
    return points


def observe_all(net: RoutedNet, data: Data, images: Images, device: torch.device) -> Scores | None:
    """What a method observes of a whole split, without prices; None where it offers no scores."""
    parts: list[Scores] = []
    with torch.inference_mode():
        for inputs, _ in data.chunks(images, device):
            part = net.observe(inputs)
            if part is None:
                return None
            parts.append(part)
    return Scores(torch.cat([p.scores for p in parts]), torch.cat([p.predictions for p in parts]))


def _prices(priced: RoutePrices, routes: int, device: torch.device) -> Tensor | None:
    """MACs of routes 0..routes-1 (float64); None where one has no single price, or there are none."""
    found = [priced.routes.get(route) for route in range(routes)]
    single = [price.min for price in found if price is not None and price.min == price.max]
    if not single or len(single) < routes:
        return None
    return torch.tensor(single, dtype=torch.float64, device=device)


def _looked_up(
    net: RoutedNet, scores: Scores, labels: Tensor, priced: RoutePrices, knobs: Sequence[Knob]
) -> list[OperatingPoint]:
    count, routes = scores.predictions.shape
    if scores.prices is None:
        rule = "a route that can be looked up must have one price"
        raise RunFailed(f"{net.name}: {rule}, got {[priced.routes.get(r) for r in range(routes)]}")
    # Place of (route, right or wrong) for each image and route, so that one count per knob tells all.
    right = scores.predictions.eq(labels[:, None]).T
    places = 2 * torch.arange(routes, device=labels.device)[:, None] + right
    prices = [int(price) for price in scores.prices.tolist()]
    points = []
    at_once = max(1, LOOKED_UP // max(count, 1))
    for start in range(0, len(knobs), at_once):
        some = knobs[start : start + at_once]
        taken = torch.stack([net.decide(scores.scores, knob) for knob in some])
        _check_routes(net, taken, count, routes)
        shift = 2 * routes * torch.arange(len(some), device=labels.device)[:, None]
        counts = torch.bincount((places.gather(0, taken) + shift).flatten(), minlength=2 * routes * len(some))
        for knob, each in zip(some, counts.view(len(some), routes, 2).tolist(), strict=True):
            images = [wrong + right for wrong, right in each]
            macs = sum(n * price for n, price in zip(images, prices, strict=True)) / count
            accuracy = sum(right for _, right in each) / count
            points.append(OperatingPoint(knob, accuracy, macs, tuple(round(n / count, 6) for n in images)))
    return points


def _check_routes(net: RoutedNet, taken: Tensor, images: int, routes: int) -> None:
    """``taken``: knobs x images, as ``decide`` gave them."""
    if taken.dtype != torch.int64 or taken.shape[1:] != (images,):
        rule = f"decide must give one int64 route for each of {images} images"
        raise RunFailed(f"{net.name}: {rule}, got {taken.dtype} of shape {tuple(taken.shape[1:])}")
    least, most = (int(bound) for bound in taken.aminmax())
    if least < 0 or most >= routes:
        raise RunFailed(f"{net.name}: decide must give routes 0..{routes - 1}, got {least}..{most}")


def _spot_check_indices(points: Sequence[OperatingPoint]) -> list[int]:
    """Indices of a few points whose stored decisions are compared with execution.

    The first, two on the way, and the one where images part most evenly: at the ends all go one way, and a
    wrong decision rule may be right there.
    """
    evenness = [-sum(share * math.log(share) for share in p.route_share if share) for p in points]
    mixed = max(range(len(points)), key=evenness.__getitem__)
    return sorted({0, len(points) // 3, 2 * len(points) // 3, mixed})


def _executed(
    net: RoutedNet, data: Data, images: Images, device: torch.device, knob: Knob, priced: RoutePrices
) -> OperatingPoint:
    with noted("at knob", dict(knob)):
        routed = Routed.joined([run(net, inputs, knob) for inputs, _ in data.chunks(images, device)])
    _check_finite(net, routed.logits, knob)
    _check_priced(net, routed, knob, priced)
    routes = len(priced.routes)
    labels, shares = images.labels.to(device), routed.ran.double().mean(0)
    if not routed.ran.shape[1]:
        shares = torch.bincount(routed.route, minlength=routes).double() / len(labels)
    accuracy = routed.logits.argmax(1).eq(labels).double().mean().item()
    return OperatingPoint(knob, accuracy, routed.macs.double().mean().item(), _shares(shares))


def _apart_in_cost(points: Sequence[OperatingPoint]) -> list[int]:
    """Indices of the first point, and of the cheapest and the most expensive."""
    order = sorted(range(len(points)), key=lambda i: points[i].macs)
    return sorted({0, order[0], order[-1]})


def _check_priced(net: RoutedNet, routed: Routed, knob: Knob, priced: RoutePrices) -> None:
    if not len(routed.macs):
        return
    low, high = (int(bound) for bound in routed.macs.aminmax())
    if low not in priced.bounds or high not in priced.bounds:
        rule = "what images cost must lie within the price over knobs() without scores"
        told = f"{low:,} to {high:,} MACs at knob {shown(dict(knob))}, priced at {priced.bounds}"
        raise RunFailed(f"{net.name}: {rule}, got {told}")


def _audited(net: RoutedNet, inputs: Tensor, knob: Knob) -> Routed:
    """Route a batch, and compare the bill with everything that ran.

    Raises:
        RunFailed: where work was done outside the meter, or charged and not done.
    """
    with noted("at knob", dict(knob)):
        routed = run(net, inputs, knob)  # has blocks priced, which would count as work below
    _check_finite(net, routed.logits, knob)
    with torch.no_grad():  # in inference mode operators would have to be taken apart in Python
        meter = BatchMeter(inputs, price=image_macs)
        with counted(net) as count:
            net.route(meter, inputs, knob)
        billed = int(meter.bill().macs.sum())
    check(count, net.name)
    if count.images.macs != billed:
        rule = "every block must run through the meter, and its price must follow from its inputs"
        got = f"{count.images.macs:,} multiply-adds of work and a bill of {billed:,}"
        raise RunFailed(f"{net.name}: {rule}, got {got}")
    return routed


def _spot_check(
    net: RoutedNet,
    inputs: Tensor,
    scores: Scores,
    priced: RoutePrices,
    knobs: Sequence[Knob],
) -> None:
    """Compare stored decisions, labels and prices of the first images with executed ones."""
    for knob in knobs:
        really = _audited(net, inputs, knob)
        said = net.decide(scores.scores[: len(inputs)], knob)
        labels = scores.predictions[: len(inputs)].gather(1, said[:, None]).squeeze(1)
        differ = int((said.ne(really.route) | labels.ne(really.logits.argmax(1))).sum())
        if differ > max(2, DISAGREE * len(inputs)):
            rule = "decide(observe(x)) must agree with route(x)"
            raise RunFailed(
                f"{net.name}: {rule}, got {differ} of {len(inputs)} different at {shown(dict(knob))}"
            )
        for route, macs in set(zip(really.route.tolist(), really.macs.tolist(), strict=True)):
            price = priced.routes[route]
            if macs not in price:
                rule = "an image must cost what its route was priced at"
                raise RunFailed(f"{net.name}: {rule}, got {macs:,} and {price} on route {route}")


def _check_finite(net: RoutedNet, logits: Tensor, knob: Knob) -> None:
    if not bool(torch.isfinite(logits).all()):
        raise RunFailed(f"{net.name}: logits must be finite, got NaN or infinity at knob {shown(dict(knob))}")


def _shares(shares: Tensor) -> tuple[float, ...]:
    return tuple(round(share, 6) for share in shares.tolist())
