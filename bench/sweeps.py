"""Thresholds after training: how many operating points a second, on one core, and in how much memory.

    .venv/bin/python bench/sweeps.py             # 5,000 and 10,000 images, 1 to 4 gates

Goals: 10,000 operating points of a trained trial in under 5 s; the exact curve of one shared threshold for
10,000 images in under 0.1 s; memory under 150 MB. Times are of the processor, so other work on the machine
hardly counts.
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from routesearch.evaluation.measure import _looked_up
from routesearch.methods.base import Knob, RoutedNet, Scores
from routesearch.methods.thresholds import exit_front, first_exit, sequential_curve, shared_curve
from routesearch.routing.pricing import RoutePrices

POINTS = 10_000


class Exits:
    """The part of a method that a look-up asks for."""

    name = "exits"

    def decide(self, scores: Tensor, knob: Knob) -> Tensor:
        return first_exit(scores, knob["thresholds"])


def split(images: int, gates: int) -> tuple[Scores, Tensor]:
    """Gates that are right more often where they are surer, and the later the better."""
    random = torch.Generator().manual_seed(0)
    ease = torch.rand(images, 1, generator=random)
    scores = 3 * ease + 0.8 * torch.randn(images, gates + 1, generator=random)
    chance = torch.sigmoid(3 * scores - torch.linspace(2, -1, gates + 1))
    right = torch.rand(images, gates + 1, generator=random) < chance
    prices = torch.linspace(1e6, 1e7, gates + 1).round().double()
    return Scores(scores[:, :gates].contiguous(), right.long(), prices), torch.ones(images, dtype=torch.int64)


def seconds(work: Callable[[], Any], times: int) -> float:
    found = []
    for _ in range(times):
        started = time.process_time()
        work()
        found.append(time.process_time() - started)
    return sorted(found)[len(found) // 2]


def megabytes(work: Callable[[], Any]) -> float:
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 1e6


def main() -> None:
    torch.set_num_threads(1)
    net = cast(RoutedNet, Exits())
    print("images gates | look-ups/s | shared: points, ms | front: points, s, MB | sequential: points, s")
    for images in (5_000, 10_000):
        for gates in (1, 2, 3, 4):
            scores, labels = split(images, gates)
            random = torch.Generator().manual_seed(1)
            knobs = [{"thresholds": t} for t in (4 * torch.rand(POINTS, gates, generator=random)).tolist()]
            looked = seconds(lambda s=scores, y=labels, k=knobs: _looked_up(net, s, y, RoutePrices(), k), 1)  # type: ignore[misc]
            curves = [
                exit_front(scores, labels),
                shared_curve(scores, labels),
                sequential_curve(scores, labels),
            ]
            shared = seconds(lambda s=scores, y=labels: shared_curve(s, y), 9)  # type: ignore[misc]
            front = seconds(lambda s=scores, y=labels: exit_front(s, y), 3)  # type: ignore[misc]
            sequential = seconds(lambda s=scores, y=labels: sequential_curve(s, y), 1)  # type: ignore[misc]
            memory = megabytes(lambda s=scores, y=labels: exit_front(s, y))  # type: ignore[misc]
            print(
                f"{images:6d} {gates:5d} | {POINTS / looked:10,.0f} "
                f"| {len(curves[1]):6d} {1000 * shared:6.1f} "
                f"| {len(curves[0]):5d} {front:6.2f} {memory:5.0f} | {len(curves[2]):5d} {sequential:5.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
