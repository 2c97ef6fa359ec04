"""What the parent run logs of a front: curves over MACs, and what confirming it took and showed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from routesearch.results.confirmed import spent
from routesearch.results.points import Point
from routesearch.results.reader import StudyResults


def curves(results: StudyResults) -> list[tuple[str, list[Point]]]:
    """Metrics of the parent run that hold a curve over MACs, with its points."""
    tested = list(results.tested.values())
    found = [("front_accuracy", results.front), ("front_test_accuracy", tested)]
    return [*found, *((f"{key}_mean", _means(points)) for key, points in found)]


def _means(points: Sequence[Point]) -> list[Point]:
    """Confirmed points, each with the mean over its seeds in place of its own accuracy and MACs."""
    pairs = [(p, p.confirmation) for p in points]
    return [replace(p, accuracy=c.mean, macs=c.macs_mean) for p, c in pairs if c is not None]


def confirmations(results: StudyResults) -> dict[str, float]:
    """What confirming the front took and showed; nothing where it was not confirmed."""
    if results.mean_shrinkage is None:
        return {}
    return {"confirmation_macs": spent(results.facts)["training_macs"], "shrinkage": results.mean_shrinkage}


def stairs(points: Sequence[Point]) -> dict[int, float]:
    """Accuracy by kMACs; of points within the same thousand, the most accurate."""
    steps: dict[int, float] = {}
    for p in points:
        step = round(p.macs / 1000)
        steps[step] = max(p.accuracy, steps.get(step, 0.0))
    return steps
