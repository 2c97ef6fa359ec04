"""A problem's task for many searches, with prices that are computed once and kept on disk.

Configs that differ only in what no price depends on share one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from random import Random
from typing import Any

from pydantic import ValidationError

from comparison.problems import Problem
from routesearch.errors import Refusal
from routesearch.results.points import Interval
from routesearch.space.space import Space
from routesearch.study.config import digest, load_study
from routesearch.task.resolve import Task, resolve

PROBES = 10
"""Configs at which a field is changed to see whether a price depends on it."""


@dataclass
class Prices:
    """Bounds of configs that were priced before.

    Attributes:
        known: a config's text -> cheapest and most expensive route, or why it is refused.
        ignored: method -> fields that no price depends on.
        file: where they are kept; None: in memory only.
    """

    file: Path | None = None
    known: dict[str, list[int] | str] = field(default_factory=dict)
    ignored: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, task: Task, folder: Path | None) -> Prices:
        """Those of a task's code and backbone, read from ``folder`` where they are there."""
        if folder is None:
            return cls()
        code = digest([task.code(), task.config.backbone.name, task.shape, len(task.classes)])
        prices = cls(folder / f"prices-{code}.json")
        assert prices.file is not None
        if prices.file.exists():
            prices.known, prices.ignored = json.loads(prices.file.read_text())
        return prices

    def save(self) -> None:
        """Keep them for the next process."""
        if self.file is not None:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            draft = self.file.with_suffix(".draft")
            draft.write_text(json.dumps([self.known, self.ignored]))
            draft.replace(self.file)


@dataclass(frozen=True, eq=False)
class PricedTask(Task):
    """A study's task that looks prices up."""

    prices: Prices = field(default_factory=Prices)

    def bounds(self, method: str, config: Space) -> Interval:
        if method not in self.prices.ignored:
            self.prices.ignored[method] = self._without_influence(method)
        plain = config.model_dump(mode="json")
        text = json.dumps([method, {n: v for n, v in plain.items() if n not in self.prices.ignored[method]}])
        if text not in self.prices.known:
            found = self._priced(method, config)
            self.prices.known[text] = found if isinstance(found, str) else [found.min, found.max]
        known = self.prices.known[text]
        if isinstance(known, str):
            raise Refusal(known)
        return Interval(*known)

    def exact_bounds(self, method: str, config: Space) -> Interval:
        """Bounds of the very config, as a search without this cache has them."""
        return super().bounds(method, config)

    def _priced(self, method: str, config: Space) -> Interval | str:
        try:
            return super().bounds(method, config)
        except Refusal as refusal:
            return str(refusal)

    def _without_influence(self, method: str) -> list[str]:
        """Fields whose values changed no price of the configs that were tried."""
        space, rng = self.spaces[method], Random(0)
        left = set(space.domains)
        for _ in range(PROBES):
            base = space.draw(rng)
            before = self._priced(method, base)
            for name in sorted(left):
                for value in space.domains[name].extremes():
                    try:
                        other = space.config.model_validate(base.model_dump() | {name: value})
                    except (ValidationError, Refusal):
                        left.discard(name)
                        break
                    if self._priced(method, other) != before:
                        left.discard(name)
                        break
        return sorted(left)


def priced_task(
    problem: Problem, prices: Prices | None, folder: Path | None, settings: Mapping[str, Any] | None = None
) -> PricedTask:
    """A problem's task under some settings, with the prices of another task of it if there is one."""
    task = resolve(load_study(problem.study, settings))
    known = Prices.of(task, folder) if prices is None else prices
    return PricedTask(**{f.name: getattr(task, f.name) for f in fields(Task)}, prices=known)
