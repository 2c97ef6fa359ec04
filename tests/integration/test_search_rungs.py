"""Searches on one real Ray whose trials wait at rungs: which are stopped, what goes wrong there, budgets."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from routesearch.results.journal import Journal
from routesearch.results.measurements import read_test_results
from routesearch.results.record import Outcome, State, TrialRecord
from routesearch.search.dispatcher import Snapshot
from routesearch.search.driver import run_search
from routesearch.search.ray_cluster import connect

MACS = 30
"""What a trial of the fake study takes from rung to rung."""


@pytest.fixture(scope="module", autouse=True)
def _ray(fake: ModuleType) -> Iterator[None]:
    """A search takes the Ray that its process is connected to."""
    with connect(None, 1):
        yield


@pytest.fixture(scope="module")
def cores(_ray: None) -> int:
    """Of this machine, as Ray has them: a trial that takes them all runs alone."""
    import ray

    return int(ray.cluster_resources()["CPU"])


Search = Callable[..., list[TrialRecord]]


@pytest.fixture
def search(fake: ModuleType, tmp_path: Path) -> Search:
    """Run a study with rungs to its end, and get what is stored of its trials."""

    def run(folder: Path = tmp_path, stop: Any = None, **settings: Any) -> list[TrialRecord]:
        more = {"stop": {"rungs": 3, "keep": 0.5} if stop is None else stop, **settings.pop("search", {})}
        task = fake.FakeTask(folder, **{"rungs": 2, "seconds": 0.0, "budget": None} | settings, search=more)
        told: list[Snapshot] = []
        run_search(task, runner=fake.FakeRunner, on_progress=told.append)
        kept: list[TrialRecord] = fake.read(folder)
        assert told[-1].stopped == sum(r.state is State.STOPPED for r in kept)
        assert told[-1].training_macs == task.trunk_macs + sum(ended(r).training_macs for r in kept)
        return kept

    return run


def ended(record: TrialRecord) -> Outcome:
    assert record.outcome is not None
    return record.outcome


def poor(*numbers: int) -> dict[str, str]:
    """Trials that are worse than any other, at any cost."""
    return {str(number): "poor" for number in numbers}


# ---- which are stopped -----------------------------------------------------------------------------------


def test_a_stopped_trial_is_kept_as_it_was_at_its_rung_and_its_worker_goes_on(
    search: Search, cores: int, tmp_path: Path
) -> None:
    kept = search(trials=6, methods=["one"], cpu=cores, trouble=poor(2, 4))
    assert len(kept) == 6, "a stopped trial is one of those that the study may spend"
    assert [r.number for r in kept if r.state is State.STOPPED] == [2, 4]
    for record in kept:
        outcome = ended(record)
        if record.state is State.STOPPED:
            assert outcome.points, "it keeps its curve"
            assert outcome.training_macs == MACS
            assert outcome.rungs == ()
            assert not (tmp_path / "passed" / f"{record.number}.0").exists(), "it went on"
        else:
            assert outcome.training_macs == 3 * MACS
            assert [macs for macs, _ in outcome.rungs] == [MACS, 2 * MACS]
    assert len({ended(r).params for r in kept}) == 1, "one process had all of them"


def test_the_first_trial_of_a_method_is_never_stopped(search: Search, cores: int) -> None:
    kept = search(trials=6, cpu=cores, trouble=poor(*range(6)))
    firsts = {record.method: record for record in reversed(kept)}
    assert firsts.keys() == {"one", "two"}
    assert {record.state for record in firsts.values()} == {State.FINISHED}


def test_without_early_stopping_no_trial_is_stopped(search: Search, cores: int) -> None:
    kept = search(trials=6, methods=["one"], cpu=cores, stop=False, trouble=poor(2, 3, 4))
    assert [r.state for r in kept] == [State.FINISHED] * 6
    assert {ended(r).training_macs for r in kept} == {3 * MACS}


def test_a_stopped_trial_that_is_on_the_front_is_measured_with_the_weights_of_its_rung(
    search: Search, fake: ModuleType, cores: int, tmp_path: Path
) -> None:
    """Its best point is over the budget, which is no reason to train it on."""
    trouble = {str(number): "dear" for number in range(1, 100)}
    kept = search(trials=4, methods=["one"], cpu=cores, budget=600.0, trouble=trouble)
    stopped = {r.number for r in kept if r.state is State.STOPPED}
    with Journal.open_for_reading(tmp_path) as journal:
        measured = set(read_test_results(journal.facts()))
    weights = {int(file.stem): fake.read_arrays(file)[0] for file in (tmp_path / "weights").iterdir()}
    assert measured == weights.keys()
    assert stopped & measured
    assert all(weights[number]["rung"] == 0 for number in stopped & measured)
    assert all("rung" not in weights[number] for number in measured - stopped)


# ---- what goes wrong at a rung ---------------------------------------------------------------------------


def test_what_goes_wrong_at_a_rung_is_the_record_of_its_trial_and_the_search_goes_on(search: Search) -> None:
    trouble = {
        "0 at rung 0": "garbage",
        "1 at rung 1": "bomb",
        "2 after rung 0": "raise",
        "3 after rung 1": "kill",
        "4 at rung 1": "nan",
        "5 after rung 0": "hang",
    }
    kept = search(trials=9, retries=0, trial_time=4.0, trouble=trouble, stop=False)
    assert [r.number for r in kept if r.state is State.FINISHED] == [6, 7, 8]
    reasons = [ended(r).reason or "" for r in kept[:6]]
    assert reasons[0].startswith("the worker's answer cannot be read: the outcome must be JSON: ")
    assert "invalid literal for int() with base 10: 'no number'" in reasons[1]
    assert re.fullmatch(r"ValueError: the loss is no number \(fake_study\.py:\d+\)", reasons[2])
    assert reasons[3].startswith("the worker was lost: the process was killed from outside")
    assert reasons[4] == "point 0: accuracy must be a number in [0, 1], got nan"
    assert reasons[5] == "took longer than resources.trial_time = 4s"
    assert not any("\n" in reason for reason in reasons)


def test_a_trial_that_is_killed_between_rungs_begins_anew_and_is_counted_once(
    search: Search, tmp_path: Path
) -> None:
    kept = search(trials=3, trouble={"1 after rung 1": "kill once"}, stop=False)
    assert [r.state for r in kept] == [State.FINISHED] * 3
    assert (tmp_path / "passed" / "1.0").read_text() == "xx", "it passed its first rung twice"
    assert (tmp_path / "passed" / "0.0").read_text() == "x"
    for record in kept:
        assert ended(record).training_macs == 3 * MACS
        assert [macs for macs, _ in ended(record).rungs] == [MACS, 2 * MACS]


def test_a_trial_may_say_at_a_rung_that_it_has_finished(search: Search) -> None:
    kept = search(trials=3, methods=["one"], trouble={"1 at rung 0": "finish"})
    assert [r.state for r in kept] == [State.FINISHED] * 3
    assert ended(kept[1]).training_macs == MACS


# ---- what a search may spend -----------------------------------------------------------------------------


def test_the_search_ends_when_its_training_macs_are_spent_the_trunks_included(
    search: Search, cores: int
) -> None:
    study = {"needs_trunk": True, "trunk_macs": 100, "trials": 1000, "cpu": cores, "stop": False}
    kept = search(**study, search={"training_macs": 10 * MACS})
    assert len(kept) == 3, "100 + 2 * 90 < 300 <= 100 + 3 * 90"
    again = search(**study, search={"training_macs": 10 * MACS})
    assert again == kept, "the same budget is spent"
    more = search(**study, search={"training_macs": 20 * MACS})
    assert more[:3] == kept
    assert len(more) == 6, "100 + 5 * 90 < 600 <= 100 + 6 * 90"
    assert {r.state for r in more} == {State.FINISHED}


@pytest.mark.parametrize("limit", [1, 1000])
def test_the_budget_is_overshot_by_less_than_a_trial_for_each_worker(
    search: Search, cores: int, limit: int
) -> None:
    kept = search(trials=1000, search={"training_macs": limit}, stop=False, seconds=0.05)
    spent = sum(ended(r).training_macs for r in kept)
    assert limit <= spent < limit + cores * 3 * MACS


def test_a_time_limit_ends_a_search_whose_training_macs_are_not_spent(search: Search) -> None:
    kept = search(trials=1000, time_limit=4.0, search={"training_macs": "1T"}, seconds=0.1)
    assert 0 < len(kept) < 1000
    assert {r.state for r in kept} <= {State.FINISHED, State.STOPPED}


def test_a_deterministic_search_is_the_same_with_one_worker_and_with_all(
    search: Search, cores: int, tmp_path: Path
) -> None:
    def shown(name: str, **settings: Any) -> list[Any]:
        trouble = poor(*range(9, 16, 2))
        kept = search(tmp_path / name, trials=16, trouble=trouble, search={"deterministic": True}, **settings)
        return [(r.method, r.config, r.seed, r.state, ended(r).rungs, ended(r).points) for r in kept]

    alone, together = shown("one", cpu=cores), shown("two", cpu=0.5, seconds=0.05)
    assert alone == together
    assert State.STOPPED in {state for *_, state, _, _ in alone}
