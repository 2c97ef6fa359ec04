"""Curves as arrays: what comparing many of them needs, without the points that they come from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from routesearch.results.points import HasCost
from routesearch.utils.sampling import evenly_spaced

Curve = npt.NDArray[np.float64]
"""Rows of accuracy and MACs, as a share of the backbone's, by rising MACs; no row beats another."""

MAX_ROWS = 24
"""Rows of a curve that are kept of a trial's, spread evenly."""

NOTHING: Curve = np.empty((0, 2))


def curve_of(points: Iterable[HasCost], backbone_macs: float, edge: float = 1.0) -> Curve:
    """The points that count in a hypervolume up to ``edge``, the share of MACs where it ends.

    Where all cost more than that, the cheapest alone: how far off it is still tells something.
    """
    rows = np.array([(p.accuracy, p.macs / backbone_macs) for p in points], dtype=np.float64).reshape(-1, 2)
    inside = rows[rows[:, 1] <= edge]
    kept = merged([inside if len(inside) else rows[np.argsort(rows[:, 1], kind="stable")[:1]]])
    return kept[evenly_spaced(len(kept), MAX_ROWS)] if len(kept) > MAX_ROWS else kept


def merged(curves: Sequence[Curve]) -> Curve:
    """The front over curves, one row for each place on it."""
    rows = np.concatenate([NOTHING, *curves])
    rows = rows[np.lexsort((-rows[:, 0], rows[:, 1]))]
    best = np.maximum.accumulate(np.concatenate([[-np.inf], rows[:, 0]]))
    return rows[rows[:, 0] > best[:-1]]


def area(front: Curve, edge: float = 1.0) -> float:
    """Hypervolume of a front, up to ``edge`` of the backbone's MACs (:func:`points.hypervolume`)."""
    inside = front[front[:, 1] < edge]
    ends = np.append(inside[1:, 1], edge)
    return float((inside[:, 0] * (ends - inside[:, 1])).sum()) if len(inside) else 0.0


def accuracy_at(front: Curve, macs: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The best accuracy of a front at some costs; 0 where nothing is as cheap."""
    places = np.searchsorted(front[:, 1], macs, side="right")
    return np.append(0.0, front[:, 0])[places]


def ranks(curves: Sequence[Curve], of: int | None = None) -> list[int]:
    """Front on which each curve's best point lies, by non-dominated sorting of all points: 0 is the first.

    Args:
        of: a curve at whose rank the sorting ends; all that lie behind it have one rank, larger than any.
    """
    owner = np.repeat(np.arange(len(curves)), [len(c) for c in curves])
    rows = np.concatenate([NOTHING, *curves])
    order = np.lexsort((-rows[:, 0], rows[:, 1]))
    rows, owner = rows[order], owner[order]
    behind = len(rows) + 1
    found = np.full(len(curves), behind)
    rank = 0
    while len(rows) and (of is None or found[of] == behind):
        best = np.maximum.accumulate(np.concatenate([[-np.inf], rows[:, 0]]))[:-1]
        first = rows[:, 0] > best
        # twins of a point of the front are on it as well
        twin = (rows[:, 0] == best) & np.isin(rows[:, 1], rows[first, 1])
        on = first | twin
        np.minimum.at(found, owner[on], rank)
        rows, owner, rank = rows[~on], owner[~on], rank + 1
    return [int(r) for r in found]


def standings(curves: Sequence[Curve], edge: float = 1.0) -> npt.NDArray[np.float64]:
    """How good each curve is beside the others: more is better.

    What the hypervolume of all would lose without it, where that is anything; else :func:`nearness`.
    """
    whole, found = merged(curves), nearness(curves, edge)
    total = area(whole, edge)
    owner = np.repeat(np.arange(len(curves)), [len(curve) for curve in curves])
    for i in {int(i) for i in owner[_among(np.concatenate([NOTHING, *curves]), whole)]}:
        if found[i] > -1.0:
            found[i] = max(found[i], total - area(merged([*curves[:i], *curves[i + 1 :]]), edge))
    return found


def nearness(curves: Sequence[Curve], edge: float = 1.0) -> npt.NDArray[np.float64]:
    """How near each curve comes to the front of all: more is better, 0 is on it.

    How far, in accuracy, its best point lies below the front; less than -1, by how much is missing, where
    nothing of it is within the budget.
    """
    whole = merged(curves)
    rows = np.concatenate([NOTHING, *curves])
    found = np.full(len(curves), -1.0)
    owner = np.repeat(np.arange(len(curves)), [len(curve) for curve in curves])
    np.maximum.at(found, owner, rows[:, 0] - accuracy_at(whole, rows[:, 1]))
    beyond = np.array([float(c[:, 1].min()) - edge if len(c) else 0.0 for c in curves])
    return np.where(beyond > 0, -1.0 - beyond, found)


def _among(rows: Curve, front: Curve) -> npt.NDArray[np.bool_]:
    """Which rows are on a front."""
    places = np.searchsorted(front[:, 1], rows[:, 1])
    found = np.append(front, [[np.nan, np.nan]], 0)[places]
    return np.asarray((found == rows).all(1))
