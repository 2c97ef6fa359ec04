"""The default search beats random draws and plain Optuna on recorded trainings; the bench adds up right."""

from __future__ import annotations

import sys
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from optuna import samplers

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

from comparison.arms import Bench, tpe
from comparison.ledger import Ledger, at, reached
from comparison.problems import PROBLEMS
from comparison.record import REPEATED, _in_turn
from comparison.replay import Replay
from comparison.statistics import difference_at, share_to_reach
from comparison.table import prices

from routesearch.results.points import Interval, OperatingPoint
from routesearch.results.record import State

SEEDS = 3
LIMIT = 1.0e12
"""Training MACs of a search here, the trunk's .285 T included."""


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench(PROBLEMS["digits"])


def found(bench: Bench, search: Any) -> list[float]:
    """Feasible hypervolume of each seed's search when it has spent LIMIT."""
    areas = []
    for seed in range(SEEDS):
        ledger = Ledger(bench.task, LIMIT)
        search(ledger, seed)
        areas.append(float(at(ledger.history, [LIMIT])[0]))
    return areas


def test_the_default_search_beats_random_draws_and_plain_optuna_at_equal_training_macs(bench: Bench) -> None:
    ours = found(bench, bench.ours({}))
    drawn = found(bench, bench.peer(lambda seed: samplers.RandomSampler(seed=seed)))
    plain = found(bench, bench.peer(tpe, shared=False))

    assert min(ours) > np.median(drawn)
    assert np.median(ours) > np.median(drawn) + 0.01
    assert min(ours) > max(plain) + 0.03


def test_a_replayed_search_is_the_same_for_the_same_seed(bench: Bench) -> None:
    first, second = Ledger(bench.task, 5e11), Ledger(bench.task, 5e11)
    bench.ours({})(first, 7)
    bench.ours({})(second, 7)

    assert first.history == second.history
    assert first.history


def test_workers_share_the_work_and_spend_what_their_trainings_took(bench: Bench) -> None:
    ledger = Ledger(bench.task, 1e30)
    replay = Replay(bench.task, bench.table, workers=4, max_trials=12)

    load = replay.run(ledger, 0)

    assert ledger.trainings == 12
    assert len(ledger.history) == 12
    assert ledger.history[-1][0] == ledger.spent > bench.table.shared_macs
    assert load.busy_share(4) == pytest.approx(1.0)  # a driver that takes no time leaves no worker idle
    begun = sorted(start for start, _ in load.parts)
    assert begun[:4] == [0.0] * 4 != begun[1:5]


def test_recorded_trainings_are_answered_by_about_their_own_curves_and_training_macs(bench: Bench) -> None:
    for method, table in bench.table.methods.items():
        lines = [line for line in bench.table.lines if line["method"] == method]
        off, dearer = [], []
        for line in lines:
            bounds = Interval(*line["bounds"])
            outcomes = bench.table.outcomes(method, line["config"], bounds, line["seed"])
            assert [one.state for one in outcomes] == [State.STOPPED, State.STOPPED, State.FINISHED]
            for one in outcomes:
                assert all(bounds.min <= p.macs <= bounds.max for p in one.points)
            last = line["rungs"][-1]
            off.append(max(p.accuracy for p in outcomes[-1].points) - max(a for a, _ in last["points"]))
            dearer.append(outcomes[-1].training_macs / last["macs"])

        assert np.median(np.abs(off)) < 0.02
        assert 0.9 < np.median(dearer) < 1.1
        assert len(table.noise) > 2 * 4


def test_the_nearest_training_is_answered_as_it_is() -> None:
    bench = Bench(PROBLEMS["digits"], nearest=True)
    line = next(x for x in bench.table.lines if x["method"] == "dgate" and x["index"] == 12)
    bounds = Interval(*line["bounds"])

    last = bench.table.outcomes("dgate", line["config"], bounds, seed=0)[-1]

    assert max(p.accuracy for p in last.points) == max(a for a, _ in line["rungs"][-1]["points"])
    assert last.training_macs == pytest.approx(line["rungs"][-1]["macs"], rel=1e-6)


def test_prices_that_are_looked_up_are_those_of_the_very_config(bench: Bench) -> None:
    rng = Random(5)
    for method, space in bench.task.spaces.items():
        for config in (space.draw(rng) for _ in range(10)):
            assert bench.task.bounds(method, config) == bench.task.exact_bounds(method, config)


def test_a_ledger_counts_feasible_points_only(bench: Bench) -> None:
    assert bench.task.budget.max_macs is not None
    ledger = Ledger(bench.task, 10.0)
    ledger.spend(4.0)
    ledger.found([OperatingPoint({}, 0.9, 1.01 * bench.task.budget.max_macs)])
    assert (ledger.hypervolume, ledger.over) == (0.0, False)
    ledger.spend(6.0)
    ledger.found([OperatingPoint({}, 0.8, 0.5 * bench.task.budget.max_macs)])
    # 0.8 high, from a quarter of the backbone's MACs to the budget's half
    assert ledger.hypervolume == pytest.approx(0.8 * 0.25, abs=1e-6)
    assert ledger.over


def test_hypervolume_at_some_training_macs_and_training_macs_of_a_hypervolume() -> None:
    history = [(2.0, 0.1), (5.0, 0.3)]

    assert at(history, [1.0, 2.0, 4.9, 5.0, 9.0]).tolist() == [0.0, 0.1, 0.1, 0.3, 0.3]
    assert reached(history, 0.1) == 2.0
    assert reached(history, 0.2) == 5.0
    assert reached(history, 0.31) == float("inf")


def test_the_share_of_anothers_macs_is_the_median_over_pairs_of_seeds() -> None:
    ours = [[(1.0, 0.5), (2.0, 0.9)], [(1.0, 0.5), (4.0, 0.9)]]
    theirs = [[(10.0, 0.9)], [(10.0, 0.4)]]

    share = share_to_reach(ours, theirs)

    assert share.value == 0.1  # of .2, .4, .1, .1: the lower middle one
    assert share.low <= share.value <= share.high
    gap = difference_at(ours, theirs, 1.0)
    assert gap.value == 0.5


def test_a_recording_that_is_cut_off_has_all_methods() -> None:
    jobs = _in_turn({"static": 10, "dgate": 40})

    assert len(jobs) == len(set(jobs)) == 50 + 2 * REPEATED
    half = jobs[: len(jobs) // 2]
    assert sum(method == "static" and not repeat for method, _, repeat in half) in range(4, 7)
    assert sum(method == "dgate" and not repeat for method, _, repeat in half) in range(17, 24)


def test_the_grid_ends_where_the_routes_do() -> None:
    grid = prices(Interval(100, 300))

    assert (grid[0], grid[-1]) == (100.0, 300.0)
    assert grid == sorted(grid)
