"""Invariants of what is charged: for whom, how much, and within which bounds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from routesearch.methods.base import Knob, RoutedNet
from routesearch.methods.running import price, price_ways, without_weights
from routesearch.results.points import Interval
from routesearch.routing.billing import BatchMeter, Routed
from routesearch.routing.pricing import RoutePrices
from routesearch.testing.cases import Case, spread
from routesearch.testing.declarations import Declared, broken, priced_as_is
from routesearch.testing.prescribed_routes import (
    at_random,
    billed_and_counted,
    every_way,
    follow,
    forced,
)

WALKED = 24
"""Ways that are counted, spread over all."""


class CostChecks(Declared):
    """Invariants of what is charged: for whom, how much, and within which bounds."""

    def test_claimed_macs_are_what_runs(self, case: Case) -> None:
        """The bill of one image, on every way and at every knob, is what an independent count sees run."""
        rule = f"{case}: claimed multiply-adds must be what runs for one image"
        net, image = case.trained, case.images[:1]
        knobs = net.knobs()
        for way in spread(every_way(net, image, knobs[0]), WALKED):
            claimed, count = billed_and_counted(net, image, knobs[0], way.meter)
            if claimed != count.images.macs:
                raise broken(rule, f"{claimed:,} claimed and {count.images.macs:,} counted ({way})")
        driven = case.driven
        with driven.precision():
            for knob, alone in zip(driven.knobs, driven.alone, strict=True):
                first = {signature: i for i, signature in enumerate(_ways_taken(alone))}
                for i in list(first.values())[:3]:
                    claimed, count = billed_and_counted(driven.net, driven.images[i : i + 1], knob)
                    if claimed != count.images.macs:
                        got = f"{claimed:,} claimed and {count.images.macs:,} counted at knob {dict(knob)}"
                        raise broken(rule, got)

    def test_whole_batches_are_charged_for_what_ran(self, case: Case) -> None:
        """The bills of a batch add up to all that ran for it, however its images part."""
        rule = f"{case}: the bills of a batch must add up to all that ran"
        driven = case.driven
        with driven.precision():
            for label, make, knob in _many_ways(driven.knobs):
                billed, count = billed_and_counted(driven.net, driven.images, knob, make)
                if billed != count.images.macs:
                    got = f"bills of {billed:,} multiply-adds and {count.images.macs:,} run ({label})"
                    raise broken(rule, got)

    def test_macs_lie_in_bounds_and_reach_both_ends(self, case: Case) -> None:
        """What images cost lies within the bounds known without weights, and both ends occur."""
        net, image = case.trained, case.images[:1]
        priced = price(case.method, case.config, case.backbone, case.trunk)
        rule = f"{case}: measured MACs must lie in bounds()"
        seen: list[int] = []
        for knob in _apart_in_price(net):
            for way in every_way(net, image, knob):
                routed = follow(net, image, knob, way.meter(image))
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


def _apart_in_price(net: RoutedNet) -> list[Knob]:
    """The first of all knobs at which the routes cost the same."""
    twin = without_weights(net)
    found: dict[str, Knob] = {}
    for knob in net.knobs():
        found.setdefault(str(sorted(price_ways(twin, [knob]).routes.items())), knob)
    return list(found.values())


def _many_ways(knobs: Sequence[Knob]) -> Iterator[tuple[str, Callable[..., BatchMeter], Knob]]:
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
