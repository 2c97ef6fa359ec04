"""The trials of a study, on top of its journal: what is asked next, what came of it, what a crash left.

Every trial of ours lives in exactly one trial of an Optuna study, as two attributes beside what Optuna
writes itself: ``asked`` (number, config, seed, bounds) and ``outcome``. There is one Optuna study per
method, budget and search space; when one of these changes, the trials that are stored elsewhere are
taught to the new one as copies that carry only our number. All of it is append-only and in this order:
``asked`` before a trial runs, ``outcome`` before Optuna is told, so that a crash anywhere leaves
something that :class:`Ledger` can finish.
"""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial
from pydantic import ValidationError

from routesearch.errors import Refusal
from routesearch.results.journal import META, Journal
from routesearch.results.points import Budget, OperatingPoint, Point, front, undominated
from routesearch.results.record import Outcome, State, TrialRecord
from routesearch.results.timing import Timing
from routesearch.search.observations import lesson_of, place
from routesearch.search.sampler import derive, make_sampler
from routesearch.search.study_names import budget_of, study_name
from routesearch.space.space import SearchSpace

if TYPE_CHECKING:
    from routesearch.task.resolve import Task

log = logging.getLogger("routesearch")

ASKED, OUTCOME, COPY, DECLINED = "asked", "outcome", "copy_of", "declined"
MOST_DECLINED = 10
"""Configs in a row that repeat a trained one before a repetition is trained with a new seed (fewer if the
trials before were repetitions too)."""

_DIRECTIONS = [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE]  # accuracy, MACs


def records(journal: Journal) -> list[TrialRecord]:
    """All trials of the study, by number."""
    found = [_record(t) for _, t in _trials(journal) if ASKED in t.user_attrs]
    return sorted(found, key=lambda r: r.number)


def test_results(journal: Journal) -> dict[int, list[OperatingPoint]]:
    """Trial number -> its points that were measured on test data."""
    results: dict[int, list[OperatingPoint]] = {}
    for key, value in journal.facts().items():
        if key.startswith("test:"):
            points = [OperatingPoint(k, a, m, tuple(r)) for k, a, m, r in value]
            results[int(key.removeprefix("test:"))] = points
    return results


def timings(
    journal: Journal, on: Mapping[str, Any] | None = None
) -> dict[tuple[int, str], dict[int, Timing]]:
    """Timings of front members: :func:`~routesearch.results.points.key` of a point -> batch -> timing.

    Args:
        on: only those that were measured with this.
    """
    found: dict[tuple[int, str], dict[int, Timing]] = {}
    for fact, rows in journal.facts().items():
        if fact.startswith("timing:"):
            for knob, where, values in rows:
                if on is None or where == on:
                    place = int(fact.removeprefix("timing:")), json.dumps(knob, sort_keys=True)
                    found.setdefault(place, {})[values["batch"]] = Timing(**values)
    return found


def test_points(journal: Journal, budget: Budget) -> list[Point]:
    """The published points: those of the validation front, as measured on test data, never filtered again."""
    results = test_results(journal)
    return [p for r in records(journal) for p in r.mark(results.get(r.number, ()), budget, "test")]


@dataclass
class _Row:
    """What the driver remembers of a trial; the curve stays in the journal."""

    number: int
    method: str
    state: State
    config: str
    study: str
    trial: int


class Ledger:
    """The trials of a study while a search runs; the one place that asks and tells.

    Opening it puts right what a crash left: outcomes that Optuna was not told are told, asks that came
    to nothing are closed, copies that are missing are made. Trials that were running are
    :meth:`orphans`.

    Args:
        journal: opened for writing.
        task: the resolved study.

    Raises:
        Refusal: the study's data, backbone, training, split or seed changed.

    Attributes:
        front: the front on validation data over all trials so far.
        candidates: points one of which is the best within the budget, whatever that is (:func:`undominated`).
        counts: trials in each state.
    """

    def __init__(self, journal: Journal, task: Task) -> None:
        self.journal = journal
        self.task = task
        self.front: list[Point] = []
        self.candidates: list[Point] = []
        self.counts: Counter[State] = Counter()
        self._rows: dict[int, _Row] = {}
        self._load: Counter[str] = Counter()  # trials of a method that are spent or running
        self._trained: Counter[tuple[str, str]] = Counter()  # (method, config) of these
        self._repeats: Counter[str] = Counter()  # method -> trials in a row that repeated a config
        self._studies: dict[str, Study] = {}
        stored = list(_trials(journal))
        started = any(ASKED in t.user_attrs for _, t in stored)
        journal.agree(task.fingerprint(), started)
        if changed := journal.changed_code(task.code(), started):
            log.warning(
                "the code of a study should stay as it was while it is continued, changed: %s"
                " (--fresh starts anew)",
                ", ".join(changed),
            )
        if journal.get("reference") != task.reference:  # readers compute budgets and hypervolume from it
            journal.set("reference", task.reference)
        if journal.get("inputs") != (inputs := task.inputs()):  # saving a model needs no data then
            journal.set("inputs", inputs)
        self._names = {m: study_name(m, task.budget, s) for m, s in task.spaces.items()}
        for name, trial in stored:
            if ASKED in trial.user_attrs:
                record = _record(trial)
                if record.state is not State.REFUSED:
                    self._note_repeat(method=record.method, config=record.config)
                self._enter(record, name, trial._trial_id)
        self._mend(stored)
        for method in task.spaces:
            self._teach_missing(method)
        self._add([p for r in records(journal) for p in r.points(task.budget)])

    @property
    def spent(self) -> int:
        """Trials that count against the study's total."""
        return sum(n for state, n in self.counts.items() if state.spends)

    def record(self, number: int) -> TrialRecord:
        """One trial, read back from the journal."""
        return _record(self.journal.storage.get_trial(self._rows[number].trial))

    def orphans(self) -> list[TrialRecord]:
        """Trials that are running, by number: at the start, those that a crash cut off."""
        return [self.record(n) for n, row in sorted(self._rows.items()) if row.state is State.RUNNING]

    def next_method(self, aside: Iterable[str] = ()) -> str | None:
        """The method with the fewest trials spent or running, in the study's order; None if all are aside."""
        left = [m for m in self.task.spaces if m not in set(aside)]
        return min(left, key=lambda m: self._load[m], default=None)

    def ask(self, method: str) -> TrialRecord:
        """Draw a config and give it a number and a seed.

        Returns:
            A running trial; or a refused one, if no route of its network is within the budget or it
            breaks a law of its method (the sampler has been taught so).
        """
        study = self._study(self._names[method])
        space = self.task.spaces[method]
        number = max(self._rows, default=-1) + 1
        self._enqueue_default(method, study, space)
        # A space that has nothing new left is not searched for it at every ask.
        patience = MOST_DECLINED >> self._repeats[method]
        for attempt in range(patience + 1):
            told = len(study.get_trials(deepcopy=False))
            seed = self.task.config.search.seed
            study.sampler = make_sampler(
                self.task.config.search.sampler,
                seed=derive(seed, method, number, told),
                fixed_seed=derive(seed, method),
            )
            trial = study.ask()
            config, bounds, refusal = self._draw(method, space, trial)
            if refusal is None and self._trained[method, _key(config)] and attempt < patience:
                trial.set_user_attr(DECLINED, True)
                study.tell(trial, state=TrialState.FAIL)
                continue
            break
        record = TrialRecord(number, method, config, derive(seed, number) >> 1, bounds)
        asked = {"number": number, "method": method, "config": config, "seed": record.seed, "bounds": bounds}
        trial.set_user_attr(ASKED, asked)
        if refusal is None:
            self._note_repeat(method, config)
        self._enter(record, study.study_name, trial._trial_id)
        return record if refusal is None else self.finish(number, Outcome(State.REFUSED, reason=refusal))

    def refusal(self, record: TrialRecord) -> str | None:
        """Why a trial may not be trained under the present budget; None if it may."""
        budget = self.task.budget.max_macs
        if budget is None or record.bounds is None or record.bounds[0] <= budget:
            return None
        return f"cheapest route <= budget must hold, got {record.bounds[0]:.0f} and {budget:.0f} MACs"

    def finish(self, number: int, outcome: Outcome) -> TrialRecord:
        """Store what came of a trial, then tell the sampler.

        A curve with a number in it that is not finite becomes a failure.
        """
        row = self._rows[number]
        outcome = sound(outcome)
        trial = Trial(self._study(row.study), row.trial)
        trial.set_user_attr(OUTCOME, outcome.dumps())
        record = self.record(number)
        self._tell(record, row)
        self._count(row, -1)
        row.state = record.state
        self._count(row, +1)
        if row.study != self._names.get(row.method) and row.method in self._names:
            self._teach(record)
        self._add(record.points(self.task.budget))
        return record

    def publish(self, number: int, points: Iterable[OperatingPoint]) -> None:
        """Add points of a trial that were measured on test data."""
        known = self.journal.get(f"test:{number}") or []
        new = [[dict(p.knob), p.accuracy, p.macs, list(p.route_share)] for p in points]
        self.journal.set(f"test:{number}", known + new)

    def keep_timing(self, point: Point, on: Mapping[str, Any], timings: Iterable[Timing]) -> None:
        """Add the timings of a point; of one batch size the last ones count.

        Args:
            on: what they were measured with, JSON values.
        """
        new = [[dict(point.knob), dict(on), asdict(timing)] for timing in timings]
        again = [(knob, timing["batch"]) for knob, _, timing in new]
        known = self.journal.get(f"timing:{point.trial}") or []
        kept = [row for row in known if (row[0], row[2]["batch"]) not in again]
        self.journal.set(f"timing:{point.trial}", kept + new)

    # ---- the stored trials -------------------------------------------------------------------

    def _add(self, points: Sequence[Point]) -> None:
        if points:
            self.front = front([*self.front, *points])
            self.candidates = undominated([*self.candidates, *points])

    def _note_repeat(self, method: str, config: Mapping[str, Any]) -> None:
        """Count how many trials of a method in a row repeated a trained config."""
        again = self._trained[method, _key(config)] > 0
        self._repeats[method] = self._repeats[method] + 1 if again else 0

    def _enter(self, record: TrialRecord, study: str, trial: int) -> None:
        row = _Row(record.number, record.method, record.state, _key(record.config), study, trial)
        self._rows[row.number] = row
        self._count(row, +1)

    def _count(self, row: _Row, by: int) -> None:
        self.counts[row.state] += by
        if row.state.spends or row.state is State.RUNNING:
            self._load[row.method] += by
            self._trained[row.method, row.config] += by

    def _mend(self, stored: list[tuple[str, FrozenTrial]]) -> None:
        """Finish what a crash left half done."""
        for name, trial in stored:
            if trial.state is not TrialState.RUNNING:
                continue
            if ASKED not in trial.user_attrs:  # never numbered: nobody knows of it
                self._study(name).tell(trial.number, state=TrialState.FAIL)
                continue
            record = _record(trial)
            if record.outcome is not None:
                self._tell(record, self._rows[record.number])
            elif record.method not in self.task.spaces:
                gone = f"interrupted, and its method {record.method} is no longer in the study"
                self.finish(record.number, Outcome.failure(gone))
            elif (reason := self.refusal(record)) is not None:
                self.finish(record.number, Outcome(State.REFUSED, reason=reason))

    def _tell(self, record: TrialRecord, row: _Row) -> None:
        study = self._study(row.study)
        trial = Trial(study, row.trial)
        lesson = lesson_of(record, self.task.reference, budget_of(row.study))
        known = self.journal.storage.get_trial(row.trial).constraints
        for key, value in lesson.constraints.items():
            if key not in known:  # else a crash came between this and the line below
                trial.set_constraint(key, value)
        study.tell(trial, values=lesson.values, state=lesson.state)

    def _teach_missing(self, method: str) -> None:
        study = self._study(self._names[method])
        known = {t.user_attrs[COPY] for t in study.get_trials(deepcopy=False) if COPY in t.user_attrs}
        for row in list(self._rows.values()):
            here = row.study == study.study_name or row.number in known
            if row.method == method and not here and row.state is not State.RUNNING:
                self._teach(self.record(row.number))

    def _teach(self, record: TrialRecord) -> None:
        """Let the present Optuna study of a method know a trial that is stored in an earlier one."""
        lesson = lesson_of(record, self.task.reference, self.task.budget)
        placed = place(self.task.spaces[record.method], record.config)
        if placed is None or lesson.state is TrialState.FAIL or not lesson.useful:
            return
        params, distributions = placed
        study = self._study(self._names[record.method])
        study.add_trial(
            create_trial(
                state=lesson.state,
                values=lesson.values,
                params=params,
                distributions=distributions,
                constraints=lesson.constraints,
                user_attrs={COPY: record.number},
            )
        )

    # ---- drawing -----------------------------------------------------------------------------

    def _study(self, name: str) -> Study:
        if name not in self._studies:
            storage = self.journal.storage
            if name not in self.journal.names():
                storage.create_new_study(_DIRECTIONS, name)
            sampler = make_sampler("random", seed=0, fixed_seed=0)  # replaced at every ask
            self._studies[name] = optuna.load_study(study_name=name, storage=storage, sampler=sampler)
        return self._studies[name]

    def _enqueue_default(self, method: str, study: Study, space: SearchSpace) -> None:
        """Put the method's own choice first in a study that knows nothing of it yet."""
        if any(row.method == method for row in self._rows.values()) or study.get_trials(deepcopy=False):
            return
        default = space.default()
        placed = place(space, default.model_dump(mode="json"))
        try:
            bounds = self.task.bounds(method, default)
        except Refusal:
            return
        limit = self.task.budget.max_macs
        if placed is not None and (limit is None or bounds.min <= limit):
            study.enqueue_trial(placed[0])

    def _draw(
        self, method: str, space: SearchSpace, trial: Trial
    ) -> tuple[dict[str, Any], tuple[float, float] | None, str | None]:
        """Config, static bounds, and why it is refused (None if it is not)."""
        config: dict[str, Any] | None = None
        try:
            model = space.ask(lambda name, distribution: _suggest(trial, name, distribution))
            config = model.model_dump(mode="json")
            interval = self.task.bounds(method, model)
        except (Refusal, ValidationError) as error:
            return config or dict(trial.params), None, " ".join(str(error).split())
        bounds = (float(interval.min), float(interval.max))
        return config, bounds, self.refusal(TrialRecord(-1, method, config, 0, bounds))


def sound(outcome: Outcome) -> Outcome:
    """The outcome, or a failure if its curve is none: empty, or with a number that is not finite."""
    if outcome.state not in (State.FINISHED, State.STOPPED):
        return outcome
    if not outcome.points:
        return Outcome.failure("a trained network must have at least one operating point, got none")
    for p in outcome.points:
        if not (math.isfinite(p.accuracy) and math.isfinite(p.macs)):
            return Outcome.failure(f"accuracy and MACs must be finite, got {p.accuracy} and {p.macs}")
    return outcome


def _trials(journal: Journal) -> Iterable[tuple[str, FrozenTrial]]:
    """All Optuna trials of all methods, with the name of their Optuna study."""
    for name, study in journal.names().items():
        if name != META:
            for trial in journal.storage.get_all_trials(study, deepcopy=False):
                yield name, trial


def _record(trial: FrozenTrial) -> TrialRecord:
    asked, outcome = trial.user_attrs[ASKED], trial.user_attrs.get(OUTCOME)
    return TrialRecord(
        number=asked["number"],
        method=asked["method"],
        config=asked["config"],
        seed=asked["seed"],
        bounds=None if asked["bounds"] is None else tuple(asked["bounds"]),
        outcome=None if outcome is None else Outcome.loads(outcome),
    )


def _key(config: Mapping[str, Any]) -> str:
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
