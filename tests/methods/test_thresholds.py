"""Thresholds by sums: whatever is found by cumulating must be what running every image would give."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from routesearch.errors import Refusal
from routesearch.methods import exit_chain
from routesearch.methods import thresholds as sweeps
from routesearch.methods.base import Scores
from routesearch.methods.exit_chain import Curve, ExitChain, ExitFront
from routesearch.methods.thresholds import (
    exit_front,
    exit_thresholds,
    first_exit,
    sequential_curve,
    sequential_thresholds,
    shared_curve,
    spread_thresholds,
)
from routesearch.utils.sampling import evenly_spaced

Split = tuple[Scores, Tensor]
Totals = tuple[int, int]
"""Images right, MACs of all."""


@st.composite
def splits(draw: st.DrawFn, most: Sequence[int] = (14, 9, 5), gates: Sequence[int] = (1, 2, 3)) -> Split:
    """A few images with many equal scores, any labels, prices that never fall."""
    count = draw(st.sampled_from(gates))
    images = draw(st.integers(1, most[count - 1]))
    values = st.sampled_from([-2.0, 0.0, 0.25, 0.5, 0.75, 1.0, 7.5, 1e6]) | st.floats(-1, 1, width=32)
    scores = draw(
        st.lists(st.lists(values, min_size=count, max_size=count), min_size=images, max_size=images)
    )
    said = draw(
        st.lists(
            st.lists(st.integers(0, 2), min_size=count + 1, max_size=count + 1),
            min_size=images,
            max_size=images,
        )
    )
    steps = draw(st.lists(st.integers(0, 9), min_size=count + 1, max_size=count + 1))
    labels = draw(st.lists(st.integers(0, 2), min_size=images, max_size=images))
    prices = torch.tensor(steps, dtype=torch.float64).cumsum(0) + 1
    return Scores(torch.tensor(scores), torch.tensor(said), prices), torch.tensor(labels)


def random_split(images: int, gates: int, seed: int = 0) -> Split:
    """Gates that are right more often where they are surer, and the later the better."""
    random = torch.Generator().manual_seed(seed)
    ease = torch.rand(images, 1, generator=random)
    scores = 3 * ease + 0.7 * torch.randn(images, gates + 1, generator=random)
    chance = torch.sigmoid(2 * scores - torch.linspace(1, -1, gates + 1))
    right = torch.rand(images, gates + 1, generator=random) < chance
    prices = torch.linspace(1e6, 9e6, gates + 1).round().double()
    return Scores(scores[:, :gates].contiguous(), right.long(), prices), torch.ones(images, dtype=torch.int64)


def totals(split: Split, thresholds: Sequence[float]) -> Totals:
    """Image by image, in plain Python: the first gate whose threshold its score reaches."""
    scores, labels = split
    assert scores.prices is not None
    right = cost = 0
    for row, said, label in zip(
        scores.scores.tolist(), scores.predictions.tolist(), labels.tolist(), strict=True
    ):
        route = next((g for g, t in enumerate(thresholds) if row[g] >= t), len(row))
        right += said[route] == label
        cost += int(scores.prices[route])
    return right, cost


def every_setting(split: Split) -> Iterator[list[float]]:
    """All combinations of midpoints between neighbouring scores, one below all and one above all."""
    columns = []
    for column in split[0].scores.T:
        values = column.unique().double()
        middles = ((values[:-1] + values[1:]) / 2).float()
        inside = middles[(middles > values[:-1]) & (middles < values[1:])].tolist()
        columns.append([float(values[0]) - 9, *inside, 3 * abs(float(values[-1])) + 9])
    return map(list, product(*columns))


def brute_front(split: Split) -> list[Totals]:
    points = {totals(split, setting) for setting in every_setting(split)}
    kept = [p for p in points if not any(q[0] >= p[0] and q[1] <= p[1] and q != p for q in points)]
    return sorted(kept, key=lambda p: p[1])


def executed(split: Split, curve: Curve) -> list[Totals]:
    """What each point of a curve really gives; its own accounting must say the same, to the digit."""
    found = [totals(split, thresholds) for thresholds in curve.thresholds.tolist()]
    count = len(split[1])
    assert curve.accuracy.tolist() == [right / count for right, _ in found]
    assert curve.macs.tolist() == [cost / count for _, cost in found]
    return found


def below(points: Sequence[Totals], front: Sequence[Totals]) -> list[Totals]:
    """The points that no point of the front equals or beats."""
    return [p for p in points if not any(q[0] >= p[0] and q[1] <= p[1] for q in front)]


@contextmanager
def too_many() -> Iterator[None]:
    """Everything counts as too large to try each setting, and grids are small."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweeps, "EXACT", 0)
        patch.setattr(exit_chain, "GRID", 4)
        patch.setattr(exit_chain, "FINE", 30)
        yield


# ---- fronts ------------------------------------------------------------------------------------------


@given(splits())
@settings(max_examples=150, deadline=None)
def test_the_front_is_exact(split: Split) -> None:
    assert executed(split, exit_front(*split)) == brute_front(split)


@pytest.mark.parametrize(("gates", "images"), [(1, 300), (2, 60), (3, 20)])
def test_the_front_is_exact_on_distinct_scores(gates: int, images: int) -> None:
    split = random_split(images, gates)
    found = executed(split, exit_front(*split))
    assert found == brute_front(split)
    assert len(found) > 3


def test_slices_of_many_and_of_few_new_images_agree() -> None:
    """A first gate with few distinct scores adds many images at a time, one with many adds each by itself."""
    scores, labels = random_split(40, 3)
    coarse = scores.scores.clone()
    coarse[:, 0] = coarse[:, 0].round()
    split = replace(scores, scores=coarse), labels
    reversed_gates = exit_front(*split)
    assert executed(split, reversed_gates)
    picks = [coarse[:, g].unique() for g in range(3)]
    assert len(picks[0]) < 8 < len(picks[1])
    some = [totals(split, s) for s in list(every_setting(split))[::97]]
    assert below(some, executed(split, reversed_gates)) == []


@given(splits())
@settings(max_examples=100, deadline=None)
def test_the_heuristic_front_is_never_below_its_references(split: Split) -> None:
    """The sequential procedure for every target accuracy and MACs, one threshold, and a grid."""
    count = len(split[1])
    with too_many():
        front = executed(split, exit_front(*split))
    points = executed(split, sequential_curve(*split))
    points += executed(split, shared_curve(*split))
    for right in range(count + 1):
        points += [totals(split, t) for t in reached(split, accuracy=right / count)]
    for macs in {cost / count for _, cost in points}:
        points += [totals(split, t) for t in reached(split, macs=macs)]
    assert below(points, front) == []
    assert below(front, brute_front(split)) == []


def reached(split: Split, **target: float) -> list[list[float]]:
    """The paper's thresholds; none where the target is out of reach."""
    try:
        return [sequential_thresholds(*split, **target)]
    except Refusal as refusal:
        assert "must be" in str(refusal)  # noqa: PT017 (out of reach is an answer here)
        return []


@pytest.mark.parametrize(("images", "gates"), [(560, 3), (150, 4)])
def test_beyond_the_exact_the_front_is_never_below_a_grid(images: int, gates: int) -> None:
    """Nor below the sequential procedure; 50 candidates a gate, spread evenly."""
    split = random_split(images, gates)
    assert math.prod(len(c) for c in ExitChain(*split).candidates) > sweeps.EXACT
    front = exit_front(*split)
    executed(split, thinned(front, 20))
    chain = ExitChain(*split)
    coarse = ExitFront(chain)
    chain.grid(coarse, [evenly_spaced(len(c), 50) for c in chain.candidates])
    for other in (coarse.curve(), sequential_curve(*split), shared_curve(*split)):
        best = np.array([front.accuracy[front.macs <= macs].max() for macs in other.macs])
        assert (best >= other.accuracy).all()


def thinned(curve: Curve, points: int) -> Curve:
    at = np.linspace(0, len(curve) - 1, points).astype(int)
    return Curve(curve.thresholds[at], curve.accuracy[at], curve.macs[at])


def test_the_heuristic_front_is_nearly_exact() -> None:
    """Where all settings can be tried too: less than 0.1 % of the area is lost."""
    split = random_split(80, 3)
    exact = exit_front(*split)
    with too_many():
        found = exit_front(*split)

    def area(curve: Curve) -> float:
        return float(np.sum(curve.accuracy[:-1] * np.diff(curve.macs))) / 8e6

    assert area(found) <= area(exact) + 1e-12
    assert area(found) > 0.999 * area(exact)


def test_a_front_rises() -> None:
    front = exit_front(*random_split(2000, 2))
    assert (np.diff(front.macs) > 0).all()
    assert (np.diff(front.accuracy) > 0).all()
    assert len(front) > 100


def test_very_many_gates_need_no_grid() -> None:
    split = random_split(30, 40)
    front = executed(split, exit_front(*split))
    assert below(executed(split, shared_curve(*split)), front) == []


@pytest.mark.parametrize(("images", "gates"), [(4000, 2), (105, 4)])
def test_memory_is_bounded(images: int, gates: int) -> None:
    """150 MB, however many settings are tried: 16 million and, in the largest slices, 126 million."""
    split = random_split(images, gates)
    tracemalloc.start()
    exit_front(*split)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150e6


# ---- one threshold for all gates ---------------------------------------------------------------------


@given(splits())
@settings(max_examples=100, deadline=None)
def test_the_shared_curve_is_that_of_a_loop(split: Split) -> None:
    """Thresholds are midpoints of all scores, whichever gate they are of; every operating point is met."""
    curve = shared_curve(*split)
    found = executed(split, curve)
    gates = split[0].scores.shape[1]
    every = replace(split[0], scores=split[0].scores.reshape(-1, 1)), split[1]
    looped = {totals(split, one * gates) for one in every_setting(every)}
    assert set(found) == looped
    assert (np.diff(curve.thresholds[:, 0]) > 0).all()
    assert (curve.thresholds == curve.thresholds[:, :1]).all()


def test_the_shared_curve_has_a_point_between_any_two_distinct_scores() -> None:
    split = random_split(500, 1)
    assert len(shared_curve(*split)) == len(split[0].scores.unique()) + 1


# ---- the sequential procedure ------------------------------------------------------------------------


@given(splits(gates=(2, 3)), st.floats(0, 1))
@settings(max_examples=100, deadline=None)
def test_gates_are_set_one_after_the_other(split: Split, accuracy: float) -> None:
    """Brute force: each gate the cheapest that keeps the accuracy, those after it closed."""
    scores, labels = split
    gates, count = scores.scores.shape[1], len(labels)
    never = [3 * abs(float(c.max())) + 9 for c in scores.scores.T]
    setting = list(never)
    for gate in range(gates):
        alone = replace(scores, scores=scores.scores[:, gate : gate + 1])
        tried = [[*setting[:gate], *t, *never[gate + 1 :]] for t in every_setting((alone, labels))]
        found = [totals(split, t) for t in tried]
        enough = [cost for right, cost in found if right >= accuracy * count - 1e-9]
        if not enough:
            return  # out of reach after this gate; a later one may still reach it
        setting = next(
            t
            for t, (right, cost) in zip(tried, found, strict=True)
            if right >= accuracy * count - 1e-9 and cost == min(enough)
        )
    thresholds = sequential_thresholds(scores, labels, accuracy=accuracy)
    assert totals(split, thresholds) == totals(split, setting)


def test_the_sequential_procedure_keeps_its_target() -> None:
    split = random_split(400, 3)
    curve = exit_front(*split)
    for accuracy in (0.6, 0.7, 0.8):
        right, cost = totals(split, sequential_thresholds(*split, accuracy=accuracy))
        assert right >= accuracy * 400
        assert curve.macs[curve.accuracy >= accuracy].min() <= cost / 400
    for macs in (2e6, 4e6, 8e6):
        right, cost = totals(split, sequential_thresholds(*split, macs=macs))
        assert cost <= macs * 400
        assert curve.accuracy[curve.macs <= macs].max() >= right / 400


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({}, r"^one target must be given, got accuracy=None and macs=None$"),
        ({"accuracy": 0.5, "macs": 1.0}, r"^one target must be given, got accuracy=0.5 and macs=1.0$"),
        ({"accuracy": 0.999}, r"^accuracy must be 0\.\d{4} or less, got 0.999$"),
        ({"macs": 999_999}, r"^macs must be 1,000,000 or more, got 999,999$"),
    ],
)
def test_targets_out_of_reach_are_refused(target: dict[str, Any], message: str) -> None:
    with pytest.raises(Refusal, match=message):
        sequential_thresholds(*random_split(200, 2), **target)


def test_a_target_needs_prices() -> None:
    scores, labels = random_split(20, 2)
    with pytest.raises(Refusal, match=r"^exits must have one price each, got none$"):
        sequential_thresholds(replace(scores, prices=None), labels, accuracy=0.5)


# ---- ends --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("search", ["front", "sequential", "shared"])
def test_what_knobs_get(search: Any) -> None:
    """A curve that rises, and settings from one end to the other, though others beat them."""
    split = random_split(100, 2)
    scores, labels = split
    found = exit_thresholds(scores, labels, search)
    points = [totals(split, t) for t in found]
    curve = [p for i, p in enumerate(points) if all(p[1] > q[1] and p[0] > q[0] for q in points[:i])]
    assert len(curve) > 10
    assert points[: len(curve)] == curve
    assert below(points, executed(split, exit_front(scores, labels))) == []
    assert first_exit(scores.scores, found[0]).tolist() == [0] * 100
    assert first_exit(scores.scores, found[-1]).tolist() == [2] * 100
    assert len({tuple(t) for t in found}) == len(found)


@pytest.mark.parametrize("search", ["front", "sequential", "shared"])
def test_without_labels_or_prices_settings_are_spread(search: Any) -> None:
    scores, labels = random_split(100, 2)
    assert exit_thresholds(None, None, search) == []
    unlabelled = exit_thresholds(scores, None, search)
    assert len(unlabelled) == sweeps.SPREAD
    assert exit_thresholds(replace(scores, prices=None), labels, search) == unlabelled
    shares = [float((first_exit(scores.scores, t) == 0).double().mean()) for t in unlabelled]
    assert shares == sorted(shares, reverse=True)
    assert (shares[0], shares[-1]) == (1.0, 0.0)


@pytest.mark.parametrize("search", ["front", "sequential", "shared"])
@pytest.mark.parametrize("gates", [1, 2, 3])
def test_no_image_has_no_thresholds(gates: int, search: Any) -> None:
    scores, labels = random_split(5, gates)
    none = Scores(scores.scores[:0], scores.predictions[:0], scores.prices)
    assert exit_thresholds(none, labels[:0], search) == []
    assert len(shared_curve(none, labels[:0])) == 0
    with pytest.raises(Refusal, match=r"^a target must be compared with images, got none$"):
        sequential_thresholds(none, labels[:0], accuracy=0.5)


def test_where_no_number_lies_between_two_scores_they_stay_together() -> None:
    """Saturated probabilities: 1 and the float32 before it; a threshold would round to one of them."""
    almost = math.nextafter(1.0, 0.0)
    single = torch.tensor([[0.5], [1 - 2**-24], [1.0]])
    said = torch.tensor([[0, 1], [1, 0], [1, 1]])
    prices = torch.tensor([1.0, 2.0], dtype=torch.float64)
    curve = shared_curve(Scores(single, said, prices), torch.tensor([0, 1, 1]))
    assert curve.thresholds[:, 0].tolist() == [-0.5, 0.75, 2.0]
    executed((Scores(single, said, prices), torch.tensor([0, 1, 1])), curve)
    double = torch.tensor([[0.5], [almost], [1.0]], dtype=torch.float64)
    assert len(shared_curve(Scores(double, said, prices), torch.tensor([0, 1, 1]))) == 3


def test_infinite_scores_leave_or_stay() -> None:
    scores = torch.tensor([[math.inf], [-math.inf], [0.0]])
    split = Scores(scores, torch.tensor([[1, 0]] * 3), torch.tensor([1.0, 2.0])), torch.tensor([1, 0, 1])
    assert executed(split, exit_front(*split)) == [(3, 4)]
    nowhere = replace(split[0], scores=scores[:2]), split[1][:2]
    assert executed(
        (replace(nowhere[0], predictions=split[0].predictions[:2]), nowhere[1]),
        exit_front(replace(nowhere[0], predictions=split[0].predictions[:2]), nowhere[1]),
    ) == [(2, 3)]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_scores_of_any_precision(dtype: torch.dtype) -> None:
    scores, labels = random_split(60, 2)
    split = replace(scores, scores=scores.scores.to(dtype)), labels
    executed(split, exit_front(*split))


def broken(**change: Any) -> Split:
    scores, labels = random_split(6, 2)
    return replace(scores, **{k: v for k, v in change.items() if k != "labels"}), change.get("labels", labels)


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (broken(scores=torch.full((6, 2), math.nan)), "scores must be numbers, got NaN"),
        (broken(prices=torch.ones(2)), "exits must have one price each, got 2 for 3 exits"),
        (
            broken(prices=torch.tensor([1.0, 3.0, 2.0])),
            "an exit must cost no less than the one before, got [1, 3, 2]",
        ),
        (
            broken(predictions=torch.zeros(6, 2, dtype=torch.int64)),
            "a chain of 2 gates must have N x 3 predictions, got (6, 2) for 6 images",
        ),
        (
            broken(labels=torch.zeros(5, dtype=torch.int64)),
            "a chain of exits must have N x gates scores and N labels, got (6, 2) and (5,)",
        ),
        (
            broken(scores=torch.zeros(6, 0)),
            "a chain of exits must have N x gates scores and N labels, got (6, 0) and (6,)",
        ),
    ],
)
@pytest.mark.parametrize("search", ["front", "sequential", "shared"])
def test_what_is_no_chain_of_exits_is_refused(split: Split, message: str, search: Any) -> None:
    with pytest.raises(Refusal) as refused:
        exit_thresholds(*split, search)
    assert str(refused.value) == message


# ---- the rule ----------------------------------------------------------------------------------------


@given(splits(), st.lists(st.floats(-2, 8, width=32), min_size=3, max_size=3))
@settings(max_examples=50, deadline=None)
def test_the_first_gate_that_is_reached(split: Split, thresholds: list[float]) -> None:
    rows = split[0].scores
    thresholds = thresholds[: rows.shape[1]]
    route = first_exit(rows, thresholds)
    assert route.dtype == torch.int64
    for row, taken in zip(rows.tolist(), route.tolist(), strict=True):
        assert taken == next((g for g, t in enumerate(thresholds) if row[g] >= t), len(row))


def test_a_threshold_at_a_score_lets_it_leave() -> None:
    assert first_exit(torch.tensor([[0.5]]), [0.5]).tolist() == [0]


def test_thresholds_are_one_a_gate() -> None:
    with pytest.raises(Refusal, match=r"^thresholds must be one a gate, got 3 for 2 gates$"):
        first_exit(torch.zeros(4, 2), [0.0, 0.0, 0.0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_spread_thresholds_lie_at_no_score(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    scores = torch.randn(40, 25).to(dtype)
    scores[0, 0] = torch.nextafter(scores[1, 1], torch.tensor(9.0, dtype=dtype))  # no room between these two
    for count in (2, 7, 5000):
        found = torch.tensor(spread_thresholds(scores, count), dtype=torch.float64)
        assert len(found) <= count
        assert len(found) == len(found.unique())
        assert found.min() < scores.min()
        assert found.max() > scores.max()
        assert not (found[:, None] == scores.double().flatten()).any()
        passed = (scores.double().flatten() > found[:, None]).sum(1)
        assert passed[0] == scores.numel()
        assert passed[-1] == 0
    assert spread_thresholds(torch.full((3,), 2.0), 10) == [0.0, 4.0]


def test_an_even_spread_takes_quantiles() -> None:
    found = spread_thresholds(torch.arange(101.0), 3)
    assert found[1] == pytest.approx(50, abs=1)
