"""Conditional execution and its bill.

A block is charged, at its price (:mod:`routesearch.pricing`), to the images that it ran for, routers and
heads included, and to no other.

A :class:`Meter` holds a group of images that went the same way so far. It runs blocks for the group
and charges them; it splits the group where the network decides. The same code on a :class:`Plan`,
with one image on torch's meta device that takes every way, gives the static interval.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from routesearch.pricing import Interval, Tensors, map_tensors, mult_adds


@dataclass(frozen=True)
class Routed:
    """What came of a batch of N images.

    Attributes:
        logits: N, classes.
        macs: N, int64: multiply-adds spent on each image.
        route: N, int64: the exit or leaf that each image finished at.
        ran: N, sites, bool: whether the first, second, ... skippable block on an image's way ran for it;
            branches share columns; none where the network skips nothing.
    """

    logits: Tensor
    macs: Tensor
    route: Tensor
    ran: Tensor


@dataclass
class _Tally:
    """The bill of a whole batch, written by the groups as they finish."""

    count: int
    device: torch.device
    logits: Tensor | None = None
    finished: int = 0
    macs: Tensor = field(init=False)
    route: Tensor = field(init=False)
    ran: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.macs = torch.full((self.count,), -1, dtype=torch.int64, device=self.device)
        self.route = torch.zeros(self.count, dtype=torch.int64, device=self.device)


class Meter:
    """A group of images that went the same way so far, and what each has spent.

    Attributes:
        rows: which images of the batch these are (int64), None for all of them in order.
        spent: MACs of each image of the group so far: one number while all spent the same.
    """

    def __init__(self, images: Tensor) -> None:
        self._size = images.shape[0]
        self._tally = _Tally(self._size, images.device)
        self._site = 0
        self.rows: Tensor | None = None
        self.spent: int | Tensor = 0

    def __len__(self) -> int:
        return self._size

    def run(self, block: nn.Module, *inputs: Tensors) -> Any:
        """Run ``block`` for the whole group and charge each of its images."""
        self.spent = self.spent + mult_adds(block, *inputs)
        return block(*inputs)

    def split(self, choice: Tensor, ways: int, *state: Tensors) -> Iterator[tuple[Any, ...]]:
        """Send each image the way that ``choice`` (its index, or a bool for two ways) names.

        Yields:
            (way, group, *state) for each way that any image takes, the state cut down to the group.
            The group that was split must not be used afterwards.
        """
        _check_choice(choice, len(self))
        counts = torch.bincount(choice.long(), minlength=ways).tolist()  # the one wait for the device
        if len(counts) > ways:
            raise ValueError(f"choice < ways must hold, got choice={len(counts) - 1}, ways={ways}")
        if max(counts) == len(self):  # nobody parts: nothing to gather
            yield (counts.index(len(self)), self, *state)
            return
        order = torch.argsort(choice.long(), stable=True)
        for way, take in enumerate(order.split(counts)):
            if counts[way]:
                yield (way, self._part(take), *(map_tensors(s, lambda t, take=take: t[take]) for s in state))

    def patch(self, mask: Tensor, block: nn.Module, *inputs: Tensors, into: Tensor) -> Tensor:
        """Run ``block`` for the masked images only; the others keep their rows of ``into``.

        Args:
            mask: bool, one per image of the group.
            into: what the others go on with; not changed.
        """
        _check_choice(mask, len(self))
        price = mult_adds(block, *inputs)
        self._mark(mask)
        take = mask.nonzero().squeeze(1)
        if len(take) == 0:
            return into
        if len(take) == len(self):
            self.spent = self.spent + price
            result: Tensor = block(*inputs)
            return result
        self.spent = self.spent + price * mask
        patched = into.clone()
        patched[take] = block(*(map_tensors(x, lambda t: t[take]) for x in inputs))
        return patched

    def finish(self, logits: Tensor, route: int = 0) -> None:
        """These images are done, with these logits; every image finishes exactly once."""
        tally = self._tally
        if logits.shape[0] != len(self):
            raise ValueError(
                f"one row of logits per image must hold, got {logits.shape[0]} for {len(self)} images"
            )
        if tally.logits is None:
            tally.logits = logits.new_empty((tally.count, *logits.shape[1:]))
        rows = slice(None) if self.rows is None else self.rows
        tally.logits[rows] = logits
        tally.macs[rows] = torch.as_tensor(self.spent, device=tally.device)
        tally.route[rows] = route
        tally.finished += len(self)

    def bill(self) -> Routed:
        """The whole batch's result.

        Raises:
            ValueError: if an image finished twice or not at all.
        """
        tally = self._tally
        if tally.finished != tally.count or (tally.count and bool((tally.macs < 0).any())):
            raise ValueError(
                f"every image must finish exactly once, got {tally.finished} finishes for {tally.count}"
            )
        logits = torch.empty(0, 0, device=tally.device) if tally.logits is None else tally.logits
        ran = torch.stack(tally.ran, 1) if tally.ran else torch.zeros(tally.count, 0, dtype=torch.bool)
        return Routed(logits, tally.macs, tally.route, ran.to(tally.device))

    def _part(self, take: Tensor) -> Meter:
        group = copy.copy(self)
        group._size = len(take)
        group.rows = take if self.rows is None else self.rows[take]
        group.spent = self.spent[take] if isinstance(self.spent, Tensor) else self.spent
        return group

    def _mark(self, mask: Tensor) -> None:
        ran = self._tally.ran
        if self._site == len(ran):
            ran.append(torch.zeros(self._tally.count, dtype=torch.bool, device=self._tally.device))
        ran[self._site][slice(None) if self.rows is None else self.rows] = mask
        self._site += 1


class Plan(Meter):
    """A meter whose one image takes every way: costs add in sequence, alternatives join.

    Attributes:
        spent: Interval so far.
        routes: route -> Interval, filled as ways finish.
        params: parameters of the network that is priced, all branches; of the largest of several.
        known: whether this is one network's plan; not where it covers several that a trunk decides among.
        sites: the most skippable blocks that were met on one way.
    """

    def __init__(self) -> None:
        super().__init__(torch.empty(1, 0, device="meta"))
        self.spent: Any = Interval(0, 0)
        self.routes: dict[int, Interval] = {}
        self.params = 0
        self.known = True
        self._longest = [0]  # one for all ways

    @classmethod
    def any_of(cls, plans: Sequence[Plan]) -> Plan:
        """The plan of a network that is one of these."""
        whole = cls()
        whole.known = False
        for one in plans:
            whole.params = max(whole.params, one.params)
            whole._longest[0] = max(whole.sites, one.sites)
            for route, price in one.routes.items():
                whole.routes[route] = whole.routes[route] | price if route in whole.routes else price
        return whole

    @property
    def bounds(self) -> Interval:
        """Cheapest and dearest way from the images to logits."""
        whole = list(self.routes.values())
        if not whole:
            raise ValueError("a route must finish at least once, got none")
        return Interval(min(w.min for w in whole), max(w.max for w in whole))

    @property
    def sites(self) -> int:
        return self._longest[0]

    def run(self, block: nn.Module, *inputs: Tensors) -> Any:
        price = mult_adds(block, *inputs)
        self.spent = self.spent + Interval(price, price)
        return block(*inputs)

    def split(self, choice: Tensor, ways: int, *state: Tensors) -> Iterator[tuple[Any, ...]]:
        _check_choice(choice, len(self))
        for way in range(ways):
            yield (way, copy.copy(self), *state)

    def patch(self, mask: Tensor, block: nn.Module, *inputs: Tensors, into: Tensor) -> Tensor:
        _check_choice(mask, len(self))
        self.spent = self.spent + Interval(0, mult_adds(block, *inputs))
        self._site += 1
        return into

    def finish(self, logits: Tensor, route: int = 0) -> None:
        if self.spent.min <= 0:
            raise ValueError(f"a route must run some block through the meter, route {route} ran none")
        self._longest[0] = max(self._longest[0], self._site)
        self.routes[route] = self.routes[route] | self.spent if route in self.routes else self.spent

    def bill(self) -> Routed:
        raise TypeError("a plan prices routes; it has no images to bill")


def _check_choice(choice: Tensor, images: int) -> None:
    if choice.shape != (images,) or choice.is_floating_point():
        got = f"{choice.dtype} of shape {tuple(choice.shape)} for {images} images"
        raise ValueError(f"a choice must be one integer or bool per image, got {got}")
