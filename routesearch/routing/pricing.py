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
from routesearch.routing.cost import run_for_shapes
from routesearch.routing.meter import Meter, check_choice, check_experts, check_merged
from routesearch.routing.nested import Tensors


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
        prices: filled as ways finish; given, those of other knobs.
    """

    def __init__(self, prices: RoutePrices | None = None) -> None:
        self.prices = RoutePrices() if prices is None else prices
        self._spent = Interval(0, 0)
        self._path: BranchPath = ()
        self._sites = 0

    def __len__(self) -> int:
        return 1

    def run(self, block: nn.Module, *inputs: Tensors) -> Any:
        price, output = run_for_shapes(block, *inputs)
        self._spent = self._spent + Interval(price.macs, price.macs)
        return output

    def split(self, choice: Tensor, ways: int, *state: Tensors) -> Iterator[tuple[Any, ...]]:
        check_choice(choice, len(self))
        for way in range(ways):
            group = copy.copy(self)
            group._path = (*self._path, way)
            yield (way, group, *state)

    def patch(self, mask: Tensor, block: nn.Module, *inputs: Tensors, into: Tensor) -> Tensor:
        check_choice(mask, len(self))
        price, got = run_for_shapes(block, *inputs)
        check_merged(got, into)
        self._spent = self._spent + Interval(0, price.macs)
        self._sites += 1
        return into

    def choose(
        self,
        mask: Tensor,
        blocks: Sequence[nn.Module],
        *inputs: Tensors,
        weights: Tensor,
        into: Tensor,
        exactly: int | None = None,
    ) -> Tensor:
        check_experts(mask, weights, len(self), len(blocks), exactly, values=False)
        prices = []
        for block in blocks:
            price, got = run_for_shapes(block, *inputs)
            check_merged(got, into)
            prices.append(price.macs)
        prices.sort()
        fewest, most = (0, len(prices)) if exactly is None else (exactly, exactly)
        self._spent = self._spent + Interval(sum(prices[:fewest]), sum(prices[len(prices) - most :]))
        self._sites += len(blocks)
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
