"""Whether routing is more accurate than the static network at no more MACs: a paired bootstrap on test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from routesearch.results.intervals import CONFIDENCE, paired_difference
from routesearch.results.points import Point, best
from routesearch.results.reader import StudyResults

STATIC = "static"
"""The method that others are compared with."""


@dataclass(frozen=True)
class Comparison:
    """Two confirmed points, chosen on validation and compared on test, image by image.

    Attributes:
        point: the most accurate one within the budget.
        other: the most accurate static one that costs no more.
        difference: of the mean accuracies over seeds.
        interval: of it.
    """

    point: Point
    other: Point
    difference: float
    interval: tuple[float, float]

    def as_dict(self) -> dict[str, Any]:
        """What ``front --json`` shows."""
        sides = {"point": self.point, "other": self.other}
        told = {name: {"trial": p.trial, "method": p.method, "knob": p.knob} for name, p in sides.items()}
        return {**told, "difference": self.difference, "interval": list(self.interval)}


def best_against_static(results: StudyResults) -> Comparison | None:
    """The best point beside the best static one; None where one of them was not confirmed.

    Outcomes of both are of the same test images, and of trainings that chose neither point.
    """
    one, confirmed = results.best, results.confirmed
    if one is None or one.method == STATIC or one.key not in confirmed:
        return None
    static = [p for p in results.front if p.method == STATIC and p.key in confirmed]
    other = best(static, one.macs)
    if other is None:
        return None
    difference, low, high = paired_difference(
        confirmed[one.key].right, confirmed[other.key].right, CONFIDENCE
    )
    return Comparison(one, other, difference, (low, high))
