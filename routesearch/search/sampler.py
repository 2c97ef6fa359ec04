"""The samplers that a study may name, each as a kind of history and an Optuna sampler that reads it.

A sampler that is built once and reopened with the same seed proposes its first values again. Here the seed of
each proposal comes from the study's seed and the proposal's number, so a resumed study goes on where the
killed one would have gone.
"""

from __future__ import annotations

import hashlib
import inspect
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from optuna import create_study, samplers
from optuna.distributions import FloatDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler
from optuna.trial import create_trial

from routesearch.errors import Refusal, UnknownName, described
from routesearch.search.evidence import MAX_MODELLED
from routesearch.study.search_settings import SAMPLERS, SearchConfig

_UNIT = FloatDistribution(0, 1)


def derive(*parts: int | str) -> int:
    """A seed in [0, 2**32) that follows from ``parts`` and from nothing else."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


@dataclass(frozen=True)
class Strategy:
    """How a study's configs are proposed.

    Attributes:
        make: a seed to a sampler; None: none is asked.
        by_standing: tell it one objective, how good a curve is beside all others; else the accuracy and the
            MACs of the one point that stands for a curve.
        by_promise: propose what promises most for its cost (:mod:`routesearch.search.promise`).
        start: trials of a method that are drawn from the quasi-random design before the sampler is asked;
            None: all of them.
        most: trials that it is told, at most; None: all.
        stateful: whether it leaves attributes with its trials that it needs again.
    """

    make: Callable[[int], BaseSampler] | None
    by_standing: bool = False
    by_promise: bool = False
    start: int | None = 0
    most: int | None = None
    stateful: bool = False


def strategy_of(config: SearchConfig, methods: int) -> Strategy:
    """The strategy behind a sampler's name, or behind the import path of its class.

    Args:
        methods: of the study; they share its trials.

    Raises:
        UnknownName, Refusal: there is no such sampler.
    """
    each = max(1, config.trials // max(1, methods))
    start = max(3, min(10, each // 3))
    match config.sampler:
        case "auto":
            return Strategy(None, by_promise=True, start=1)
        case "tpe":
            return Strategy(_tpe, start=start, most=MAX_MODELLED)
        case "gp":
            return Strategy(_gp, start=start, most=MAX_MODELLED // 2)
        case "nsga2":
            # A generation is one population: there must be several of them.
            size = max(4, min(50, each // 5))
            return Strategy(
                lambda seed: samplers.NSGAIISampler(population_size=size, seed=seed), stateful=True
            )
        case "qmc":
            return Strategy(None, start=None)
        case "random":
            return Strategy(_random, most=0)
        case path:
            return _imported(path)


def _tpe(seed: int) -> BaseSampler:
    # group: fields that only some configs have are modelled where they occur. constant_liar: concurrent
    # proposals keep away from each other.
    return _quietly(
        lambda: samplers.TPESampler(
            multivariate=True, group=True, constant_liar=True, n_startup_trials=1, seed=seed
        )
    )


def _gp(seed: int) -> BaseSampler:
    return _quietly(
        lambda: samplers.GPSampler(
            seed=seed,
            independent_sampler=samplers.RandomSampler(seed=seed),
            n_startup_trials=4,
            warn_independent_sampling=False,
        )
    )


def _random(seed: int) -> BaseSampler:
    return samplers.RandomSampler(seed=seed)


def _imported(path: str) -> Strategy:
    kind: Any = _class_at(path)
    seeded = "seed" in inspect.signature(kind).parameters

    def make(seed: int) -> BaseSampler:
        return _quietly(lambda: kind(seed=seed) if seeded else kind())

    for by_standing in (False, True):  # some know two objectives, some only one
        try:
            _try(make(0), 1 if by_standing else 2)
            return Strategy(make, by_standing, stateful=True)
        except Exception as error:  # another's code
            failed = described(error)
    rule = "a sampler must be made without arguments but seed, and propose for one or two objectives"
    raise Refusal(f"search.sampler: {rule}, got {path}: {failed}")


def _try(sampler: BaseSampler, objectives: int) -> None:
    """Ask a sampler for a few values, as a search does."""
    study = create_study(directions=["maximize"] * objectives, sampler=sampler)
    for i in range(3):
        study.add_trial(
            create_trial(params={"x": i / 4}, distributions={"x": _UNIT}, values=[i / 4] * objectives)
        )
    study.ask({"x": _UNIT})


def _class_at(path: str) -> type[BaseSampler]:
    module, _, name = path.replace(":", ".").rpartition(".")
    try:
        kind = getattr(import_module(module), name, None)
    except Exception as error:  # a module may raise anything
        told = f"search.sampler: {path} cannot be imported: {described(error)}"
        raise Refusal(told) from None
    if kind is None:
        raise UnknownName("sampler", path, SAMPLERS)
    if not (isinstance(kind, type) and issubclass(kind, BaseSampler)):
        raise Refusal(f"search.sampler: must be a subclass of optuna.samplers.BaseSampler, got {path}")
    return kind


def _quietly(make: Callable[[], BaseSampler]) -> BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return make()
