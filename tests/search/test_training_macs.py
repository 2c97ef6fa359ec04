"""What a search does with a budget of training MACs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from routesearch.results.journal import Journal
from routesearch.results.measurements import TRUNK_MACS
from routesearch.results.points import OperatingPoint
from routesearch.results.reader import StudyResults
from routesearch.results.record import Outcome, State, TrialRecord
from routesearch.search.dispatcher import Dispatcher
from routesearch.search.resume import open_trials
from routesearch.study.search_settings import LAG

Macs = Callable[[TrialRecord], int]
Open = Callable[..., Any]


@pytest.fixture
def opened(make_fake: Any, tmp_path_factory: pytest.TempPathFactory) -> Open:
    """Open a study in a folder, a new one where none is given; its methods are refused nothing."""

    @contextmanager
    def make(folder: Path | None = None, trunk: int = 0, **search: Any) -> Iterator[Dispatcher]:
        task = make_fake(budget=None, sampler="random", search={"trials": 200, "stop": False} | search)
        task.bounds = lambda *_: SimpleNamespace(min=100, max=900)
        with Journal.open_for_writing(folder or tmp_path_factory.mktemp("study")) as journal:
            if trunk:
                journal.set(TRUNK_MACS, trunk)
            yield Dispatcher(open_trials(journal, task)[0], task.config.search.trials)

    return make


def run(dispatcher: Dispatcher, workers: int, macs: Macs, random: Random | None = None) -> list[int]:
    """Run to the end; trials end in an order that is drawn, else in that of their beginning."""
    live: dict[int, TrialRecord] = {}
    done = []
    while True:
        while len(live) < workers and (record := dispatcher.next()) is not None:
            live[record.number] = record
        if not live:
            assert dispatcher.done
            return done
        number = random.choice(sorted(live)) if random else min(live)
        points = (OperatingPoint({}, 0.5, 100.0),)
        dispatcher.ended(number, Outcome(State.FINISHED, points, 7, macs(live.pop(number)), 0.1))
        done.append(number)


def records(dispatcher: Dispatcher) -> list[TrialRecord]:
    config: Any = None  # of no matter for what the trials are
    return StudyResults(config, dispatcher.trials.journal).records


def spent(dispatcher: Dispatcher) -> int:
    """Training MACs of the study as they are told."""
    return dispatcher.snapshot().training_macs


@examples(max_examples=15, suppress_health_check=list(HealthCheck))  # each example has its own folder
@given(
    limit=st.integers(1, 1500),
    trunk=st.integers(0, 500),
    workers=st.integers(1, 9),
    costs=st.lists(st.integers(60, 300), min_size=1, max_size=7),
    order=st.integers(0, 9),
)
def test_a_budget_is_spent_and_overshot_by_less_than_a_trial_for_each_worker(
    opened: Open, limit: int, trunk: int, workers: int, costs: list[int], order: int
) -> None:
    with opened(training_macs=limit, trunk=trunk) as dispatcher:
        run(dispatcher, workers, lambda record: costs[record.number % len(costs)], Random(order))
        assert spent(dispatcher) >= limit
        assert spent(dispatcher) - max(limit, trunk) < workers * max(costs)


@pytest.mark.parametrize("workers", [1, 2, 8])
@pytest.mark.parametrize("deterministic", [False, True])
def test_trials_under_way_are_counted_with_what_others_took(
    opened: Open, workers: int, deterministic: bool
) -> None:
    """Once it is known what a trial takes, a budget of 24 trials is 24 trials with any number of workers."""
    with opened(training_macs=2400, deterministic=deterministic) as dispatcher:
        assert len(run(dispatcher, workers, lambda record: 100)) == 24
    with opened(training_macs=2401, trunk=1000, deterministic=deterministic) as dispatcher:
        assert len(run(dispatcher, workers, lambda record: 100)) == 15
        assert spent(dispatcher) == 2500


def test_a_budget_that_the_trunk_has_spent_leaves_no_trial(opened: Open) -> None:
    for trunk, trials in ((99, 1), (100, 0), (5000, 0)):
        with opened(training_macs=100, trunk=trunk) as dispatcher:
            assert len(run(dispatcher, 1, lambda record: 1)) == trials
            assert spent(dispatcher) == trunk + trials


def test_stopped_and_failed_trials_are_on_the_bill(opened: Open) -> None:
    points = (OperatingPoint({}, 0.5, 100.0),)
    with opened(training_macs=100) as dispatcher:
        for outcome in (
            Outcome(State.STOPPED, points, 7, 40, 0.1),
            Outcome.failure("it broke"),
            Outcome(State.FINISHED, points, 7, 59, 0.1),
            Outcome(State.FINISHED, points, 7, 1, 0.1),
        ):
            record = dispatcher.next()
            assert record is not None
            dispatcher.ended(record.number, outcome)
        assert dispatcher.done
        assert spent(dispatcher) == 100
        assert dispatcher.trials.spent == 4


def test_a_larger_budget_goes_on_and_the_same_one_ends_at_once(opened: Open, tmp_path: Path) -> None:
    def called(limit: int) -> list[int]:
        with opened(tmp_path / "study", training_macs=limit) as dispatcher:
            return run(dispatcher, 2, lambda record: 100)

    assert called(1000) == list(range(10))
    assert called(1000) == []
    assert called(900) == []
    assert called(1050) == [10]
    assert called(2000) == list(range(11, 20))


def test_a_trial_under_way_when_its_search_died_is_run_again_whatever_the_budget(
    opened: Open, tmp_path: Path
) -> None:
    """It was begun within the budget, and is counted as one under way."""
    folder = tmp_path / "study"
    with opened(folder, training_macs=1000) as dispatcher:
        begun = [dispatcher.next() for _ in range(2)]
    with opened(folder, training_macs=1) as dispatcher:
        assert run(dispatcher, 2, lambda record: 100) == [record.number for record in begun]
        assert spent(dispatcher) == 200


@pytest.mark.parametrize(
    ("settings", "trials"),
    [
        ({"trials": 7, "training_macs": 1000}, 7),
        ({"trials": 20, "training_macs": 1000}, 10),
        ({"trials": 20, "training_macs": 5000, "time_limit": "300s"}, 3),
        ({"trials": 2, "training_macs": 5000, "time_limit": "300s"}, 2),
        ({"trials": 20, "training_macs": 200, "time_limit": "300s"}, 2),
    ],
)
def test_of_trials_time_and_training_macs_the_first_ends_the_search(
    make_fake: Any, folder: Path, settings: dict[str, Any], trials: int
) -> None:
    now = 0.0

    def train(record: TrialRecord) -> int:
        nonlocal now
        now += 100.0
        return 100

    task = make_fake(budget=None, search={"stop": False} | settings)
    with Journal.open_for_writing(folder) as journal:
        config = task.config.search
        dispatcher = Dispatcher(open_trials(journal, task)[0], config.trials, clock=lambda: now)
        dispatcher.start(config.time_limit)
        assert len(run(dispatcher, 1, train)) == trials


def test_a_deterministic_study_ends_with_the_same_trial_with_any_number_of_workers(opened: Open) -> None:
    """What ended is counted when it is known, and so overshoots by less than the trials that may run."""
    found = []
    for workers in (1, 2, 4, 2 * LAG):
        with opened(training_macs=2000, trunk=100, deterministic=True) as dispatcher:
            run(dispatcher, workers, lambda record: 20 + 40 * (record.number % 5), Random(workers))
            found.append(records(dispatcher))
            assert abs(spent(dispatcher) - 2000) < LAG * 180
    assert all(each == found[0] for each in found)


def test_a_deterministic_study_that_spent_its_budget_ends_at_once_when_it_is_called_again(
    opened: Open, tmp_path: Path
) -> None:
    macs: Macs = lambda record: 20 + 40 * (record.number % 5)  # noqa: E731
    with opened(tmp_path / "one", training_macs=2000, deterministic=True) as dispatcher:
        run(dispatcher, 3, macs)
        first = records(dispatcher)
    with opened(tmp_path / "one", training_macs=2000, deterministic=True) as dispatcher:
        assert run(dispatcher, 3, macs) == []
    with opened(tmp_path / "one", training_macs=4000, deterministic=True) as dispatcher:
        assert run(dispatcher, 2, macs)
        found = records(dispatcher)
    with opened(tmp_path / "two", training_macs=4000, deterministic=True) as dispatcher:
        run(dispatcher, 1, macs)
        assert records(dispatcher) == found
    assert found[: len(first)] == first


def test_a_trial_that_fails_after_a_rung_has_spent_what_it_showed_there(opened: Open) -> None:
    with opened(training_macs=1000, stop={"rungs": 3, "keep": 0.4}) as dispatcher:
        points = (OperatingPoint({}, 0.5, 100.0),)
        record = dispatcher.next()
        assert record is not None
        assert not dispatcher.reported(record.number, Outcome(State.STOPPED, points, 7, 300, 0.1))
        dispatcher.ended(record.number, Outcome.failure("it broke in measuring"))
        assert spent(dispatcher) == 300
        [stored] = records(dispatcher)
        assert stored.outcome is not None
        assert stored.outcome.training_macs == 300


def test_trials_of_a_method_that_shows_nothing_yet_are_expected_to_take_what_the_dearest_takes(
    opened: Open,
) -> None:
    with opened(training_macs=10_000) as dispatcher:
        trials = dispatcher.trials
        points = (OperatingPoint({}, 0.5, 100.0),)
        trials.finish(trials.ask("wide").number, Outcome(State.FINISHED, points, 7, 700, 0.1))
        trials.ask("deep")
        trials.ask("deep")
        assert trials.expected_macs == 700 + 2 * 700
        trials.ask("wide")
        assert trials.expected_macs == 700 + 3 * 700
