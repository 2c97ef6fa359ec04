"""Prescribed ways: every route of a network is walked, without luck and whatever its weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from routesearch.methods.base import Knob, RoutedNet
from routesearch.routing.billing import BatchMeter, BranchPath, Routed
from routesearch.routing.cost import Tensors, layer_macs

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


def _rows(rows: Tensor | None, choice: Tensor) -> Tensor:
    return torch.arange(len(choice), device=choice.device) if rows is None else rows


def forced(images: Tensor, split: Pick | None = None, patch: Pick | None = None) -> BatchMeter:
    """A meter on these images whose decisions are :class:`Forced`."""
    return BatchMeter(images, Forced(split, patch))


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

    def meter(self, image: Tensor) -> BatchMeter:
        return forced(image, _scripted(self.splits), self.patch)

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


class _Walk(nn.Module):
    """A network on one prescribed way, for torchinfo to look at."""

    def __init__(self, net: RoutedNet, knob: Knob, meter: Callable[[Tensor], BatchMeter]) -> None:
        super().__init__()
        self.net, self.knob, self.meter = net, knob, meter

    def forward(self, image: Tensor) -> Tensor:
        return follow(self.net, image, self.knob, self.meter(image)).logits


def seen_by_torchinfo(
    net: RoutedNet, image: Tensor, knob: Knob, meter: Callable[[Tensor], BatchMeter] = BatchMeter
) -> tuple[int, int]:
    """MACs that the meter bills for one image, and those that torchinfo counts of all that runs."""
    from torchinfo import summary

    # Also prices what it meets for the first time: that runs blocks, which would be counted below.
    billed = follow(net, image, knob, meter(image))
    walk = _Walk(net, knob, meter)
    try:
        seen = summary(walk, input_data=[image], verbose=0, mode="eval", col_names=(), device=image.device)
    except RuntimeError as error:
        raise error.__cause__ or error from None
    return int(billed.macs), int(seen.total_mult_adds)


class UncountedOps(TorchDispatchMode):
    """Counts matrix products and convolutions beyond those that torchinfo sees in layers with parameters.

    Attributes:
        found: what ran unseen, with its multiply-adds of the whole batch.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[tuple[str, int]] = []
        self._done: list[int] = []  # multiply-adds of the layers that are at work right now
        leaves = [m for m in net.modules() if not any(m.children()) and any(True for _ in m.parameters())]
        self._handles = [m.register_forward_pre_hook(self._enter) for m in leaves]
        self._handles += [m.register_forward_hook(self._leave, prepend=True) for m in leaves]

    def _enter(self, *_: Any) -> None:
        self._done.append(0)

    def _leave(self, layer: nn.Module, _: Any, output: Tensors) -> None:
        unseen = self._done.pop() - layer_macs(layer, output)
        if unseen > 0:
            self.found.append((f"within {type(layer).__name__}", unseen))

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        for handle in self._handles:
            handle.remove()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        packet = getattr(func, "_overloadpacket", None)
        if packet in flop_registry:
            macs = int(flop_registry[packet](*args, **(kwargs or {}), out_val=out)) // 2
            if self._done:
                self._done[-1] += macs
            else:
                self.found.append((str(packet).removeprefix("aten."), macs))
        return out
