"""What a trial takes of a search's budget: of its number of trials, and of its training MACs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from optuna.trial import TrialState

from routesearch.search.evidence import Evidence, Shown
from routesearch.study.search_settings import SearchConfig


class Price(NamedTuple):
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
    def price(self) -> Price:
        """As far as is known now."""
        whole = self._limits.training_macs
        if whole is None:
            means = [mean for each in self._evidence.ended.values() if (mean := mean_macs(each))]
            whole = self._limits.trials * sum(means) / max(1, len(means))
        return Price(1 / self._limits.trials, 1 / whole if whole else 0.0)


def begun(shown: Sequence[Shown]) -> list[Shown]:
    """Trials of this study that were begun: refused ones were not."""
    return [one for one in shown if one.own and one.observation.state is not TrialState.PRUNED]


def mean_macs(shown: Sequence[Shown]) -> float:
    """Training MACs of a trial in the mean; 0 where there is none."""
    tried = begun(shown)
    return sum(one.macs for one in tried) / max(1, len(tried))
