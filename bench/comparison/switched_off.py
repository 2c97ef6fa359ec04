"""Our search with one of its parts taken out, where no setting of a study does that."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, Any

from optuna.distributions import BaseDistribution

from comparison.pricing import PricedTask
from comparison.table import Table
from routesearch.results.budget import representative
from routesearch.results.record import Outcome, TrialRecord
from routesearch.search.allocation import Allocation
from routesearch.space.domains import draw

if TYPE_CHECKING:
    from routesearch.search.trials import Trials


class Parts:
    """Which parts of a search are there; all of them.

    Each method may be overridden to take one out.
    """

    trunk_macs_each: bool = False
    """Whether each trial trains the trunk that it needs."""

    def prepare(self, trials: Trials) -> None:
        """Change a search before it begins."""

    def outcomes(self, record: TrialRecord, task: PricedTask, found: Sequence[Outcome]) -> list[Outcome]:
        """What a trial brings at its rungs and at its end."""
        return list(found)


class EqualShares(Parts):
    """Methods have as many trials as each other."""

    def prepare(self, trials: Trials) -> None:
        trials._allocation = EqualTrials(trials.evidence, trials._allocation._effort)


class EqualTrials(Allocation):
    """The method with the fewest trials."""

    def next(
        self, methods: Sequence[str], best_offer: Callable[[Sequence[str]], tuple[str, float] | None]
    ) -> str:
        evidence = self._evidence
        under_way = [each.method for each in evidence.pending.values()]
        return min(
            methods,
            key=lambda m: under_way.count(m) + sum(len(one.curve) > 0 for one in evidence.ended[m]),
        )


class TakenAtTheirWord(Parts):
    """Methods' offers count in full, whatever came of their earlier ones."""

    def prepare(self, trials: Trials) -> None:
        proposals = trials._proposals

        def worth(method: str) -> float:
            offer = proposals._opened(method).offer
            return -1.0 if offer is None else offer.worth

        proposals._worth = worth  # type: ignore[method-assign]


class NoDesign(Parts):
    """The first configs of a method are drawn at random."""

    def prepare(self, trials: Trials) -> None:
        for method, configs in trials._proposals._configs.items():
            configs.design = RandomDesign(f"{trials.task.config.search.seed} {method}")  # type: ignore[assignment]


class RandomDesign:
    """Draws at random where a design is asked."""

    def __init__(self, seed: str) -> None:
        self._rng = Random(seed)

    def suggest(self, index: int, name: str, distribution: BaseDistribution) -> Any:
        """A random value."""
        return draw(distribution, self._rng)


class NoSweeps(Parts):
    """A trial brings one point: the one that stands for its curve."""

    def outcomes(self, record: TrialRecord, task: PricedTask, found: Sequence[Outcome]) -> list[Outcome]:
        return [
            replace(one, points=(representative(one.points, task.backbone_macs, task.budget),))
            for one in found
        ]


class NoSharedTrunk(Parts):
    """Each trial trains the trunk that it needs."""

    trunk_macs_each = True

    def __init__(self, table: Table) -> None:
        self._table = table

    def outcomes(self, record: TrialRecord, task: PricedTask, found: Sequence[Outcome]) -> list[Outcome]:
        extra = self._table.shared_macs_of(task, record.method, record.config)
        return [replace(one, training_macs=one.training_macs + extra) for one in found]
