"""A trial as the journal keeps it: plain data, no torch, the same for finished, failed and refused ones."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from routesearch.errors import Refusal, described, shortened
from routesearch.errors.texts import MAX_REASON, MAX_TRACEBACK, one_line, several_lines
from routesearch.results.budget import Budget
from routesearch.results.checks import check_curve, check_outcome, check_proposal, decode, need
from routesearch.results.points import Interval, OperatingPoint, Point, knob_key
from routesearch.utils.names import FIELD_RULE, is_field


class State(StrEnum):
    """State of a trial: only the first three ended after training; ``refused`` was never trained."""

    FINISHED = "finished"
    STOPPED = "stopped"
    FAILED = "failed"
    REFUSED = "refused"
    RUNNING = "running"

    @property
    def spends(self) -> bool:
        """Whether a trial in this state counts against the study's number of trials."""
        return self in (State.FINISHED, State.STOPPED, State.FAILED)


ENDED = tuple(state for state in State if state is not State.RUNNING)
"""States that an outcome may have."""
TRAINED = (State.FINISHED, State.STOPPED)
"""States of those that bring a curve."""

Rung = tuple[int, tuple[tuple[float, float], ...]]
"""What a trial showed on its way: training MACs spent until then, and its curve as accuracies and MACs."""

MAX_KNOB = 10_000
"""Characters of a knob as JSON: each of the points of a curve has one."""


@dataclass(frozen=True)
class Outcome:
    """What a worker hands back for one trial: a curve, or the reason why there is none.

    Attributes:
        points: the curve on validation data, at most ``MAX_STORED`` points; empty for a failure.
        params: parameters of the whole network, all branches.
        training_macs: multiply-adds spent in training (3 x forward where gradients flow, 1 x elsewhere).
        seconds: wall time of building, training and measuring.
        reason: one line, for a failure; a long one, and characters that a terminal obeys, are made fit to
            be stored and shown.
        traceback: the whole story, for a failure; made fit as well.
        rungs: what it showed on the way to this.
    """

    state: State
    points: tuple[OperatingPoint, ...] = ()
    params: int = 0
    training_macs: int = 0
    seconds: float = 0.0
    reason: str | None = None
    traceback: str | None = None
    rungs: tuple[Rung, ...] = ()

    def __post_init__(self) -> None:
        """Shorten texts of another's code: each is kept in the journal and in memory for good."""
        if self.reason is not None:
            object.__setattr__(self, "reason", one_line(self.reason, MAX_REASON))
        if self.traceback is not None:
            object.__setattr__(self, "traceback", several_lines(self.traceback, MAX_TRACEBACK))

    def validated(self) -> Outcome:
        """Itself; or a failure if it cannot be stored, or would be refused when it is read."""
        try:
            check_curve(self._rows())
            text = self.dumps()
            for name in {name for p in self.points for name in p.knob}:
                need(is_field(name), "a knob's name", FIELD_RULE, name)
            if len(text) > MAX_KNOB:
                for p in self.points:
                    size = len(json.dumps(p.knob))
                    need(size <= MAX_KNOB, "a knob", f"at most {MAX_KNOB:,} characters of JSON", size)
            Outcome.loads(text)
        except (ValueError, TypeError, Refusal) as error:
            said = str(error) if isinstance(error, Refusal) else described(error)
            return Outcome.failure(said, seconds=self.seconds if math.isfinite(self.seconds) else 0.0)
        return self

    def dumps(self) -> str:
        """One compact string: a thousand trials of 256 points must stay small in the driver's memory."""
        data: dict[str, Any] = {
            "state": self.state,
            "params": self.params,
            "training_macs": self.training_macs,
            "seconds": self.seconds,
            "points": self._rows(),
        }
        if self.reason is not None:
            data |= {"reason": self.reason, "traceback": self.traceback}
        if self.rungs:
            data["rungs"] = self.rungs
        return json.dumps(data, separators=(",", ":"), allow_nan=False)

    def _rows(self) -> list[list[Any]]:
        """The points as they are stored."""
        return [
            [
                dict(p.knob),
                p.accuracy,
                p.macs,
                list(p.route_share),
                *(() if p.latency is None else (p.latency,)),
            ]
            for p in self.points
        ]

    @classmethod
    def loads(cls, text: str) -> Outcome:
        """The inverse of :meth:`dumps`.

        Raises:
            Refusal: it is none, naming the key.
        """
        try:
            data = decode(text)
        except (ValueError, TypeError, RecursionError) as error:
            raise Refusal(f"the outcome must be JSON: {shortened(error)}") from None
        check_outcome(data, ENDED, TRAINED)
        points = tuple(OperatingPoint(k, a, m, tuple(r), *t) for k, a, m, r, *t in data.pop("points"))
        rungs = tuple((macs, tuple((a, m) for a, m in curve)) for macs, curve in data.pop("rungs", ()))
        return cls(points=points, rungs=rungs, **{**data, "state": State(data["state"])})

    @classmethod
    def failure(cls, reason: str, traceback: str | None = None, seconds: float = 0.0) -> Outcome:
        return cls(State.FAILED, reason=reason, traceback=traceback, seconds=seconds)


@dataclass(frozen=True)
class TrialRecord:
    """One trial of a study: what is to be tried, and its outcome (None while it runs).

    Attributes:
        number: unique over the whole study, all methods, refused ones included.
        config: the method's fields, resolved, JSON values.
        seed: of the trial's weights, batches and draws.
        bounds: MACs of its cheapest and its most expensive route; None where it could not be priced.
    """

    number: int
    method: str
    config: Mapping[str, Any]
    seed: int
    bounds: Interval | None = None
    outcome: Outcome | None = field(default=None, repr=False)

    @property
    def state(self) -> State:
        return State.RUNNING if self.outcome is None else self.outcome.state

    def proposal(self) -> dict[str, Any]:
        """All but the outcome, as JSON values: what is stored before the trial runs."""
        bounds = None if self.bounds is None else [float(self.bounds.min), float(self.bounds.max)]
        return {
            "number": self.number,
            "method": self.method,
            "config": self.config,
            "seed": self.seed,
            "bounds": bounds,
        }

    @classmethod
    def of(cls, proposal: Mapping[str, Any], outcome: Outcome | None = None) -> TrialRecord:
        """The inverse of :meth:`proposal`.

        Raises:
            Refusal: it is none, naming the key.
        """
        check_proposal(proposal)
        bounds = proposal["bounds"]
        interval = None if bounds is None else Interval(*map(int, bounds))
        return cls(**{**proposal, "bounds": interval}, outcome=outcome)

    def with_outcome(self, outcome: Outcome) -> TrialRecord:
        """The same trial, ended."""
        return replace(self, outcome=outcome)

    def without_outcome(self) -> TrialRecord:
        """The same trial as it was proposed."""
        return replace(self, outcome=None)

    def points(self, budget: Budget, split: str = "validation") -> list[Point]:
        """The stored curve as :class:`Point`, feasible or not under ``budget``."""
        return [] if self.outcome is None else self.as_points(self.outcome.points, budget, split)

    def as_points(self, points: Iterable[OperatingPoint], budget: Budget, split: str) -> list[Point]:
        """Give measured points this trial's origin, and the latency that was measured at the same knob."""
        params = 0 if self.outcome is None else self.outcome.params
        own = () if self.outcome is None else self.outcome.points
        latency = {knob_key(p.knob): p.latency for p in own if p.latency is not None}
        timed = [replace(p, latency=latency.get(knob_key(p.knob))) for p in points] if latency else points
        return [
            Point(
                trial=self.number,
                method=self.method,
                config=self.config,
                knob=p.knob,
                accuracy=p.accuracy,
                macs=p.macs,
                feasible=budget.met_by(p),
                split=split,
                seed=self.seed,
                params=params,
                route_share=p.route_share,
                latency=p.latency,
            )
            for p in timed
        ]

    def as_dict(self, budget: Budget) -> dict[str, Any]:
        """The row of ``routesearch trials --json``."""
        return {
            "number": self.number,
            "method": self.method,
            "config": dict(self.config),
            "state": str(self.state),
            "reason": None if self.outcome is None else self.outcome.reason,
            "seed": self.seed,
            "training_macs": 0 if self.outcome is None else self.outcome.training_macs,
            "points": [p.as_dict() for p in self.points(budget)],
        }
