"""A quasi-random design: configs that fill a space evenly, whatever fields they have."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from scipy.stats.qmc import Sobol

PARAMETERS = 64
"""Parameters of a config that are spread evenly; of further ones two share a dimension."""

_BLOCK = 256
"""Configs that are computed at once."""


class Design:
    """A scrambled Sobol sequence: each parameter has a dimension of its own.

    Args:
        seed: of the scrambling.
        names: of the parameters, in the order of their dimensions; others get one when they are met first.
    """

    def __init__(self, seed: int, names: Iterable[str] = ()) -> None:
        self._sequence = Sobol(PARAMETERS, rng=seed)
        self._shares = np.empty((0, PARAMETERS))
        self._dimensions = {name: i for i, name in enumerate(names)}

    def suggest(self, index: int, name: str, distribution: BaseDistribution) -> Any:
        """The value of a parameter in one config of the sequence.

        Args:
            index: of the config, from 0.
        """
        while index >= len(self._shares):
            self._shares = np.concatenate([self._shares, self._sequence.random(_BLOCK)])
        dimension = self._dimensions.setdefault(name, len(self._dimensions)) % PARAMETERS
        return value_at(float(self._shares[index, dimension]), distribution)


def value_at(share: float, distribution: BaseDistribution) -> Any:
    """The value that lies at a share of a distribution, from 0 to below 1."""
    match distribution:
        case CategoricalDistribution(choices=choices):
            return choices[int(share * len(choices))]
        case IntDistribution(low=low, high=high, step=step, log=False):
            return low + step * int(share * ((high - low) // step + 1))
        case IntDistribution(low=low, high=high, log=True):
            ends = math.log(low - 0.5), math.log(high + 0.5)
            return min(max(round(math.exp(ends[0] + share * (ends[1] - ends[0]))), low), high)
        case FloatDistribution(low=low, high=high, step=step, log=log):
            if log:
                value = math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
            elif step is None:
                value = low + share * (high - low)
            else:
                value = low + step * int(share * (round((high - low) / step) + 1))
            return min(max(value, low), high)  # exp(log(x)) is not quite x, nor is 3 * 0.1 quite 0.3
    raise TypeError(f"a distribution must be Optuna's float, int or categorical, got {distribution!r}")
