"""Thresholds whose loss of accuracy against the whole network is controlled: Learn then Test.

Angelopoulos, Bates, Candes, Jordan and Lei (2021, arXiv:2110.01052): each setting is a hypothesis, "it loses
more than allowed", with a p-value from images that chose nothing. Testing them in an order that is fixed in
advance, up to the first that is not rejected, needs no correction for their number (fixed-sequence testing).
The order here is along the curve, from the most accurate on validation to the cheapest.

scipy takes long to import, so it is imported where a probability is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

RATES = 12
"""Rates of disagreement at which the worst case of a p-value is looked for."""

SETS_ASIDE = 0.1
"""Share of the error allowed that is spent on bounding the rate of disagreement (Berger and Boos 1994)."""

FINE = 1e-4
"""How finely the smallest drop is found."""


@dataclass(frozen=True, slots=True)
class Losses:
    """A setting beside the whole network, on images that chose neither.

    Attributes:
        lost: images that only the whole network labels right.
        gained: images that only this setting does.
        images: all that were looked at.
    """

    lost: int
    gained: int
    images: int


@lru_cache(maxsize=65536)
def p_value(losses: Losses, drop: float, confidence: float) -> float:
    """How likely so good a result is at most, if the setting really loses more accuracy than ``drop``.

    lost - gained is a sum of outcomes 1, -1 and 0, which depends on a second unknown beside the drop: how
    often the two disagree. Its exact distribution is taken at the worst rate of disagreement that is not
    excluded at a level of its own, and that level is added (Berger and Boos 1994): valid for any number of
    images.

    Args:
        drop: share of accuracy, above 0.
        confidence: that is asked for; it sets that level.
    """
    from scipy.special import bdtr, betaincinv, gammaln, xlog1py, xlogy

    level = SETS_ASIDE * (1 - confidence)
    n, apart = losses.images, losses.lost + losses.gained
    most = 1.0 if apart == n else float(betaincinv(apart + 1, n - apart, 1 - level))
    if most < drop:  # they cannot even disagree so often
        return level
    worst = 0.0
    for rate in np.linspace(drop, most, RATES):
        spread = 12 * (n * rate * (1 - rate)) ** 0.5 + 12
        d = np.arange(max(0, int(n * rate - spread)), min(n, int(n * rate + spread)) + 1)
        choose = gammaln(n + 1) - gammaln(d + 1) - gammaln(n - d + 1)
        chance = np.exp(choose + xlogy(d, rate) + xlog1py(n - d, -rate))
        share = (1 + min(1.0, drop / rate)) / 2  # of the disagreements, those that are lost
        k = np.floor((losses.lost - losses.gained + d) / 2)
        below = np.where(k < 0, 0.0, bdtr(np.clip(k, 0, d), d, share))
        worst = max(worst, float(chance @ np.where(k >= d, 1.0, below)))
    return min(1.0, worst + level)


def is_controlled(losses: Losses, drop: float, confidence: float) -> bool:
    """Whether a loss of more than ``drop`` is excluded at this confidence."""
    return p_value(losses, drop, confidence) <= 1 - confidence


def last_controlled(sequence: Sequence[Losses], drop: float, confidence: float) -> int | None:
    """Place of the last setting before the first whose loss is not controlled; None where that is the first.

    Args:
        sequence: settings in an order that these images had no part in.
    """
    found = None
    for place, losses in enumerate(sequence):
        if not is_controlled(losses, drop, confidence):
            break
        found = place
    return found


def smallest_drop(losses: Losses, confidence: float) -> float:
    """The smallest drop that :func:`is_controlled`, rounded up to ``FINE``; 1 where there is none."""
    low, high = 0, round(1 / FINE)
    while high - low > 1:
        middle = (low + high) // 2
        if is_controlled(losses, middle * FINE, confidence):
            high = middle
        else:
            low = middle
    return high * FINE
