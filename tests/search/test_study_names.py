"""Names of Optuna studies: golden, because a resumed study looks its sampler's history up by them."""

from __future__ import annotations

from typing import Annotated

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from routesearch.results.budget import Budget
from routesearch.search.study_names import budget_of, study_name
from routesearch.space.domains import Choices, Cuts
from routesearch.space.space import SearchSpace, Space


class Every(Space):
    positions: Annotated[tuple[int, ...], Cuts(last=8)] = (3, 5)
    kind: Annotated[str, CategoricalDistribution(("soft", "hard"))] = "soft"
    alpha: Annotated[float, FloatDistribution(0.1, 10.0, log=True)] = 1.0
    grid: Annotated[float, FloatDistribution(0, 1, step=0.25)] = 0.5
    count: Annotated[int, IntDistribution(2, 10, step=2)] = 4
    scales: Annotated[tuple[float, ...], Choices(([1.0, 2.0], [4.0]))] = (4.0,)


@pytest.mark.parametrize(
    ("method", "budget", "config", "name"),
    [
        ("dgate", Budget(4e7), Every, "dgate@40000000#37d7829b"),
        ("dgate", Budget(), Every, "dgate@none#37d7829b"),
        ("static", Budget(1234567.5), Space, "static@1234567.5#a3a6bf43"),
        ("dgate", Budget(4e7, 0.002), Every, "dgate@40000000,0.002s#37d7829b"),
        ("dgate", Budget(None, 5e-05), Every, "dgate@none,5e-05s#37d7829b"),
    ],
)
def test_names_stay_what_they_are(method: str, budget: Budget, config: type[Space], name: str) -> None:
    assert study_name(method, budget, SearchSpace(config)) == name
    assert budget_of(name) == budget


def test_a_scale_makes_another_study() -> None:
    class Plain(Space):
        alpha: Annotated[float, FloatDistribution(0.1, 10.0)] = 1.0

    class Log(Space):
        alpha: Annotated[float, FloatDistribution(0.1, 10.0, log=True)] = 1.0

    assert study_name("m", Budget(), SearchSpace(Plain)) != study_name("m", Budget(), SearchSpace(Log))
