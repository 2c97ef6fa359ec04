"""Curves as arrays, against definitions written out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routesearch.results.curves import (
    MAX_ROWS,
    NOTHING,
    Curve,
    accuracy_at,
    area,
    curve_of,
    merged,
    ranks,
    standings,
)
from routesearch.results.points import OperatingPoint, hypervolume

REFERENCE = 1000.0

Row = tuple[float, float]
"""Accuracy, and MACs as a share of the backbone's."""

# a coarse grid, so that equal rows, equal prices and rows beyond the edge are common
COARSE = st.tuples(st.integers(0, 8).map(lambda a: a / 8), st.integers(1, 12).map(lambda m: m / 8))
FINE = st.tuples(st.floats(0, 1), st.floats(1e-3, 1.5))
ROWS = st.lists(COARSE, max_size=10) | st.lists(FINE, max_size=10)
EDGES = st.sampled_from([0.25, 0.5, 0.75, 1.0]) | st.floats(0.05, 1.0)


def points(rows: Sequence[Row]) -> list[OperatingPoint]:
    return [OperatingPoint({"t": i}, accuracy, REFERENCE * share) for i, (accuracy, share) in enumerate(rows)]


def array(rows: Sequence[Row]) -> Curve:
    return np.array(rows, dtype=np.float64).reshape(-1, 2)


def rows_of(curve: Curve) -> list[Row]:
    return [(float(accuracy), float(share)) for accuracy, share in curve]


def beats(a: Row, b: Row) -> bool:
    """At least as accurate and at most as costly, one of the two strictly."""
    return a[0] >= b[0] and a[1] <= b[1] and a != b


def naive_front(rows: Sequence[Row]) -> list[Row]:
    return sorted({a for a in rows if not any(beats(b, a) for b in rows)}, key=lambda row: row[1])


def naive_accuracy(rows: Sequence[Row], share: float) -> float:
    return max((a for a, s in rows if s <= share), default=0.0)


def naive_area(rows: Sequence[Row], edge: float) -> float:
    """The area below the best accuracy at each cost, over the distinct costs."""
    prices = [*sorted({share for _, share in rows if share < edge}), edge]
    steps = itertools.pairwise(prices)
    return math.fsum((right - left) * naive_accuracy(rows, left) for left, right in steps)


@st.composite
def many(draw: st.DrawFn) -> tuple[list[list[Row]], float]:
    """Trials' curves as a search has them, and the edge up to which they were made; some are empty."""
    edge = draw(EDGES)
    kind = draw(st.sampled_from([COARSE, FINE]))
    drawn = draw(st.lists(st.lists(kind, max_size=5), max_size=7))
    return [rows_of(curve_of(points(rows), REFERENCE, edge)) for rows in drawn], edge


# ---- one curve ---------------------------------------------------------------------------------------


@given(st.lists(ROWS, max_size=4))
def test_curves_merged_are_who_nobody_beats_once_each_by_rising_macs(each: list[list[Row]]) -> None:
    found = merged([array(rows) for rows in each])
    assert rows_of(found) == naive_front([row for rows in each for row in rows])
    assert found.shape[1:] == (2,)


def test_nothing_merged_is_nothing() -> None:
    assert merged([]).shape == merged([NOTHING, NOTHING]).shape == (0, 2)


@given(ROWS, EDGES)
def test_a_curve_is_the_front_of_what_costs_no_more_than_the_edge(rows: list[Row], edge: float) -> None:
    rows = [(accuracy, REFERENCE * share / REFERENCE) for accuracy, share in rows]
    inside = [row for row in rows if row[1] <= edge]
    found = rows_of(curve_of(points(rows), REFERENCE, edge))
    if inside or not rows:
        assert found == naive_front(inside)
    else:
        [(accuracy, share)] = found
        assert share == min(share for _, share in rows)
        assert accuracy in {a for a, s in rows if s == share}


def test_of_a_curve_beyond_the_edge_the_cheapest_point_stays_however_bad_it_is() -> None:
    rows = [(0.9, 0.8), (0.1, 0.6), (0.5, 0.7)]
    assert rows_of(curve_of(points(rows), REFERENCE, 0.5)) == [(0.1, 0.6)]
    assert rows_of(curve_of(points([*rows, (0.05, 0.5)]), REFERENCE, 0.5)) == [(0.05, 0.5)]
    assert curve_of([], REFERENCE, 0.5).shape == (0, 2)


def test_a_point_at_the_backbone_s_price_is_within_it() -> None:
    assert rows_of(curve_of(points([(0.5, 1.0), (0.6, 1.001)]), REFERENCE)) == [(0.5, 1.0)]


@given(st.integers(1, 200))
def test_a_long_curve_is_thinned_evenly_and_keeps_both_ends(count: int) -> None:
    rows = [((i + 1) / count, (i + 1) / count) for i in range(count)]
    found = curve_of(points(rows), 1.0 * REFERENCE)
    assert len(found) == min(count, MAX_ROWS)
    assert rows_of(found[[0, -1]]) == pytest.approx(np.array([rows[0], rows[-1]]))
    places = np.round(found[:, 1] * count)
    steps = np.diff(places)
    assert len(steps) == 0 or steps.max() - steps.min() <= 1


@given(ROWS, EDGES)
def test_the_area_is_that_of_the_step_function(rows: list[Row], edge: float) -> None:
    front = merged([array(rows)])
    assert area(front, edge) == pytest.approx(naive_area(rows, edge), abs=1e-12)


@given(ROWS, EDGES)
def test_the_area_is_the_hypervolume_of_the_points(rows: list[Row], edge: float) -> None:
    of_points = hypervolume(points(rows), REFERENCE, limit=edge * REFERENCE)
    assert area(merged([array(rows)]), edge) == pytest.approx(of_points, abs=1e-9)
    whole = hypervolume(points(rows), REFERENCE)
    assert area(merged([array(rows)])) == pytest.approx(whole, abs=1e-9)
    if len(naive_front([row for row in rows if row[1] <= edge])) <= MAX_ROWS:
        assert area(curve_of(points(rows), REFERENCE, edge), edge) == pytest.approx(of_points, abs=1e-9)


@given(ROWS, st.lists(st.floats(0, 2) | st.integers(0, 16).map(lambda m: m / 8), max_size=8))
def test_the_accuracy_at_a_cost_is_the_best_of_what_is_as_cheap(rows: list[Row], costs: list[float]) -> None:
    found = accuracy_at(merged([array(rows)]), np.array(costs, dtype=np.float64))
    assert found.tolist() == [naive_accuracy(rows, cost) for cost in costs]


# ---- many curves -------------------------------------------------------------------------------------


def naive_ranks(curves: Sequence[Sequence[Row]]) -> list[float]:
    """By pairwise domination: a front is what nobody beats of what is left."""
    left = [(i, row) for i, rows in enumerate(curves) for row in rows]
    found, rank = [math.inf] * len(curves), 0
    while left:
        front = [(i, row) for i, row in left if not any(beats(other, row) for _, other in left)]
        for i, _ in front:
            found[i] = min(found[i], rank)
        left = [each for each in left if each not in front]
        rank += 1
    return found


@given(st.lists(ROWS, max_size=6))
def test_a_rank_is_the_front_that_a_curve_s_best_point_lies_on(curves: list[list[Row]]) -> None:
    """Any rows, in any order, those that beat each other too."""
    found, expected = ranks([array(rows) for rows in curves]), naive_ranks(curves)
    assert [r for r, e in zip(found, expected, strict=True) if e < math.inf] == [
        e for e in expected if e < math.inf
    ]
    worst = max((e for e in expected if e < math.inf), default=-1)
    assert all(r > worst for r, e in zip(found, expected, strict=True) if e == math.inf), "without a point"


@given(many())
def test_a_standing_is_what_the_hypervolume_would_lose_or_else_how_far_below_the_front_a_curve_lies(
    drawn: tuple[list[list[Row]], float],
) -> None:
    curves, edge = drawn
    everything = [row for rows in curves for row in rows]
    whole = naive_area(everything, edge)
    found = standings([array(rows) for rows in curves], edge)
    for i, rows in enumerate(curves):
        others = [row for j, each in enumerate(curves) if j != i for row in each]
        lost = whole - naive_area(others, edge)
        if not rows:
            expected = -1.0
        elif min(share for _, share in rows) > edge:
            expected = -1.0 - (min(share for _, share in rows) - edge)
        elif lost > 1e-12:
            expected = lost
        else:
            expected = max(accuracy - naive_accuracy(everything, share) for accuracy, share in rows)
        assert found[i] == pytest.approx(expected, abs=1e-9)


@given(many())
def test_who_adds_to_the_front_stands_before_who_does_not_and_who_is_within_before_who_is_beyond(
    drawn: tuple[list[list[Row]], float],
) -> None:
    curves, edge = drawn
    found = standings([array(rows) for rows in curves], edge)
    for rows, standing in zip(curves, found, strict=True):
        if rows and rows[0][1] > edge:
            assert standing < -1
        elif rows:
            assert -1 <= standing <= edge
        else:
            assert standing == -1


def test_of_twins_neither_is_missed_and_both_stand_before_what_lies_below() -> None:
    twin, below = array([(0.5, 0.2), (0.8, 0.4)]), array([(0.7, 0.4)])
    found = standings([twin, twin.copy(), below])
    assert found.tolist() == pytest.approx([0.0, 0.0, -0.1])


def test_a_curve_alone_stands_by_its_area() -> None:
    assert standings([array([(0.5, 0.2), (0.8, 0.4)])], 0.6).tolist() == pytest.approx(
        [0.5 * 0.2 + 0.8 * 0.2]
    )


def test_no_curves_have_no_standings_and_no_ranks() -> None:
    assert standings([]).tolist() == []
    assert ranks([]) == []
