"""The values that one searched field may take, and how they travel to an Optuna sampler and back."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from random import Random
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from routesearch.errors.texts import shown

Suggest = Callable[[str, BaseDistribution], Any]
"""Draws one value: ``suggest(name, distribution)``."""


_ROUNDING = 1e-8
"""How far from a whole number of steps a float may lie: Optuna's own measure."""


class Domain(ABC):
    """The values that one field may take."""

    @abstractmethod
    def suggest(self, name: str, suggest: Suggest) -> Any:
        """Draw a value."""

    @abstractmethod
    def encode(self, name: str, value: Any) -> dict[str, Any]:
        """The parameters that make :meth:`suggest` return ``value``."""

    @abstractmethod
    def violation(self, value: Any) -> str | None:
        """None if ``value`` is allowed, else the constraint that it violates."""

    @abstractmethod
    def extremes(self) -> list[Any]:
        """The ends of the range, or all choices."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What ``routesearch methods`` shows."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """All that decides what is drawn, as JSON: a sampler's history is kept for as long as it stays.

        Not to be reworded: it is part of the names of stored studies.
        """

    @property
    def complete(self) -> bool:
        """Whether the range is known; some wait for a backbone, see :meth:`SearchSpace.refine`."""
        return True

    def narrow(self, low: Any, high: Any) -> Domain:
        """The part between ``low`` and ``high`` (None: as it is).

        Raises:
            ValueError: where there is no order to cut, or for ends outside the range.
        """
        raise ValueError("low and high need a numeric range; use {choices: [...]}")


@dataclass(frozen=True)
class Scalar(Domain):
    """A number or a choice, by an Optuna distribution."""

    distribution: BaseDistribution

    def suggest(self, name: str, suggest: Suggest) -> Any:
        return suggest(name, self.distribution)

    def encode(self, name: str, value: Any) -> dict[str, Any]:
        return {name: value}

    def violation(self, value: Any) -> str | None:
        d = self.distribution
        if isinstance(d, CategoricalDistribution):
            return None if value in d.choices else f"one of {_brief(d.choices)}"
        assert isinstance(d, IntDistribution | FloatDistribution)
        if isinstance(value, bool) or not isinstance(value, int | float) or not d.low <= value <= d.high:
            return f"{d.low} <= value <= {d.high}"
        if d.step is not None:
            steps = (value - d.low) / d.step
            if abs(steps - round(steps)) > _ROUNDING:
                return f"a multiple of {d.step} from {d.low}"
        return None

    def extremes(self) -> list[Any]:
        d = self.distribution
        if isinstance(d, CategoricalDistribution):
            return list(d.choices)
        assert isinstance(d, IntDistribution | FloatDistribution)
        return [d.low, d.high]

    def describe(self) -> dict[str, Any]:
        d = self.distribution
        if isinstance(d, CategoricalDistribution):
            return {"choices": list(d.choices)}
        assert isinstance(d, IntDistribution | FloatDistribution)
        return {"low": d.low, "high": d.high, "log": d.log}

    def identity(self) -> dict[str, Any]:
        d = self.distribution
        if isinstance(d, CategoricalDistribution):
            return {"kind": "categorical", "choices": list(d.choices)}
        assert isinstance(d, IntDistribution | FloatDistribution)
        kind = "int" if isinstance(d, IntDistribution) else "float"
        return {"kind": kind, "low": d.low, "high": d.high, "step": d.step, "log": d.log}

    def narrow(self, low: Any, high: Any) -> Domain:
        d = self.distribution
        if not isinstance(d, IntDistribution | FloatDistribution):
            return super().narrow(low, high)
        for bound in (low, high):
            rule = None if bound is None else self.violation(bound)
            if rule is not None:
                raise ValueError(f"{rule} must hold, got {shown(bound)}")
        low, high = d.low if low is None else low, d.high if high is None else high
        if low > high:
            raise ValueError(f"low <= high must hold, got low={low}, high={high}")
        if isinstance(d, IntDistribution):
            return Scalar(IntDistribution(int(low), int(high), log=d.log, step=d.step))
        return Scalar(FloatDistribution(float(low), float(high), log=d.log, step=d.step))


@dataclass(frozen=True)
class Choices(Domain):
    """A few JSON values; Optuna's storage takes scalars only, so lists travel as JSON text."""

    values: tuple[Any, ...]

    def suggest(self, name: str, suggest: Suggest) -> Any:
        return self._values()[suggest(name, CategoricalDistribution(tuple(self._values())))]

    def encode(self, name: str, value: Any) -> dict[str, Any]:
        return {name: _text(value)}

    def _values(self) -> dict[Any, Any]:
        return {_text(v): v for v in self.values}

    def violation(self, value: Any) -> str | None:
        known = {json.dumps(v) for v in self.values}
        return None if json.dumps(value) in known else f"one of {_brief(self.values)}"

    def extremes(self) -> list[Any]:
        return list(self.values)

    def describe(self) -> dict[str, Any]:
        return {"choices": list(self.values)}

    def identity(self) -> dict[str, Any]:
        return {"kind": "choices", "values": list(self.values)}


@dataclass(frozen=True)
class Cuts(Domain):
    """An increasing list of positions: ``least`` to ``most`` different units out of ``first``..``last``.

    Encoded as a count and that many cuts, each over the same range whatever the count, so that a
    sampler can learn about cuts across counts. A cut on a taken unit moves to the next free one (past
    the end it starts again), so every draw is a valid list.
    """

    last: int = 0
    first: int = 1
    most: int = 3
    least: int = 1

    def suggest(self, name: str, suggest: Suggest) -> tuple[int, ...]:
        size = self.last - self.first + 1
        low, high = min(self.least, size), min(self.most, size)
        count = suggest(f"{name}.count", IntDistribution(low, high)) if low < high else high
        taken: list[int] = []
        for i in range(1, count + 1):
            cut = suggest(f"{name}.cut{i}", IntDistribution(self.first, self.last))
            while cut in taken:
                cut = cut + 1 if cut < self.last else self.first
            taken.append(cut)
        return tuple(sorted(taken))

    def encode(self, name: str, value: Any) -> dict[str, Any]:
        return {f"{name}.count": len(value)} | {f"{name}.cut{i}": cut for i, cut in enumerate(value, 1)}

    def violation(self, value: Any) -> str | None:
        cuts = list(value) if isinstance(value, list | tuple) else None
        if cuts is None or not all(isinstance(c, int) and not isinstance(c, bool) for c in cuts):
            return "a list of unit numbers"
        if any(a >= b for a, b in pairwise(cuts)):
            return "increasing unit numbers"
        if not self.least <= len(cuts):
            return f"at least {self.least} of them"
        if cuts and self.complete and not (self.first <= cuts[0] and cuts[-1] <= self.last):
            return f"{self.first} <= position <= {self.last}"
        return None

    def extremes(self) -> list[Any]:
        size = min(self.most, self.last - self.first + 1)
        few = min(self.least, size)
        ends = {
            tuple(range(self.first, self.first + few)),
            tuple(range(self.last - few + 1, self.last + 1)),
            tuple(range(self.first, self.first + size)),
            tuple(range(self.last - size + 1, self.last + 1)),
        }
        return sorted(ends)

    def describe(self) -> dict[str, Any]:
        positions = [self.first, self.last] if self.complete else None  # only a backbone knows
        return {"positions": positions, "count": [self.least, self.most]}

    def identity(self) -> dict[str, Any]:
        return {
            "kind": "cuts",
            "first": self.first,
            "last": self.last,
            "least": self.least,
            "most": self.most,
        }

    @property
    def complete(self) -> bool:
        return self.first <= self.last

    def narrow(self, low: Any, high: Any) -> Domain:
        first, last = self.first if low is None else low, self.last if high is None else high
        for bound in (first, last):
            if type(bound) is not int or not self.first <= bound <= self.last:
                raise ValueError(f"{self.first} <= position <= {self.last} must hold, got {shown(bound)}")
        if last - first + 1 < self.least:
            raise ValueError(f"room for {self.least} of them must stay, got low={first}, high={last}")
        return replace(self, first=first, last=last)


def draw(distribution: BaseDistribution, rng: Random) -> Any:
    """A value at random, on the distribution's own scale."""
    if isinstance(distribution, CategoricalDistribution):
        return rng.choice(distribution.choices)
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    low, high, step = distribution.low, distribution.high, distribution.step
    if isinstance(distribution, IntDistribution):
        if not distribution.log:
            return rng.randrange(distribution.low, distribution.high + 1, distribution.step)
        value = float(math.floor(math.exp(rng.uniform(math.log(low), math.log(high + 1)))))
    elif distribution.log:
        value = math.exp(rng.uniform(math.log(low), math.log(high)))
    else:
        value = rng.uniform(low, high)
        value = value if step is None else low + round((value - low) / step) * step
    inside = min(max(value, low), high)  # exp(log(x)) is not quite x
    return int(inside) if isinstance(distribution, IntDistribution) else inside


def _text(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | tuple | dict) else value


def _brief(values: tuple[Any, ...]) -> str:
    return ", ".join(str(v) for v in values)
