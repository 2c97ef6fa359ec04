"""Our own search on recorded trainings: the real ``Trials`` and ``Dispatcher``, and a simulated cluster.

Time is simulated: a training takes its MACs divided by a worker's speed. What the driver itself takes may be
measured and added, for searches with thousands of workers.
"""

from __future__ import annotations

import heapq
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna

from comparison.ledger import Ledger
from comparison.pricing import PricedTask
from comparison.switched_off import Parts
from comparison.table import Table
from routesearch.results.journal import Journal
from routesearch.results.measurements import TRUNK_MACS
from routesearch.results.record import Outcome, TrialRecord
from routesearch.search.dispatcher import Dispatcher
from routesearch.search.resume import open_trials

SHARED_MEMORY = Path("/dev/shm")
MAX_TRIALS = 400
"""Trials of a search that is to end by its training MACs."""


class Clock:
    """Simulated seconds."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass(order=True)
class Event:
    """A worker reports: at a rung, or at the end of a training."""

    at: float
    order: int
    record: TrialRecord = field(compare=False)
    outcomes: list[Outcome] = field(compare=False)
    rung: int = field(compare=False)

    @property
    def outcome(self) -> Outcome:
        return self.outcomes[self.rung]

    @property
    def macs(self) -> float:
        """Spent since the rung before."""
        before = self.outcomes[self.rung - 1].training_macs if self.rung else 0
        return self.outcome.training_macs - before


@dataclass
class Workload:
    """How a cluster was used.

    Attributes:
        handed_out: simulated seconds until the last trial was handed out.
        parts: when parts of trainings began and ended.
        asks, reports: measured seconds of processor time of the driver for each.
    """

    handed_out: float = 0.0
    parts: list[tuple[float, float]] = field(default_factory=list)
    asks: list[float] = field(default_factory=list)
    reports: list[float] = field(default_factory=list)

    def busy_share(self, workers: int) -> float:
        """Share of the workers' time that trainings took, until the last trial was handed out."""
        end = self.handed_out
        return sum(max(0.0, min(stop, end) - start) for start, stop in self.parts) / (workers * end or 1.0)


@dataclass(frozen=True)
class Replay:
    """A search with simulated workers.

    Attributes:
        task: its settings are the study's.
        workers: trainings at a time.
        length: simulated seconds of a whole training, given its MACs; its parts take theirs by their MACs.
        driver_time: whether the measured time of the driver passes on the simulated clock.
        max_trials: after how many trainings the search ends, whatever is spent.
        parts: which parts of the search are there.
    """

    task: PricedTask
    table: Table
    workers: int = 1
    length: Callable[[float], float] = lambda macs: macs / 1e9
    driver_time: bool = False
    max_trials: int = MAX_TRIALS
    parts: Parts = field(default_factory=Parts)

    def __call__(self, ledger: Ledger, seed: int) -> None:
        """Search with the study's settings, but for the seed."""
        self.run(ledger, seed)

    def run(self, ledger: Ledger, seed: int) -> Workload:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        where = SHARED_MEMORY if SHARED_MEMORY.is_dir() else None
        with tempfile.TemporaryDirectory(dir=where) as folder:
            task = prepared(self.task, folder, seed=seed, trials=self.max_trials, training_macs=ledger.limit)
            with Journal.open_for_writing(Path(folder)) as journal:
                shared = 0 if self.parts.trunk_macs_each else self.table.shared_macs
                journal.set(TRUNK_MACS, shared)
                ledger.spend(shared)
                trials, _ = open_trials(journal, task)
                self.parts.prepare(trials)
                clock = Clock()
                dispatcher = Dispatcher(trials, self.max_trials, clock=clock)
                return self._simulate(dispatcher, clock, ledger)

    def _simulate(self, dispatcher: Dispatcher, clock: Clock, ledger: Ledger) -> Workload:
        load, events, order = Workload(), list[Event](), 0
        idle = self.workers
        dispatcher.start()

        def timed(work: Callable[[], Any], kept: list[float]) -> Any:
            started = time.process_time()  # other work on the machine hardly counts
            result = work()
            kept.append(time.process_time() - started)
            if self.driver_time:
                clock.now += kept[-1]
            return result

        def schedule(record: TrialRecord, outcomes: list[Outcome], rung: int) -> None:
            nonlocal order
            order += 1
            event = Event(clock.now, order, record, outcomes, rung)
            whole = outcomes[-1].training_macs
            event.at += self.length(whole) * event.macs / whole
            load.parts.append((clock.now, event.at))
            heapq.heappush(events, event)

        while True:
            while idle and not ledger.over and not (events and events[0].at <= clock.now):
                record = timed(dispatcher.next, load.asks)
                if record is None:
                    load.asks.pop()  # there is none for now, or none any more
                    break
                load.handed_out = clock.now
                ledger.trainings += 1
                idle -= 1
                found = self.table.outcomes(record.method, record.config, record.bounds, record.seed)
                outcomes = self.parts.outcomes(record, self.task, found)
                schedule(record, outcomes, 0)
            if not events:
                break
            event = heapq.heappop(events)
            clock.now = max(clock.now, event.at)
            ledger.spend(event.macs)
            number, outcome = event.record.number, event.outcome
            if event.rung == len(event.outcomes) - 1:
                timed(lambda n=number, o=outcome: dispatcher.ended(n, o), load.reports)
            elif not self.task.config.rungs or not timed(
                lambda n=number, o=outcome: dispatcher.reported(n, o), load.reports
            ):
                schedule(event.record, event.outcomes, event.rung + 1)
                continue
            idle += 1
            ledger.found(outcome.points)
        return load


def prepared(task: PricedTask, folder: str, **search: Any) -> PricedTask:
    """The same task for a search of its own in a folder, with some settings of ``search``."""
    config = task.config.model_copy(
        update={
            "search": task.config.search.model_copy(update=search),
            "storage": task.config.storage.model_copy(update={"dir": folder}),
        }
    )
    copy = PricedTask(
        config,
        task.registry,
        task.dataset,
        task.shape,
        task.classes,
        task.backbone,
        task.spaces,
        task._prices,
        task.prices,
    )
    copy.__dict__["data"] = task.data  # read once
    return copy
