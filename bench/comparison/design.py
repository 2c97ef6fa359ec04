"""Configs spread evenly over a method's space: the default first, then a scrambled Sobol sequence."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterator
from itertools import chain
from random import Random
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from pydantic import ValidationError

from routesearch.errors import Refusal
from routesearch.results.points import Interval
from routesearch.search.design import Design
from routesearch.space.domains import draw
from routesearch.space.space import SearchSpace, Space
from routesearch.task.resolve import Task

MAX_DRAWS = 1 << 12
"""Points of the sequence that are looked at."""


def spread_configs(task: Task, method: str) -> Iterator[tuple[Space, Interval]]:
    """Different configs of which some route is within the budget, with the bounds of their MACs."""
    space, seen = task.spaces[method], set[str]()
    for config in chain([space.default()], _sequence(space, zlib.crc32(method.encode()))):
        if isinstance(config, Space) and (text := json.dumps(config.model_dump(mode="json"))) not in seen:
            seen.add(text)
            try:
                bounds = task.bounds(method, config)
            except Refusal:
                continue
            if task.budget.admits(bounds):
                yield config, bounds


def _sequence(space: SearchSpace, seed: int) -> Iterator[Space | None]:
    """Configs of the points of a Sobol sequence with a dimension for each parameter; None: not valid."""
    design = Design(seed, sorted(parameters(space)))
    for i in range(MAX_DRAWS):
        try:
            yield space.ask(lambda name, values, at=i: design.suggest(at, name, values))  # type: ignore[misc]
        except (Refusal, ValidationError):
            yield None


def parameters(space: SearchSpace, draws: int = 400) -> dict[str, BaseDistribution]:
    """All parameters that a sampler is asked for, conditional ones too."""
    found: dict[str, BaseDistribution] = {}
    rng = Random(0)
    for _ in range(draws):

        def suggest(name: str, values: BaseDistribution) -> Any:
            found[name] = values
            return draw(values, rng)

        try:
            space.ask(suggest)
        except (Refusal, ValidationError):
            continue
    return found


def place_of(values: BaseDistribution, value: Any) -> float:
    """The inverse of :func:`value_at`: where a number lies in its range, in [0, 1]; a choice's index."""
    match values:
        case CategoricalDistribution(choices=choices):
            return float(choices.index(value))
        case IntDistribution(low=low, high=high, log=log) | FloatDistribution(low=low, high=high, log=log):
            if low == high:
                return 0.5
            if log:
                return math.log(value / low) / math.log(high / low)
            return float((value - low) / (high - low))
    raise TypeError(f"a distribution must be Optuna's float, int or categorical, got {values!r}")
