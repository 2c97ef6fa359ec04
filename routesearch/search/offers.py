"""The config of a method that promises most for what it costs, among many that are drawn."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import TYPE_CHECKING, Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from pydantic import ValidationError

from routesearch.errors import Refusal
from routesearch.results.curves import Curve
from routesearch.results.points import Interval
from routesearch.search.design import Design, value_at
from routesearch.search.effort import Effort
from routesearch.search.evidence import EndedTrial
from routesearch.search.observations import config_text, sampler_params
from routesearch.search.promise import Priced, Promise
from routesearch.search.sampler import derive
from routesearch.search.surrogate import share_of
from routesearch.space.domains import Suggest
from routesearch.space.space import SearchSpace, Space

if TYPE_CHECKING:
    from routesearch.task.resolve import Task

SPREAD, NEAR = 96, 96
"""Configs that are weighed for one proposal: drawn from the whole space, and near the best ones known."""
PRICED = 4
"""Configs within the budget whose networks are priced for one proposal, at most: the most promising of those
that are weighed, until one promises more than the next one is predicted to."""
MAX_PRICED = 8 * PRICED
"""Networks that are priced for one proposal, at most."""
PROBES = 24
"""Configs that are priced at the start."""
PARENTS = 8
"""Trials near which configs are drawn."""
STEP = 0.12
"""Standard deviation of a step from a parent's value, as a share of the range; at least one integer."""
CHANGED = 0.4
"""Probability that a parameter differs from the parent's."""


@dataclass(frozen=True)
class Offer:
    """A config that may be tried next.

    Attributes:
        gain: hypervolume that it is expected to add.
        worth: the gain, by the part of the budget that it takes.
    """

    params: Mapping[str, Any]
    gain: float
    worth: float


class Offers:
    """Weighs configs of one method.

    Args:
        task: the resolved study.
        effort: what trials take of the budget.
    """

    def __init__(self, task: Task, method: str, effort: Effort) -> None:
        self._task = task
        self._method = method
        self._space: SearchSpace = task.spaces[method]
        self._distributions = distributions_of(self._space)
        edge = task.budget.edge(task.backbone_macs)
        self.promise = Promise(self._distributions, task.backbone_macs, edge, effort)
        self._learnt: list[int] = []

    def learn(self, shown: Sequence[EndedTrial]) -> bool:
        """Take in what the method's trials have shown; False where that is nothing to go by."""
        used = [one for one in shown if one.bounds is not None and one.params is not None and len(one.curve)]
        known = [id(one) for one in used]
        if known != self._learnt:
            self.promise.learn(used, self._probes)
            self._learnt = known
        return bool(used)

    def best(
        self, parents: Sequence[EndedTrial], front: Curve, taken: Collection[str], seed: int
    ) -> Offer | None:
        """The most promising of many configs; None where none that may be trained was found.

        Args:
            parents: trials near which some are drawn, the best first.
            front: what is known, with what trials under way are expected to add.
            taken: configs that are not to be tried again (:func:`config_text`).
        """
        drawn = [each for text, each in self._candidates(parents, Random(seed)).items() if text not in taken]
        if not drawn:
            return None
        gain, cost = self.promise.of([params for params, _ in drawn], front)
        predicted = gain / cost
        order = sorted(range(len(drawn)), key=lambda i: float(predicted[i]), reverse=True)
        best: Offer | None = None
        affordable = 0
        for i in order[:MAX_PRICED]:
            if affordable == PRICED or (best is not None and best.worth >= predicted[i]):
                break
            if (offer := self._weighed(*drawn[i], front)) is None:
                continue
            affordable += 1
            if best is None or best.worth < offer.worth:
                best = offer
        return best

    def weigh(self, params: Mapping[str, Any], front: Curve) -> Offer | None:
        """The offer of one config; None where it may not be trained."""
        drawn = self._draw(lambda name, _: params[name])
        return None if drawn is None else self._weighed(*drawn, front)

    def _weighed(self, params: Mapping[str, Any], model: Space, front: Curve) -> Offer | None:
        bounds = self._price(model)
        if bounds is None or not self._task.budget.admits(bounds):
            return None
        gain, cost = self.promise.of([params], front, [bounds])
        return Offer(params, float(gain[0]), float(gain[0] / cost[0]))

    @cached_property
    def _probes(self) -> list[Priced]:
        """Configs all over the space with their prices, by which others are predicted."""
        design = Design(derive(self._task.config.search.seed, self._method, "prices"), self._distributions)
        found = []
        for place in range(PROBES):
            drawn = self._draw(lambda name, values, at=place: design.suggest(at, name, values))  # type: ignore[misc]
            bounds = None if drawn is None else self._price(drawn[1])
            if drawn is not None and bounds is not None:
                found.append(Priced(drawn[0], bounds))
        return found

    def _price(self, model: Space) -> Interval | None:
        """Bounds of a config's network; None where it cannot be built."""
        try:
            return self._task.bounds(self._method, model)
        except Refusal:
            return None

    def _candidates(
        self, parents: Sequence[EndedTrial], random: Random
    ) -> dict[str, tuple[Mapping[str, Any], Space]]:
        """Configs and their parameters, by :func:`config_text`."""
        found: dict[str, tuple[Mapping[str, Any], Space]] = {}
        draws: list[Suggest] = [lambda _, values: value_at(random.random(), values)] * SPREAD
        near = [one.params for one in parents[:PARENTS] if one.params is not None]
        for _ in range(NEAR if near else 0):
            parent = near[random.randrange(len(near))]
            draws.append(lambda name, values, params=parent: _near(params.get(name), values, random))  # type: ignore[misc]
        for suggest in draws:
            if (drawn := self._draw(suggest)) is not None:
                found.setdefault(config_text(drawn[1].model_dump(mode="json")), drawn)
        return found

    def _draw(self, suggest: Suggest) -> tuple[Mapping[str, Any], Space] | None:
        """A config and its parameters, as the space encodes it; None where it is none."""
        try:
            model = self._space.ask(suggest)
            return self._space.encode(model), model
        except (Refusal, ValidationError, KeyError):
            return None


def distributions_of(space: SearchSpace) -> dict[str, BaseDistribution]:
    """Distributions of all parameters that configs of a space have, conditional ones too; a stable order."""
    found: dict[str, BaseDistribution] = {}
    for config in space.extremes():
        placed = sampler_params(space, config.model_dump(mode="json"))
        found |= {} if placed is None else placed[1]
    return found


def _near(value: Any, distribution: BaseDistribution, random: Random) -> Any:
    """A parent's value, or one that is not far from it."""
    if value is None:
        return value_at(random.random(), distribution)
    if random.random() > CHANGED:
        return value
    if isinstance(distribution, CategoricalDistribution):
        return value_at(random.random(), distribution)
    if isinstance(distribution, IntDistribution) and not distribution.log:
        # as wide as to reach the next value, also where there are few
        count = (distribution.high - distribution.low) // distribution.step + 1
        share, width = ((value - distribution.low) // distribution.step + 0.5) / count, max(STEP, 1 / count)
    else:
        share, width = share_of(value, distribution), STEP
    return value_at(min(max(random.gauss(share, width), 0.0), 1 - 1e-9), distribution)
