"""What trials have shown, as a search's decisions use it: what to try next, which method, when to stop."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from optuna.distributions import BaseDistribution

from routesearch.results.curves import NOTHING, Curve, curve_of
from routesearch.results.points import HasCost, Interval
from routesearch.results.record import Outcome, State, TrialRecord
from routesearch.search.observations import Observation, observation_of, sampler_params

if TYPE_CHECKING:
    from routesearch.task.resolve import Task


class Bare(NamedTuple):
    """A point without its origin."""

    accuracy: float
    macs: float


class Seen(NamedTuple):
    """Another trial, as one that is at a rung is compared with it.

    Attributes:
        steps: what it showed so far, one step or more.
        whole: whether the last of them is the end of its training.
    """

    method: str
    steps: Sequence[Step]
    whole: bool


class Step(NamedTuple):
    """How far a trial was at a rung or at its end: training MACs spent, and its curve."""

    macs: int
    curve: Curve


@dataclass(frozen=True, eq=False)
class Shown:
    """What one trial that ended has shown.

    Attributes:
        params, distributions: its config as a sampler has it; None where it is not in the present space.
        observation: what a sampler is told of it.
        steps: what it showed at its rungs and at its end; none where it has no curve.
        macs: multiply-adds that its training took.
        bounds: MACs of the cheapest and of the most expensive route.
        whole: whether it was trained to its end.
        own: whether it is a trial of this study, and not of one that this study learns from.
        attributes: what its sampler left for itself.
    """

    number: int
    method: str
    params: Mapping[str, Any] | None
    distributions: Mapping[str, BaseDistribution] | None
    observation: Observation
    steps: Sequence[Step]
    macs: int
    bounds: Interval | None = None
    whole: bool = True
    own: bool = True
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def curve(self) -> Curve:
        """Its front, in the shares that count (:func:`curve_of`); empty where it has none."""
        return self.steps[-1].curve if self.steps else NOTHING


@dataclass(eq=False)
class Pending:
    """A trial whose end is not known.

    Attributes:
        params: its config as a sampler has it; None where it is not in the present space.
        steps: what it showed so far.
        beside: of each method, how many trials had ended for all that is decided about this one; None: all
            that are known when it is decided.
    """

    method: str
    params: Mapping[str, Any] | None
    beside: Mapping[str, int] | None
    steps: list[Step] = field(default_factory=list)
    attributes: Mapping[str, Any] = field(default_factory=dict)


class Evidence:
    """What is known when a trial is drawn, and which trials are under way.

    Args:
        task: the resolved study.
        lag: a trial is drawn when all trials begun before it, but for so many, have ended, and of these no
            result is known: the same seed then gives the same study, whatever ends first. None: what has
            ended is known.

    Attributes:
        ended: of each method, in the order in which it became known.
        pending: trials whose end is not known, by number.
    """

    def __init__(self, task: Task, lag: int | None = None) -> None:
        self._task = task
        self.lag = lag
        self.ended: dict[str, list[Shown]] = {method: [] for method in task.spaces}
        self.pending: dict[int, Pending] = {}
        self._order: list[int] = []  # numbers of trials that were begun
        self._known = 0  # how many of these are known
        self._waiting: dict[int, TrialRecord] = {}

    @property
    def edge(self) -> float:
        """Share of the backbone's MACs up to which accuracy counts."""
        limit = self._task.budget.max_macs
        return 1.0 if limit is None else min(1.0, limit / self._task.backbone_macs)

    def begin(self, record: TrialRecord, attributes: Mapping[str, Any] | None = None) -> None:
        """A trial is under way.

        Args:
            attributes: what its sampler left for itself.
        """
        placed = self._placed(record)
        beside = None if self.lag is None else {name: len(each) for name, each in self.ended.items()}
        params = None if placed is None else placed[0]
        self._order.append(record.number)
        self.pending[record.number] = Pending(record.method, params, beside, attributes=attributes or {})

    def show(self, number: int, outcome: Outcome) -> None:
        """A trial that is under way is at a rung."""
        self.pending[number].steps.append(self._step(outcome.training_macs, outcome.points))

    def forget_steps(self, number: int) -> None:
        """A trial begins anew."""
        self.pending[number].steps.clear()

    def end(self, record: TrialRecord) -> None:
        """A trial ended; one that was not begun, for it was refused, is known at once."""
        if record.number not in self.pending:
            self._add(record, {})
            return
        self._waiting[record.number] = record
        self.release()

    def learn_from(self, records: Iterable[TrialRecord]) -> None:
        """Take in trials of another study."""
        for record in records:
            if record.outcome is not None and record.state is not State.FAILED:
                self._add(record, {}, own=False)

    @property
    def known(self) -> int:
        """How much is known: it changes when a trial begins, and when one's end becomes known."""
        return len(self._order) + sum(map(len, self.ended.values()))

    def known_of(self, method: str) -> int:
        """How many of a method's trials have ended, as far as that is known."""
        return len(self.ended[method])

    @property
    def ready(self) -> bool:
        """Whether all is known that the next trial is drawn by."""
        return self.lag is None or len(self._order) - self._known < self.lag

    def release(self) -> None:
        """Make known what may be: with a lag, in the order of beginning, and what the next draw may see."""
        if self.lag is None:
            for number in list(self._waiting):
                self._tell(number)
            return
        while len(self._order) - self._known >= self.lag and self._order[self._known] in self._waiting:
            self._tell(self._order[self._known])
            self._known += 1

    def steps_of(self, number: int) -> tuple[str, Sequence[Step]]:
        """Method of a trial that is under way, and what it showed."""
        return self.pending[number].method, self.pending[number].steps

    def beside(self, number: int) -> list[Seen]:
        """All trials that a trial is compared with."""
        beside = self.pending[number].beside
        found: list[Seen] = []
        for name, each in self.ended.items():
            some = each if beside is None else each[: beside[name]]
            found += [Seen(name, one.steps, one.whole) for one in some if one.own and one.steps]
        if beside is None:
            others = (each for other, each in self.pending.items() if other != number and each.steps)
            found += [Seen(each.method, each.steps, whole=False) for each in others]
        return found

    def _tell(self, number: int) -> None:
        attributes = self.pending.pop(number).attributes
        self._add(self._waiting.pop(number), attributes)

    def _placed(self, record: TrialRecord) -> tuple[dict[str, Any], dict[str, BaseDistribution]] | None:
        space = self._task.spaces.get(record.method)
        return None if space is None else sampler_params(space, record.config)

    def _add(self, record: TrialRecord, attributes: Mapping[str, Any], own: bool = True) -> None:
        outcome, task = record.outcome, self._task
        assert outcome is not None, "only a trial that ended has shown something"
        if record.method not in self.ended:
            return
        params, distributions = self._placed(record) or (None, None)
        steps = [self._step(macs, [Bare(*row) for row in rows]) for macs, rows in outcome.rungs]
        if outcome.points:
            steps.append(self._step(outcome.training_macs, outcome.points))
        self.ended[record.method].append(
            Shown(
                number=record.number,
                method=record.method,
                params=params,
                distributions=distributions,
                observation=observation_of(record, task.backbone_macs, task.budget),
                steps=steps if outcome.points else (),
                macs=outcome.training_macs,
                bounds=record.bounds,
                whole=record.state is State.FINISHED,
                own=own,
                attributes=attributes,
            )
        )

    def _step(self, macs: int, points: Sequence[HasCost]) -> Step:
        return Step(macs, curve_of(points, self._task.backbone_macs, self.edge))
