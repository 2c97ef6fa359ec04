"""What a sampler gets of a trial: its state, its objectives, its constraints, its place in the space."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.trial import TrialState, create_trial

from routesearch.errors import Refusal
from routesearch.results.budget import Budget, representative
from routesearch.results.points import Interval
from routesearch.results.record import State, TrialRecord
from routesearch.space.space import SearchSpace, Space


@dataclass(frozen=True)
class Observation:
    """What a sampler gets of a trial: the state, accuracy and MACs, and constraints (violated above 0)."""

    state: TrialState
    values: list[float] | None
    constraints: dict[str, float]

    @property
    def useful(self) -> bool:
        """False for a refusal that the present budget would not repeat."""
        return self.state is not TrialState.PRUNED or any(v > 0 for v in self.constraints.values())


def observation_of(record: TrialRecord, backbone_macs: float, budget: Budget) -> Observation:
    """Two objectives and the constraints of a measured trial; a violated constraint of a refused one.

    A refused one is pruned, not failed: samplers overlook failed trials and would ask the same for ever.
    """
    outcome = record.outcome
    assert outcome is not None
    if outcome.state is State.REFUSED:
        if record.bounds is None:
            return Observation(TrialState.PRUNED, None, {"constraint": 1.0})
        excess = 0.0 if budget.max_macs is None else record.bounds.min / budget.max_macs - 1
        return Observation(TrialState.PRUNED, None, {"macs": excess})
    if outcome.state is State.FAILED:
        return Observation(TrialState.FAIL, None, {})
    point = representative(outcome.points, backbone_macs, budget)
    return Observation(TrialState.COMPLETE, [point.accuracy, point.macs], budget.excess(outcome.points))


def budget_violation(bounds: Interval | None, budget: Budget) -> str | None:
    """Why a config may not be trained under a budget; None if it may."""
    if bounds is None or budget.admits(bounds):
        return None
    return f"cheapest route <= budget must hold, got {bounds.min:.0f} and {budget.max_macs:.0f} MACs"


def config_text(config: Mapping[str, Any]) -> str:
    """What tells a config from others of its method: its fields as JSON."""
    return json.dumps(config, sort_keys=True)


def sampler_params(
    space: SearchSpace, config: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, BaseDistribution]] | None:
    """The sampler's parameters that make ``space`` draw ``config``; None if the config is not in it."""
    distributions: dict[str, BaseDistribution] = {}

    def suggest(name: str, distribution: BaseDistribution) -> Any:
        distributions[name] = distribution
        return params[name]

    try:
        model: Space = space.parse(config)
        params = space.encode(model)
        if space.ask(suggest) != model:
            return None
        params = {name: params[name] for name in distributions}
        create_trial(values=[0.0, 0.0], params=params, distributions=distributions)  # checks the ranges
    except (KeyError, ValueError, Refusal):
        return None
    return params, distributions
