"""Medians over seeds with bootstrap intervals: what a table of the comparison says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from comparison.ledger import at, reached

RESAMPLES = 2000
History = Sequence[tuple[float, float]]
Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A median and its 95 % bootstrap interval over seeds."""

    value: float
    low: float
    high: float

    def text(self, digits: int = 4) -> str:
        return f"{self.value:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


def bootstrap(samples: Sequence[Values], statistic: Callable[..., float]) -> Estimate:
    """A statistic of one or more independent samples, each resampled over its first axis."""
    rng = np.random.default_rng(0)
    drawn = [
        statistic(*(sample[rng.integers(len(sample), size=len(sample))] for sample in samples))
        for _ in range(RESAMPLES)
    ]
    low, high = np.quantile(np.array(drawn), [0.025, 0.975], method="inverted_cdf")  # infinities stay
    return Estimate(float(statistic(*samples)), float(low), float(high))


def median_at(histories: Sequence[History], grid: Sequence[float]) -> list[Estimate]:
    """Hypervolume at each of some training MACs."""
    areas = np.array([at(history, grid) for history in histories])
    return [bootstrap([areas[:, i]], _median) for i in range(len(grid))]


def difference_at(ours: Sequence[History], theirs: Sequence[History], macs: float) -> Estimate:
    """Our median less theirs at some training MACs."""
    samples = [np.array([at(h, [macs])[0] for h in histories]) for histories in (ours, theirs)]
    return bootstrap(samples, lambda a, b: float(np.median(a) - np.median(b)))


def share_to_reach(ours: Sequence[History], theirs: Sequence[History]) -> Estimate:
    """Training MACs until our search has another's final hypervolume, as a share of all that the other spent.

    The median over all pairs of a seed of ours with one of theirs.
    """
    needed = np.array([[reached(a, b[-1][1]) / b[-1][0] for b in theirs] for a in ours])
    rows, columns = np.arange(len(ours)), np.arange(len(theirs))

    def share(i: Values, j: Values) -> float:
        return _median(needed[np.ix_(i.astype(int), j.astype(int))].ravel())

    return bootstrap([rows.astype(float), columns.astype(float)], share)


def _median(values: Values) -> float:
    """The lower of two middle values is taken where a mean would be infinite."""
    return float(np.quantile(values, 0.5, method="inverted_cdf"))
