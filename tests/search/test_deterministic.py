"""Deterministic searches: the same study from the same seed, however many workers there are."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from routesearch.results.journal import Journal
from routesearch.results.points import OperatingPoint
from routesearch.results.reader import StudyResults
from routesearch.results.record import Outcome, State, TrialRecord
from routesearch.search.dispatcher import MAX_FAILED, Dispatcher
from routesearch.search.resume import open_trials
from routesearch.study.search_settings import LAG

TRIALS = 24
RUNGS = 2
"""At which a trial may stop, beside its end."""


def outcome_of(record: TrialRecord, rung: int) -> Outcome:
    """What a trial shows at a rung or, at ``RUNGS``, its end: it follows from the trial alone."""
    luck = zlib.crc32(f"{record.method} {record.seed}".encode()) / 2**32
    best = (0.05 + 0.85 * luck) * (1 + 0.02 * rung)
    assert record.bounds is not None
    low, high = record.bounds.min, record.bounds.max
    places = [low + (high - low) * i / 4 + 200 * (1 - luck) for i in range(5)]
    points = tuple(OperatingPoint({"t": i}, best * (0.5 + i / 8), m) for i, m in enumerate(places))
    macs = (150 - int(100 * luck)) * (1 + rung)
    return Outcome(State.FINISHED if rung == RUNGS else State.STOPPED, points, 7, macs, 0.1)


@dataclass
class Study:
    """One study, whose trials end in an order that is drawn, and whose driver may die.

    Attributes:
        lost: share of steps at which a worker dies.
        failing: a method whose trials all fail at their first step.
    """

    folder: Path
    task: Any
    random: Random
    lost: float = 0.0
    failing: str | None = None
    journal: Journal | None = None
    live: dict[int, tuple[TrialRecord, int]] = field(default_factory=dict)

    def open(self) -> None:
        """A new driver; one that was there is gone, with all its trials under way."""
        self.close()
        self.live = {}
        self.journal = Journal.open_for_writing(self.folder)
        trials = open_trials(self.journal, self.task)[0]
        self.dispatcher = Dispatcher(trials, self.task.config.search.trials, retries=1000)

    def close(self) -> None:
        if self.journal is not None:
            self.journal.close()

    def run(self, workers: int, steps: int | None = None) -> bool:
        """Whether the study has ended after so many steps of any worker's."""
        while steps is None or steps > 0:
            while len(self.live) < workers and (record := self.dispatcher.next()) is not None:
                self.live[record.number] = record, 0
            if not self.live:
                assert self.dispatcher.done, "a search without a trial under way has ended or goes on"
                return True
            self._step(self.random.choice(sorted(self.live)))
            steps = None if steps is None else steps - 1
        return False

    def _step(self, number: int) -> None:
        record, rung = self.live[number]
        if self.random.random() < self.lost:
            self.dispatcher.lost(number, "the worker was lost")
            del self.live[number]
        elif record.method == self.failing:
            self.dispatcher.ended(number, Outcome.failure("it always breaks"))
            del self.live[number]
        elif rung == RUNGS:
            self.dispatcher.ended(number, outcome_of(record, rung))
            del self.live[number]
        elif self.dispatcher.reported(number, outcome_of(record, rung)):
            del self.live[number]
        else:
            self.live[number] = record, rung + 1

    @property
    def records(self) -> list[TrialRecord]:
        config: Any = None  # of no matter for what the trials are
        assert self.journal is not None
        return StudyResults(config, self.journal).records


@pytest.fixture
def new(make_fake: Any, tmp_path: Path) -> Iterator[Callable[..., Study]]:
    opened: list[Study] = []

    def make(order: int = 0, lost: float = 0.0, sampler: str = "auto", seed: int = 0, **search: Any) -> Study:
        search = {"trials": TRIALS, "stop": {"rungs": RUNGS + 1, "keep": 0.4}, "deterministic": True} | search
        task = make_fake(sampler=sampler, seed=seed, search=search)
        study = Study(tmp_path / f"study {len(opened)}", task, Random(order), lost)
        opened.append(study)
        study.open()
        return study

    yield make
    for study in opened:
        study.close()


@pytest.mark.parametrize("sampler", ["auto", "tpe", "random"])
def test_any_number_of_workers_and_any_order_of_ends_give_one_study(
    new: Callable[..., Study], sampler: str
) -> None:
    alone = new(sampler=sampler)
    alone.run(1)
    wanted = alone.records
    states = [record.state for record in wanted]
    assert states.count(State.STOPPED) >= 3, "else nothing is shown of early stopping"
    assert states.count(State.FINISHED) + states.count(State.STOPPED) == TRIALS
    for workers in (2, 4, 2 * LAG):
        among = new(order=workers, sampler=sampler)
        among.run(workers)
        assert among.records == wanted


@pytest.mark.parametrize("method", ["wide", "deep"])
@pytest.mark.parametrize("sampler", ["auto", "random"])
def test_a_method_that_always_fails_is_given_up_after_the_same_trial(
    new: Callable[..., Study], sampler: str, method: str
) -> None:
    alone = new(sampler=sampler)
    alone.failing = method
    alone.run(1)
    wanted = [(r.method, r.config, r.state) for r in alone.records]
    failed = [state for name, _, state in wanted if name == method and state is not State.REFUSED]
    assert failed == [State.FAILED] * len(failed)
    assert MAX_FAILED <= len(failed) < TRIALS / 2, "it is given up, when what runs beside has ended"
    for workers in (2, 4, 2 * LAG):
        among = new(order=workers, sampler=sampler)
        among.failing = method
        among.run(workers)
        assert [(r.method, r.config, r.state) for r in among.records] == wanted


def test_another_seed_gives_another_study(new: Callable[..., Study]) -> None:
    one, other = new(seed=0), new(seed=1)
    for study in (one, other):
        study.run(2)
    assert [r.config for r in one.records] != [r.config for r in other.records]


def test_workers_that_die_change_nothing(new: Callable[..., Study]) -> None:
    alone = new()
    alone.run(1)
    for workers in (1, 4):
        unlucky = new(order=workers, lost=0.2)
        unlucky.run(workers)
        assert unlucky.records == alone.records


def test_no_more_than_the_lag_are_under_way(new: Callable[..., Study]) -> None:
    study = new()
    begun = [study.dispatcher.next() for _ in range(LAG + 3)]
    assert [record is not None for record in begun] == [True] * LAG + [False] * 3
    assert not study.dispatcher.done
    for record in begun[1:LAG]:
        assert record is not None
        study.dispatcher.ended(record.number, outcome_of(record, RUNGS))
    assert study.dispatcher.next() is None, "the first has not ended"
    assert begun[0] is not None
    study.dispatcher.ended(begun[0].number, outcome_of(begun[0], RUNGS))
    assert study.dispatcher.next() is not None


@examples(max_examples=6, suppress_health_check=list(HealthCheck))  # each example has its own folder
@given(data=st.data())
def test_killed_anywhere_and_opened_again_gives_the_same_study(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory, make_fake: Any
) -> None:
    search = {"trials": 16, "stop": {"rungs": RUNGS + 1, "keep": 0.4}, "deterministic": True}
    sampler = data.draw(st.sampled_from(["auto", "tpe"]))
    task = make_fake(sampler=sampler, search=search, retries=1000)
    found = []
    for kills in (0, data.draw(st.integers(1, 4))):
        study = Study(tmp_path_factory.mktemp("study"), task, Random(data.draw(st.integers(0, 99))))
        study.open()
        try:
            for _ in range(kills):
                study.run(data.draw(st.integers(1, 10)), steps=data.draw(st.integers(0, 20)))
                study.open()
            study.run(data.draw(st.integers(1, 10)))
            found.append(study.records)
        finally:
            study.close()
    assert found[1] == found[0]


@pytest.mark.parametrize("sampler", ["auto", "tpe"])
def test_a_trial_begun_after_one_that_a_kill_cut_off_is_compared_with_as_many_as_before(
    new: Callable[..., Study], sampler: str
) -> None:
    whole, killed = (new(sampler=sampler, trials=16, order=order) for order in (0, 12))
    whole.run(1)
    for workers, steps in ((1, 0), (1, 6), (6, 18)):
        killed.run(workers, steps)
        killed.open()
    killed.run(1)
    assert killed.records == whole.records


def test_a_trial_that_an_excluded_method_leaves_to_the_next_run_holds_nobody_up(
    new: Callable[..., Study],
) -> None:
    study = new()
    first = study.dispatcher.next()
    assert first is not None
    study.dispatcher.returned(first.number)
    study.dispatcher.exclude(first.method, "its worker cannot be set up")
    study.run(1)
    assert study.dispatcher.done
    study.open()
    study.run(1)
    assert len([r for r in study.records if r.state is not State.REFUSED]) == TRIALS, "the next run has it"
