"""What trials have shown, as a search's decisions use it: what to try next, which method, when to stop."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from optuna.distributions import BaseDistribution
from optuna.trial import TrialState

from routesearch.results.curves import NOTHING, Curve, area, curve_of, merged, nearness
from routesearch.results.points import HasCost, Interval
from routesearch.results.record import Outcome, State, TrialRecord
from routesearch.search.observations import Observation, observation_of, sampler_params

if TYPE_CHECKING:
    from routesearch.task.resolve import Task


class Bare(NamedTuple):
    """A point without its origin."""

    accuracy: float
    macs: float


RECENT = 4
"""Trials of a method that are its recent ones."""
PROMISED = "promised"
"""The attribute of a trial that says what hypervolume it was expected to add when it was drawn."""
JUDGED = 8
"""Trials of a method by which its promises are judged: the latest that were drawn for what they promised."""
MAX_MODELLED = 256
"""Trials of a method that a model learns from, at most: when there are more, the best three quarters stay."""


class SamplerParams(NamedTuple):
    """A config as a sampler has it; None where it is not in the present space."""

    params: Mapping[str, Any] | None
    distributions: Mapping[str, BaseDistribution] | None


class Measured(NamedTuple):
    """How far a trial was at a rung or at its end: training MACs spent, and its curve."""

    macs: int
    curve: Curve


@dataclass(frozen=True, eq=False)
class EndedTrial:
    """What one trial that ended has shown.

    Attributes:
        params, distributions: its config as a sampler has it; None where it is not in the present space.
        observation: what a sampler is told of it.
        measured: what it showed at its rungs and at its end; none where it has no curve.
        macs: multiply-adds that its training took.
        bounds: MACs of the cheapest and of the most expensive route.
        whole: whether it was trained to its end.
        own: whether it is a trial of this study, and not of one that this study learns from.
        reason: why it failed or was refused.
        attributes: what was kept of its draw (:data:`PROMISED`, or what its sampler left for itself).
    """

    number: int
    method: str
    params: Mapping[str, Any] | None
    distributions: Mapping[str, BaseDistribution] | None
    observation: Observation
    measured: Sequence[Measured]
    macs: int
    bounds: Interval | None = None
    whole: bool = True
    own: bool = True
    reason: str | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def curve(self) -> Curve:
        """Its front, in the shares that count (:func:`curve_of`); empty where it has none."""
        return self.measured[-1].curve if self.measured else NOTHING

    @property
    def begun(self) -> bool:
        """Whether it is a trial of this study that was begun: a refused one was not."""
        return self.own and self.observation.state is not TrialState.PRUNED


@dataclass(eq=False)
class RunningTrial:
    """A trial whose end is not known.

    Attributes:
        params, distributions: its config as a sampler has it; None where it is not in the present space.
        bounds: MACs of the cheapest and of the most expensive route.
        measured: what it showed so far.
        compared_with: of each method, how many trials had ended for all that is decided about this one; None:
            all that are known when it is decided.
    """

    method: str
    params: Mapping[str, Any] | None
    distributions: Mapping[str, BaseDistribution] | None
    bounds: Interval | None
    compared_with: Mapping[str, int] | None
    measured: list[Measured] = field(default_factory=list)
    attributes: Mapping[str, Any] = field(default_factory=dict)
    whole: bool = False


ComparedTrial = EndedTrial | RunningTrial
"""Another trial, as one that is at a rung is compared with it: by its measured, and by whether it ended."""


@dataclass(eq=False)
class MethodSummary:
    """What the trials of a method have shown together, kept as they end, so that many cost no more than few.

    Attributes:
        front: over all of them.
        own_front: over this study's own.
        begun: this study's trials that were begun, in their number.
        macs: training MACs that these took.
        recent: the last of these.
        settled_front: over these without the recent ones.
        with_curve: how many of all have a curve.
        modelled: trials that a model learns from.
        comparable: this study's own that have measured.
        promises: of the latest that promised something, the hypervolume that was promised and that was added.
    """

    front: Curve = field(default_factory=lambda: NOTHING)
    own_front: Curve = field(default_factory=lambda: NOTHING)
    begun: int = 0
    macs: int = 0
    recent: list[EndedTrial] = field(default_factory=list)
    settled_front: Curve = field(default_factory=lambda: NOTHING)
    with_curve: int = 0
    modelled: list[EndedTrial] = field(default_factory=list)
    comparable: list[EndedTrial] = field(default_factory=list)
    promises: list[tuple[float, float]] = field(default_factory=list)

    @property
    def promises_kept(self) -> float:
        """Share of what its latest trials promised that they added, at most 1.

        As if one more had added what it promised: a single disappointment proves little.
        """
        if not (promised := sum(gain for gain, _ in self.promises)):
            return 1.0
        one = promised / len(self.promises)
        return min(1.0, (sum(added for _, added in self.promises) + one) / (promised + one))

    @property
    def mean_macs(self) -> float:
        """Training MACs of a trial of this study in the mean; 0 where there is none."""
        return self.macs / max(1, self.begun)

    def add(self, one: EndedTrial) -> None:
        """Count one more."""
        self.with_curve += len(one.curve) > 0
        if one.params is not None and len(one.curve):
            self.modelled.append(one)
        self.front = merged([self.front, one.curve])
        if one.own:
            self.own_front = merged([self.own_front, one.curve])
        if one.own and one.measured:
            self.comparable.append(one)
        if one.begun:
            self.begun, self.macs = self.begun + 1, self.macs + one.macs
            self.recent.append(one)
            if len(self.recent) > RECENT:
                self.settled_front = merged([self.settled_front, self.recent.pop(0).curve])

    def thin(self, others: Curve, edge: float) -> None:
        """Take from a model the trials that stand worst beside the front of other methods."""
        values = nearness([*(one.curve for one in self.modelled), others], edge)
        order = sorted(range(len(self.modelled)), key=lambda i: float(values[i]), reverse=True)
        self.modelled = [self.modelled[i] for i in sorted(order[: MAX_MODELLED * 3 // 4])]


class Evidence:
    """What is known when a trial is drawn, and which trials are under way.

    Args:
        task: the resolved study.
        lag: a trial is drawn when all trials begun before it, but for so many, have ended, and of these no
            result is known: the same seed then gives the same study, whatever ends first. None: what has
            ended is known.

    Attributes:
        ended: of each method, in the order in which it became known.
        summaries: of each method, what these have shown together.
        pending: trials whose end is not known, by number.
    """

    def __init__(self, task: Task, lag: int | None = None) -> None:
        self._task = task
        self.lag = lag
        self.ended: dict[str, list[EndedTrial]] = {method: [] for method in task.spaces}
        self.summaries = {method: MethodSummary() for method in task.spaces}
        self.pending: dict[int, RunningTrial] = {}
        self._order: list[int] = []  # numbers of trials that were begun
        self._released = 0  # how many of these are known
        self._waiting: dict[int, TrialRecord] = {}

    @property
    def edge(self) -> float:
        """Share of the backbone's MACs up to which accuracy counts."""
        return self._task.budget.edge(self._task.backbone_macs)

    def begin(self, record: TrialRecord, attributes: Mapping[str, Any] | None = None) -> None:
        """Note that a trial is under way.

        Args:
            attributes: what was kept of its draw.
        """
        placed = self._params(record)
        compared = (
            None
            if self.lag is None
            else {name: len(each.comparable) for name, each in self.summaries.items()}
        )
        self._order.append(record.number)
        self.pending[record.number] = RunningTrial(
            record.method, *placed, record.bounds, compared, attributes=attributes or {}
        )

    def show(self, number: int, outcome: Outcome) -> None:
        """Note what a trial that is under way shows at a rung."""
        self.pending[number].measured.append(self._measured(outcome.training_macs, outcome.points))

    def forget_measured(self, number: int) -> None:
        """Forget what a trial that begins anew has shown."""
        self.pending[number].measured.clear()

    def end(self, record: TrialRecord) -> None:
        """Note that a trial ended; one that was not begun, for it was refused, is known at once."""
        if record.number not in self.pending:
            self._add(record, self._params(record), {})
            return
        self._waiting[record.number] = record
        self.release()

    def learn_from(self, records: Iterable[TrialRecord]) -> None:
        """Take in trials of another study."""
        for record in records:
            if record.outcome is not None and record.state is not State.FAILED:
                self._add(record, self._params(record), {}, own=False)

    @property
    def revision(self) -> int:
        """A number that changes whenever a trial begins, or its end becomes known."""
        return len(self._order) + sum(map(len, self.ended.values()))

    @property
    def untold_macs(self) -> int:
        """Training MACs of trials that have ended and are not known yet."""
        return sum(r.outcome.training_macs for r in self._waiting.values() if r.outcome is not None)

    @property
    def ready(self) -> bool:
        """Whether all is known that the next trial is drawn by."""
        return self.lag is None or len(self._order) - self._released < self.lag

    def release(self) -> None:
        """Make known what may be: with a lag, in the order of beginning, and what the next draw may see."""
        if self.lag is None:
            for number in list(self._waiting):
                self._tell(number)
            return
        while len(self._order) - self._released >= self.lag and self._order[self._released] in self._waiting:
            self._tell(self._order[self._released])
            self._released += 1

    def measured_of(self, number: int) -> tuple[str, Sequence[Measured]]:
        """Method of a trial that is under way, and what it showed."""
        return self.pending[number].method, self.pending[number].measured

    def others(self, method: str) -> Curve:
        """The front of all methods but one."""
        return merged([each.front for name, each in self.summaries.items() if name != method])

    def own_front(self) -> Curve:
        """The front of this study's own trials that ended."""
        return merged([each.own_front for each in self.summaries.values()])

    def compared_with(self, number: int) -> dict[str, list[ComparedTrial]]:
        """All trials that a trial is compared with, by method, in the order in which they became known."""
        compared = self.pending[number].compared_with
        if compared is not None:
            return {name: [*each.comparable[: compared[name]]] for name, each in self.summaries.items()}
        found: dict[str, list[ComparedTrial]] = {
            name: [*each.comparable] for name, each in self.summaries.items()
        }
        for other, pending in self.pending.items():
            if other != number and pending.measured:
                found.setdefault(pending.method, []).append(pending)
        return found

    def compared_front(self, number: int) -> Curve:
        """The front of all that a trial is compared with, each as far as it is."""
        compared = self.pending[number].compared_with
        if compared is not None:
            return merged(
                [
                    one.curve
                    for name, each in self.summaries.items()
                    for one in each.comparable[: compared[name]]
                ]
            )
        under_way = (each.measured for other, each in self.pending.items() if other != number)
        return merged([self.own_front(), *(measured[-1].curve for measured in under_way if measured)])

    def _tell(self, number: int) -> None:
        begun = self.pending.pop(number)
        placed = SamplerParams(begun.params, begun.distributions)
        self._add(self._waiting.pop(number), placed, begun.attributes)

    def _params(self, record: TrialRecord) -> SamplerParams:
        space = self._task.spaces.get(record.method)
        found = None if space is None else sampler_params(space, record.config)
        return SamplerParams(None, None) if found is None else SamplerParams(*found)

    def _add(
        self, record: TrialRecord, placed: SamplerParams, attributes: Mapping[str, Any], own: bool = True
    ) -> None:
        outcome, task = record.outcome, self._task
        assert outcome is not None, "only a trial that ended has shown something"
        if record.method not in self.ended:
            return
        measured = [self._measured(macs, [Bare(*row) for row in rows]) for macs, rows in outcome.rungs]
        if outcome.points:
            measured.append(self._measured(outcome.training_macs, outcome.points))
        one = EndedTrial(
            number=record.number,
            method=record.method,
            params=placed.params,
            distributions=placed.distributions,
            observation=observation_of(record, task.backbone_macs, task.budget),
            measured=measured if outcome.points else (),
            macs=outcome.training_macs,
            bounds=record.bounds,
            whole=record.state is State.FINISHED,
            own=own,
            reason=outcome.reason,
            attributes=attributes,
        )
        self.ended[record.method].append(one)
        summary = self.summaries[record.method]
        before = self.own_front() if PROMISED in attributes else NOTHING
        summary.add(one)
        if PROMISED in attributes:
            added = area(self.own_front(), self.edge) - area(before, self.edge)
            summary.promises = [*summary.promises[1 - JUDGED :], (attributes[PROMISED], added)]
        if len(summary.modelled) > MAX_MODELLED:
            summary.thin(self.others(record.method), self.edge)

    def _measured(self, macs: int, points: Sequence[HasCost]) -> Measured:
        return Measured(macs, curve_of(points, self._task.backbone_macs, self.edge))
