"""What a trial takes of a search's budget: of its number of trials, and of its training MACs."""

from __future__ import annotations

from typing import NamedTuple

from routesearch.search.evidence import Evidence
from routesearch.study.search_settings import SearchConfig


class BudgetShare(NamedTuple):
    """The part of the budget that a trial takes: for being one, and for each of its training MACs."""

    trial: float
    mac: float

    def __call__(self, macs: float) -> float:
        """The part that a trial of so many training MACs takes."""
        return self.trial + self.mac * macs


class Effort:
    """Reckons what trials take of a budget.

    Without a limit on training MACs the budget is what so many trials would take if methods had them in equal
    parts: a search that turns to cheap trials does not shrink it.
    """

    def __init__(self, limits: SearchConfig, evidence: Evidence) -> None:
        self._limits = limits
        self._evidence = evidence

    @property
    def share(self) -> BudgetShare:
        """The part that a trial takes, as far as it is known now."""
        whole = self._limits.training_macs
        if whole is None:
            means = [each.mean_macs for each in self._evidence.summaries.values() if each.macs]
            whole = self._limits.trials * sum(means) / max(1, len(means))
        return BudgetShare(1 / self._limits.trials, 1 / whole if whole else 0.0)
