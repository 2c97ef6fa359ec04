"""A few of many, evenly chosen."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def evenly_spaced(count: int, most: int) -> npt.NDArray[np.int64]:
    """Indices of ``most`` of ``count`` things, evenly spaced with both ends; all where there are fewer."""
    return np.unique(np.linspace(0, count - 1, min(most, count)).round().astype(np.int64))
