"""The searches that are compared, by name: ours, the peers, and ours with one part switched off."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna import samplers

from comparison.ledger import Search
from comparison.peers import MultiObjectiveAsha, OptunaSearch
from comparison.pricing import PricedTask, Prices, priced_task
from comparison.problems import Problem
from comparison.replay import Replay
from comparison.switched_off import EqualShares, NoDesign, NoSharedTrunk, NoSweeps, Parts, TakenAtTheirWord
from comparison.table import Table, read_lines

OURS = "routesearch"
PLAIN = "Optuna TPE"
SHARED_TPE = "TPE, our trunk and sweeps"
ABLATIONS: Mapping[str, tuple[Mapping[str, Any], Callable[[Table], Parts] | None]] = {
    "no early stopping": ({"search.stop": False}, None),
    "random sampler": ({"search.sampler": "random"}, None),
    "sampler told one point": ({"search.sampler": "tpe"}, None),
    "equal trials a method": ({}, lambda table: EqualShares()),
    "promises taken at their word": ({}, lambda table: TakenAtTheirWord()),
    "no design": ({}, lambda table: NoDesign()),
    "no sweeps": ({}, lambda table: NoSweeps()),
    "no shared trunk": ({}, NoSharedTrunk),
}
"""What switches one part of ours off: settings, or a change to the search."""


@dataclass
class Bench:
    """A problem with its table and its prices.

    Args:
        lines: the recorded trainings; None: those in the repository.
        cache: a folder for prices; None: they are computed anew.
        workers: of our search.
        nearest: answer with the nearest recorded training as it is.
    """

    problem: Problem
    lines: Path | None = None
    cache: Path | None = None
    workers: int = 1
    nearest: bool = False

    def __post_init__(self) -> None:
        self.task = self._task({})
        self.table = Table(read_lines(self.lines or self.problem.table), self.task, self.nearest)

    def _task(self, settings: Mapping[str, Any], prices: Prices | None = None) -> PricedTask:
        return priced_task(self.problem, prices, self.cache, settings)

    def ours(self, settings: Mapping[str, Any], parts: Parts | None = None) -> Replay:
        """Our search with some settings."""
        task = self._task(settings, self.task.prices)
        return Replay(task, self.table, self.workers, parts=parts or Parts())

    def peer(self, make: Callable[[int], samplers.BaseSampler], **how: Any) -> OptunaSearch:
        return OptunaSearch(self.task, self.table, make, **how)

    def arms(self, plain_trials: int, syne_tune: Path | None) -> dict[str, Search]:
        """All searches, ours first."""
        plain = {"shared": False, "max_trials": plain_trials}
        peers: dict[str, Search] = {
            PLAIN: self.peer(tpe, **plain),
            "Optuna NSGA-II": self.peer(nsga2, flat=True, **plain),
            "Optuna GP": self.peer(gp, flat=True, **plain),
            SHARED_TPE: self.peer(tpe),
            "random, our trunk and sweeps": self.peer(lambda seed: samplers.RandomSampler(seed=seed)),
        }
        if syne_tune is not None:
            peers["MO-ASHA, our trunk and sweeps"] = MultiObjectiveAsha(self.task, self.table, syne_tune)
        own = {
            f"ours, {name}": self.ours(settings, make and make(self.table))
            for name, (settings, make) in ABLATIONS.items()
        }
        return {OURS: self.ours({}), **peers, **own}


def tpe(seed: int) -> samplers.BaseSampler:
    """Optuna's default for one objective, with what its authors advise for conditional spaces."""
    return samplers.TPESampler(seed=seed, multivariate=True, group=True)


def nsga2(seed: int) -> samplers.BaseSampler:
    """Optuna's default for two objectives; its population of 50 would never be filled."""
    return samplers.NSGAIISampler(population_size=20, seed=seed)


def gp(seed: int) -> samplers.BaseSampler:
    return samplers.GPSampler(
        seed=seed,
        independent_sampler=samplers.RandomSampler(seed=seed),
        warn_independent_sampling=False,
    )
