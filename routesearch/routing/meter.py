"""Conditional execution and its bill.

A block is charged, at its price (:mod:`routesearch.routing.cost`), to the images that it ran for, routers and
heads included, and to no other.

A :class:`Meter` holds a group of images that went the same way so far. It runs blocks for the group
and charges them; it splits the group where the network decides. The same code on a :class:`Plan`,
with one image on torch's meta device that takes every way, gives the static interval.

What makes skipped work saved time (bench/inference.py): a group is gathered once where it parts, carried
down, and only its logits come back; a group that stays whole is not gathered; rows are copied as whole
images in channels_last memory; masks become a bill once a batch, not at each block.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from routesearch.results.points import Interval
from routesearch.routing.cost import Tensors, map_tensors, mult_adds


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

    @classmethod
    def joined(cls, parts: Sequence[Routed]) -> Routed:
        """Several batches as one; an image that met fewer blocks to skip than others ran none of the rest."""
        return cls(
            torch.cat([part.logits for part in parts]),
            torch.cat([part.macs for part in parts]),
            torch.cat([part.route for part in parts]),
            _side_by_side([part.ran for part in parts]),
        )


@dataclass
class _Batch:
    """What the groups of one batch share: the images they came from, and what finished so far."""

    images: Tensor
    logits: list[Tensor] = field(default_factory=list)
    rows: list[Tensor | None] = field(default_factory=list)
    macs: list[Tensor] = field(default_factory=list)
    route: list[int] = field(default_factory=list)
    ran: list[Tensor] = field(default_factory=list)


class Meter:
    """A group of images that went the same way so far, and what each has spent.

    Attributes:
        rows: which images of the batch these are (int64), None for all of them in order.
    """

    def __init__(self, images: Tensor) -> None:
        self._size = images.shape[0]
        self._batch = _Batch(images)
        self._paid = 0  # by every image of the group
        self._masks: list[Tensor] = []  # of the blocks patched on the way here: which images ran them
        self._prices: list[int] = []
        self.rows: Tensor | None = None

    def __len__(self) -> int:
        return self._size

    @property
    def spent(self) -> Tensor:
        """MACs of each image of the group so far, N, int64."""
        spent = torch.full((len(self),), self._paid, device=self._batch.images.device)
        if not self._masks:
            return spent
        return spent + (self._ran() * torch.tensor(self._prices, device=spent.device)).sum(1)

    def run(self, block: nn.Module, *inputs: Tensors) -> Any:
        """Run ``block`` for the whole group and charge each of its images."""
        self._paid += mult_adds(block, *inputs)
        return block(*inputs)

    def split(self, choice: Tensor, ways: int, *state: Tensors) -> Iterator[tuple[Any, ...]]:
        """Send each image the way that ``choice`` (its index, or a bool for two ways) names.

        Yields:
            (way, group, *state) for each way that any image takes, the state cut down to the group.
            The group that was split must not be used afterwards.
        """
        _check_choice(choice, len(self))
        if len(self) == 1 and 0 <= (way := int(choice)) < ways:  # what is below, for less
            yield (way, self, *state)
            return
        choice = choice.long()
        counts = torch.bincount(
            choice.clamp(-1, ways) + 1, minlength=ways + 2
        ).tolist()  # one wait for the device
        under, *counts, over = counts
        if under or over:
            low, high = int(choice.min()), int(choice.max())
            raise ValueError(f"0 <= choice < ways must hold, got {low} to {high}, ways={ways}")
        if max(counts) == len(self):  # nobody parts: nothing to gather
            yield (counts.index(len(self)), self, *state)
            return
        order = torch.argsort(choice, stable=True)
        for way, take in enumerate(order.split(counts)):
            if counts[way]:
                yield (way, self._part(take), *_rows(state, take))

    def patch(self, mask: Tensor, block: nn.Module, *inputs: Tensors, into: Tensor) -> Tensor:
        """Run ``block`` for the masked images only; the others keep their rows of ``into``.

        Args:
            mask: bool, one per image of the group.
            into: what the others go on with, of the shape that the block gives. It is given up: its rows
                may be overwritten.
        """
        _check_choice(mask, len(self))
        self._masks.append(mask)
        self._prices.append(mult_adds(block, *inputs))
        take = mask.nonzero().squeeze(1)  # the one wait for the device
        if len(take) == 0:
            return into
        if len(take) == len(self):
            result: Tensor = block(*inputs)
            return result
        return self._overwritten(into, take, block(*_rows(inputs, take)))

    def _overwritten(self, into: Tensor, take: Tensor, values: Tensor) -> Tensor:
        images = self._batch.images
        theirs = into.untyped_storage().data_ptr() == images.untyped_storage().data_ptr()  # the caller's own
        if theirs or into.dtype != values.dtype or torch.is_grad_enabled():
            into = into.to(values.dtype, copy=True)
        whole = _images_last(into)
        (into if whole is None else whole).index_copy_(
            0, take, values if whole is None else values.permute(0, 2, 3, 1)
        )
        return into

    def finish(self, logits: Tensor, route: int = 0) -> None:
        """These images are done, with these logits; every image finishes exactly once."""
        if logits.shape[0] != len(self):
            raise ValueError(
                f"one row of logits per image must hold, got {logits.shape[0]} for {len(self)} images"
            )
        batch = self._batch
        batch.logits.append(logits)
        batch.rows.append(self.rows)
        batch.macs.append(self.spent)
        batch.route.append(route)
        batch.ran.append(self._ran())

    def bill(self) -> Routed:
        """The whole batch's result.

        Raises:
            ValueError: if an image finished twice or not at all.
        """
        batch, count = self._batch, self._batch.images.shape[0]
        finished, device = sum(map(len, batch.logits)), batch.images.device
        if finished != count or (None in batch.rows and len([r for r in batch.logits if len(r)]) > 1):
            raise ValueError(f"every image must finish exactly once, got {finished} finishes for {count}")
        if not batch.logits:
            none = torch.zeros(0, dtype=torch.int64, device=device)
            return Routed(torch.empty(0, 0, device=device), none, none, none.bool()[:, None][:, :0])
        if len(batch.logits) == 1:
            route = torch.full((count,), batch.route[0], device=device)
            return Routed(batch.logits[0], batch.macs[0], route, batch.ran[0])
        ran = _side_by_side(batch.ran)
        sizes = torch.tensor([len(logits) for logits in batch.logits], device=device)
        route = torch.tensor(batch.route, device=device).repeat_interleave(sizes, output_size=count)
        whole = torch.cat(batch.logits), torch.cat(batch.macs), route, ran
        order = [rows for rows in batch.rows if rows is not None]
        back = torch.full((count,), -1, device=device)
        back[torch.cat(order)] = torch.arange(count, device=device)
        if bool((back < 0).any()):
            raise ValueError("every image must finish exactly once, got one that finished twice")
        return Routed(*(part.index_select(0, back) for part in whole))

    def _part(self, take: Tensor) -> Meter:
        group = copy.copy(self)
        group._size = len(take)
        group.rows = take if self.rows is None else self.rows[take]
        group._masks = list(self._ran()[take].unbind(1)) if self._masks else []
        group._prices = list(self._prices)
        return group

    def _ran(self) -> Tensor:
        """N, sites, bool: what was patched for whom."""
        if not self._masks:
            return torch.zeros(len(self), 0, dtype=torch.bool, device=self._batch.images.device)
        return torch.stack([mask.bool() for mask in self._masks], 1)


class Plan(Meter):
    """A meter whose one image takes every way: costs add in sequence, alternatives join.

    Attributes:
        routes: route -> Interval, filled as ways finish.
        params: parameters of the network that is priced, all branches; of the largest of several.
        known: whether this is one network's plan; not where it covers several that a trunk decides among.
        sites: the most skippable blocks that were met on one way.
    """

    def __init__(self) -> None:
        super().__init__(torch.empty(1, 0, device="meta"))
        self._interval = Interval(0, 0)
        self._site = 0
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

    @property
    def spent(self) -> Any:
        """Interval so far."""
        return self._interval

    def run(self, block: nn.Module, *inputs: Tensors) -> Any:
        price = mult_adds(block, *inputs)
        self._interval = self._interval + Interval(price, price)
        return block(*inputs)

    def split(self, choice: Tensor, ways: int, *state: Tensors) -> Iterator[tuple[Any, ...]]:
        _check_choice(choice, len(self))
        for way in range(ways):
            yield (way, copy.copy(self), *state)

    def patch(self, mask: Tensor, block: nn.Module, *inputs: Tensors, into: Tensor) -> Tensor:
        _check_choice(mask, len(self))
        got = block(*inputs)
        if got.shape != into.shape:
            law = "a patched block must give the shape of what it is patched into"
            raise ValueError(f"{law}, got {tuple(got.shape[1:])} and {tuple(into.shape[1:])}")
        self._interval = self._interval + Interval(0, mult_adds(block, *inputs))
        self._site += 1
        return into

    def finish(self, logits: Tensor, route: int = 0) -> None:
        if self._interval.min <= 0:
            raise ValueError(f"a route must run some block through the meter, route {route} ran none")
        self._longest[0] = max(self._longest[0], self._site)
        price = self._interval
        self.routes[route] = self.routes[route] | price if route in self.routes else price

    def bill(self) -> Routed:
        raise TypeError("a plan prices routes; it has no images to bill")


def _check_choice(choice: Tensor, images: int) -> None:
    if choice.shape != (images,) or choice.is_floating_point():
        got = f"{choice.dtype} of shape {tuple(choice.shape)} for {images} images"
        raise ValueError(f"a choice must be one integer or bool per image, got {got}")


def _side_by_side(ran: Sequence[Tensor]) -> Tensor:
    """Images x sites of several groups as one, sites that a group did not meet filled up with False."""
    sites = max(part.shape[1] for part in ran)
    return torch.cat([F.pad(part, (0, sites - part.shape[1])) for part in ran])


def _rows(state: Tensors, take: Tensor) -> Tensors:
    """The images at ``take``; a tensor that stands in the state twice is copied once."""
    done: dict[int, Tensor] = {}

    def gather(whole: Tensor) -> Tensor:
        if id(whole) not in done:
            rows = _images_last(whole)
            # Rows of N,H,W,C are whole pieces of memory: several times faster than whole[take].
            done[id(whole)] = (
                whole.index_select(0, take)
                if rows is None
                else rows.index_select(0, take).permute(0, 3, 1, 2)
            )
        return done[id(whole)]

    return map_tensors(state, gather)


def _images_last(maps: Tensor) -> Tensor | None:
    """N,C,H,W maps in channels_last memory as their contiguous N,H,W,C; None for anything else."""
    if maps.ndim == 4 and maps.is_contiguous(memory_format=torch.channels_last):
        return maps.permute(0, 2, 3, 1)
    return None
