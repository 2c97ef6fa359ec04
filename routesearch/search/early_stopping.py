"""Which trials go on at a rung: asynchronous successive halving over fronts.

L. Li et al.: A System for Massively Parallel Hyperparameter Tuning (MLSys 2020) stops a trial unless it is
among the best share of those that came as far. For two objectives trials are ordered by non-dominated rank,
as in R. Schmucker et al.: Multi-objective Asynchronous Successive Halving (2021), and within a rank by what
the hypervolume would lose without them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain, islice

import numpy as np

from routesearch.results.curves import Curve, accuracy_at, area, merged, ranks, standings
from routesearch.search.evidence import Evidence, Measured
from routesearch.study.search_settings import StopConfig
from routesearch.utils.sampling import evenly_spaced

MAX_ENDED = 32
"""Trials of a method by whose gains another one's are bounded: the latest."""
COSTS = 128
"""Costs over which errors are added up."""
CAUTION = 0.7
"""A trial may still keep this part of the smallest share of its errors that another one kept: the few that
were trained to their end do not bound those that come."""
LEAST_GAIN = 1e-4
"""Share by which the hypervolume must grow for a trial to count as one that adds to it."""
MAX_COMPARED = 200
"""Trials that one is compared with, at most."""


class Halving:
    """Decides whether a trial goes on.

    A trial stops where it is not among the best of two groups, the trials of its method at the same rung, and
    all trials at equal cost, each as it was when it had spent no more: so neither a method that starts slowly
    nor one that is cheap decides alone. And only where it would add nothing to the front even if from here to
    its end it lost more of its errors than any of its method did. A method's first trial never stops.

    Args:
        evidence: what trials have shown; the caller keeps it.
        settings: how many go on.
    """

    def __init__(self, evidence: Evidence, settings: StopConfig) -> None:
        self._evidence = evidence
        self._keep = settings.keep

    def goes_on(self, number: int) -> bool:
        """Whether a trial goes on, by the last step that it showed."""
        method, measured = self._evidence.measured_of(number)
        mine, rung = measured[-1], len(measured) - 1
        compared = self._evidence.compared_with(number)
        same_method, others = compared.get(method, []), list(chain.from_iterable(compared.values()))
        ended = (
            each.measured for each in reversed(same_method) if each.whole and len(each.measured) > rung + 1
        )
        if not (latest := list(islice(ended, MAX_ENDED))):
            return True
        at_rung = [each.measured[min(rung, len(each.measured) - 1)].curve for each in same_method]
        if self._among_best(mine.curve, at_rung):
            return True
        at_cost = [step.curve for each in others if (step := within(each.measured, mine.macs)) is not None]
        if self._among_best(mine.curve, at_cost):
            return True
        errors_kept = min(self._errors_kept(measured[rung].curve, measured[-1].curve) for measured in latest)
        return self._adds(mine.curve, CAUTION * errors_kept, self._evidence.compared_front(number))

    def _errors_kept(self, before: Curve, after: Curve) -> float:
        """Share of its errors that a trial kept, over the costs that it could meet before."""
        costs = np.linspace(0, self._evidence.edge, COSTS)
        there = accuracy_at(before, costs)
        errors = (1 - there)[there > 0].sum()
        return float((1 - accuracy_at(after, costs))[there > 0].sum() / errors) if errors > 0 else 1.0

    def _adds(self, mine: Curve, errors_kept: float, front: Curve) -> bool:
        """Whether a curve that keeps a share of its errors adds to a front."""
        raised = np.column_stack((1 - (1 - mine[:, 0]) * min(errors_kept, 1.0), mine[:, 1]))
        edge = self._evidence.edge
        return area(merged([front, raised]), edge) > area(front, edge) * (1 + LEAST_GAIN)

    def _among_best(self, mine: Curve, others: Sequence[Curve]) -> bool:
        """Whether a curve is in the share that goes on; where that is less than one trial, it is."""
        count = len(others) + 1
        if self._keep * count < 1:
            return True
        some = [others[i] for i in evenly_spaced(count - 1, MAX_COMPARED)]
        curves, count = [mine, *some], len(some) + 1
        rank, standing = ranks(curves, of=0), standings(curves, self._evidence.edge)
        mine_first = (rank[0], -standing[0])
        ahead = sum((rank[i], -standing[i]) < mine_first for i in range(1, count))
        return ahead < math.ceil(self._keep * count)


def within(measured: Sequence[Measured], macs: float) -> Measured | None:
    """The last step at which a trial had spent no more than ``macs``; None before its first."""
    return next((step for step in reversed(measured) if step.macs <= macs), None)
