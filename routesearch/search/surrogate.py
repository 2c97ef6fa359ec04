"""Gaussian processes over encoded configs: from vectors to several outputs, with one kernel.

C. E. Rasmussen, C. K. I. Williams: Gaussian Processes for Machine Learning, 2006, algorithm 2.1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from scipy.linalg import cho_factor, cho_solve, solve_triangular

Vector = npt.NDArray[np.float64]

ABSENT = -0.5
"""Where a parameter lies that a config does not have; others lie in [0, 1]."""
LENGTHS = (0.15, 0.3, 0.6, 1.2, 2.4, 5.0)
"""Length scales that are tried for each feature."""
NOISES = (1e-4, 1e-3, 1e-2, 0.05, 0.2)
"""Noise variances that are tried, as shares of the outputs' variance."""
MAX_FITTED = 96
"""Trials by which length scales are chosen, at most."""


class Features:
    """Configs as vectors: numbers by their share of the range, a choice by a feature for each of its values.

    Args:
        distributions: of all parameters that configs may have.
    """

    def __init__(self, distributions: Mapping[str, BaseDistribution]) -> None:
        self._distributions = dict(sorted(distributions.items()))

    def __call__(self, params: Sequence[Mapping[str, Any]]) -> Vector:
        """N configs, as a sampler has them, to N x features."""
        return np.array([self._one(each) for each in params], dtype=np.float64).reshape(len(params), -1)

    def _one(self, params: Mapping[str, Any]) -> list[float]:
        found: list[float] = []
        for name, distribution in self._distributions.items():
            if isinstance(distribution, CategoricalDistribution):
                found += [float(name in params and params[name] == choice) for choice in distribution.choices]
            else:
                found.append(share_of(params[name], distribution) if name in params else ABSENT)
        return found


def share_of(value: float, distribution: BaseDistribution) -> float:
    """Where a number lies in its range, from 0 to 1, on the range's scale."""
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    low, high = float(distribution.low), float(distribution.high)
    if distribution.log:
        value, low, high = math.log(value), math.log(low), math.log(high)
    return (value - low) / (high - low) if high > low else 0.5


class GaussianProcesses:
    """Several outputs over the same inputs, with one Matern 5/2 kernel.

    Args:
        x, y: N x features, and N x outputs.
        spread: standard deviation of the outputs, where they do not show a larger one.
        scales: length scales of the features, and the variance of the noise (:func:`fit_hyperparameters`).
    """

    def __init__(self, x: Vector, y: Vector, spread: float, scales: tuple[Vector, float]) -> None:
        self._x = x
        self._mean, self._scale, z = _standardised(y, spread)
        self.lengths, self.noise = scales
        k = _kernel(x, x, self.lengths) + self.noise * np.eye(len(x))
        self._factor = cho_factor(k + 1e-8 * np.eye(len(x)), lower=True)
        self._weights = cho_solve(self._factor, z)

    def predict(self, x: Vector) -> tuple[Vector, Vector]:
        """M x features to means and standard deviations without noise, both M x outputs."""
        k = _kernel(x, self._x, self.lengths)
        mean = k @ self._weights * self._scale + self._mean
        v = solve_triangular(self._factor[0], k.T, lower=True)
        deviation = np.sqrt(np.clip(1.0 - (v * v).sum(0), 1e-9, None))
        return mean, deviation[:, None] * self._scale


def _kernel(a: Vector, b: Vector, lengths: Vector) -> Vector:
    p, q = a / lengths, b / lengths
    squares = (p * p).sum(1)[:, None] + (q * q).sum(1)[None] - 2 * p @ q.T
    r = np.sqrt(5.0 * np.maximum(squares, 0.0))
    return np.asarray((1.0 + r + r * r / 3.0) * np.exp(-r))


def _standardised(y: Vector, spread: float) -> tuple[Vector, Vector, Vector]:
    """Means and deviations of outputs, and the outputs without them."""
    mean, scale = y.mean(0), np.maximum(y.std(0), spread)
    return mean, scale, (y - mean) / scale


def fit_hyperparameters(x: Vector, y: Vector, spread: float) -> tuple[Vector, float]:
    """Length scales and noise of the largest marginal likelihood, searched one feature after the other.

    Args:
        x, y, spread: as :class:`GaussianProcesses` takes them.
    """
    z = _standardised(y, spread)[2]
    if len(x) > MAX_FITTED:
        some = np.random.default_rng(0).permutation(len(x))[:MAX_FITTED]
        x, z = x[some], z[some]
    # The outputs are much alike: a few directions hold what there is to explain.
    _, strength, directions = np.linalg.svd(z, full_matrices=False)
    main = z @ directions[: 1 + int((strength[1:3] > 0.3 * strength[:1]).sum())].T
    lengths, noise = np.full(x.shape[1], 1.2), 1e-2
    varying = [i for i in range(x.shape[1]) if np.ptp(x[:, i]) > 0]

    def likelihood(tried: Vector, variance: float) -> float:
        """The logarithm, but for what is the same for all."""
        k = _kernel(x, x, tried) + (variance + 1e-8) * np.eye(len(x))
        factor = np.linalg.cholesky(k)
        a = solve_triangular(factor, main, lower=True)
        # a weak preference for long scales: with few trials every feature would seem to matter
        prior = 0.5 * float(np.square(np.log(tried[varying] / 1.2)).sum())
        fit, volume = float((a * a).sum()), float(np.log(np.diag(factor)).sum())
        return float(-0.5 * fit - main.shape[1] * volume - prior)

    best = likelihood(lengths, noise)
    for _ in range(2):
        for i in varying:
            for length in LENGTHS:
                tried = lengths.copy()
                tried[i] = length
                if (found := likelihood(tried, noise)) > best:
                    best, lengths = found, tried
        for variance in NOISES:
            if (found := likelihood(lengths, variance)) > best:
                best, noise = found, variance
    return lengths, noise
