"""What was timed, as plain numbers: a routed network beside its static backbone. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

MIN_RANKED = 3
"""Points that a rank correlation needs: of two it is always 1 or -1."""


@dataclass(frozen=True)
class Timing:
    """A routed network and its static backbone at one batch size.

    Attributes:
        batch: images.
        p50, p95: seconds that the routed network takes for a batch.
        static_p50: seconds that the static one takes.
        macs: mean MACs per image of the ways that were timed.
        static_macs: of the static network.
    """

    batch: int
    p50: float
    p95: float
    static_p50: float
    macs: float
    static_macs: float

    @property
    def images_per_second(self) -> float:
        """Throughput of a batch at the median time."""
        return self.batch / self.p50

    @property
    def mac_saving(self) -> float:
        """Share of the static network's MACs that routing saves."""
        return 1 - self.macs / self.static_macs

    @property
    def time_saving(self) -> float:
        """Share of the static network's time that routing saves; below 0 where it costs time."""
        return 1 - self.p50 / self.static_p50

    def as_dict(self) -> dict[str, Any]:
        """What ``--json`` shows: times in milliseconds."""
        return {
            "batch": self.batch,
            "p50_ms": self.p50 * 1e3,
            "p95_ms": self.p95 * 1e3,
            "images_per_second": self.images_per_second,
            "static_p50_ms": self.static_p50 * 1e3,
            "macs": self.macs,
            "mac_saving": self.mac_saving,
            "time_saving": self.time_saving,
        }


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's coefficient in [-1, 1]; equal values share the mean of their ranks.

    Returns:
        None for fewer than ``MIN_RANKED`` pairs, or where one side is the same everywhere.
    """
    if len(first) != len(second):
        raise ValueError(f"as many values on both sides must be given, got {len(first)} and {len(second)}")
    if len(first) < MIN_RANKED:
        return None
    a, b = (ranks - ranks.mean() for ranks in (_ranks(first), _ranks(second)))
    spread = float(np.sqrt((a @ a) * (b @ b)))
    return None if spread == 0 else float(np.clip((a @ b) / spread, -1, 1))


def _ranks(values: Sequence[float]) -> npt.NDArray[np.float64]:
    _, place, count = np.unique(np.asarray(values, np.float64), return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    ranks: npt.NDArray[np.float64] = (last - (count - 1) / 2)[place]
    return ranks
