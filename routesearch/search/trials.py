"""The trials of a study while a search runs: the one place that asks for trials and stores their outcomes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.study import Study
from optuna.trial import Trial, TrialState
from pydantic import ValidationError

from routesearch.errors import Refusal, shortened
from routesearch.errors.texts import MAX_REASON, one_line
from routesearch.results.journal import Journal
from routesearch.results.measurements import with_test_results, with_timings
from routesearch.results.points import (
    Interval,
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
from routesearch.search.observations import budget_violation, sampler_params
from routesearch.search.optuna_studies import BEGUN, OptunaStudies
from routesearch.search.sampler import derive, make_sampler
from routesearch.space.space import SearchSpace

if TYPE_CHECKING:
    from routesearch.task.resolve import Task

DECLINED = "declined"
"""Attribute of an Optuna trial whose config was trained before."""

MAX_DECLINED = 10
"""Configs in a row that repeat a trained one before a repetition is trained with a new seed (fewer if the
trials before were repetitions too)."""


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


class _Drawn(NamedTuple):
    """A config that a sampler drew.

    Attributes:
        bounds: of its network's MACs; None where it cannot be built.
        violation: why it is refused; None where it may be trained.
    """

    config: dict[str, Any]
    bounds: Interval | None
    violation: str | None


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
        proven: methods of which a trial has finished.
        longest: seconds of the longest trial so far.
    """

    def __init__(self, journal: Journal, task: Task, stored: Sequence[TrialRecord]) -> None:
        self.journal = journal
        self.task = task
        self.front: list[Point] = []
        self.candidates: list[Point] = []
        self.counts: Counter[State] = Counter()
        self.proven: set[str] = set()
        self.longest = max((r.outcome.seconds for r in stored if r.outcome is not None), default=0.0)
        self._rows: dict[int, _Row] = {}
        self._load: Counter[str] = Counter()  # trials of a method that are spent or running
        self._trained: Counter[tuple[str, str]] = Counter()  # (method, config) of these
        self._repeats: Counter[str] = Counter()  # method -> trials in a row that repeated a config
        self._studies = OptunaStudies(journal, task)
        places = {
            trial.user_attrs[ASKED]["number"]: (name, trial._trial_id, trial.user_attrs.get(BEGUN, 1))
            for name, trial in journal.trials()
            if ASKED in trial.user_attrs
        }
        for record in stored:
            if record.state is not State.REFUSED:
                self._note_repeat(record)
            self._enter(record, *places[record.number])
        for method in task.spaces:
            of_method = [(r, places[r.number][0]) for r in stored if r.method == method]
            self._studies.copy_missing(method, of_method)
        self._add(points_where(stored, task.budget, are_undominated))
        self.front = front(points_where(stored, task.budget, on_front))

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
        """The method with the fewest trials spent or running, in the study's order; None without one."""
        left = [m for m in self.task.spaces if m not in set(excluded)]
        return min(left, key=lambda m: self._load[m], default=None)

    def ask(self, method: str) -> TrialRecord:
        """Draw a config and give it a number and a seed.

        Returns:
            A running trial; or a refused one, if no route of its network is within the budget or it
            violates a constraint of its method (this has been reported to the sampler).
        """
        study = self._studies.open(self._studies.current[method])
        self._enqueue_default(method, study, self.task.spaces[method])
        number = max(self._rows, default=-1) + 1
        trial, drawn = self._draw_unseen(method, study, number)
        seed = derive(self.task.config.search.seed, number) >> 1
        record = TrialRecord(number, method, drawn.config, seed, drawn.bounds)
        trial.set_user_attr(ASKED, record.proposal())
        if drawn.violation is None:
            self._note_repeat(record)
        self._enter(record, study.study_name, trial._trial_id)
        if drawn.violation is None:
            return record
        return self.finish(number, Outcome(State.REFUSED, reason=drawn.violation))

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
        if row.optuna_study != self._studies.current.get(record.method, row.optuna_study):
            self._studies.copy(record)
        self._add(record.points(self.task.budget))
        self.longest = max(self.longest, outcome.seconds)
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

    def _note_repeat(self, record: TrialRecord) -> None:
        """Count how many trials of a method in a row repeated a trained config."""
        again = self._trained[record.method, _text(record.config)] > 0
        self._repeats[record.method] = self._repeats[record.method] + 1 if again else 0

    def _enter(self, record: TrialRecord, optuna_study: str, trial_id: int, begun: int = 1) -> None:
        row = _Row(record.without_outcome(), record.state, optuna_study, trial_id, begun)
        self._rows[record.number] = row
        self._count(row, +1)

    def _count(self, row: _Row, by: int) -> None:
        self.counts[row.state] += by
        if row.state in (State.FINISHED, State.STOPPED):
            self.proven.add(row.record.method)
        if row.state.spends or row.state is State.RUNNING:
            self._load[row.record.method] += by
            self._trained[row.record.method, _text(row.record.config)] += by

    # ---- drawing -------------------------------------------------------------------------------

    def _enqueue_default(self, method: str, study: Study, space: SearchSpace) -> None:
        """Put the method's default config first in a study that knows nothing of it yet."""
        known = any(row.record.method == method for row in self._rows.values())
        if known or study.get_trials(deepcopy=False):
            return
        default = space.default()
        placed = sampler_params(space, default.model_dump(mode="json"))
        try:
            bounds = self.task.bounds(method, default)
        except Refusal:
            return
        if placed is not None and self.task.budget.admits(bounds):
            study.enqueue_trial(placed[0])

    def _draw_unseen(self, method: str, study: Study, number: int) -> tuple[Trial, _Drawn]:
        """The first config of a few that repeats no trained one; the last of them where all do."""
        settings = self.task.config.search
        # A space that has nothing new left is not searched for it at every ask.
        patience = MAX_DECLINED >> self._repeats[method]
        while True:
            seen = len(study.get_trials(deepcopy=False))
            study.sampler = make_sampler(
                settings.sampler,
                seed=derive(settings.seed, method, number, seen),
                fixed_seed=derive(settings.seed, method),
            )
            trial = study.ask()
            drawn = self._draw(method, trial)
            repeats = drawn.violation is None and self._trained[method, _text(drawn.config)] > 0
            if not repeats or not patience:
                return trial, drawn
            patience -= 1
            trial.set_user_attr(DECLINED, True)
            study.tell(trial, state=TrialState.FAIL)

    def _draw(self, method: str, trial: Trial) -> _Drawn:
        config: dict[str, Any] | None = None
        try:
            model = self.task.spaces[method].ask(lambda name, values: _suggest(trial, name, values))
            config = model.model_dump(mode="json")
            bounds = self.task.bounds(method, model)
        except (Refusal, ValidationError) as error:
            return _Drawn(config or dict(trial.params), None, one_line(str(error), MAX_REASON))
        return _Drawn(config, bounds, budget_violation(bounds, self.task.budget))


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


def _text(config: Mapping[str, Any]) -> str:
    return json.dumps(config, sort_keys=True)


def _suggest(trial: Trial, name: str, distribution: BaseDistribution) -> Any:
    match distribution:
        case CategoricalDistribution():
            return trial.suggest_categorical(name, distribution.choices)
        case IntDistribution(low=low, high=high, step=step, log=log):
            return trial.suggest_int(name, low, high, step=step, log=log)
        case FloatDistribution(low=low, high=high, step=step, log=log):
            return trial.suggest_float(name, low, high, step=step, log=log)
    raise TypeError(f"a distribution must be Optuna's float, int or categorical, got {distribution!r}")
