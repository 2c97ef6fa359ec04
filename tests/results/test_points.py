"""Fronts, areas and choices over plain points, against definitions written out."""

from __future__ import annotations

import itertools
import math
from dataclasses import asdict, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routesearch.results.budget import Budget, representative
from routesearch.results.intervals import Confirmation
from routesearch.results.points import (
    Interval,
    OperatingPoint,
    Point,
    best,
    cheapest,
    front,
    hypervolume,
    thin,
    undominated,
)

REFERENCE = 1000.0


def point(accuracy: float, macs: float) -> OperatingPoint:
    return OperatingPoint({"t": accuracy}, accuracy, macs)


# a coarse grid, so that equal points, equal prices and points beyond the reference are common
COARSE = st.builds(point, st.integers(0, 8).map(lambda a: a / 8), st.integers(0, 24).map(lambda m: m * 50.0))
FINE = st.builds(point, st.floats(0, 1), st.floats(0, 2e12))
CURVES = st.lists(COARSE, max_size=12) | st.lists(FINE, max_size=12)
SOME = CURVES.filter(len)


def beats(a: OperatingPoint, b: OperatingPoint) -> bool:
    """The contract's words: at least as accurate and at most as costly, one of the two strictly."""
    return a.accuracy >= b.accuracy and a.macs <= b.macs and (a.accuracy > b.accuracy or a.macs < b.macs)


def area(points: list[OperatingPoint], edge: float) -> float:
    """The dominated area by sweeping over the distinct prices: no library, no cleverness."""
    prices = [*sorted({p.macs / REFERENCE for p in points if p.macs / REFERENCE < edge}), edge]
    return math.fsum(
        (right - left) * max(p.accuracy for p in points if p.macs / REFERENCE <= left)
        for left, right in itertools.pairwise(prices)
    )


@given(CURVES)
def test_front_is_who_nobody_beats(points: list[OperatingPoint]) -> None:
    found = front(points)
    expected = [p for p in points if not any(beats(q, p) for q in points)]
    assert sorted(map(key, found)) == sorted(map(key, expected))
    assert [key(p) for p in found] == sorted(key(p) for p in found)


def key(p: OperatingPoint) -> tuple[float, float]:
    return p.macs, p.accuracy


def test_equal_points_all_stay() -> None:
    twins = [point(0.5, 10), point(0.5, 10), point(0.4, 10), point(0.5, 11)]
    assert [id(p) for p in front(twins)] == [id(twins[0]), id(twins[1])]


@given(CURVES, st.floats(0.01, 1.5))
def test_hypervolume_is_the_swept_area(points: list[OperatingPoint], edge: float) -> None:
    assert hypervolume(points, REFERENCE) == pytest.approx(area(points, 1.0), abs=1e-9)
    limited = hypervolume(points, REFERENCE, limit=edge * REFERENCE)
    assert limited == pytest.approx(area(points, min(edge, 1.0)), abs=1e-9)


@given(CURVES, COARSE, st.none() | st.floats(1, 1500))
def test_a_further_point_never_takes_area_away(
    points: list[OperatingPoint], more: OperatingPoint, limit: float | None
) -> None:
    before, after = (hypervolume(p, REFERENCE, limit) for p in (points, [*points, more]))
    assert 0 <= before <= after + 1e-12 <= 1 + 1e-9


@given(CURVES, st.floats(1, 1500), st.floats(1, 1500))
def test_a_larger_limit_never_takes_area_away(points: list[OperatingPoint], a: float, b: float) -> None:
    small, large = (hypervolume(points, REFERENCE, limit) for limit in sorted((a, b)))
    assert small <= large + 1e-12
    assert large <= hypervolume(points, REFERENCE) + 1e-12


def test_hypervolume_by_hand() -> None:
    curve = [point(0.5, 200), point(0.9, 600), point(0.99, 1200)]
    assert hypervolume(curve, REFERENCE) == pytest.approx(0.5 * 0.4 + 0.9 * 0.4)
    assert hypervolume(curve, REFERENCE, limit=700) == pytest.approx(0.5 * 0.4 + 0.9 * 0.1)
    assert hypervolume(curve, REFERENCE, limit=5000) == hypervolume(curve, REFERENCE)


@pytest.mark.parametrize("curve", [[], [point(0.9, 1000)], [point(0.9, 4000)], [point(0.0, 10)]])
def test_what_adds_no_area(curve: list[OperatingPoint]) -> None:
    assert hypervolume(curve, REFERENCE) == 0.0


@given(SOME, st.none() | st.floats(0, 1300))
def test_best_within_a_price(points: list[OperatingPoint], limit: float | None) -> None:
    within = [p for p in points if limit is None or p.macs <= limit]
    found = best(points, limit)
    if not within:
        assert found is None
        return
    assert found is not None
    assert found.accuracy == max(p.accuracy for p in within)
    assert found.macs == min(p.macs for p in within if p.accuracy == found.accuracy)


@given(SOME)
def test_cheapest(points: list[OperatingPoint]) -> None:
    found = cheapest(points)
    assert found is not None
    assert (found.macs, -found.accuracy) == min((p.macs, -p.accuracy) for p in points)


def test_of_nothing_there_is_none() -> None:
    assert (front([]), best([]), cheapest([]), thin([])) == ([], None, None, [])


@given(SOME, st.none() | st.floats(0, 1300))
def test_representative_is_on_the_front_and_within_the_budget_where_one_is(
    points: list[OperatingPoint], budget: float | None
) -> None:
    found = representative(points, REFERENCE, Budget(budget))
    if budget is not None and best(points, budget) is not None:
        assert key(found) == key(best(points, budget))  # type: ignore[arg-type]
    else:
        assert key(found) in [key(p) for p in front(points)]


def test_representative_without_a_budget_has_the_largest_share() -> None:
    curve = [point(0.3, 100), point(0.8, 200), point(0.85, 900), point(0.99, 3000)]
    assert representative(curve, REFERENCE, Budget()) is curve[1]
    assert representative(curve, REFERENCE, Budget(50)) is curve[1], "none within: as without a budget"
    assert representative(curve, REFERENCE, Budget(950)) is curve[2]


def test_a_twin_does_not_take_its_share_away() -> None:
    curve = [point(0.3, 100), point(0.8, 200), point(0.8, 200), point(0.85, 900)]
    assert key(representative(curve, REFERENCE, Budget())) == (200, 0.8)


def test_representative_of_points_beyond_the_reference_is_the_nearest() -> None:
    curve = [point(0.99, 3000), point(0.9, 1500)]
    assert representative(curve, REFERENCE, Budget()) is curve[1]


def test_representative_of_an_empty_curve_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one point"):
        representative([], REFERENCE, Budget())


@given(st.lists(COARSE | FINE, max_size=60), st.integers(2, 9))
@settings(max_examples=50)
def test_thin_keeps_ends_bound_and_order(points: list[OperatingPoint], most: int) -> None:
    kept, whole = thin(points, most), sorted({key(p) for p in front(points)})
    assert len(kept) == min(most, len(whole))
    assert [key(p) for p in kept] == sorted({key(p) for p in kept})
    assert {key(p) for p in kept} <= set(whole)
    if whole:
        assert key(kept[0]) == whole[0]
        assert key(kept[-1]) == whole[-1]


def test_thin_spreads_evenly() -> None:
    curve = [point(i / 1000, float(i)) for i in range(1001)]
    kept = [p.macs for p in thin(curve, 101)]
    assert kept == [10.0 * i for i in range(101)]
    assert len(thin(curve)) == 256


def test_a_point_is_a_plain_row() -> None:
    row = Point(3, "static", {"w": 1}, {"t": 0.5}, 0.9, 1e6, True, "test", 7, 100, (0.25, 0.75))
    assert row.as_dict() == {name: value for name, value in asdict(row).items() if name != "confirmation"}
    names = "trial, method, config, knob, accuracy, macs, feasible, split, seed, params, route_share, latency"
    assert list(row.as_dict()) == names.split(", ")


def test_a_confirmed_point_says_more_and_nothing_else() -> None:
    plain = Point(3, "static", {"w": 1}, {"t": 0.5}, 0.9, 1e6, True, "test", 7, 100, (0.25, 0.75))
    row = replace(plain, confirmation=Confirmation((0.8, 0.9), (1e6, 2e6), 100)).as_dict()
    more = ("accuracy_mean", "accuracy_std", "interval", "macs_mean", "seeds")
    assert tuple(row)[-len(more) :] == more
    assert {name: row[name] for name in plain.as_dict()} == plain.as_dict()


# ---- budgets -----------------------------------------------------------------------------------------

LIMITS = st.none() | st.integers(1, 24).map(lambda n: n * 50.0)
TIMED = st.lists(
    st.builds(
        lambda a, m, t: OperatingPoint({}, a / 8, m * 50.0, latency=None if t is None else t * 50.0),
        st.integers(0, 8),
        st.integers(0, 24),
        st.none() | st.integers(1, 24),
    ),
    min_size=1,
    max_size=12,
)
BUDGETS = st.builds(Budget, LIMITS, LIMITS)


@given(TIMED, BUDGETS)
def test_a_point_is_within_a_budget_that_it_meets_in_every_bound(
    points: list[OperatingPoint], budget: Budget
) -> None:
    def meets(p: OperatingPoint) -> bool:
        cheap = budget.max_macs is None or p.macs <= budget.max_macs
        fast = budget.max_latency is None or (p.latency is not None and p.latency <= budget.max_latency)
        return cheap and fast

    assert budget.within(points) == [p for p in points if meets(p)]
    assert bool(budget) is (budget != Budget())
    if not budget:
        assert budget.within(points) == points


@given(TIMED, BUDGETS)
def test_what_a_sampler_is_told_says_whether_a_point_is_within(
    points: list[OperatingPoint], budget: Budget
) -> None:
    told = budget.excess(points)
    assert set(told) == {k for k, v in (("macs", budget.max_macs), ("latency", budget.max_latency)) if v}
    assert all(math.isfinite(value) for value in told.values())
    assert all(value <= 0 for value in told.values()) is bool(budget.within(points))


def test_the_excess_is_the_share_over_the_limit() -> None:
    points = [OperatingPoint({}, 0.5, 100.0, latency=0.004), OperatingPoint({}, 0.9, 300.0, latency=0.001)]
    assert Budget(200.0).excess(points) == {"macs": -0.5}
    assert Budget(None, 0.002).excess(points) == {"latency": -0.5}
    assert Budget(200.0, 0.002).excess(points) == {"macs": -0.5, "latency": 0.5}, "no point meets both"
    assert Budget(None, 0.002).excess([OperatingPoint({}, 0.5, 1.0)]) == {"latency": 1.0}, "not timed"
    assert Budget().excess(points) == {}


@given(TIMED, BUDGETS)
def test_the_best_within_any_budget_is_among_the_undominated(
    points: list[OperatingPoint], budget: Budget
) -> None:
    some, best_of_all, best_of_some = (
        undominated(points),
        budget.best(points),
        budget.best(undominated(points)),
    )
    assert (best_of_all is None) is (best_of_some is None)
    if best_of_all is not None and best_of_some is not None:
        assert (best_of_some.accuracy, best_of_some.macs) == (best_of_all.accuracy, best_of_all.macs)
    assert budget.feasible_hypervolume(some, REFERENCE) == pytest.approx(
        budget.feasible_hypervolume(points, REFERENCE)
    )
    assert budget.feasible_hypervolume(points, REFERENCE) <= hypervolume(points, REFERENCE) + 1e-12


@given(SOME)
def test_without_latencies_the_undominated_are_the_front(points: list[OperatingPoint]) -> None:
    assert undominated(points) == front(points)
    limit = Budget(500.0)
    assert limit.feasible_hypervolume(points, REFERENCE) == pytest.approx(
        hypervolume(points, REFERENCE, 500.0)
    )


def test_the_representative_respects_the_latency() -> None:
    slow, fast = OperatingPoint({}, 0.9, 100.0, latency=0.004), OperatingPoint({}, 0.6, 400.0, latency=0.001)
    assert representative([slow, fast], REFERENCE, Budget(None, 0.002)) is fast
    assert representative([slow, fast], REFERENCE, Budget(300.0, 0.002)) is slow, "none within: no budget"


# ---- intervals ---------------------------------------------------------------------------------------

COSTS = st.integers(0, 10**12)


INTERVALS = st.tuples(COSTS, COSTS).map(lambda ends: Interval(min(ends), max(ends)))


@given(INTERVALS, INTERVALS, INTERVALS)
def test_intervals_add_and_join_as_costs_do(a: Interval, b: Interval, c: Interval) -> None:
    assert a + b == b + a
    assert a | b == b | a
    assert (a + b) + c == a + (b + c)
    assert (a | b) | c == a | (b | c)
    assert a | a == a
    assert a + (b | c) == (a + b) | (a + c)
    assert a + Interval(0, 0) == a
    assert a.min in (a | b)
    assert b.max in (a | b)
    assert (a | b).max + 1 not in (a | b)


@given(INTERVALS, INTERVALS, st.data())
def test_what_lies_in_both_parts_lies_in_the_sum(a: Interval, b: Interval, draw: Any) -> None:
    x, y = (draw.draw(st.integers(i.min, i.max)) for i in (a, b))
    assert x + y in a + b
    assert x in (a | b)
