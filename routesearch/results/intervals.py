"""How sure an accuracy is: intervals over seeds and images, and differences of two networks. No torch.

scipy takes long to import, so it is imported where a quantile is computed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from routesearch.errors import Refusal

CONFIDENCE = 0.95
"""Confidence of intervals that are shown."""

DRAWS = 2000
"""Draws of a bootstrap."""

Right = npt.NDArray[np.bool_]
"""Seeds x images: which images a network of each seed labels right."""


@dataclass(frozen=True, slots=True)
class Confirmation:
    """What a point's retrainings gave on one split.

    Attributes:
        accuracies, macs: one for each seed, at its own re-tuned knob.
        images: of the split.
    """

    accuracies: tuple[float, ...]
    macs: tuple[float, ...]
    images: int

    @property
    def seeds(self) -> int:
        return len(self.accuracies)

    @property
    def mean(self) -> float:
        return float(np.mean(self.accuracies))

    @property
    def macs_mean(self) -> float:
        return float(np.mean(self.macs))

    @property
    def std(self) -> float:
        """Standard deviation of a training, estimated from its seeds (one degree of freedom less)."""
        return float(np.std(self.accuracies, ddof=1))

    def interval(self, confidence: float = CONFIDENCE) -> tuple[float, float]:
        """The interval of the accuracy: :func:`mean_interval`."""
        return mean_interval(self.accuracies, self.images, confidence)

    def as_dict(self) -> dict[str, Any]:
        """What a point in ``--json`` has more where it was confirmed."""
        return {
            "accuracy_mean": self.mean,
            "accuracy_std": self.std,
            "interval": list(self.interval()),
            "macs_mean": self.macs_mean,
            "seeds": self.seeds,
        }


def mean_interval(
    accuracies: Sequence[float], images: int, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Interval of the accuracy that another training has on other images of the same kind, in the mean.

    Two things vary: the training (its variance is estimated from the seeds) and the images, which all
    seeds share, so that no number of seeds averages them out (Agresti and Coull's binomial variance, 1998).
    Each gives a half-width, Student's t with seeds - 1 degrees of freedom for the one and the normal
    quantile for the other; their squares are added, as Graybill and Wang (1980) do for sums of variances.
    One t for the sum at Satterthwaite's degrees of freedom is narrower, and covers too seldom with few seeds.

    Args:
        accuracies: one a seed, two or more, all on the same images.
        images: how many those are.
    """
    if len(accuracies) < 2:
        raise ValueError(f"two seeds or more must be given, got {len(accuracies)}")
    check_confidence(confidence)
    from scipy.special import stdtrit

    seeds, mean = len(accuracies), float(np.mean(accuracies))
    training = float(np.var(accuracies, ddof=1)) / seeds
    sampling = _binomial_variance(mean, images)
    t, z = float(stdtrit(seeds - 1, (1 + confidence) / 2)), NormalDist().inv_cdf((1 + confidence) / 2)
    half = math.sqrt(t * t * training + z * z * sampling)
    return max(0.0, mean - half), min(1.0, mean + half)


def binomial_lower(accuracy: float, images: int, confidence: float = CONFIDENCE) -> float:
    """Lower end of Wilson's interval (1927) of one network's accuracy on ``images`` images."""
    check_confidence(confidence)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    centre = accuracy + z * z / (2 * images)
    spread = z * math.sqrt(accuracy * (1 - accuracy) / images + (z / (2 * images)) ** 2)
    return max(0.0, (centre - spread) / (1 + z * z / images))


def paired_difference(
    first: Right, second: Right, confidence: float = CONFIDENCE, seed: int = 0
) -> tuple[float, float, float]:
    """How much more accurate one network is than another, and the interval of that: a paired bootstrap.

    Images are drawn anew, the same ones for both (Efron and Tibshirani 1993), and so are the
    seeds of each, whose trainings have nothing in common. The mean of S seeds that are drawn anew varies by
    (S - 1) / S too little, and few seeds do not know their own spread: that part is put back, and widened
    by Student's t, so that three seeds are not taken for many.

    Args:
        first, second: seeds x images, for the same images in the same order.

    Returns:
        The difference of the mean accuracies, and the lower and the upper end of its interval.
    """
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"both must be of the same images, got {first.shape[1]} and {second.shape[1]}")
    check_confidence(confidence)
    rng = np.random.default_rng(seed)
    images = first.shape[1]
    # Images with the same outcomes everywhere are alike: how often each kind is drawn says all.
    kinds, counts = np.unique(np.concatenate([first, second]), axis=1, return_counts=True)
    shares = rng.multinomial(images, counts / images, size=DRAWS) / images
    sides = (shares @ kinds[: len(first)].T, shares @ kinds[len(first) :].T)
    draws = np.subtract(*(_drawn(side, confidence, rng) for side in sides))
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return float(first.mean() - second.mean()), float(low), float(high)


def _drawn(
    accuracies: npt.NDArray[np.float64], confidence: float, rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Mean accuracy of seeds drawn anew, for each row of draws x seeds."""
    from scipy.special import stdtrit

    mean, seeds = accuracies.mean(1), accuracies.shape[1]
    if seeds == 1:
        return np.asarray(mean)
    tail = (1 + confidence) / 2
    wider = float(stdtrit(seeds - 1, tail)) / NormalDist().inv_cdf(tail)
    again = np.take_along_axis(accuracies, rng.integers(seeds, size=accuracies.shape), 1).mean(1)
    return np.asarray(mean + (again - mean) * wider * math.sqrt(seeds / (seeds - 1)))


def _binomial_variance(share: float, images: int) -> float:
    """Variance of a share of ``images``.

    Two right and two wrong ones are added, so that 0 and 1 are not certain.
    """
    held = (share * images + 2) / (images + 4)
    return held * (1 - held) / (images + 4)


def check_confidence(confidence: float) -> None:
    """Refuse what is no confidence that an interval can have."""
    if not 0.5 <= confidence < 1:
        raise Refusal(f"confidence must be from 0.5 to below 1, got {confidence}")
