"""What a user would take instead: Optuna as it comes or with our trunk and sweeps, random draws, MO-ASHA.

*As it comes*: one study over all methods, the method a categorical parameter, the place on the curve of
thresholds a parameter of each trial, one point a trial. A trial of a method that needs a trained
backbone trains one; static networks are charged their own training alone, though they were recorded from
the trunk's weights. What a network costs is known when it was trained: then the sampler is told of the
budget as a constraint.

*With trunk and sweeps*: the trunk is trained once, a trial brings its whole curve, a config over the
budget is refused before it is trained and told as a violated constraint. The sampler is told the point
of a curve that stands for it.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import Trial, TrialState
from pydantic import ValidationError

from comparison.design import parameters
from comparison.ledger import Ledger
from comparison.pricing import PricedTask
from comparison.table import Table
from routesearch.errors import Refusal
from routesearch.results.budget import representative
from routesearch.results.points import Interval, front
from routesearch.search.design import value_at
from routesearch.search.proposals import _suggest
from routesearch.space.space import Space

MAX_REFUSED = 20_000
"""Refused configs of a search after which it is given up."""


@dataclass(frozen=True)
class OptunaSearch:
    """One Optuna study over all methods.

    Attributes:
        make: the sampler, given a seed.
        flat: ask for the parameters of all methods in each trial, for samplers that need one fixed space.
        shared: with trunk and sweeps; else as it comes.
        max_trials: trainings after which it ends.
    """

    task: PricedTask
    table: Table
    make: Callable[[int], BaseSampler]
    flat: bool = False
    shared: bool = True
    max_trials: int | None = None

    def __call__(self, ledger: Ledger, seed: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            study = optuna.create_study(directions=["maximize", "minimize"], sampler=self.make(seed))
            self._search(study, ledger, seed)

    def _search(self, study: optuna.Study, ledger: Ledger, seed: int) -> None:
        if self.shared:
            ledger.spend(self.table.shared_macs)
        refused = 0
        while not ledger.over and refused < MAX_REFUSED and ledger.trainings != self.max_trials:
            trial = study.ask()
            method = trial.suggest_categorical("method", list(self.task.spaces))
            drawn = self._draw(trial, method)
            if drawn is None or (self.shared and not self.task.budget.admits(drawn[1])):
                refused += 1
                excess = 1.0 if drawn is None else drawn[1].min / self._limit - 1
                trial.set_constraint("macs", excess)
                study.tell(trial, state=TrialState.PRUNED)
                continue
            ledger.trainings += 1
            config, bounds = drawn
            plain = config.model_dump(mode="json")
            last = self.table.outcomes(method, plain, bounds, seed * 100_000 + trial.number)[-1]
            ledger.spend(last.training_macs)
            if self.shared:
                point = representative(last.points, self.task.backbone_macs, self.task.budget)
                ledger.found(last.points)
            else:
                if method != "static":
                    ledger.spend(self.table.shared_macs_of(self.task, method, plain))
                curve = front(last.points)
                place = trial.suggest_float("threshold", 0.0, 1.0)
                point = curve[min(len(curve) - 1, int(place * len(curve)))]
                ledger.found([point])
            trial.set_constraint("macs", point.macs / self._limit - 1)
            study.tell(trial, [point.accuracy, point.macs])

    @property
    def _limit(self) -> float:
        assert self.task.budget.max_macs is not None
        return self.task.budget.max_macs

    def _draw(self, trial: Trial, method: str) -> tuple[Space, Interval] | None:
        space = self.task.spaces[method]
        if self.flat:
            for name, values in self._all_parameters().items():
                _suggest(trial, name, values)
        try:
            config = space.ask(lambda name, values: _suggest(trial, f"{method}.{name}", values))
            return config, self.task.bounds(method, config)
        except (Refusal, ValidationError):
            return None

    def _all_parameters(self) -> dict[str, BaseDistribution]:
        known: dict[str, BaseDistribution] | None = self.__dict__.get("_flat")
        if known is None:
            known = {
                f"{method}.{name}": values
                for method, space in self.task.spaces.items()
                for name, values in sorted(parameters(space).items())
            }
            object.__setattr__(self, "_flat", known)
        return known


@dataclass(frozen=True)
class MultiObjectiveAsha:
    """MO-ASHA (Schmucker et al. 2021) as Syne Tune has it, with trunk and sweeps.

    It draws at random and stops trials at rungs by non-dominated sorting with an epsilon-net; a stopped
    one keeps its points.

    Attributes:
        library: a folder with Syne Tune in it, not part of the project's environment.
    """

    task: PricedTask
    table: Table
    library: Path

    def __call__(self, ledger: Ledger, seed: int) -> None:
        if str(self.library) not in sys.path:
            sys.path.append(str(self.library))
        import numpy as np
        from syne_tune.backend.trial_status import Trial as SyneTrial
        from syne_tune.config_space import choice, uniform
        from syne_tune.optimizer.schedulers.multiobjective.moasha import MOASHA

        kinds = {m: parameters(space) for m, space in self.task.spaces.items()}
        space: dict[str, Any] = {"method": choice(list(self.task.spaces))}
        space |= {f"{m}.{name}": uniform(0, 1) for m, found in kinds.items() for name in found}
        np.random.seed(seed)  # noqa: NPY002 (what it draws from)
        last_rung = len(next(iter(self.table.methods.values())).macs[0]) - 1
        scheduler = MOASHA(
            space, metrics=["error", "macs"], max_t=3**last_rung, grace_period=1, reduction_factor=3
        )
        ledger.spend(self.table.shared_macs)
        number = 0
        while not ledger.over:
            number += 1
            places = scheduler.suggest().config
            method = places["method"]
            drawn = _placed(self.task, method, places, kinds[method])
            if drawn is None or not self.task.budget.admits(drawn[1]):
                continue
            config, bounds = drawn
            ledger.trainings += 1
            trial = SyneTrial(number, places, datetime.now())
            scheduler.on_trial_add(trial)
            outcomes = self.table.outcomes(
                method, config.model_dump(mode="json"), bounds, seed * 100_000 + number
            )
            before = 0
            for rung, outcome in enumerate(outcomes):
                ledger.spend(outcome.training_macs - before)
                before = outcome.training_macs
                point = representative(outcome.points, self.task.backbone_macs, self.task.budget)
                told = {"error": 1 - point.accuracy, "macs": point.macs / self.task.backbone_macs}
                told["training_iteration"] = 3**rung
                if scheduler.on_trial_result(trial, told) == "STOP":
                    break
            ledger.found(outcome.points)


def _placed(
    task: PricedTask, method: str, places: Mapping[str, float], kinds: Mapping[str, BaseDistribution]
) -> tuple[Space, Interval] | None:
    try:
        config = task.spaces[method].ask(lambda name, values: value_at(places[f"{method}.{name}"], values))
        return config, task.bounds(method, config)
    except (Refusal, ValidationError):
        return None
