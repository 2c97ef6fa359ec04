"""Which trial runs next, and what happens to its outcome: a search without the machines that run it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from optuna.trial import TrialState

from routesearch.results.curves import MAX_ROWS
from routesearch.results.points import Point, hypervolume, thin
from routesearch.results.reader import StudyResults
from routesearch.results.record import Outcome, Rung, State, TrialRecord
from routesearch.search.early_stopping import Halving
from routesearch.search.trial_weights import delete_weights_except, sweep_weight_drafts
from routesearch.search.trials import Trials

MAX_REFUSED = 200
"""Refused configs in a row after which a method is excluded from this run."""
MAX_FAILED = 5
"""Trials of a method in a row that fail for one reason, after which it is excluded if none ever finished."""

MIN_GRACE = 600.0
"""Seconds that trials may still take after the time limit, at least; then they are cut, for they may hang."""

_PATIENCE = 0.5
"""Seconds that drawing may take while trials run; their results must not wait longer."""


class Observer(Protocol):
    """What follows a search: called in the driver's process, must not block or raise."""

    def search_started(self, results: StudyResults) -> None:
        """Called when the study is open and nothing runs yet; ``results`` are those of earlier runs."""

    def trial_ended(self, record: TrialRecord) -> None:
        """Called when a trial finished, was stopped, or failed."""

    def search_ended(self, results: StudyResults) -> None:
        """Called when the front has been measured on test data; ``results`` are those of all runs."""


@dataclass(frozen=True)
class Snapshot:
    """How a study stands.

    Attributes:
        finished, stopped, failed, refused: trials of the whole study.
        running: trials that run now.
        total: trials that the study may spend (refused ones do not count).
        training_macs: multiply-adds that training took so far, the trunk's included.
        total_macs: multiply-adds that training may take; None without a limit.
        best: the most accurate point within the budget, on validation data.
        hypervolume, feasible_hypervolume: of the front; the latter None without a budget.
        elapsed: seconds of this search phase.
        time_left: seconds until no trial is started any more; None without a limit.
        note: something that the user should know, the last of its kind.
        confirming: retrainings of the front that are done, and how many there are to be; None before them.
    """

    finished: int
    stopped: int
    failed: int
    refused: int
    running: int
    total: int
    training_macs: int
    total_macs: float | None
    best: Point | None
    hypervolume: float
    feasible_hypervolume: float | None
    elapsed: float
    time_left: float | None
    note: str | None
    confirming: tuple[int, int] | None = None


class Dispatcher:
    """Hands out trials and takes in their outcomes.

    Trials that an earlier run left come first, with their number, config and seed. Then methods are
    asked (:class:`Allocation`), until the study's trials or training MACs are spent or the time is over.

    A trial that was handed out ends in one of six ways: :meth:`ended`, with an outcome; stopped, by
    :meth:`reported`; :meth:`lost`, its worker died; :meth:`returned`, it was never begun; :meth:`cut`, it may
    hang; :meth:`leave`, the search ends while it runs.

    Args:
        trials: the study's.
        total: trials that the study may spend, those of earlier runs included.
        retries: how often a trial comes again whose worker died.
        check: called while configs are drawn, which may take a while; may raise to end the search.
    """

    def __init__(
        self,
        trials: Trials,
        total: int,
        *,
        retries: int = 2,
        observers: Sequence[Observer] = (),
        on_progress: Callable[[Snapshot], None] | None = None,
        check: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.trials = trials
        self.note: str | None = None
        self.confirming: tuple[int, int] | None = None
        self._total = total
        self._retries = retries
        self._observers = observers
        self._on_progress = on_progress
        self._check = check
        self._clock = clock
        self._start = clock()
        self._end: float | None = None
        self._grace = MIN_GRACE
        self._waiting = trials.interrupted()
        self._live: dict[int, TrialRecord] = {}
        self._excluded: set[str] = set()
        self._unusable: set[str] = set()
        stop = trials.task.config.search.stop
        self._halving = None if stop is None else Halving(trials.evidence, stop)
        self._rungs: dict[int, list[Rung]] = {}  # what live trials showed
        self._refused: Counter[str] = Counter()
        ended = trials.evidence.ended
        self._judged = {method: len(found) for method, found in ended.items()}  # trials, of each method
        self._failures: dict[str, tuple[str | None, int]] = {}  # method -> the reason, and how often in a row
        sweep_weight_drafts(trials.journal.dir)
        self._prune_weights()

    def start(self, time_limit: float | None = None) -> None:
        """Begin the search phase: after ``time_limit`` seconds no trial is handed out any more."""
        self._start = self._clock()
        self._end = None if time_limit is None else self._start + time_limit
        self._grace = max(MIN_GRACE, time_limit or 0.0)
        self.changed()

    @property
    def running(self) -> int:
        """Trials that were handed out and have not ended."""
        return len(self._live)

    @property
    def done(self) -> bool:
        """Whether no further trial will be handed out."""
        if self._end is not None and self._clock() >= self._end:
            return True
        if self._next_waiting() is not None:
            return False
        if self.trials.spent + len(self._live) >= self._total:
            return True
        if self._waiting and not self._live and not self.trials.evidence.ready:
            return True  # a deterministic search cannot go on without a trial that is left to the next run
        limit = self.trials.task.config.search.training_macs
        if limit is not None and self.trials.expected_macs >= limit:
            return True
        if self.trials.methods(self._left_out):
            return False
        failing = self._failing  # a success of what still runs would bring its method back
        return not any(record.method in failing for record in self._live.values())

    @property
    def overdue(self) -> bool:
        """Whether trials run for so long after the time limit that they may never end."""
        grace = max(self._grace, 3 * self.trials.longest)
        return self._end is not None and self._clock() >= self._end + grace

    def next(self) -> TrialRecord | None:
        """A trial to be trained; None if there is none (see :attr:`done`), or drawing takes long."""
        patience = self._clock() + _PATIENCE
        while not self.done:
            self._check()
            if (waiting := self._next_waiting()) is not None:
                self.trials.begin(waiting.number)
                self._waiting.remove(waiting)
                return self._hand_out(waiting)
            if not self.trials.evidence.ready:
                return None  # a deterministic search waits for what it draws by
            method = self._next_method()
            if method is None:
                return None
            record = self.trials.ask(method)
            if record.state is State.RUNNING:
                self._refused[method] = 0
                return self._hand_out(record)
            self._refused[method] += 1
            if self._refused[method] >= MAX_REFUSED:
                self._excluded.add(method)
                reason = "" if record.outcome is None else f" (the last: {record.outcome.reason})"
                refused = f"{MAX_REFUSED} configs in a row were refused{reason}"
                self.note = f"{method} is excluded from this run: {refused}"
            self.changed()
            if self._live and self._clock() >= patience:
                return None
        return None

    def reported(self, number: int, outcome: Outcome) -> bool:
        """Whether a trial that is at a rung has been ended there, as stopped.

        Args:
            outcome: what it is if it stops there.
        """
        self.trials.show(number, outcome)
        if self._halving is not None and not self._halving.goes_on(number):
            self.ended(number, outcome)
            return True
        # within the budget as many as a trial under way is known by
        most = self.trials.evidence.edge * self.trials.task.backbone_macs
        within = thin([p for p in outcome.points if p.macs <= most], MAX_ROWS)
        beyond = thin([p for p in outcome.points if p.macs > most], MAX_ROWS)
        curve = tuple((p.accuracy, p.macs) for p in (*within, *beyond))
        self._rungs.setdefault(number, []).append((outcome.training_macs, curve))
        return False

    def ended(self, number: int, outcome: Outcome) -> None:
        """Store the outcome of a trial that was handed out."""
        rungs = tuple(self._rungs.pop(number, ()))
        spent = max(outcome.training_macs, rungs[-1][0] if rungs else 0)  # a failure may not know
        outcome = replace(outcome, rungs=rungs, training_macs=spent)
        record = self.trials.finish(number, outcome)
        self._live.pop(number, None)
        self._judge()
        self._prune_weights()
        for observer in self._observers:
            observer.trial_ended(record)
        self.changed()

    def lost(self, number: int, reason: str, story: str | None = None) -> None:
        """Take back a trial whose worker died: it comes again, or fails where that happened too often."""
        begun = self.trials.begun(number)
        if begun > self._retries:
            often = f"interrupted {begun} times while it ran, the last time because " if begun > 1 else ""
            self.ended(number, Outcome.failure(f"{often}{reason}", story))
            return
        self.note = f"trial {number} is run again: {reason}"
        self._begin_anew(number)
        self.changed()

    def returned(self, number: int) -> None:
        """Take back a trial that was not begun, its worker not being set up: it comes again at no cost."""
        self.trials.give_back(number)
        self._begin_anew(number)
        self.changed()

    def _begin_anew(self, number: int) -> None:
        """Hand a trial out again, from its beginning."""
        self._waiting.insert(0, self._live.pop(number))
        self._rungs.pop(number, None)
        self.trials.evidence.forget_measured(number)

    def cut(self, number: int) -> None:
        """Give a trial up in this run; the next one has it again, but not for ever."""
        del self._live[number]
        self.note = f"trial {number} still ran long after the time limit; it is left to the next run"
        self.changed()

    def leave(self) -> None:
        """Leave the trials that run to the next search: this one ends by no fault of theirs."""
        while self._live:
            number, _ = self._live.popitem()
            self.trials.give_back(number)

    def exclude(self, method: str, reason: str) -> None:
        """Hand out no trial of a method any more; those that wait are left to the next run."""
        self._unusable.add(method)
        self.note = f"{method} is excluded from this run: {reason}"
        self.changed()

    def usable(self, method: str) -> bool:
        """Whether a method was not excluded by :meth:`exclude`."""
        return method not in self._unusable

    def changed(self) -> None:
        """Report how the study stands now."""
        if self._on_progress is not None:
            self._on_progress(self.snapshot())

    def snapshot(self) -> Snapshot:
        counts, task, now = self.trials.counts, self.trials.task, self._clock()
        front, candidates, budget = self.trials.front, self.trials.candidates, task.budget
        feasible = budget.feasible_hypervolume(candidates, task.backbone_macs) if budget else None
        return Snapshot(
            finished=counts[State.FINISHED],
            stopped=counts[State.STOPPED],
            failed=counts[State.FAILED],
            refused=counts[State.REFUSED],
            running=len(self._live),
            total=self._total,
            training_macs=self.trials.shared_macs + self.trials.training_macs,
            total_macs=task.config.search.training_macs,
            best=budget.best(candidates),
            hypervolume=hypervolume(front, task.backbone_macs),
            feasible_hypervolume=feasible,
            elapsed=now - self._start,
            time_left=None if self._end is None else max(0.0, self._end - now),
            note=self.note,
            confirming=self.confirming,
        )

    @property
    def _failing(self) -> set[str]:
        """Methods that are excluded because their trials fail."""
        return {method for method, (_, count) in self._failures.items() if count >= MAX_FAILED}

    def _next_method(self) -> str | None:
        return self.trials.next_method(self._left_out)

    @property
    def _left_out(self) -> set[str]:
        """Methods that are not asked in this run."""
        return self._excluded | self._failing | self._unusable

    def _next_waiting(self) -> TrialRecord | None:
        """The first trial that was begun before and is to be run again."""
        return next((record for record in self._waiting if self.usable(record.method)), None)

    def _judge(self) -> None:
        """Count failures of a method in a row that have the same reason; a success ends the row.

        Trials count once what the next one is drawn by includes their ends, and in that order.
        """
        for method, ended in self.trials.evidence.ended.items():
            proven = bool(self.trials.evidence.summaries[method].comparable)
            for one in ended[self._judged[method] :]:
                if proven or one.observation.state is TrialState.COMPLETE:
                    self._failures.pop(method, None)
                elif one.observation.state is TrialState.FAIL:
                    before, count = self._failures.get(method, (one.reason, 0))
                    count = count + 1 if before == one.reason else 1
                    self._failures[method] = one.reason, count
                    if count == MAX_FAILED:
                        failed = f"{count} trials in a row failed and none finished: {one.reason}"
                        self.note = f"{method} is excluded from this run: {failed}"
            self._judged[method] = len(ended)

    def _hand_out(self, record: TrialRecord) -> TrialRecord:
        self._live[record.number] = record
        self.changed()
        return record

    def _prune_weights(self) -> None:
        """Keep only weights that can still be asked for: of points ahead, and of trials about to end."""
        ahead = {p.trial for p in (*self.trials.front, *self.trials.candidates)}
        wanted = ahead | self._live.keys()
        delete_weights_except(self.trials.journal.dir, wanted)
