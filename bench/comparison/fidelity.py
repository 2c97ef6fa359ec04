"""How far the table is from trainings: each recorded one, predicted by those of other configs."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import numpy as np
from scipy.stats import spearmanr

from comparison.pricing import PricedTask
from comparison.table import MethodTable, Table, points_of
from routesearch.errors import Refusal


def fidelity(table: Table, task: PricedTask) -> Iterator[str]:
    """A line for each method: errors in feasible hypervolume of single trainings, and in training MACs."""
    yield (
        "method      trainings | hypervolume: mean, spread | RMSE of kernel, nearest, a second seed | "
        "rank correlation | spread, simulated | training MACs off by"
    )
    for name, method in table.methods.items():
        yield f"{name:<11} {len(method.places):>9} | {_line(method, task)}"
    yield f"prices that the cache gets wrong, of 50 configs of each method: {_wrong_prices(task)}"


def _line(method: MethodTable, task: PricedTask) -> str:
    def area(curves: np.ndarray, i: int) -> float:  # type: ignore[type-arg]
        points = points_of(curves[-1], method.bounds[i])
        return task.budget.feasible_hypervolume(points, task.backbone_macs)

    count = len(method.places)
    real = np.array([area(method.curves[i], i) for i in range(count)])
    predicted = method.by_curve.left_out()
    kernel = np.array([area(predicted[i], i) for i in range(count)])
    nearby = [method.by_curve.nearest(place, without_equal=True)[0] for place in method.places]
    nearest = np.array([area(method.curves[near], i) for i, near in enumerate(nearby)])
    seeds = [real[a] - real[b] for a, b in method.pairs]
    drawn = [area(method.with_noise(predicted[i], i), i) for i in range(count)]
    macs = (method.by_macs.left_out() - method.macs)[:, -1]
    correlation = spearmanr(real, kernel).statistic if count > 2 else float("nan")
    second = f"{_rms(np.array(seeds)):.4f}" if seeds else "  --  "
    return (
        f"{real.mean():.4f} {real.std():.4f} | "
        f"{_rms(kernel - real):.4f} {_rms(nearest - real):.4f} {second} | "
        f"{correlation:.2f} | {np.std(drawn):.4f} | {100 * np.median(np.abs(macs)):.1f} %"
    )


def _rms(gaps: np.ndarray) -> float:  # type: ignore[type-arg]
    return float(np.sqrt(np.mean(gaps**2)))


def _wrong_prices(task: PricedTask) -> int:
    """Configs whose cached price is not that of their network."""
    wrong, rng = 0, Random(1)
    for method, space in task.spaces.items():
        for _ in range(50):
            config = space.draw(rng)
            try:
                cached = task.bounds(method, config)
            except Refusal:
                continue
            wrong += cached != task.exact_bounds(method, config)
    return wrong
