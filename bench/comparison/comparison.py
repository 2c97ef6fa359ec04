"""The comparison itself: every search on a problem with several seeds, and what their histories say."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from comparison.arms import OURS, PLAIN, SHARED_TPE, Bench
from comparison.ledger import Ledger, Search
from comparison.statistics import History, difference_at, median_at, share_to_reach

SHARES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0)
"""Shares of the training MACs at which searches are compared."""
FROM = 0.2
"""From here on ours must not be below a peer."""
PLAIN_TRIALS = 60
"""Trainings of Optuna as it comes, which has all the MACs that it wants for them."""
UNLIMITED = 1e30

Histories = dict[str, list[History]]


def run(
    bench: Bench,
    arms: Mapping[str, Search],
    seeds: int,
    limit: float,
    kept: Path | None = None,
    again: Collection[str] = (),
) -> Histories:
    """Run every search with every seed.

    Args:
        limit: training MACs of each, but for Optuna as it comes, which ends by its trials.
        kept: a file of histories that are known, which grows.
        again: searches whose known histories are dropped.
    """
    known: dict[str, Any] = json.loads(kept.read_text()) if kept is not None and kept.exists() else {}
    known = {name: found for name, found in known.items() if name not in again}
    for name, search in arms.items():
        found = known.setdefault(name, [])
        started = time.perf_counter()
        fresh = range(len(found), seeds)
        for seed in fresh:
            ledger = Ledger(bench.task, UNLIMITED if name.startswith("Optuna") else limit)
            search(ledger, seed)
            found.append(ledger.history)
        if fresh and kept is not None:
            kept.write_text(json.dumps(known))
            print(f"# {name}: {(time.perf_counter() - started) / len(fresh):.1f} s a search", flush=True)
    return {name: known[name][:seeds] for name in arms}


def report(histories: Histories, limit: float) -> Iterator[str]:
    """The table of anytime hypervolume, the ratios, and where a peer is ahead."""
    grid = [share * limit for share in SHARES]
    seeds = len(histories[OURS])
    yield f"feasible hypervolume, median of {seeds} seeds, at shares of {limit / 1e12:.2f} T training MACs"
    yield f"{'':<30} " + " ".join(f"{share:>6.0%}" for share in SHARES) + "   at the end [95 %]"
    for name, found in histories.items():
        row = median_at(found, grid)
        spent = sorted(h[-1][0] for h in found)[seeds // 2] / 1e12
        end = row[-1].text() if spent < 1.5 * limit / 1e12 else _own_end(found, spent)
        yield f"{name:<30} " + " ".join(f"{e.value:>6.4f}" for e in row) + f"   {end}"
    yield ""
    yield "training MACs until ours has another's final hypervolume, as a share of all that the other spent:"
    for name in histories:
        if name != OURS:
            share = share_to_reach(histories[OURS], histories[name])
            goal = {PLAIN: f"goal 1/15 = {1 / 15:.3f}, interval below 1/8", SHARED_TPE: "goal 0.5, below 1"}
            yield f"  {name:<30} {share.text(3)}  {goal.get(name, '')}"
    yield ""
    yield from _behind(histories, limit)


def _own_end(found: Sequence[History], spent: float) -> str:
    return f"{median_at(found, [UNLIMITED])[0].text()} after {spent:.1f} T"


def _behind(histories: Histories, limit: float) -> Iterator[str]:
    """Peers that ours is below by more than the interval, from :data:`FROM` on."""
    yield f"from {FROM:.0%} on ours is behind, beyond the 95 % interval of the difference of medians:"
    none = True
    for name, found in histories.items():
        if name == OURS or name.startswith("ours"):
            continue
        for share in SHARES:
            gap = difference_at(histories[OURS], found, share * limit)
            if share >= FROM and gap.high < 0:
                none = False
                yield f"  {name} at {share:.0%}: {gap.text()}"
    if none:
        yield "  nowhere"
    yield "each part switched off: difference to ours at 20 %, 40 %, 100 %:"
    for name, found in histories.items():
        if name.startswith("ours"):
            gaps = [difference_at(histories[OURS], found, share * limit) for share in (0.2, 0.4, 1.0)]
            yield f"  {name:<30} " + "  ".join(gap.text() for gap in gaps)


def plot(histories: Histories, limit: float, file: Path) -> None:
    """Hypervolume against training MACs, a line a search."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots()
    grid = [limit * i / 200 for i in range(1, 201)]
    for name, found in histories.items():
        row = median_at(found, grid)
        style = "-" if name == OURS else ":" if name.startswith("ours") else "--"
        (line,) = axes.plot([g / 1e12 for g in grid], [e.value for e in row], style, label=name)
        if not name.startswith("ours"):
            low, high = [e.low for e in row], [e.high for e in row]
            axes.fill_between([g / 1e12 for g in grid], low, high, color=line.get_color(), alpha=0.12)
    axes.set_xlabel("training MACs, trunk included (10^12)")
    axes.set_ylabel("feasible hypervolume (median, 95 %)")
    axes.legend(fontsize=8)
    figure.savefig(file, dpi=150)
