"""Operating points and what is computed from sets of them: front, hypervolume, best under a budget.

Plain numbers, no torch. Accuracy is to be large, MACs small. MACs are per image, of every block that
ran for it (:mod:`routesearch.routing.cost`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from routesearch.results.intervals import Confirmation
from routesearch.utils.sampling import evenly_spaced

MAX_STORED = 256
"""Points of a trial that are stored at most; where scores are stored, the others can be recomputed."""


@dataclass(frozen=True)
class Interval:
    """Cheapest and most expensive route, in MACs per image."""

    min: int
    max: int

    def __add__(self, other: Interval) -> Interval:
        """Bounds of one after the other."""
        return Interval(self.min + other.min, self.max + other.max)

    def __or__(self, other: Interval) -> Interval:
        """Bounds of one or the other."""
        return Interval(min(self.min, other.min), max(self.max, other.max))

    def __contains__(self, macs: float) -> bool:
        return self.min <= macs <= self.max


class HasCost(Protocol):
    """Anything with an accuracy and a price."""

    @property
    def accuracy(self) -> float: ...
    @property
    def macs(self) -> float: ...


class HasLatency(HasCost, Protocol):
    """A point with a cost and perhaps a measured latency."""

    @property
    def latency(self) -> float | None: ...


P = TypeVar("P", bound=HasCost)
L = TypeVar("L", bound=HasLatency)


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """A trained network at one knob, measured on one split.

    Attributes:
        knob: the setting that needs no training, name -> JSON value.
        accuracy: share of images labelled right, in [0, 1].
        macs: mean multiply-adds per image.
        route_share: share of images per exit or leaf; for skips, share of images that ran each unit.
        latency: seconds that the budget's batch takes (the median); None where it was not timed.
    """

    knob: Mapping[str, Any]
    accuracy: float
    macs: float
    route_share: tuple[float, ...] = ()
    latency: float | None = None


PointKey = tuple[int, str]
"""The number of a trial, and :func:`knob_key` of a knob."""


@dataclass(frozen=True, slots=True)
class Point:
    """An operating point with its origin: what the command line and MLflow show.

    Attributes:
        confirmation: what retrainings with other seeds gave on its split; None where there are none. All
            other fields are the trial's own.
    """

    trial: int
    method: str
    config: Mapping[str, Any]
    knob: Mapping[str, Any]
    accuracy: float
    macs: float
    feasible: bool
    split: str
    seed: int
    params: int
    route_share: tuple[float, ...] = ()
    latency: float | None = None
    confirmation: Confirmation | None = None

    @property
    def key(self) -> PointKey:
        """Its trial and its knob, by which it is the same point on another split."""
        return self.trial, knob_key(self.knob)

    def as_dict(self) -> dict[str, Any]:
        """Its fields by name, and those of its confirmation, if any; config and knob are not copied."""
        values = {name: getattr(self, name) for name in _POINT_FIELDS}
        return values if self.confirmation is None else values | self.confirmation.as_dict()


_POINT_FIELDS = tuple(field.name for field in fields(Point) if field.name != "confirmation")


def knob_key(knob: Mapping[str, Any]) -> str:
    """A knob as text: the same for equal knobs, whatever the order of their names."""
    return json.dumps(knob, sort_keys=True)


def front(points: Sequence[P]) -> list[P]:
    """The points that no other beats: at least as accurate and at most as costly, one of the two strictly.

    Equal points all stay. Sorted by MACs, then accuracy.
    """
    found = [p for p, keep in zip(points, on_front(points), strict=True) if keep]
    return sorted(found, key=lambda p: (p.macs, p.accuracy))


def on_front(points: Sequence[HasCost]) -> npt.NDArray[np.bool_]:
    """Which of ``points`` are on their front."""
    if not points:
        return np.zeros(0, bool)
    from moocore import is_nondominated

    kept: npt.NDArray[np.bool_] = is_nondominated(_costs(points), keep_weakly=True)
    return kept


def _costs(points: Sequence[HasCost]) -> npt.NDArray[np.float64]:
    """N x 2, both to be small: accuracy with its sign turned, and MACs."""
    count = len(points)
    accuracy = np.fromiter((-p.accuracy for p in points), np.float64, count)
    return np.column_stack((accuracy, np.fromiter((p.macs for p in points), np.float64, count)))


def hypervolume(points: Sequence[HasCost], backbone_macs: float, limit: float | None = None) -> float:
    """Area that the points dominate, from accuracy 0 and 1.0 x the backbone's MACs.

    Args:
        points: any set; dominated ones do not matter.
        backbone_macs: MACs are divided by it.
        limit: a budget in MACs: only the area at or below it counts (never beyond the backbone's).

    Returns:
        A share in [0, 1]; points that cost more than the backbone add nothing.
    """
    edge = 1.0 if limit is None else min(1.0, limit / backbone_macs)
    inside = [(-p.accuracy, p.macs / backbone_macs) for p in points if p.macs / backbone_macs < edge]
    if not inside:
        return 0.0
    from moocore import hypervolume as area

    return float(area(np.array(inside), ref=[0.0, edge]))


def best(points: Sequence[P], max_macs: float | None = None) -> P | None:
    """The most accurate point within ``max_macs``; of equals the cheapest. None if there is none."""
    within = [p for p in points if max_macs is None or p.macs <= max_macs]
    return min(within, key=lambda p: (-p.accuracy, p.macs), default=None)


def cheapest(points: Sequence[P]) -> P | None:
    return min(points, key=lambda p: (p.macs, -p.accuracy), default=None)


def undominated(points: Sequence[L]) -> list[L]:
    """The points that no other beats in accuracy, MACs and latency together.

    The best point within any budget is one of them; without latencies they are the front.
    """
    if all(p.latency is None for p in points):
        return front(points)
    return [p for p, keep in zip(points, are_undominated(points), strict=True) if keep]


def are_undominated(points: Sequence[HasLatency]) -> npt.NDArray[np.bool_]:
    """Which of ``points`` are :func:`undominated`."""
    timed = [p.latency for p in points if p.latency is not None]
    if not timed:
        return on_front(points)
    from moocore import is_nondominated

    never = 2 * max(timed) + 1
    latencies = np.array([never if p.latency is None else p.latency for p in points])
    kept: npt.NDArray[np.bool_] = is_nondominated(
        np.column_stack((_costs(points), latencies)), keep_weakly=True
    )
    return kept


def thin(points: Sequence[P], most: int = MAX_STORED) -> list[P]:
    """The front of ``points``, at most ``most`` of them, spread evenly along it with both ends kept."""
    curve = distinct(front(points))
    if len(curve) <= most:
        return curve
    return [curve[i] for i in evenly_spaced(len(curve), most)]


def distinct(curve: Sequence[P]) -> list[P]:
    """The first of each run of equal points."""
    return [
        p
        for i, p in enumerate(curve)
        if i == 0 or (p.accuracy, p.macs) != (curve[i - 1].accuracy, curve[i - 1].macs)
    ]
