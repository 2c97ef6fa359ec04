from __future__ import annotations

import warnings

import optuna
import pytest

from routesearch.errors import UnknownName
from routesearch.search.sampler import SAMPLERS, derive, make_sampler


def test_seeds_follow_from_their_parts_alone() -> None:
    assert derive(0, "dgate", 3) == derive(0, "dgate", 3)
    assert len({derive(0, 1, 11), derive(0, 11, 1), derive(1, 1, 11), derive(0, 1, 12)}) == 4
    assert all(0 <= derive(0, i) < 2**32 for i in range(100))


def test_seeds_stay_what_they_are() -> None:
    """Golden: with others a resumed study would go on as another one, silently."""
    assert derive(0) == 1609362278
    assert derive(0, "dgate") == 2644495599
    assert derive(0, "dgate", 3, 7) == 2586888332
    assert derive(2**31 - 1, 12) == 3691712487


@pytest.mark.parametrize("name", SAMPLERS)
def test_each_sampler_copes_with_two_objectives_constraints_and_conditions(name: str) -> None:
    study = optuna.create_study(directions=["maximize", "minimize"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for i in range(14):
            study.sampler = make_sampler(name, seed=derive(0, i), fixed_seed=derive(0))
            trial = study.ask()
            x = trial.suggest_float("x", 0, 1)
            if trial.suggest_categorical("kind", ["a", "b"]) == "a":
                trial.suggest_int("y", 1, 9)
            trial.set_constraint("macs", x - 0.5)
            if x > 0.9:
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            else:
                study.tell(trial, [x, x])
    drawn = [t.params["x"] for t in study.trials]
    assert len(set(drawn)) > 7


def test_an_unknown_sampler_is_refused_with_those_there_are() -> None:
    with pytest.raises(
        UnknownName, match="no sampler 'annealing'; installed: auto, gp, nsga2, qmc, random, tpe"
    ):
        make_sampler("annealing", seed=0, fixed_seed=0)
