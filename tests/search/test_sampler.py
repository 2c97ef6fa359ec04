from __future__ import annotations

import warnings
from typing import Any

import optuna
import pytest
from optuna import samplers

from routesearch.errors import Refusal
from routesearch.search.sampler import Strategy, derive, strategy_of
from routesearch.study.search_settings import SAMPLERS, SearchConfig


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


class Odd(samplers.RandomSampler):
    """A sampler that wants more than a search knows."""

    def __init__(self, colour: str) -> None:
        super().__init__()


class Single(samplers.RandomSampler):
    """A sampler of one objective."""

    def sample_independent(self, study: optuna.Study, *arguments: Any) -> Any:
        if len(study.directions) > 1:
            raise ValueError("one objective only")
        return super().sample_independent(study, *arguments)


def named(name: str, **more: Any) -> Strategy:
    return strategy_of(SearchConfig(sampler=name, **more), 2)


def test_auto_and_qmc_ask_no_sampler_of_optuna() -> None:
    assert [name for name in SAMPLERS if named(name).make is None] == ["auto", "qmc"]
    assert [named(name).by_promise for name in ("auto", "qmc")] == [True, False]
    assert named("qmc").start is None, "all is from the design"


ASKED = [name for name in SAMPLERS if name not in ("auto", "qmc")]


@pytest.mark.parametrize("name", [*ASKED, "optuna.samplers:NSGAIIISampler", f"{__name__}.Single"])
def test_each_sampler_copes_with_constraints_and_conditions(name: str) -> None:
    strategy = named(name)
    assert strategy.make is not None
    seeds = [strategy.make(seed) for seed in (1, 1, 2)]
    assert len({id(sampler) for sampler in seeds}) == 3
    study = optuna.create_study(directions=["maximize"] if strategy.by_standing else ["maximize", "minimize"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for i in range(14):
            study.sampler = strategy.make(derive(0, i))
            trial = study.ask()
            x = trial.suggest_float("x", 0, 1)
            if trial.suggest_categorical("kind", ["a", "b"]) == "a":
                trial.suggest_int("y", 1, 9)
            trial.set_constraint("macs", x - 0.5)
            if x > 0.9:
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            else:
                study.tell(trial, [x] if strategy.by_standing else [x, x])
    drawn = [t.params["x"] for t in study.trials]
    assert len(set(drawn)) > 7


def test_a_sampler_of_one_objective_is_told_how_good_a_curve_is() -> None:
    assert named(f"{__name__}:Single").by_standing
    assert not named("optuna.samplers.NSGAIIISampler").by_standing


def test_start_up_and_population_go_by_the_number_of_trials() -> None:
    assert named("tpe", trials=6).start == 3
    assert named("tpe", trials=100).start == 10
    few, many = (named("nsga2", trials=trials).make(0) for trials in (40, 1000))
    assert (few._population_size, many._population_size) == (4, 50)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("path", "told"),
    [
        (
            "no_such_package:Sampler",
            "search.sampler: no_such_package:Sampler cannot be imported: .*No module",
        ),
        ("optuna.samplers:Nothing", "no sampler 'optuna.samplers:Nothing'; installed: auto, gp"),
        ("optuna.study:Study", "must be a subclass of optuna.samplers.BaseSampler"),
        (f"{__name__}:Odd", "must be made without arguments but seed, and propose .* missing .*'colour'"),
    ],
)
def test_a_sampler_that_is_none_is_refused_in_one_line(path: str, told: str) -> None:
    with pytest.raises(Refusal, match=told) as refused:
        named(path)
    assert "\n" not in str(refused.value)
