"""The trials of a study while a search runs: the one place that asks for trials and stores their outcomes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from routesearch.errors import Refusal, shortened
from routesearch.results.journal import Journal
from routesearch.results.measurements import TRUNK_MACS, with_test_results, with_timings
from routesearch.results.points import (
    OperatingPoint,
    Point,
    are_undominated,
    front,
    on_front,
    undominated,
)
from routesearch.results.reader import points_where
from routesearch.results.record import Outcome, State, TrialRecord
from routesearch.results.replay import ASKED
from routesearch.results.timing import Timing
from routesearch.search.allocation import Allocation
from routesearch.search.effort import Effort
from routesearch.search.evidence import Evidence
from routesearch.search.optuna_studies import BEGUN, LEFT, OptunaStudies
from routesearch.search.proposals import Proposals
from routesearch.search.sampler import derive
from routesearch.search.warm_start import earlier_trials
from routesearch.utils.machine import one_blas_thread

if TYPE_CHECKING:
    from routesearch.task.resolve import Task


@dataclass
class _Row:
    """What the driver remembers of a trial; its curve stays in the journal.

    Attributes:
        record: without its outcome.
        optuna_study, trial_id: where it is stored: name of the Optuna study, id of the Optuna trial.
        begun: how often it was begun (:data:`BEGUN`).
    """

    record: TrialRecord
    state: State
    optuna_study: str
    trial_id: int
    begun: int = 1


class Trials:
    """The trials of a study while a search runs.

    Args:
        journal: opened for writing, and recovered (:mod:`routesearch.search.resume`).
        task: the resolved study.
        stored: all trials in the journal, by number.

    Attributes:
        front: the front on validation data over all trials so far.
        candidates: points one of which is the best within the budget, whatever that is (:func:`undominated`).
        counts: trials in each state.
        training_macs: that all trials took so far.
        evidence: what they have shown.
        longest: seconds of the longest trial so far.
    """

    def __init__(self, journal: Journal, task: Task, stored: Sequence[TrialRecord]) -> None:
        self.journal = journal
        self.task = task
        self.front: list[Point] = []
        self.candidates: list[Point] = []
        self.counts: Counter[State] = Counter()
        self.training_macs = 0
        self.longest = max((r.outcome.seconds for r in stored if r.outcome is not None), default=0.0)
        self.evidence = Evidence(task, task.config.search.lag)
        effort = Effort(task.config.search, self.evidence)
        self._proposals = Proposals(task, self.evidence, effort)
        self._allocation = Allocation(self.evidence, effort)
        self._rows: dict[int, _Row] = {}
        self._studies = OptunaStudies(journal, task)
        if task.config.search.warm_start:
            self.evidence.learn_from(earlier_trials(task))
            self._proposals.try_leaders()
        places = {
            trial.user_attrs[ASKED]["number"]: (name, trial)
            for name, trial in journal.trials()
            if ASKED in trial.user_attrs
        }
        for record in stored:
            name, trial = places[record.number]
            self._enter(record, name, trial._trial_id, trial.user_attrs.get(BEGUN, 1))
            self.evidence.release()  # as before the draw
            self._proposals.recall(record)
            if record.state is not State.REFUSED:
                # what a draw left is of the budget and the space that it was drawn under
                left = (
                    trial.user_attrs.get(LEFT) if name == self._studies.current.get(record.method) else None
                )
                self.evidence.begin(record, left)
            if record.outcome is not None:
                self.evidence.end(record)
        self._add(points_where(stored, task.budget, are_undominated))
        self.front = front(points_where(stored, task.budget, on_front))

    @property
    def shared_macs(self) -> int:
        """Training MACs that all trials share: the trunk's."""
        return int(self.journal.get(TRUNK_MACS) or 0)

    @property
    def expected_macs(self) -> float:
        """Training MACs that are spent, with those that trials under way are expected to take.

        A deterministic search counts a trial as under way until its end is known to what it draws by, so that
        it ends with the same trial whatever ends first.
        """
        told = self.training_macs - self.evidence.untold_macs
        return self.shared_macs + told + self._allocation.expected

    @property
    def spent(self) -> int:
        """Trials that count against the study's total."""
        return sum(n for state, n in self.counts.items() if state.spends)

    def record(self, number: int) -> TrialRecord:
        """One trial, without its outcome."""
        return self._rows[number].record

    def interrupted(self) -> list[TrialRecord]:
        """Trials that are running, by number: at the start, those that a crash cut off."""
        return [row.record for _, row in sorted(self._rows.items()) if row.state is State.RUNNING]

    def begun(self, number: int) -> int:
        """How often a trial was begun, over all runs, and neither ended nor was interrupted on purpose."""
        return self._rows[number].begun

    def begin(self, number: int) -> None:
        """Count that a trial is begun once more; on disk when this returns."""
        self._set_begun(number, +1)

    def give_back(self, number: int) -> None:
        """Take back that a trial was begun: it is no fault of its own that it does not end."""
        self._set_begun(number, -1)

    def _set_begun(self, number: int, by: int) -> None:
        row = self._rows[number]
        self._studies.set_begun(row.begun + by, row.optuna_study, row.trial_id)
        row.begun += by

    def next_method(self, excluded: Iterable[str] = ()) -> str | None:
        """The method that is tried next (:class:`Allocation`); None without one."""
        left = self.methods(excluded)
        with one_blas_thread():
            return self._allocation.next(left, self._proposals.best_offer) if left else None

    def methods(self, excluded: Iterable[str] = ()) -> list[str]:
        """The study's methods but for some."""
        return [method for method in self.task.spaces if method not in set(excluded)]

    def ask(self, method: str) -> TrialRecord:
        """Draw a config and give it a number and a seed.

        Returns:
            A running trial; or a refused one, if no route of its network is within the budget or it
            violates a constraint of its method (the sampler learns of it).
        """
        self.evidence.release()
        number = len(self._rows)
        with one_blas_thread():
            proposal = self._proposals.draw(method, number)
        seed = derive(self.task.config.search.seed, number) >> 1
        record = TrialRecord(number, method, proposal.config, seed, proposal.bounds)
        self._enter(record, *self._studies.begin(record, proposal))
        if proposal.violation is not None:
            return self.finish(number, Outcome(State.REFUSED, reason=proposal.violation))
        self._proposals.note(record)
        self.evidence.begin(record, proposal.attributes)
        return record

    def show(self, number: int, outcome: Outcome) -> None:
        """Note what a trial shows at a rung; nothing is stored before it ends."""
        self.evidence.show(number, outcome)

    def finish(self, number: int, outcome: Outcome) -> TrialRecord:
        """Store a trial's outcome, then tell the sampler.

        A curve with a number in it that is out of range becomes a failure.
        """
        row = self._rows[number]
        record = row.record.with_outcome(outcome.validated())
        self._studies.finish(record, row.optuna_study, row.trial_id)
        self._count(row, -1)
        row.state = record.state
        self._count(row, +1)
        self._add(record.points(self.task.budget))
        assert record.outcome is not None
        self.longest = max(self.longest, record.outcome.seconds)
        self.training_macs += record.outcome.training_macs
        if record.state is State.REFUSED:
            self._proposals.note(record)
        self.evidence.end(record)
        return record

    def add_test_results(self, number: int, points: Iterable[OperatingPoint]) -> None:
        """Store points of a trial that were measured on test data, beside those that are known."""
        self.journal.set(*with_test_results(self.journal.facts(), number, points))

    def add_timings(self, point: Point, on: Mapping[str, Any], timings: Iterable[Timing]) -> None:
        """Store the timings of a point; of one batch size the last ones count.

        Args:
            on: the resources that they were measured with, JSON values.
        """
        self.journal.set(*with_timings(self.journal.facts(), point.trial, point.knob, on, timings))

    # ---- what is known of the stored trials ----------------------------------------------------

    def _add(self, points: Sequence[Point]) -> None:
        if points:
            self.front = front([*self.front, *points])
            self.candidates = undominated([*self.candidates, *points])

    def _enter(self, record: TrialRecord, optuna_study: str, trial_id: int, begun: int = 1) -> None:
        row = _Row(record.without_outcome(), record.state, optuna_study, trial_id, begun)
        self._rows[record.number] = row
        self._count(row, +1)
        self.training_macs += 0 if record.outcome is None else record.outcome.training_macs

    def _count(self, row: _Row, by: int) -> None:
        self.counts[row.state] += by


def read_outcome(answer: object) -> Outcome:
    """What a worker answered for a trial; a failure where that is no outcome, whatever it is."""
    try:
        if not isinstance(answer, str):
            raise TypeError(f"it must be a text, got {type(answer).__name__}")
        outcome = Outcome.loads(answer)
        if not outcome.state.spends:
            raise ValueError(f"a trial cannot end as {outcome.state}")
    except Exception as error:  # of another version, or of code that does not know what it answers
        why = str(error) if isinstance(error, Refusal) else shortened(error)
        return Outcome.failure(f"the worker's answer cannot be read: {why}")
    return outcome
