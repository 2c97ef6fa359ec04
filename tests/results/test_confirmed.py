"""Confirmations as facts of a journal: written, checked, read, and summed up."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from routesearch.errors import Refusal
from routesearch.results.confirmed import (
    MAX_KEPT,
    Retraining,
    Retuned,
    best_of,
    check_retraining,
    confirmed_points,
    kept_images,
    pack_right,
    read_retraining,
    retuned,
    spent,
    summed_up,
    unpack_right,
)
from routesearch.results.points import OperatingPoint, knob_key


def measured(accuracy: float, macs: float, knob: float = 0.5) -> OperatingPoint:
    return OperatingPoint({"t": knob}, accuracy, macs, (0.25, 0.75))


def retraining(*accuracies: float, seed: int = 1, macs: float = 100.0) -> Retraining:
    points = tuple(
        Retuned({"t": i}, measured(a, macs + i), measured(a - 0.02, macs + i + 1))
        for i, a in enumerate(accuracies)
    )
    right = pack_right(np.arange(20) < 10 * np.ones((len(points), 1)))
    return Retraining(seed, 7, 1000, 0.5, None, (40, 20), points, right)


@given(arrays.arrays(np.bool_, arrays.array_shapes(min_dims=2, max_dims=2, max_side=40)))
def test_outcomes_survive_packing(right: Any) -> None:
    assert np.array_equal(unpack_right(pack_right(right)), right)


def test_outcomes_of_a_long_curve_stay_small() -> None:
    rng = np.random.default_rng(0)
    right = np.tile(rng.random(MAX_KEPT) < 0.9, (256, 1))
    for row in range(1, 256):
        right[row] = right[row - 1]
        right[row, rng.integers(MAX_KEPT, size=20)] ^= True
    assert len(pack_right(right)) < 60_000
    assert np.array_equal(unpack_right(pack_right(right)), right)


def test_of_many_images_a_part_is_kept_spread_over_the_split() -> None:
    assert kept_images(5) == [0, 1, 2, 3, 4]
    kept = kept_images(100_000)
    assert len(set(kept)) == MAX_KEPT
    assert (kept[0], kept[-1]) == (0, 99_999)


@pytest.mark.parametrize("text", ["", "x", "1 8", "1 8 !!", "1 8 AAAA", "-1 8 AAAA", f"1 {10**9} AAAA"])
def test_what_is_no_outcomes_is_refused(text: str) -> None:
    with pytest.raises(Refusal, match="right must be"):
        unpack_right(text)


def test_no_more_is_unpacked_than_there_should_be() -> None:
    bomb = pack_right(np.zeros((MAX_KEPT, 64), bool)).split(" ")[2]
    with pytest.raises(Refusal, match="right must be"):
        unpack_right(f"1 8 {bomb}")


def test_a_retraining_survives_being_a_fact() -> None:
    before = retraining(0.9, 0.8)
    fact = json.loads(json.dumps(before.as_fact()))
    check_retraining("confirmed:3:0", fact)
    assert read_retraining(fact) == before


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"seed": -1}, "seed must be"),
        ({"failed": ""}, "failed must be"),
        ({"images": [0, 0]}, "images must be"),
        ({"points": [[{}, 1]]}, "points must be"),
        ({"points": []}, "right must be a row for each of 0 points, got 2"),
        ({"seconds": None}, "seconds must be"),
        ({"more": 1}, "unknown key 'more'"),
    ],
)
def test_a_fact_that_is_none_is_refused(change: dict[str, Any], told: str) -> None:
    with pytest.raises(Refusal, match=told):
        check_retraining("confirmed:3:0", retraining(0.9, 0.8).as_fact() | change)
    for name in ("confirmed:3", "confirmed:a:0"):
        with pytest.raises(Refusal, match="its name must be"):
            check_retraining(name, retraining(0.9).as_fact())


def test_a_knob_is_tuned_to_the_points_macs() -> None:
    curve = [measured(0.7, 90), measured(0.8, 95), measured(0.8, 100), measured(0.9, 101)]
    assert retuned(curve, 100).macs == 95  # the most accurate within, and of equals the cheapest
    assert retuned(curve, 1000).accuracy == 0.9
    assert retuned(curve, 50).macs == 90  # none within: the cheapest
    exactly = 0.1 + 0.2
    assert retuned([measured(0.9, exactly)], 0.3).accuracy == 0.9


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(1, 10)), min_size=1), st.floats(1, 10))
def test_a_tuned_knob_keeps_to_the_macs_where_any_does(curve: list[tuple[float, float]], macs: float) -> None:
    points = [measured(a, m) for a, m in curve]
    found = retuned(points, macs)
    within = [p for p in points if p.macs <= macs]
    assert not within or found.macs <= macs * (1 + 1e-9)
    assert all(p.accuracy <= found.accuracy for p in within)


def test_seeds_of_a_point_are_taken_together() -> None:
    facts = {
        f"confirmed:3:{i}": retraining(a, 0.5, seed=i).as_fact() for i, a in enumerate((0.90, 0.94, 0.92))
    }
    facts["confirmed:3:3"] = Retraining(9, failed="the loss must stay finite").as_fact()
    each = confirmed_points(facts)
    assert set(each) == {(3, knob_key({"t": 0})), (3, knob_key({"t": 1}))}
    found = summed_up(each[3, knob_key({"t": 0})], 100.0)
    assert found is not None
    assert (found.validation.accuracies, found.validation.images) == ((0.90, 0.94, 0.92), 40)
    assert (found.test.mean, found.test.images) == (pytest.approx(0.90), 20)
    assert found.shrinkage == pytest.approx(0.02)
    assert (found.best, found.chosen.seed, found.point.validation.accuracy) == (1, 1, 0.94)
    assert found.right.shape == (3, 20)
    assert spent(facts) == {"retrainings": 4, "failed": 1, "training_macs": 3000}


def test_one_seed_is_no_confirmation() -> None:
    each = confirmed_points({"confirmed:3:0": retraining(0.9).as_fact()})
    assert summed_up(each[3, knob_key({"t": 0})], 100.0) is None


def test_the_best_seed_keeps_to_the_macs_where_one_does() -> None:
    assert best_of({0: measured(0.8, 99), 4: measured(0.9, 130), 5: measured(0.85, 100)}, 100) == 5
    assert best_of({0: measured(0.8, 120), 4: measured(0.9, 130)}, 100) == 0


def test_points_that_come_later_join_those_of_the_same_seed() -> None:
    early, late = retraining(0.9), retraining(0.8, 0.7)
    both = late.merged(early)
    assert both.training_macs == 2000
    assert [p.validation.accuracy for p in both.points] == [0.9, 0.8, 0.7]
    assert len(unpack_right(both.right)) == 3
    assert Retraining(1, failed="no").merged(early) == early
