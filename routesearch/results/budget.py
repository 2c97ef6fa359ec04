"""A study's budget, and the point of a curve that stands for it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from routesearch.results.points import HasLatency, Interval, L, best, distinct, front, hypervolume
from routesearch.study.config import BudgetConfig
from routesearch.utils.units import macs_of


@dataclass(frozen=True, slots=True)
class Budget:
    """What a point may cost; with both bounds it must meet both, without any everything is allowed.

    Attributes:
        max_macs: mean MACs per image on validation data.
        max_latency: median seconds of a batch, on the machine and with the cores that trials have.
        batch: images of that batch.
    """

    max_macs: float | None = None
    max_latency: float | None = None
    batch: int = 1

    @classmethod
    def of(cls, wish: BudgetConfig, backbone_macs: float) -> Budget:
        """The budget of a study file, on a backbone of ``backbone_macs``."""
        macs = None if wish.max_macs is None else macs_of(wish.max_macs, backbone_macs)
        return cls(macs, wish.max_latency, wish.batch)

    def edge(self, backbone_macs: float) -> float:
        """Share of the backbone's MACs up to which accuracy counts: 1, or where the budget ends."""
        return 1.0 if self.max_macs is None else min(1.0, self.max_macs / backbone_macs)

    def __bool__(self) -> bool:
        return self.max_macs is not None or self.max_latency is not None

    def admits(self, bounds: Interval) -> bool:
        """Whether a network of these bounds can be within it: its cheapest route costs no more MACs."""
        return self.max_macs is None or bounds.min <= self.max_macs

    def met_by(self, point: HasLatency) -> bool:
        """Whether a point is within it; one that was not timed is within no latency."""
        if self.max_macs is not None and point.macs > self.max_macs:
            return False
        return self.max_latency is None or (point.latency is not None and point.latency <= self.max_latency)

    def within(self, points: Iterable[L]) -> list[L]:
        return [p for p in points if self.met_by(p)]

    def best(self, points: Iterable[L]) -> L | None:
        """The most accurate point within it; of equals the cheapest. None if there is none."""
        return best(self.within(points))

    def feasible_hypervolume(self, points: Iterable[HasLatency], backbone_macs: float) -> float:
        """:func:`hypervolume` of the points within it, and of MACs within it only."""
        return hypervolume(self.within(points), backbone_macs, self.max_macs)

    def excess(self, points: Sequence[HasLatency]) -> dict[str, float]:
        """The constraint that a sampler gets of a curve: the best placed point's excess, as a share.

        At most 0 if some point is within the bound. ``latency`` speaks of both bounds where there are both:
        the cheapest point and the fastest one need not be the same.
        """
        found = {}
        if self.max_macs is not None:
            found["macs"] = min(p.macs for p in points) / self.max_macs - 1
        if self.max_latency is not None:
            macs = math.inf if self.max_macs is None else self.max_macs
            # A point that was not timed counts as one of twice the latency allowed.
            found["latency"] = min(
                max(2.0 if p.latency is None else p.latency / self.max_latency, p.macs / macs) - 1
                for p in points
            )
        return found


def representative(points: Sequence[L], backbone_macs: float, budget: Budget) -> L:
    """The one point that stands for a curve where only one can: for the sampler and for MLflow's metrics.

    The best point within the budget; without a budget (or with none within it) the point whose
    loss would take most hypervolume from the curve.

    Raises:
        ValueError: for an empty curve.
    """
    if not points:
        raise ValueError("a curve must have at least one point, got none")
    within = budget.best(points) if budget else None
    if within is not None:
        return within
    curve = distinct(front(points))  # of twins neither would be missed
    whole = hypervolume(curve, backbone_macs)
    shares = [whole - hypervolume(curve[:i] + curve[i + 1 :], backbone_macs) for i in range(len(curve))]
    if max(shares) <= 0.0:  # all cost more than the backbone: the cheapest stands for the rest
        return curve[0]
    return curve[int(np.argmax(shares))]
