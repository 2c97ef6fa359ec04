"""Invariants of what is charged: for whom, how much, and within which bounds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from torch import Tensor

from routesearch.methods.base import Knob
from routesearch.methods.running import price
from routesearch.results.points import Interval
from routesearch.routing.billing import BatchMeter, Routed
from routesearch.routing.cost import executed
from routesearch.routing.pricing import RoutePrices
from routesearch.testing.cases import Case, spread
from routesearch.testing.declarations import Declared, broken, priced_as_is
from routesearch.testing.prescribed_routes import (
    UncountedOps,
    at_random,
    every_way,
    follow,
    forced,
    seen_by_torchinfo,
)

UNSEEN = 0.001
"""Share of the cheapest route that may run where torchinfo does not look (a difference as a product)."""

WALKED = 24
"""Ways that torchinfo is asked about, spread over all."""


class CostChecks(Declared):
    """Invariants of what is charged: for whom, how much, and within which bounds."""

    def test_claimed_macs_are_what_torchinfo_counts(self, case: Case) -> None:
        """The bill of one image, on every way and at every knob, is what torchinfo sees run."""
        rule = f"{case}: claimed MACs must be what torchinfo counts for a batch of one"
        net, image = case.trained, case.images[:1]
        knobs = net.knobs()
        for way in spread(every_way(net, image, knobs[0]), WALKED):
            claimed, seen = seen_by_torchinfo(net, image, knobs[0], way.meter)
            if claimed != seen:
                raise broken(rule, f"{claimed:,} claimed and {seen:,} counted ({way})")
        driven = case.driven
        with driven.precision():
            for knob, alone in zip(driven.knobs, driven.alone, strict=True):
                first = {signature: i for i, signature in enumerate(_ways_taken(alone))}
                for i in list(first.values())[:3]:
                    claimed, seen = seen_by_torchinfo(driven.net, driven.images[i : i + 1], knob)
                    if claimed != seen:
                        raise broken(rule, f"{claimed:,} claimed and {seen:,} counted at knob {dict(knob)}")

    def test_whole_batches_are_charged_for_what_ran(self, case: Case) -> None:
        """The bills of a batch add up to all that ran for it, however its images part."""
        rule = f"{case}: the bills of a batch must add up to all that ran"
        driven = case.driven
        with driven.precision():
            for label, make, knob in _many_ways(driven.knobs):
                follow(driven.net, driven.images, knob, make(driven.images))  # prices what it meets
                with executed(driven.net) as work:
                    billed = follow(driven.net, driven.images, knob, make(driven.images))
                if work.macs != int(billed.macs.sum()):
                    got = f"bills of {int(billed.macs.sum()):,} MACs and {work.macs:,} run ({label})"
                    raise broken(rule, got)

    def test_nothing_costs_unseen(self, case: Case) -> None:
        """Products and convolutions run in layers with parameters, where torchinfo counts them."""
        rule = f"{case}: what costs must be a module, which torchinfo can see"
        net, images = case.trained, case.images[:8]
        knob = net.knobs()[0]
        most = UNSEEN * net.bounds().min * len(images)
        for seed in range(3):
            meter = forced(images, at_random(seed), at_random(seed, (0.5, 1.0, 0.0)[seed]))
            follow(net, images, knob, forced(images, at_random(seed), at_random(seed)))
            with UncountedOps(net) as unseen:
                follow(net, images, knob, meter)
            if sum(macs for _, macs in unseen.found) > most:
                raise broken(rule, ", ".join(f"{name} of {macs:,} MACs" for name, macs in unseen.found[:4]))

    def test_macs_lie_in_bounds_and_reach_both_ends(self, case: Case) -> None:
        """What images cost lies within the bounds known without weights, and both ends occur."""
        net, image = case.trained, case.images[:1]
        priced = price(case.method, case.config, case.backbone, case.trunk)
        rule = f"{case}: measured MACs must lie in bounds()"
        seen: list[int] = []
        for way in every_way(net, image, net.knobs()[0]):
            routed = follow(net, image, net.knobs()[0], way.meter(image))
            _check_price(rule, priced, int(routed.macs), int(routed.route), str(way))
            seen.append(int(routed.macs))
        for alone, knob in zip(case.driven.alone, case.driven.knobs, strict=True):
            for macs, route in set(zip(alone.macs.tolist(), alone.route.tolist(), strict=True)):
                _check_price(rule, priced, macs, route, f"at knob {dict(knob)}")
        reached = Interval(min(seen), max(seen))
        if reached != priced.bounds:
            raise broken(f"{case}: both ends of bounds() must be reached", f"{reached} of {priced.bounds}")
        whole = priced_as_is(case.method, case.config, case.backbone).bounds
        if whole.min > reached.min or whole.max < reached.max:
            raise broken(
                f"{case}: a price without a trunk must cover all cases", f"{reached} outside of {whole}"
            )


def _many_ways(knobs: Sequence[Knob]) -> Iterator[tuple[str, Callable[[Tensor], BatchMeter], Knob]]:
    for knob in knobs:
        yield f"at knob {dict(knob)}", BatchMeter, knob
    for seed, share in enumerate((0.5, 0.2, 0.8)):
        meter = partial(forced, split=at_random(seed), patch=at_random(seed, share))
        yield f"on ways drawn with seed {seed}", meter, knobs[0]


def _ways_taken(routed: Routed) -> list[tuple[int, int]]:
    return list(zip(routed.route.tolist(), routed.macs.tolist(), strict=True))


def _check_price(rule: str, priced: RoutePrices, macs: int, route: int, where: str) -> None:
    if macs not in priced.bounds:
        raise broken(rule, f"{macs:,} outside of {priced.bounds} {where}")
    price = priced.routes.get(route)
    if price is None or macs not in price:
        raise broken(f"{rule} of its route", f"{macs:,} on route {route}, priced at {price} ({where})")
