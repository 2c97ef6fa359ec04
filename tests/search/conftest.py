"""A small study without networks: two methods whose MACs are a plain function of their config."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from routesearch.errors import Refusal
from routesearch.results.budget import Budget
from routesearch.results.points import Interval, OperatingPoint
from routesearch.results.record import Outcome, State
from routesearch.space.domains import Cuts
from routesearch.space.space import SearchSpace, Space, When
from routesearch.study.search_settings import SearchConfig


class Wide(Space):
    width: Annotated[float, FloatDistribution(0.0, 1.0)] = 0.5
    depth: Annotated[int, IntDistribution(1, 4)] = 2


class Deep(Space):
    cuts: Annotated[tuple[int, ...], Cuts(last=6, most=2)] = (3,)
    beta: Annotated[float, FloatDistribution(0.1, 10, log=True)] = 1.0
    kind: Annotated[str, CategoricalDistribution(["plain", "soft"])] = "plain"
    gamma: Annotated[float, FloatDistribution(0, 1), When("kind", "soft")] = 0.5


@dataclass
class FakeTask:
    """The part of a resolved study that the ledger needs."""

    dir: Path
    budget: Any = 500.0
    seed: int = 0
    sampler: str = "tpe"
    facts: Mapping[str, str] = field(default_factory=lambda: {"data": "digits", "search.seed": "0"})
    spaces: dict[str, SearchSpace] = field(
        default_factory=lambda: {"wide": SearchSpace(Wide), "deep": SearchSpace(Deep)}
    )
    backbone_macs: float = 1000.0
    versions: Mapping[str, str] = field(default_factory=lambda: {"method wide": "core 1"})
    retries: int = 2
    search: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.budget, Budget):
            self.budget = Budget(self.budget)

    @property
    def config(self) -> Any:
        search = SearchConfig(seed=self.seed, sampler=self.sampler, **self.search)
        return SimpleNamespace(search=search, resources=SimpleNamespace(retries=self.retries))

    def inputs(self) -> dict[str, Any]:
        return {"shape": [1, 8, 8], "classes": ["a", "b"], "mean": [0.5], "std": [0.25]}

    def code(self) -> Mapping[str, str]:
        return self.versions

    def fingerprint(self) -> Mapping[str, str]:
        return self.facts

    def bounds(self, method: str, config: Any) -> Interval:
        if method == "deep":
            if config.beta > 9.0:
                raise Refusal(f"beta <= 9 must hold, got {config.beta}")
            return Interval(100, 900)
        return Interval(int(100 + 900 * config.width), 1000)


def _outcome(accuracy: float = 0.5, macs: float = 400.0) -> Outcome:
    points = (OperatingPoint({"t": 0}, accuracy, macs), OperatingPoint({"t": 1}, accuracy / 2, macs / 2))
    return Outcome(State.FINISHED, points, params=7, training_macs=70, seconds=0.1)


@pytest.fixture
def outcome() -> Callable[..., Outcome]:
    return _outcome


@pytest.fixture
def make_fake(tmp_path: Path) -> Callable[..., FakeTask]:
    return lambda **changes: FakeTask(tmp_path / "study", **changes)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "study"
