"""How a study is searched: the settings that a study file gives under ``search``."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Annotated, ClassVar

from pydantic import AfterValidator, BeforeValidator, Field

from routesearch.utils.paths import expand
from routesearch.utils.units import parse_time, parse_work
from routesearch.utils.validation import Part

SAMPLERS = ("auto", "tpe", "gp", "nsga2", "qmc", "random")
"""Samplers that a study may name; beside them the import path of any class."""

MAX_RUNGS = 8

LAG = 8
"""Trials that may be under way at once in a deterministic search; more workers than that wait."""


def _sampler(name: str) -> str:
    """One of ``SAMPLERS``, or an import path such as ``optunahub_sampler:Sampler``."""
    if name not in SAMPLERS and not re.fullmatch(r"[A-Za-z_][\w.]*[.:][A-Za-z_]\w*", name, re.ASCII):
        known = ", ".join(SAMPLERS)
        raise ValueError(
            f"must be one of {known}, or the import path of a class such as package.module:Sampler"
        )
    return name


def _work(value: object) -> object:
    return value if value is None else parse_work(value)


def _off(value: object) -> object:
    """None for false: a union with Literal[False] would put both of its parts into every complaint."""
    if value is True:
        raise ValueError("must be false, or a mapping such as {rungs: 3, keep: 0.33}")
    return None if value is False else value


class StopConfig(Part):
    """Early stopping: at each rung only the best share of trials goes on."""

    rungs: int = Field(3, ge=2, le=MAX_RUNGS, description="how often a trial is measured, the end included")
    keep: float = Field(0.33, gt=0, lt=1, description="share of trials that goes on; also from rung to rung")

    def epochs(self, whole: int) -> tuple[int, ...]:
        """Epochs of the rungs before the end; fewer than asked for where a training is short."""
        found = (round(whole * self.keep**back) for back in range(self.rungs - 1, 0, -1))
        return tuple(sorted({epoch for epoch in found if 1 <= epoch < whole}))


class SearchConfig(Part):
    switches: ClassVar[Collection[str]] = ("stop", "deterministic")

    trials: int = Field(
        40, ge=1, description="trials of the whole study that are trained: finished, stopped or failed"
    )
    time_limit: Annotated[float | None, BeforeValidator(parse_time)] = Field(
        None, description="of one invocation's search phase (90s, 10m, 1.5h): no trial starts after it"
    )
    training_macs: Annotated[float | None, BeforeValidator(_work)] = Field(
        None, description="that the whole study's training may take, the trunk's included: 500G, 2T"
    )
    sampler: Annotated[str, AfterValidator(_sampler)] = Field(
        "auto", description=f"{', '.join(SAMPLERS)}, or the import path of a sampler of Optuna's interface"
    )
    stop: Annotated[StopConfig | None, BeforeValidator(_off)] = Field(
        StopConfig(), description="early stopping over fronts: {rungs: 3, keep: 0.33}, or false"
    )
    warm_start: list[Annotated[str, AfterValidator(expand)]] = Field(
        [], description="study files whose trials the samplers learn from"
    )
    deterministic: bool = Field(
        False,
        description="the same study from the same seed with many workers too; they may wait",
    )
    seed: int = Field(0, ge=0, lt=2**31, description="of the search: proposals, weights, order of images")

    @property
    def lag(self) -> int | None:
        """Trials before the latest whose results are not used yet; None: all that is known is used."""
        return LAG if self.deterministic else None

    def rungs(self, epochs: int) -> tuple[int, ...]:
        """Epochs at which a trial of so many epochs may be stopped; of the default's rungs those that fit.

        Raises:
            ValueError: the study asks for more rungs than fit.
        """
        if self.stop is None:
            return ()
        found = self.stop.epochs(epochs)
        if self.stop != StopConfig() and len(found) < self.stop.rungs - 1:
            fit = len(found) + 1
            rule = f"must fit into training.epochs = {epochs} with keep = {self.stop.keep:g}: {fit} at most"
            raise ValueError(f"stop.rungs: {rule}, got {self.stop.rungs}; or stop: false")
        return found
