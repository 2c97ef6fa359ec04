"""The Optuna samplers that a study may name, each built afresh for every ask.

A sampler that is built once and reopened with the same seed proposes its first values again. Here the
seed of each ask comes from the study's seed and from all that is stored so far, so a resumed study
goes on where the killed one would have gone.
"""

from __future__ import annotations

import hashlib
import warnings

from optuna import samplers
from optuna.exceptions import ExperimentalWarning

from routesearch.errors import UnknownName
from routesearch.study.search_settings import SAMPLERS

STARTUP = 10
"""Trials of a method that are drawn at random before a model of them is believed."""


def derive(*parts: int | str) -> int:
    """A seed in [0, 2**32) that follows from ``parts`` and from nothing else."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def make_sampler(name: str, *, seed: int, fixed_seed: int) -> samplers.BaseSampler:
    """Build a sampler for one ask.

    Args:
        name: one of ``SAMPLERS``.
        seed: of this ask.
        fixed_seed: the same for all asks of a method: a quasi-random sequence must not be
            scrambled anew each time (its position in the sequence is kept in the journal).

    Raises:
        UnknownName: for another name.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        match name:
            case "auto" | "tpe":
                # group: fields that only some configs have are modelled where they occur. constant_liar:
                # concurrent asks keep away from each other.
                return samplers.TPESampler(
                    multivariate=True, group=True, constant_liar=True, n_startup_trials=STARTUP, seed=seed
                )
            case "random":
                return samplers.RandomSampler(seed=seed)
            case "nsga2":
                return samplers.NSGAIISampler(population_size=20, seed=seed)  # studies have tens of trials
            case "qmc":
                return samplers.QMCSampler(
                    scramble=True,
                    seed=fixed_seed,
                    independent_sampler=samplers.RandomSampler(seed=seed),
                    warn_independent_sampling=False,
                )
            case "gp":
                return samplers.GPSampler(
                    seed=seed,
                    independent_sampler=samplers.RandomSampler(seed=seed),
                    n_startup_trials=STARTUP,
                    warn_independent_sampling=False,
                )
            case _:
                raise UnknownName("sampler", name, SAMPLERS)
