"""What the picture and the page both show: who gets which colour, what is drawn, and in which window."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from routesearch.report.table import limits
from routesearch.results.budget import Budget
from routesearch.results.points import Point
from routesearch.results.reader import StudyResults
from routesearch.utils.sampling import evenly_spaced

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5195", "#6B6B6B")
"""Told apart by colour-blind readers too (after Okabe and Ito; their yellow is lost on white)."""

MAX_FAINT = 4000
"""Points off the front that are drawn at most: more make a browser slow and a cloud no denser."""


def colours(points: Iterable[Point]) -> dict[str, str]:
    """A colour for each method, in the order of their first trials: a method that joins later moves none."""
    first: dict[str, int] = {}
    for p in points:
        first[p.method] = min(p.trial, first.get(p.method, p.trial))
    order = sorted(first, key=lambda name: (first[name], name))
    return {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(order)}


def shape(i: int, shapes: Sequence[str]) -> str:
    """The shape of the i-th method's points; a colour that comes again has another shape."""
    return shapes[(i + i // len(PALETTE)) % len(shapes)]


@dataclass(frozen=True)
class Chart:
    """A front ready to be drawn; MACs in millions, accuracy in percent.

    Attributes:
        front: its points, by rising MACs.
        faint: points off the front, of the same split, thinned to ``MAX_FAINT``.
        dropped: how many points off the front are not drawn.
        colours: method -> colour.
        best: within the budget, if there is one: the point that validation chooses, as it is on this split.
        limits: the budget in words; empty without one.
        budget, backbone: in millions of MACs.
        logarithmic: whether MACs span too much for a linear axis.
        x, y: the window.
    """

    front: tuple[Point, ...]
    faint: tuple[Point, ...]
    dropped: int
    colours: Mapping[str, str]
    best: Point | None
    limits: str
    budget: float | None
    backbone: float
    logarithmic: bool
    x: tuple[float, float]
    y: tuple[float, float]

    @property
    def split(self) -> str:
        return self.front[0].split if self.front else "validation"

    def bars(self, method: str) -> tuple[list[float], list[float], list[float], list[float]]:
        """Confirmed points of a method: MACs, mean accuracy, and how far its interval goes down and up."""
        rows = []
        for p in self.front:
            if p.method == method and p.confirmation is not None:
                c = p.confirmation
                low, high = c.interval()
                rows.append((c.macs_mean / 1e6, 100 * c.mean, 100 * (c.mean - low), 100 * (high - c.mean)))
        macs, mean, down, up = ([row[i] for row in rows] for i in range(4))
        return macs, mean, down, up

    def stairs(self) -> tuple[list[float], list[float]]:
        """The line of the front: the accuracy that so many MACs buy, held until a point buys more.

        On test, points may have fallen behind; the line passes above them.
        """
        if not self.front:
            return [], []
        xs = [p.macs / 1e6 for p in self.front]
        ys = [100 * a for a in accumulate((p.accuracy for p in self.front), max)]
        return [*xs, max(xs[-1], self.x[1])], [*ys, ys[-1]]


def chart(
    points: Sequence[Point],
    all_points: Sequence[Point],
    budget: Budget,
    backbone_macs: float,
    best: Point | None = None,
) -> Chart:
    """The layout of a front.

    Args:
        points: the front.
        all_points: any points; those of the front and those of other splits are left out.
        budget: what a point may cost.
        backbone_macs: the backbone's MACs.
        best: within the budget; None: the most accurate of the front.
    """
    front = tuple(sorted(points, key=lambda p: (p.macs, p.accuracy)))
    on_front = {p.key for p in front}
    split = front[0].split if front else "validation"
    rest = [p for p in all_points if p.split == split and p.key not in on_front]
    faint = _thinned(rest)
    xs = [p.macs / 1e6 for p in front or faint] + [backbone_macs / 1e6]
    limit = None if budget.max_macs is None else budget.max_macs / 1e6
    xs += [] if limit is None else [limit]
    logarithmic = max(xs) > 50 * min(xs)
    return Chart(
        front=front,
        faint=tuple(faint),
        dropped=len(rest) - len(faint),
        colours=colours((*all_points, *front)),
        best=(best or budget.best(front)) if budget else None,
        limits=limits(budget, backbone_macs),
        budget=limit,
        backbone=backbone_macs / 1e6,
        logarithmic=logarithmic,
        x=(min(xs) / 1.3, max(xs) * 1.3) if logarithmic else (0.0, 1.06 * max(xs)),
        y=_accuracies(front, faint),
    )


def chart_of(results: StudyResults, split: str) -> Chart:
    """The layout of a study's front on a split.

    Raises:
        Refusal: as :meth:`StudyResults.front_on`.
    """
    front, best = results.front_on(split), results.best
    if split == "test" and best is not None:
        best = results.tested.get(best.key)  # test results choose nothing
    return chart(front, results.points, results.budget, results.backbone_macs, best)


def _thinned(rest: Sequence[Point]) -> list[Point]:
    """``MAX_FAINT`` points at the most, chosen evenly over the trials and along their curves."""
    return [rest[i] for i in evenly_spaced(len(rest), MAX_FAINT)]


def _accuracies(front: Sequence[Point], faint: Sequence[Point]) -> tuple[float, float]:
    """The window in percent: the front fills it, its intervals included.

    What lies more than the front's own height below is cut.
    """
    bars = [100 * end for p in front if p.confirmation is not None for end in p.confirmation.interval()]
    shown = [100 * p.accuracy for p in front] + bars or [100 * p.accuracy for p in faint] or [0.0, 100.0]
    low, high = min(shown), max(shown)
    height = max(high - low, 2.0)
    lowest = min([low, *(100 * p.accuracy for p in faint)])
    bottom = min(max(lowest, low - height, 0.0), high - 0.5 * height)
    return bottom - 0.08 * height, min(high + 0.2 * height, 100.0 + 0.04 * height)
