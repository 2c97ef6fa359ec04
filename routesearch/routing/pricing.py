"""What each route of a network costs, found by one image on the meta device that takes every way."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor, nn

from routesearch.results.points import Interval
from routesearch.routing.billing import BranchPath
from routesearch.routing.cost import Tensors, mult_adds
from routesearch.routing.meter import Meter, check_choice


@dataclass
class RoutePrices:
    """The routes of a network and what each costs.

    Attributes:
        routes: route -> MACs of its cheapest and its most expensive way.
        reached: path of ways -> the routes that can be reached from its end.
        sites: the most skippable blocks that are met on one way.
        params: parameters of the network, all branches; of the largest of several.
        exact: whether these are one network's prices; False where they cover several, of which a trunk
            will decide.
    """

    routes: dict[int, Interval] = field(default_factory=dict)
    reached: dict[BranchPath, set[int]] = field(default_factory=dict)
    sites: int = 0
    params: int = 0
    exact: bool = True

    @classmethod
    def any_of(cls, prices: Sequence[RoutePrices]) -> RoutePrices:
        """The prices of a network that is one of these."""
        whole = cls(exact=False)
        for one in prices:
            whole.params = max(whole.params, one.params)
            whole.sites = max(whole.sites, one.sites)
            for route, price in one.routes.items():
                whole.add(route, price)
        return whole

    def add(self, route: int, price: Interval) -> None:
        """Take in a way that ends in ``route``."""
        self.routes[route] = self.routes[route] | price if route in self.routes else price

    @property
    def bounds(self) -> Interval:
        """MACs of the cheapest and the most expensive way from the images to logits."""
        whole = list(self.routes.values())
        if not whole:
            raise ValueError("a route must finish at least once, got none")
        return Interval(min(w.min for w in whole), max(w.max for w in whole))


@final
class PricingMeter(Meter):
    """A meter whose one image takes every way: costs add in sequence, alternatives join.

    Attributes:
        prices: filled as ways finish.
    """

    def __init__(self) -> None:
        self.prices = RoutePrices()
        self._spent = Interval(0, 0)
        self._path: BranchPath = ()
        self._sites = 0

    def __len__(self) -> int:
        return 1

    def run(self, block: nn.Module, *inputs: Tensors) -> Any:
        price = mult_adds(block, *inputs)
        self._spent = self._spent + Interval(price, price)
        return block(*inputs)

    def split(self, choice: Tensor, ways: int, *state: Tensors) -> Iterator[tuple[Any, ...]]:
        check_choice(choice, len(self))
        for way in range(ways):
            group = copy.copy(self)
            group._path = (*self._path, way)
            yield (way, group, *state)

    def patch(self, mask: Tensor, block: nn.Module, *inputs: Tensors, into: Tensor) -> Tensor:
        check_choice(mask, len(self))
        got = block(*inputs)
        if got.shape != into.shape:
            rule = "a patched block must give the shape of what it is patched into"
            raise ValueError(f"{rule}, got {tuple(got.shape[1:])} and {tuple(into.shape[1:])}")
        self._spent = self._spent + Interval(0, mult_adds(block, *inputs))
        self._sites += 1
        return into

    def finish(self, logits: Tensor, route: int = 0) -> None:
        if self._spent.min <= 0:
            raise ValueError(f"a route must run some block through the meter, route {route} ran none")
        self.prices.sites = max(self.prices.sites, self._sites)
        self.prices.add(route, self._spent)
        for end in range(len(self._path) + 1):
            self.prices.reached.setdefault(self._path[:end], set()).add(route)


def one_image(shape: Sequence[int]) -> Tensor:
    """An image without values, for a :class:`PricingMeter`; C, H, W."""
    return torch.empty(1, *shape, device="meta")
