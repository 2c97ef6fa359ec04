"""What a search with many workers costs: where busy time is lost, and what a front costs in training MACs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from comparison.arms import Bench
from comparison.ledger import Ledger, reached
from comparison.replay import Replay

LEVELS = (0.97, 0.99)
"""Shares of the single worker's final hypervolume whose price is printed."""


def scaling(bench: Bench, workers: Sequence[int], minutes: float, rounds: int, fewest: int) -> Iterator[str]:
    """A line for each number of workers; asks and reports take the driver the time that was measured.

    Args:
        minutes: of the shortest whole training; the dearest takes three times as long.
        rounds: trials for each worker.
        fewest: trials at least.
    """
    yield (
        f"{bench.problem.name}: whole trainings of {minutes:g} to {3 * minutes:g} simulated minutes, "
        f"{rounds} for each worker and {fewest} at least; the driver's measured time passes"
    )
    yield (
        "workers trials | busy | ask ms: median, 95 %, last tenth | report ms: median, 95 % | "
        "hypervolume | training T | T to 97 %, 99 % of one worker's | simulated hours | driver s"
    )
    goal = None
    for count in workers:
        trials = max(fewest, rounds * count)
        dearest = max(line["rungs"][-1]["macs"] for line in bench.table.lines if line["rungs"])
        replay = Replay(
            bench.task,
            bench.table,
            count,
            length=partial(_seconds, minutes, dearest),
            driver_time=True,
            max_trials=trials,
        )
        ledger = Ledger(bench.task, 1e30)
        load = replay.run(ledger, 0)
        goal = goal or ledger.hypervolume
        asks, reports = 1000 * np.array(load.asks), 1000 * np.array(load.reports)
        prices = ", ".join(f"{reached(ledger.history, level * goal) / 1e12:.2f}" for level in LEVELS)
        late = asks[-max(1, len(asks) // 10) :]
        yield (
            f"{count:>7} {ledger.trainings:>6} | {load.busy_share(count):>4.0%} | "
            f"{np.median(asks):.1f}, {np.quantile(asks, 0.95):.1f}, {np.median(late):.1f} | "
            f"{np.median(reports):.1f}, {np.quantile(reports, 0.95):.1f} | {ledger.hypervolume:.4f} | "
            f"{ledger.spent / 1e12:.2f} | {prices} | {load.handed_out / 3600:.1f} | "
            f"{(asks.sum() + reports.sum()) / 1000:.0f}"
        )


def _seconds(minutes: float, dearest: float, macs: float) -> float:
    """Of a whole training."""
    return 60 * minutes * (1 + 2 * min(1.0, macs / dearest))
