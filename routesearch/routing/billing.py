"""Conditional execution of a batch, and its bill.

A block is charged, at its price (:mod:`routesearch.routing.cost`), to the images that it ran for, routers
and heads included, and to no other.

What makes skipped work saved time (bench/inference.py): a group is gathered once where it parts, carried
down, and only its logits come back; a group that stays whole is not gathered; rows are copied as whole
images in channels_last memory; masks become a bill once a batch, not at each block.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from routesearch.routing.cost import mult_adds
from routesearch.routing.meter import Meter, check_choice, check_experts, check_merged
from routesearch.routing.nested import Tensors, map_tensors

BranchPath = tuple[int, ...]
"""The ways taken at the splits so far."""


@dataclass(frozen=True)
class Routed:
    """The result of routing a batch of N images.

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


class Steering(Protocol):
    """Decisions that replace a network's own: to walk a given way, or to time one."""

    def choose(self, rows: Tensor | None, path: BranchPath, choice: Tensor, ways: int) -> Tensor:
        """The way of each image of a group.

        Args:
            rows: which images of the batch these are (int64); None for all of them in order.
            path: the ways that the group took at the splits before.
            choice: what the network chose, one per image.
        """

    def mask(self, rows: Tensor | None, site: int, mask: Tensor) -> Tensor:
        """Whether a block runs for each image of a group.

        Args:
            rows: as for :meth:`choose`.
            site: how many skippable blocks the group met before.
            mask: what the network decided, one per image.
        """

    def experts(self, rows: Tensor | None, site: int, mask: Tensor, exactly: int | None) -> Tensor:
        """Which experts run for each image of a group.

        Args:
            rows: as for :meth:`choose`.
            site: how many skippable blocks the group met before; each expert is one.
            mask: what the network decided, images x experts.
            exactly: experts that every image must run; None: any number.
        """


@dataclass
class _Batch:
    """What the groups of one batch share: the images they came from, and what finished so far."""

    images: Tensor
    logits: list[Tensor] = field(default_factory=list)
    rows: list[Tensor | None] = field(default_factory=list)
    macs: list[Tensor] = field(default_factory=list)
    route: list[int] = field(default_factory=list)
    ran: list[Tensor] = field(default_factory=list)


@final
class BatchMeter(Meter):
    """A meter that runs blocks for real, and keeps what each image has spent.

    Args:
        images: N images, the whole batch.
        steering: decides in the network's place; None: the network decides.
        price: a block and its inputs to what each image pays.
    """

    def __init__(
        self, images: Tensor, steering: Steering | None = None, price: Callable[..., int] = mult_adds
    ) -> None:
        self._size = images.shape[0]
        self._batch = _Batch(images)
        self._steering = steering
        self._price = price
        self._path: BranchPath = ()
        self._paid = 0  # by every image of the group
        self._masks: list[Tensor] = []  # of the blocks patched on the way here: which images ran them
        self._prices: list[int] = []
        self._rows: Tensor | None = None  # which images of the batch these are; None: all of them in order

    def __len__(self) -> int:
        return self._size

    def run(self, block: nn.Module, *inputs: Tensors) -> Any:
        self._paid += self._price(block, *inputs)
        return block(*inputs)

    def split(self, choice: Tensor, ways: int, *state: Tensors) -> Iterator[tuple[Any, ...]]:
        if self._steering is not None:
            choice = self._steering.choose(self._rows, self._path, choice, ways)
        check_choice(choice, len(self))
        if len(self) == 1 and 0 <= (way := int(choice)) < ways:  # what is below, for less
            self._path = (*self._path, way)
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
            way = counts.index(len(self))
            self._path = (*self._path, way)
            yield (way, self, *state)
            return
        order = torch.argsort(choice, stable=True)
        for way, take in enumerate(order.split(counts)):
            if counts[way]:
                yield (way, self._part(way, take), *_rows(state, take))

    def patch(self, mask: Tensor, block: nn.Module, *inputs: Tensors, into: Tensor) -> Tensor:
        if self._steering is not None:
            mask = self._steering.mask(self._rows, len(self._masks), mask)
        check_choice(mask, len(self))
        self._masks.append(mask)
        self._prices.append(self._price(block, *inputs))
        take = mask.nonzero().squeeze(1)  # the one wait for the device
        if len(take) == 0:
            return into
        if len(take) == len(self):
            result: Tensor = block(*inputs)
            return result
        return self._overwritten(into, take, block(*_rows(inputs, take)))

    def choose(
        self,
        mask: Tensor,
        blocks: Sequence[nn.Module],
        *inputs: Tensors,
        weights: Tensor,
        into: Tensor,
        exactly: int | None = None,
    ) -> Tensor:
        if self._steering is not None:
            mask = self._steering.experts(self._rows, len(self._masks), mask, exactly)
        check_experts(mask, weights, len(self), len(blocks), exactly)
        for expert, block in enumerate(blocks):
            chosen = mask[:, expert]
            self._masks.append(chosen)
            self._prices.append(self._price(block, *inputs))
            take = chosen.nonzero().squeeze(1)
            if len(take):
                output = block(*(inputs if len(take) == len(self) else _rows(inputs, take)))
                check_merged(output, into)
                share = weights[take, expert].view(-1, *[1] * (into.dim() - 1))
                into = into.index_add(0, take, (share * output).to(into.dtype))
        return into

    def finish(self, logits: Tensor, route: int = 0) -> None:
        if logits.shape[0] != len(self):
            raise ValueError(
                f"one row of logits per image must hold, got {logits.shape[0]} for {len(self)} images"
            )
        batch, ran = self._batch, self._ran()
        batch.logits.append(logits)
        batch.rows.append(self._rows)
        batch.macs.append(self._spent(ran))
        batch.route.append(route)
        batch.ran.append(ran)

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

    def _part(self, way: int, take: Tensor) -> BatchMeter:
        group = copy.copy(self)
        group._size = len(take)
        group._path = (*self._path, way)
        group._rows = take if self._rows is None else self._rows[take]
        group._masks = list(self._ran()[take].unbind(1)) if self._masks else []
        group._prices = list(self._prices)
        return group

    def _ran(self) -> Tensor:
        """N, sites, bool: which patched blocks ran for which image of the group."""
        if not self._masks:
            return torch.zeros(len(self), 0, dtype=torch.bool, device=self._batch.images.device)
        return torch.stack([mask.bool() for mask in self._masks], 1)

    def _spent(self, ran: Tensor) -> Tensor:
        """MACs of each image of the group so far, N, int64."""
        spent = torch.full((len(self),), self._paid, device=self._batch.images.device)
        if not self._masks:
            return spent
        return spent + (ran * torch.tensor(self._prices, device=spent.device)).sum(1)

    def _overwritten(self, into: Tensor, take: Tensor, values: Tensor) -> Tensor:
        images = self._batch.images
        theirs = into.untyped_storage().data_ptr() == images.untyped_storage().data_ptr()  # the caller's own
        if theirs or into.dtype != values.dtype or torch.is_grad_enabled():
            into = into.to(values.dtype, copy=True)
        whole = _as_nhwc(into)
        (into if whole is None else whole).index_copy_(
            0, take, values if whole is None else values.permute(0, 2, 3, 1)
        )
        return into


def _side_by_side(ran: Sequence[Tensor]) -> Tensor:
    """Images x sites of several groups as one, sites that a group did not meet filled up with False."""
    sites = max(part.shape[1] for part in ran)
    return torch.cat([F.pad(part, (0, sites - part.shape[1])) for part in ran])


def _rows(state: Tensors, take: Tensor) -> Tensors:
    """The images at ``take``; a tensor that stands in the state twice is copied once."""
    done: dict[int, Tensor] = {}

    def gather(whole: Tensor) -> Tensor:
        if id(whole) not in done:
            rows = _as_nhwc(whole)
            # Rows of N,H,W,C are whole pieces of memory: several times faster than whole[take].
            done[id(whole)] = (
                whole.index_select(0, take)
                if rows is None
                else rows.index_select(0, take).permute(0, 3, 1, 2)
            )
        return done[id(whole)]

    return map_tensors(state, gather)


def _as_nhwc(maps: Tensor) -> Tensor | None:
    """N,C,H,W maps in channels_last memory as their contiguous N,H,W,C; None for anything else."""
    if maps.ndim == 4 and maps.is_contiguous(memory_format=torch.channels_last):
        return maps.permute(0, 2, 3, 1)
    return None
