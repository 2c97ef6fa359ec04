"""What a method's search space can cost."""

from __future__ import annotations

from dataclasses import dataclass

from routesearch.results.points import Interval


@dataclass(frozen=True)
class SpaceCosts:
    """What a method's space can cost, found among field extremes and random draws.

    Attributes:
        share: of the random draws, how many have a route within the budget.
        macs: cheapest and most expensive route found.
        reason: why no config could be priced, where none could.
    """

    share: float
    macs: Interval | None
    reason: str | None = None
