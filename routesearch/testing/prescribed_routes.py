"""Prescribed ways: every route of a network is walked, without luck and whatever its weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from routesearch.methods.base import Knob, RoutedNet
from routesearch.routing.billing import BatchMeter, BranchPath, Routed
from routesearch.routing.cost import image_macs, mult_adds
from routesearch.routing.counter import Count, check, counted

Pick = Callable[[Tensor, int, int], Tensor]
"""(rows of the batch, index of the decision on their way, number of ways) to a way for each row."""


class Forced:
    """Steering that overrules the network's decisions.

    Args:
        split: picks ways where the network parts its images; None: as the network decides.
        patch: picks whether blocks run (1) or are skipped (0); None: as the network decides.

    Attributes:
        asked: ways at each split that was met, in the order of meeting, of all groups.
    """

    def __init__(self, split: Pick | None = None, patch: Pick | None = None) -> None:
        self._pick_way, self._pick_run = split, patch
        self.asked: list[int] = []

    def choose(self, rows: Tensor | None, path: BranchPath, choice: Tensor, ways: int) -> Tensor:
        self.asked.append(ways)
        return choice if self._pick_way is None else self._pick_way(_rows(rows, choice), len(path), ways)

    def mask(self, rows: Tensor | None, site: int, mask: Tensor) -> Tensor:
        return mask if self._pick_run is None else self._pick_run(_rows(rows, mask), site, 2).bool()

    def experts(self, rows: Tensor | None, site: int, mask: Tensor, exactly: int | None) -> Tensor:
        if self._pick_run is None:
            return mask
        picked = [self.mask(rows, site + e, mask[:, e]) for e in range(mask.shape[1])]
        if exactly is None:
            return torch.stack(picked, 1)
        # Those that are picked come first, so that ways differ in which experts run, not in how many.
        order = torch.stack(picked, 1).long().sort(dim=1, descending=True, stable=True).indices[:, :exactly]
        return torch.zeros_like(mask).scatter_(1, order, value=True)


def _rows(rows: Tensor | None, choice: Tensor) -> Tensor:
    return torch.arange(len(choice), device=choice.device) if rows is None else rows


def forced(
    images: Tensor,
    split: Pick | None = None,
    patch: Pick | None = None,
    price: Callable[..., int] = mult_adds,
) -> BatchMeter:
    """A meter on these images whose decisions are :class:`Forced`."""
    return BatchMeter(images, Forced(split, patch), price)


def at_random(seed: int, share: float = 0.5) -> Pick:
    """The same way for the same row and decision, whoever else is in the batch.

    Args:
        share: of blocks that run, where there are two ways.
    """

    def pick(rows: Tensor, number: int, ways: int) -> Tensor:
        rng = torch.Generator().manual_seed(seed * 1_000_003 + number)
        drawn = torch.rand(4096, generator=rng, dtype=torch.float64)[rows.cpu()]
        way = (drawn > 1 - share).long() if ways == 2 else (drawn * ways).long()
        return way.to(rows.device)

    return pick


def always(way: int) -> Pick:
    return lambda rows, number, ways: torch.full_like(rows, way)


def _scripted(script: Sequence[int]) -> Pick:
    return lambda rows, number, ways: torch.full_like(rows, script[number] if number < len(script) else 0)


def follow(net: RoutedNet, images: Tensor, knob: Knob, meter: BatchMeter) -> Routed:
    """Route images through a meter of one's own, in eval mode."""
    net.eval()
    with torch.no_grad():
        net.route(meter, images, knob)
    return meter.bill()


@dataclass(frozen=True)
class PrescribedWay:
    """One way for one image, by the number taken at each split, and what is done about blocks to skip."""

    splits: tuple[int, ...]
    skips: str
    patch: Pick

    def meter(self, image: Tensor, price: Callable[..., int] = mult_adds) -> BatchMeter:
        return forced(image, _scripted(self.splits), self.patch, price)

    def __str__(self) -> str:
        return f"splits {list(self.splits)}, blocks that can be skipped: {self.skips}"


def every_way(net: RoutedNet, image: Tensor, knob: Knob, most: int = 256) -> list[PrescribedWay]:
    """All sequences of splits (the first ``most``), each with all blocks run, none, and some at random."""
    found: list[tuple[int, ...]] = []
    todo: list[tuple[int, ...]] = [()]
    while todo and len(found) < most:
        script = todo.pop()
        steering = Forced(_scripted(script), always(1))
        follow(net, image, knob, BatchMeter(image, steering))
        taken = (*script, *[0] * (len(steering.asked) - len(script)))
        found.append(taken)
        for place in range(len(steering.asked) - 1, len(script) - 1, -1):
            todo += [(*taken[:place], way) for way in range(1, steering.asked[place])]
    ways = []
    for number, splits in enumerate(found):
        ways += [PrescribedWay(splits, "run", always(1)), PrescribedWay(splits, "skipped", always(0))]
        ways.append(PrescribedWay(splits, f"drawn with seed {number}", at_random(number)))
    return ways


def billed_and_counted(
    net: RoutedNet, images: Tensor, knob: Knob, meter: Callable[..., BatchMeter] = BatchMeter
) -> tuple[int, Count]:
    """What the meter bills for a batch, and a count of all that runs for it.

    Args:
        meter: makes the meter from images and a price.

    Raises:
        CountError: operators that no formula knows, or counts that differ.
    """
    # Prices what it meets for the first time: that runs blocks, which would be counted below.
    follow(net, images, knob, meter(images, price=image_macs))
    with counted(net) as count:
        billed = follow(net, images, knob, meter(images, price=image_macs))
    check(count, net.name)
    return int(billed.macs.sum()), count
