"""What the dispatcher makes of trials that are at a rung."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from routesearch.results.curves import MAX_ROWS
from routesearch.results.journal import Journal
from routesearch.results.points import OperatingPoint
from routesearch.results.reader import StudyResults
from routesearch.results.record import Outcome, State, TrialRecord
from routesearch.search.dispatcher import Dispatcher, Snapshot
from routesearch.search.resume import open_trials
from routesearch.search.trial_weights import weights_path
from routesearch.utils.arrays import write_arrays

Start = Callable[..., Dispatcher]


@pytest.fixture
def start(make_fake: Any, folder: Path) -> Iterator[Start]:
    """A dispatcher on the study in ``folder``; a new one closes the one before, as a crash would."""
    opened: list[Journal] = []

    def make(total: int = 20, stop: Any = None, budget: float | None = None, **settings: Any) -> Dispatcher:
        if opened:
            opened.pop().close()
        opened.append(Journal.open_for_writing(folder))
        search = {"trials": total, "stop": {"rungs": 3, "keep": 0.5} if stop is None else stop}
        task = make_fake(budget=budget, sampler="random", search=search)
        task.spaces = {"deep": task.spaces["deep"]}
        task.bounds = lambda *_: SimpleNamespace(min=100, max=900)
        return Dispatcher(open_trials(opened[-1], task)[0], total, **settings)

    yield make
    for journal in opened:
        journal.close()


def shown(accuracy: float, part: int, whole: bool = False, cost: float = 400.0) -> Outcome:
    """What a trial is after so many parts of its training."""
    points = (OperatingPoint({"t": 0}, accuracy, cost),)
    return Outcome(State.FINISHED if whole else State.STOPPED, points, 7, 10 * part, 0.1)


def begin(dispatcher: Dispatcher) -> int:
    record = dispatcher.next()
    assert record is not None
    return record.number


def train(dispatcher: Dispatcher, accuracy: float) -> bool:
    """Train a trial from rung to rung to its end; whether it got there."""
    number = begin(dispatcher)
    for part in (1, 2):
        if dispatcher.reported(number, shown(accuracy, part)):
            return False
    dispatcher.ended(number, shown(accuracy, 3, whole=True))
    return True


def records(dispatcher: Dispatcher) -> list[TrialRecord]:
    config: Any = None
    return StudyResults(config, dispatcher.trials.journal).records


def outcome(record: TrialRecord) -> Outcome:
    assert record.outcome is not None
    return record.outcome


def test_a_stopped_trial_is_stored_told_and_counted_and_its_place_is_free(start: Start) -> None:
    heard: list[TrialRecord] = []
    told: list[Snapshot] = []
    observer: Any = SimpleNamespace(trial_ended=heard.append)
    dispatcher = start(3, observers=[observer], on_progress=told.append)
    assert train(dispatcher, 0.9)
    number = begin(dispatcher)
    assert dispatcher.reported(number, shown(0.1, 1))
    assert dispatcher.running == 0
    assert dispatcher.trials.spent == 2
    assert (told[-1].finished, told[-1].stopped, told[-1].training_macs) == (1, 1, 30 + 10)
    assert [(r.number, r.state) for r in heard] == [(0, State.FINISHED), (number, State.STOPPED)]
    assert records(dispatcher)[number].outcome == shown(0.1, 1)
    assert train(dispatcher, 0.95)
    assert dispatcher.done


def test_a_rung_is_stored_as_finely_within_the_budget_as_a_trial_under_way_is_known(start: Start) -> None:
    dispatcher = start(budget=200.0)
    number = begin(dispatcher)
    costs = [float(cost) for cost in (*range(101, 200, 2), *range(210, 900, 2))]
    points = tuple(OperatingPoint({"t": i}, (i + 1) / 500, cost) for i, cost in enumerate(costs))
    at_rung = Outcome(State.STOPPED, points, 7, 10, 0.1)
    assert not dispatcher.reported(number, at_rung)
    under_way = dispatcher.trials.evidence.pending[number].measured[-1].curve
    dispatcher.ended(number, shown(0.9, 3, whole=True, cost=150.0))
    [(_, rows)] = outcome(records(dispatcher)[number]).rungs
    assert sum(cost <= 200.0 for _, cost in rows) == len(under_way) == MAX_ROWS
    assert max(cost for _, cost in rows) == 898.0


def test_a_trial_that_is_stopped_later_keeps_what_it_showed_before(start: Start) -> None:
    dispatcher = start()
    assert train(dispatcher, 0.9)
    number = begin(dispatcher)
    assert not dispatcher.reported(number, shown(0.95, 1))
    assert dispatcher.reported(number, shown(0.1, 2))
    kept = outcome(records(dispatcher)[number])
    assert (kept.state, kept.training_macs) == (State.STOPPED, 20)
    assert kept.rungs == ((10, ((0.95, 400.0),)),)


def test_the_first_trial_is_never_stopped_nor_those_beside_it(start: Start) -> None:
    dispatcher = start()
    numbers = [begin(dispatcher) for _ in range(4)]
    for number in numbers:
        assert not dispatcher.reported(number, shown(0.9 - number / 5, 1))
    for number in numbers[1:]:
        assert not dispatcher.reported(number, shown(0.9 - number / 5, 2))
    dispatcher.ended(numbers[3], shown(0.6, 3, whole=True))
    assert dispatcher.reported(numbers[0], shown(0.01, 2)), "now it is known what a training gains"


def test_a_failed_first_trial_is_nothing_to_go_by(start: Start) -> None:
    dispatcher = start()
    dispatcher.ended(begin(dispatcher), Outcome.failure("it broke"))
    assert train(dispatcher, 0.001)


def test_with_stop_false_no_trial_is_stopped(start: Start) -> None:
    dispatcher = start(8, stop=False)
    assert [train(dispatcher, accuracy) for accuracy in (0.9, *[0.001] * 7)] == [True] * 8


def test_a_trial_that_may_still_add_to_the_front_goes_on(start: Start) -> None:
    dispatcher = start()
    assert train(dispatcher, 0.9)
    worse, cheaper = begin(dispatcher), begin(dispatcher)
    assert not dispatcher.reported(cheaper, shown(0.1, 1, cost=100.0))
    assert dispatcher.reported(worse, shown(0.1, 1, cost=500.0))


@pytest.mark.parametrize("how", ["lost", "returned"])
def test_a_trial_that_begins_anew_has_shown_nothing_yet(start: Start, how: str) -> None:
    dispatcher = start()
    assert train(dispatcher, 0.5)
    number = begin(dispatcher)
    for part in (1, 2):
        assert not dispatcher.reported(number, shown(0.9, part))
    if how == "lost":
        dispatcher.lost(number, "the worker was lost")
    else:
        dispatcher.returned(number)
    assert begin(dispatcher) == number
    for part in (1, 2):
        assert not dispatcher.reported(number, shown(0.8, part))
    dispatcher.ended(number, shown(0.8, 3, whole=True))
    kept = outcome(records(dispatcher)[number])
    assert [macs for macs, _ in kept.rungs] == [10, 20]
    assert [curve[0][0] for _, curve in kept.rungs] == [0.8, 0.8]
    assert dispatcher.snapshot().training_macs == 30 + 30


def test_a_trial_that_is_lost_too_often_fails_with_what_it_had_shown(start: Start) -> None:
    dispatcher = start(retries=0)
    number = begin(dispatcher)
    dispatcher.reported(number, shown(0.9, 1))
    dispatcher.lost(number, "the worker was lost")
    kept = outcome(records(dispatcher)[number])
    assert (kept.state, kept.reason, kept.points) == (State.FAILED, "the worker was lost", ())
    assert [macs for macs, _ in kept.rungs] == [10]
    assert start().next() is not None, "it can be read"


def test_rungs_are_stored_with_the_outcome_alone_and_a_killed_search_has_none(start: Start) -> None:
    dispatcher = start()
    assert train(dispatcher, 0.9)
    number = begin(dispatcher)
    assert not dispatcher.reported(number, shown(0.95, 1))
    again = start()
    assert [r.number for r in records(again) if r.state is State.RUNNING] == [number]
    assert begin(again) == number
    assert again.reported(number, shown(0.1, 1))
    assert outcome(records(again)[number]).rungs == ()


@pytest.mark.parametrize("reopened", [False, True])
def test_a_reopened_search_stops_what_the_one_before_would_have_stopped(start: Start, reopened: bool) -> None:
    dispatcher, ends = start(), []
    for accuracy in (0.9, 0.5, 0.95, 0.3, 0.92, 0.97, 0.1):
        dispatcher = start() if reopened else dispatcher
        ends.append(train(dispatcher, accuracy))
    assert ends == [True, False, True, False, True, True, False]


def test_the_whole_is_known_of_a_curve_that_ends_a_trial_and_a_few_rows_of_one_at_a_rung(
    start: Start,
) -> None:
    points = tuple(OperatingPoint({"t": i}, i / 200, 100.0 + i) for i in range(1, 100))
    dispatcher = start()
    number = begin(dispatcher)
    assert not dispatcher.reported(number, Outcome(State.STOPPED, points, 7, 10, 0.1))
    dispatcher.ended(number, Outcome(State.FINISHED, points, 7, 20, 0.1))
    kept = outcome(records(dispatcher)[number])
    assert len(kept.points) == len(points)
    ((_, rows),) = kept.rungs
    assert 2 < len(rows) <= MAX_ROWS
    assert set(rows) <= {(p.accuracy, p.macs) for p in points}


def test_the_weights_of_a_stopped_trial_are_kept_as_long_as_it_is_on_the_front(
    start: Start, folder: Path
) -> None:
    dispatcher = start()
    assert train(dispatcher, 0.9)
    number = begin(dispatcher)
    write_arrays(weights_path(folder, number), {"w": np.zeros(3)})
    over = (OperatingPoint({"t": 1}, 0.95, 1200.0), OperatingPoint({"t": 0}, 0.1, 700.0))
    assert dispatcher.reported(number, Outcome(State.STOPPED, over, 7, 10, 0.1))
    assert number in {p.trial for p in dispatcher.trials.front}
    assert weights_path(folder, number).exists()
    other = begin(dispatcher)
    write_arrays(weights_path(folder, other), {"w": np.zeros(3)})
    assert dispatcher.reported(other, shown(0.1, 1, cost=800.0))
    assert not weights_path(folder, other).exists()
