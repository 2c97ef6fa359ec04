"""The one reader of what a study has found: everything that is shown of a study is a view of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import InitVar, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import TypeVar, final

import numpy as np
import numpy.typing as npt

from routesearch.errors import Refusal
from routesearch.errors.texts import shown
from routesearch.results import points
from routesearch.results.budget import Budget
from routesearch.results.confirmed import ConfirmedPoint, confirmed_points, summed_up
from routesearch.results.intervals import binomial_lower, check_confidence
from routesearch.results.journal import Journal
from routesearch.results.measurements import Facts, check_facts, read_test_results, read_timings
from routesearch.results.points import OperatingPoint, Point, PointKey
from routesearch.results.record import Outcome, State, TrialRecord
from routesearch.results.replay import StoredTrial
from routesearch.results.timing import Timing
from routesearch.study.config import StudyConfig
from routesearch.utils.memory import collection_paused
from routesearch.utils.units import macs_of, parse_latency, parse_macs

T = TypeVar("T")
Choose = Callable[[list[OperatingPoint]], npt.NDArray[np.bool_]]


def read_record(path: Path, stored: StoredTrial) -> TrialRecord:
    """The trial of the study that a journal holds.

    Args:
        path: of the journal.
        stored: one that was proposed.

    Raises:
        Refusal: it is none, naming journal, line, trial and key.
    """
    line = stored.asked_line
    try:
        record = TrialRecord.of(stored.asked)
        if stored.outcome is None:
            return record
        line = stored.outcome_line
        return record.with_outcome(Outcome.loads(stored.outcome))
    except Refusal as refusal:
        number = stored.asked.get("number") if isinstance(stored.asked, dict) else None
        raise Refusal(f"the journal {path}, line {line}, trial {shown(number)}: {refusal}") from None


def points_where(records: Iterable[TrialRecord], budget: Budget, choose: Choose) -> list[Point]:
    """Some points of trials, in their order; only these are made: a large study has hundreds of thousands.

    Args:
        choose: all operating points of the trials to which of them are wanted.
    """
    with collection_paused():
        curves = [(record, record.outcome.points) for record in records if record.outcome is not None]
        kept = iter(choose([point for _, curve in curves for point in curve]).tolist())
        found: list[Point] = []
        for record, curve in curves:
            if some := [point for point in curve if next(kept)]:
                found += record.as_points(some, budget, "validation")
        return found


@final
@dataclass(frozen=True, eq=False)
class StudyResults:
    """What a study has found, as its journal stood when this was made.

    Each view is computed when it is first asked for, and once: no outcome is decoded twice. Lists are
    not to be changed. Needs neither torch nor Ray, and works while a search writes.

    Args:
        journal: open; it may be closed afterwards.

    Attributes:
        config: the study's.
        id: a UUID made with the journal, which tells the study from others of its name.
        facts: what the journal keeps of the whole study.
    """

    config: StudyConfig
    journal: InitVar[Journal]
    id: str = field(init=False)
    facts: Facts = field(init=False, repr=False)
    _path: Path = field(init=False, repr=False)
    _stored: list[StoredTrial] = field(init=False, repr=False)

    def __post_init__(self, journal: Journal) -> None:
        values = {
            "id": journal.id,
            "facts": journal.facts(),
            "_path": journal.path,
            "_stored": journal.proposed(),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)
        check_facts(self._path, self.facts)

    @classmethod
    def read(cls, config: StudyConfig) -> StudyResults:
        """Read the journal in the study's folder.

        Raises:
            Refusal: no search was run yet, or the journal is damaged.
        """
        with Journal.open_for_reading(config.dir) as journal:
            return cls(config, journal)

    @cached_property
    def records(self) -> list[TrialRecord]:
        """All trials by number: finished, stopped, failed, refused and running ones."""
        with collection_paused():
            found = [read_record(self._path, stored) for stored in self._stored]
            found.sort(key=lambda record: record.number)
        return found

    @cached_property
    def backbone_macs(self) -> float:
        """MACs per image of the static backbone, as the search stored them."""
        if "reference" not in self.facts:
            raise Refusal(f"no study in {self.config.dir} yet: run `routesearch search` first")
        return float(self.facts["reference"])

    @cached_property
    def budget(self) -> Budget:
        """What a point may cost, by the study file as it is now."""
        return Budget.of(self.config.budget, self.backbone_macs)

    @cached_property
    def points(self) -> list[Point]:
        """Every stored operating point on validation data, dominated ones too."""
        with collection_paused():
            return [point for record in self.records for point in record.points(self.budget)]

    @cached_property
    def front(self) -> list[Point]:
        """The front on validation data, by rising MACs."""
        return points.front(self._where(points.on_front))

    @cached_property
    def best(self) -> Point | None:
        """The most accurate point within the budget."""
        return self.budget.best(self.candidates)

    @cached_property
    def candidates(self) -> list[Point]:
        """Points one of which is the best within any budget."""
        return self._where(points.are_undominated)

    @cached_property
    def confirmed(self) -> dict[PointKey, ConfirmedPoint]:
        """Points of the front that were retrained with two seeds or more, and what that gave."""
        each, costs = confirmed_points(self.facts), {}
        for number, keys in _by_trial(each).items():
            if number >= len(self.records):
                raise Refusal(f"the journal {self._path}: a confirmation must be of a trial, got {number}")
            for p in self.records[number].points(self.budget):
                if p.key in keys:
                    costs[p.key] = p.macs
        found = {key: summed_up(each[key], macs) for key, macs in costs.items()}
        return {key: one for key, one in found.items() if one is not None}

    @cached_property
    def shrinkage(self) -> dict[PointKey, float]:
        """Confirmed points of the front, and how much more accurate they are on validation than on test."""
        return {p.key: self.confirmed[p.key].shrinkage for p in self.front if p.key in self.confirmed}

    @property
    def mean_shrinkage(self) -> float | None:
        """The mean of :attr:`shrinkage`; None where nothing is confirmed."""
        return fmean(self.shrinkage.values()) if self.shrinkage else None

    def _where(self, choose: Choose) -> list[Point]:
        return self._with_confirmations(points_where(self.records, self.budget, choose))

    def _with_confirmations(self, some: list[Point]) -> list[Point]:
        known = self.confirmed
        if not known:
            return some
        return [replace(p, confirmation=known[p.key].on(p.split)) if p.key in known else p for p in some]

    @cached_property
    def tested(self) -> dict[PointKey, Point]:
        """The points that were measured on test data: those of the front and the best within the budget."""
        results = read_test_results(self.facts)
        known = (r.as_points(results.get(r.number, ()), self.budget, "test") for r in self.records)
        return {point.key: point for points in known for point in self._with_confirmations(points)}

    @cached_property
    def timings(self) -> dict[PointKey, list[Timing]]:
        """Timings of points at the batch sizes of the study's ``latency``; points without are missing."""
        wanted = self.config.latency.batch or ()
        known = read_timings(self.facts)
        found = {point: [by[batch] for batch in wanted if batch in by] for point, by in known.items()}
        return {point: timings for point, timings in found.items() if timings}

    @cached_property
    def front_on_test(self) -> list[Point]:
        """The points of the front as they were measured on test; empty where one of them was not yet."""
        found = [self.tested[point.key] for point in self.front if point.key in self.tested]
        return found if len(found) == len(self.front) else []

    def front_on(self, split: str) -> list[Point]:
        """The front, chosen on validation data, as measured on ``validation`` or ``test``.

        Raises:
            Refusal: for another split, and where the front was not measured on test yet.
        """
        if split == "validation":
            return self.front
        if split != "test":
            raise Refusal(f"split must be validation or test, got {split!r}")
        missing = sum(point.key not in self.tested for point in self.front)
        if missing:
            raise Refusal(
                f"{missing} of {len(self.front)} points of the front are not measured on test yet; "
                "a search does so when it ends: run `routesearch search` to its end"
            )
        return self.front_on_test

    def on_test(self, point: Point) -> Point | None:
        """The same point as measured on test; None where it was not."""
        return self.tested.get(point.key)

    def count(self, state: State) -> int:
        """Trials in a state."""
        return sum(record.state is state for record in self.records)

    def lower_bound(self, point: Point, confidence: float) -> float:
        """Lower end of the interval of a point's accuracy on validation.

        A confirmed point has that of its mean over seeds. Another one has the binomial one of its images
        (Wilson), as if it were the only one that was looked at: it was chosen from many, so it promises more
        than it will hold.

        Raises:
            Refusal: the confidence is out of range, or the study does not know how many images it has.
        """
        check_confidence(confidence)
        if point.confirmation is not None:
            return point.confirmation.interval(confidence)[0]
        images = self.facts.get("inputs", {}).get("images", {}).get("validation")
        if not images:
            rule = "the study must know how many images it has"
            raise Refusal(
                f"{self.config.name}: {rule}: run `routesearch search` on it once more, all trials stay"
            )
        return binomial_lower(point.accuracy, images, confidence)

    def bounds_within(self, max_macs: str | float | None = None, max_latency: str | None = None) -> Budget:
        """The bounds that are given, or the study's budget where none is.

        Raises:
            Refusal: one is no amount of MACs, or no time.
        """
        budget = self.budget
        if max_macs is None and max_latency is None:
            return budget
        macs = (
            None if max_macs is None else macs_of(_read("max_macs", parse_macs, max_macs), self.backbone_macs)
        )
        return Budget(macs, _read("max_latency", parse_latency, max_latency), budget.batch)

    def best_within(
        self,
        max_macs: str | float | None = None,
        max_latency: str | None = None,
        confidence: float | None = None,
    ) -> Point:
        """The most accurate point within bounds: those given, or the study's budget where none is.

        Args:
            max_macs: mean MACs per image: 40M, 0.4x, a number.
            max_latency: 500us, 2ms: of the batch that the study's latency budget is of.
            confidence: choose by the :meth:`lower_bound` in place of the accuracy; of equals the cheapest.

        Raises:
            Refusal: none is within it; names the cheapest stored, or the fastest.
        """
        budget = self.bounds_within(max_macs, max_latency)
        if confidence is not None:
            within = budget.within(self.candidates)
            if not within:
                raise Refusal(_nothing_within(budget, self.points, self.config.name))
            return min(within, key=lambda p: (-self.lower_bound(p, confidence), p.macs))
        best = budget.best(self.candidates)
        if best is None:
            raise Refusal(_nothing_within(budget, self.points, self.config.name))
        return best


def _by_trial(keys: Iterable[PointKey]) -> dict[int, set[PointKey]]:
    found: dict[int, set[PointKey]] = {}
    for key in keys:
        found.setdefault(key[0], set()).add(key)
    return found


def _read(name: str, parse: Callable[[object], T], given: object) -> T:
    try:
        return parse(given)
    except ValueError as error:
        raise Refusal(f"{name}: {error}, got {shown(given)}") from None


def _nothing_within(budget: Budget, stored: list[Point], study: str) -> str:
    """Why no stored point is within a budget, with the nearest."""
    cheapest = points.cheapest(stored)
    if cheapest is None:
        return f"{study}: no trial has finished yet"
    if budget.max_macs is not None and cheapest.macs > budget.max_macs:
        return (
            f"a stored point must cost at most {budget.max_macs:,.0f} MACs, "
            f"the cheapest is {cheapest.macs:,.0f} (trial {cheapest.trial}, {cheapest.method})"
        )
    affordable = Budget(budget.max_macs).within(stored)
    timed = [(math.inf if p.latency is None else p.latency, p) for p in affordable if p.latency is not None]
    seconds, fastest = min(timed, key=lambda pair: pair[0], default=(math.inf, None))
    if fastest is None:
        return f"{study}: no stored point was timed: the study has no latency budget"
    return (
        f"a stored point must take at most {1e3 * (budget.max_latency or 0):.4g} ms, "
        f"the fastest{'' if budget.max_macs is None else ' within the MACs'} takes"
        f" {1e3 * seconds:.4g} (trial {fastest.trial}, {fastest.method})"
    )
