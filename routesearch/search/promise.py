"""What a config promises: expected hypervolume improvement, and the part of the budget that it takes.

The surrogate and the acquisition function of the default search. Prices are known before training,
accuracies are not: a curve is described by its accuracies at fixed places between a network's cheapest and
its most expensive route, and these are learnt from the config and the two prices.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from optuna.distributions import BaseDistribution

from routesearch.results.curves import Curve, accuracy_at, merged
from routesearch.results.points import Interval
from routesearch.search.effort import Effort
from routesearch.search.evidence import EndedTrial
from routesearch.search.surrogate import Features, GaussianProcesses, Vector, fit_hyperparameters

PLACES = 16
"""Places between the cheapest and the most expensive route at which a curve is described."""
BINS = 256
"""Costs up to the budget at which a gain is added up."""
QUANTILES = (-1.645, -1.036, -0.674, -0.385, -0.126, 0.126, 0.385, 0.674, 1.036, 1.645)
"""Standard deviations at which a curve may lie, all as likely."""
LEAST_SHARE = 1e-9
"""The smallest price of a route, as a share of the backbone's MACs: logarithms need one above 0."""
LEAST_SPREAD = 0.1
"""Standard deviation of accuracies before there is evidence of another."""


class Priced(NamedTuple):
    """A config, as a sampler has it, and the MACs of its cheapest and its most expensive route."""

    params: Mapping[str, Any]
    bounds: Interval


class Promise:
    """What configs of one method promise, by what its trials have shown.

    Args:
        distributions: of all parameters that configs of the method may have.
        backbone_macs: prices are shares of it.
        edge: share of the backbone's MACs up to which accuracy counts.
        effort: what trials take of the budget.
    """

    def __init__(
        self,
        distributions: Mapping[str, BaseDistribution],
        backbone_macs: float,
        edge: float,
        effort: Effort,
    ) -> None:
        self._features = Features(distributions)
        self._macs = backbone_macs
        self._edge = edge
        self._effort = effort
        self._costs = (np.arange(BINS) + 0.5) / BINS * edge
        self._chosen: dict[str, tuple[tuple[int, ...], tuple[Vector, float]]] = {}
        self._rows: dict[tuple[int, int], tuple[EndedTrial, Vector]] = {}  # curves as they are described

    def learn(self, shown: Sequence[EndedTrial], priced: Sequence[Priced]) -> None:
        """Take in all that is known.

        Args:
            shown: trials with a curve, whose configs lie in the space and whose prices are known; not none.
            priced: further configs whose prices are known.
        """
        used = [(one, one.params, one.bounds) for one in shown if one.params is not None and one.bounds]
        all_priced = [*priced, *(Priced(params, bounds) for _, params, bounds in used)]
        features = self._features([each.params for each in all_priced])
        logs = self._logs(each.bounds for each in all_priced)
        self._prices = self._fit("prices", [*priced, *(one for one, *_ in used)], features, logs, 1.0)
        ones, ends = [one for one, *_ in used], [(one, bounds) for one, _, bounds in used]
        x = np.concatenate([features, logs], 1)[len(priced) :]
        self._curves = self._fit(
            "curves", ones, x, self._ends(ends), LEAST_SPREAD, lambda count: self._ends(ends[:count])
        )
        # a gain is that of a whole training, and so is what it costs
        whole = [i for i, one in enumerate(ones) if one.whole] or [*range(len(ones))]
        efforts = np.array([[math.log(max(1, ones[i].macs) / ends[i][1].max)] for i in whole])
        self._efforts = self._fit("efforts", [ones[i] for i in whole], x[whole], efforts, 0.5)

    def of(
        self, params: Sequence[Mapping[str, Any]], front: Curve, exact: Sequence[Interval] | None = None
    ) -> tuple[Vector, Vector]:
        """Expected gain of configs in hypervolume, and the part of the budget that each would take.

        Args:
            front: of all that is known.
            exact: prices; None: they are predicted.
        """
        x = self._features(params)
        logs = self._prices.predict(x)[0] if exact is None else self._logs(exact)
        low, high = np.exp(logs[:, 0]), np.exp(np.maximum(logs[:, 1], logs[:, 0]))
        inputs = np.concatenate([x, logs], 1)
        mean, deviation = self._curves.predict(inputs)
        steps = (self._costs[None] - low[:, None]) / np.maximum(high - low, 1e-9)[:, None]
        places = np.clip((steps * (PLACES - 1)).astype(int), 0, PLACES - 1)
        affordable = self._costs[None] >= low[:, None]
        there = accuracy_at(front, self._costs)[None]
        gain = np.zeros(len(x))
        for quantile in QUANTILES:
            curve = np.maximum.accumulate(np.clip(mean + quantile * deviation, 0.0, 1.0), 1)
            reached = np.take_along_axis(curve, places, 1)
            gain += np.where(affordable, np.maximum(0.0, reached - there), 0.0).mean(1)
        macs, share = np.exp(self._efforts.predict(inputs)[0][:, 0]) * high * self._macs, self._effort.share
        return gain * self._edge / len(QUANTILES), share.trial + share.mac * macs

    def expected(self, configs: Sequence[Priced]) -> Curve:
        """The front that configs are expected to have together: it stands for trials that are under way."""
        x = self._features([each.params for each in configs])
        logs = self._logs(each.bounds for each in configs)
        mean, _ = self._curves.predict(np.concatenate([x, logs], 1))
        low, high = np.exp(logs[:, 0]), np.exp(np.maximum(logs[:, 1], logs[:, 0]))
        prices = low[:, None] + (high - low)[:, None] * np.linspace(0, 1, PLACES)
        return merged([np.column_stack((np.clip(mean, 0.0, 1.0).ravel(), prices.ravel()))])

    def _logs(self, bounds: Iterable[Interval]) -> Vector:
        shares = [(interval.min / self._macs, interval.max / self._macs) for interval in bounds]
        return np.log(np.maximum(np.array(shares, dtype=np.float64).reshape(-1, 2), LEAST_SHARE))

    def _ends(self, used: Sequence[tuple[EndedTrial, Interval]]) -> Vector:
        """Trials x places: accuracies at the end of training, of stopped trials as they are expected there.

        From the rung where it stopped, a trial is expected to keep the share of its errors that trials kept
        which were trained to their end: told as it was, it would stand for a config that is worse than it is.
        """
        shares: dict[int, Vector] = {}

        def errors_kept(rung: int) -> Vector:
            if rung not in shares:
                whole = [each for each in used if each[0].whole and len(each[0].measured) > rung + 1]
                before = np.array([self._described(*each, rung) for each in whole]).reshape(-1, PLACES)
                after = np.array([self._described(*each) for each in whole]).reshape(-1, PLACES)
                errors = np.where(before > 0, 1 - before, 0.0).sum(0)
                left = np.where(before > 0, 1 - after, 0.0).sum(0)
                shares[rung] = np.divide(left, errors, out=np.ones(PLACES), where=errors > 0).clip(max=1.0)
            return shares[rung]

        rows = []
        for one, bounds in used:
            row = self._described(one, bounds)
            if not one.whole:
                row = np.where(row > 0, 1 - (1 - row) * errors_kept(len(one.measured) - 1), 0.0)
            rows.append(row)
        return np.array(rows)

    def _described(self, one: EndedTrial, bounds: Interval, step: int = -1) -> Vector:
        """A trial's accuracies at the places, as they were at one of its steps."""
        key = id(one), step
        if key not in self._rows:
            prices = np.linspace(bounds.min, bounds.max, PLACES) / self._macs
            self._rows[key] = one, accuracy_at(one.measured[step].curve, prices * (1 + 1e-9))
        return self._rows[key][1]

    def _fit(
        self,
        name: str,
        shown: Sequence[object],
        x: Vector,
        y: Vector,
        spread: float,
        first: Callable[[int], Vector] | None = None,
    ) -> GaussianProcesses:
        """Processes for some outputs; lengths are chosen by the first of the trials, and so not at every one.

        By a power of 1.2 of them: what is chosen follows from these trials, not from when it was asked for.

        Args:
            first: the outputs of so many of the first trials as these alone give them; None: as in ``y``.
        """
        count = int(1.2 ** math.floor(math.log(len(shown) + 1e-9, 1.2)))
        key = tuple(id(one) for one in shown[:count])
        if name not in self._chosen or self._chosen[name][0] != key:
            known = y[:count] if first is None else first(count)
            self._chosen[name] = key, fit_hyperparameters(x[:count], known, spread)
        return GaussianProcesses(x, y, spread, self._chosen[name][1])
