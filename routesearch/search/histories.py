"""What an Optuna sampler reads: an Optuna study in memory, made of what trials have shown."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import InMemoryStorage
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from routesearch.results.curves import Curve, standings
from routesearch.search.evidence import EndedTrial, RunningTrial
from routesearch.search.sampler import Strategy
from routesearch.utils.sampling import evenly_spaced

_TWO = [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE]  # accuracy, MACs


def history(
    strategy: Strategy,
    shown: Sequence[EndedTrial],
    pending: Sequence[RunningTrial],
    others: Curve,
    edge: float,
) -> Study:
    """An Optuna study of one method's trials.

    Args:
        shown: what its trials have shown; those that lie outside of the present space are left out.
        pending: those of them that are under way.
        others: the front of other methods: a curve stands beside all.
        edge: share of the backbone's MACs up to which accuracy counts.
    """
    storage = InMemoryStorage()
    directions = [StudyDirection.MAXIMIZE] if strategy.by_standing else _TWO
    name = storage.get_study_name_from_id(storage.create_new_study(directions))
    study = optuna.load_study(study_name=name, storage=storage, sampler=optuna.samplers.RandomSampler())
    values = _values(strategy, shown, others, edge)
    distributions: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # constraints
        for i in _kept(strategy, shown, values):
            one = shown[i]
            assert one.params is not None
            distributions |= one.distributions or {}
            _put(storage, study, _frozen(one, values[i]))
        for trial in pending:
            params = dict(trial.params or {})
            if params.keys() <= distributions.keys():
                known = {name: distributions[name] for name in params}
                running = TrialState.RUNNING
                attributes = dict(trial.attributes)
                _put(
                    storage,
                    study,
                    create_trial(state=running, params=params, distributions=known, system_attrs=attributes),
                )
    return study


def _put(storage: InMemoryStorage, study: Study, trial: FrozenTrial) -> None:
    storage.create_new_trial(study._study_id, template_trial=trial)


def _frozen(one: EndedTrial, values: Sequence[float] | None) -> FrozenTrial:
    observation = one.observation
    return create_trial(
        state=observation.state,
        values=None if observation.state is not TrialState.COMPLETE else values,
        params=dict(one.params or {}),
        distributions=dict(one.distributions or {}),
        constraints=observation.constraints,
        system_attrs=dict(one.attributes),
    )


def _values(
    strategy: Strategy, shown: Sequence[EndedTrial], others: Curve, edge: float
) -> list[list[float] | None]:
    """What a sampler is told of each trial; None for one without a curve."""
    if not strategy.by_standing:
        return [one.observation.values for one in shown]
    found = standings([*(one.curve for one in shown), others], edge)
    return [[float(value)] if len(one.curve) else None for one, value in zip(shown, found, strict=False)]


def _kept(
    strategy: Strategy, shown: Sequence[EndedTrial], values: Sequence[Sequence[float] | None]
) -> list[int]:
    """Which trials a sampler is told, in order: where there are too many, the best and some of the rest."""
    usable = [
        i
        for i, one in enumerate(shown)
        if one.params is not None and one.observation.useful and one.observation.state is not TrialState.FAIL
    ]
    if strategy.most is None or len(usable) <= strategy.most:
        return usable
    if not strategy.most:
        return []
    order = sorted(usable, key=lambda i: _merit(shown[i], values[i]), reverse=True)
    best, rest = order[: strategy.most // 2], order[strategy.most // 2 :]
    some = [rest[i] for i in evenly_spaced(len(rest), strategy.most - len(best))]
    return sorted([*best, *some])


def _merit(one: EndedTrial, values: Sequence[float] | None) -> tuple[float, float]:
    """Feasible trials before others, those by the first of their values, these by how little is missing."""
    excess = max((*one.observation.constraints.values(), 0.0))
    return (-excess, values[0] if values else -np.inf)
