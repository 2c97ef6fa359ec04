"""Conditional execution and its bill.

**What is counted.** MACs are multiply-adds as torchinfo counts them, for one image: biases and
normalisation parameters included, activations, pooling and additions free, functional convolutions
invisible (wrap them in a module). A block is charged to the images that it ran for, routers and
heads included, and to no other.

A :class:`Meter` holds a group of images that went the same way so far. It runs blocks for the group
and charges them; it splits the group where the network decides. The same code on a :class:`Plan`,
with one image on torch's meta device that takes every way, gives the static interval.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

State = Any
"""What travels along a route: a tensor, or nested lists and tuples of tensors, images always dim 0."""


@dataclass(frozen=True)
class Interval:
    """Cheapest and dearest route, in MACs per image."""

    min: int
    max: int

    def __add__(self, other: Interval) -> Interval:
        """One after the other."""
        return Interval(self.min + other.min, self.max + other.max)

    def __or__(self, other: Interval) -> Interval:
        """One or the other."""
        return Interval(min(self.min, other.min), max(self.max, other.max))

    def __contains__(self, macs: float) -> bool:
        return self.min <= macs <= self.max


@dataclass(frozen=True)
class Routed:
    """What came of a batch of N images.

    Attributes:
        logits: N, classes.
        macs: N, int64: multiply-adds spent on each image.
        route: N, int64: the exit or leaf that each image finished at.
        ran: N, sites, bool: which of the skippable blocks ran for each image, in the order met; no
            columns where the network skips nothing.
    """

    logits: Tensor
    macs: Tensor
    route: Tensor
    ran: Tensor


class _ShapesOnly(TorchFunctionMode):
    """Spares the meta device work that could not show: it has shapes and no values.

    Random initialisation and the functions below have Python forms there: milliseconds each, and the
    first call imports torch's compiler, which takes longer than pricing any network.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if args and isinstance(args[0], Tensor) and args[0].is_meta:
            name = getattr(func, "__name__", "")
            if name in _INITIALISERS:
                return args[0]
            if name in _COMPARISONS and len(args) == 2 and isinstance(args[1], int | float):
                return torch.empty_like(args[0], dtype=torch.bool)
            shape = _SHAPES[func](*args, **(kwargs or {})) if func in _SHAPES else None
            if shape is not None:
                return args[0].new_empty(shape)
        return func(*args, **(kwargs or {}))


def _pooled(x: Tensor, output_size: Any) -> list[int]:
    """Of an adaptive pooling: one side for both, None for as it is."""
    sides = [
        side if want is None else int(want)
        for want, side in zip(_pair(output_size), x.shape[-2:], strict=True)
    ]
    return [*x.shape[:-2], *sides]


def _convolved(
    x: Tensor,
    weight: Tensor,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> list[int] | None:
    if x.dim() < 3 or x.shape[-3] != weight.shape[1] * groups:
        return None
    sides = []
    for axis in (0, 1):
        reach = _pair(dilation)[axis] * (weight.shape[2 + axis] - 1)
        pad = {"same": reach, "valid": 0}[padding] if isinstance(padding, str) else 2 * _pair(padding)[axis]
        sides.append((x.shape[-2 + axis] + pad - reach - 1) // _pair(stride)[axis] + 1)
    return [*x.shape[:-3], weight.shape[0], *sides] if min(sides) > 0 else None


def _normed(x: Tensor, running_mean: Tensor | None, *_: Any, **__: Any) -> Sequence[int] | None:
    fits = running_mean is not None and x.dim() > 1 and x.shape[1] == len(running_mean)
    return x.shape if fits else None


def _mapped(x: Tensor, weight: Tensor, bias: Any = None) -> list[int] | None:
    return [*x.shape[:-1], weight.shape[0]] if x.shape[-1] == weight.shape[1] else None


def _pair(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else (value, value)


_INITIALISERS = frozenset({"normal_", "uniform_", "trunc_normal_", "fill_", "zero_", "ones_", "zeros_"})
_COMPARISONS = frozenset({"ge", "gt", "le", "lt", "__ge__", "__gt__", "__le__", "__lt__"})
_SHAPES: dict[Any, Callable[..., Sequence[int] | None]] = {
    F.adaptive_avg_pool2d: _pooled,
    F.batch_norm: _normed,
    F.conv2d: _convolved,
    F.linear: _mapped,
}
"""Functions and the shape of what they give; None where they would refuse, which torch then does itself."""


@contextmanager
def shapes_only() -> Iterator[None]:
    """Modules made and tensors run inside are on the meta device: shapes and prices without weights."""
    with torch.device("meta"), _ShapesOnly(), torch.no_grad():
        yield


_PRICES: WeakKeyDictionary[nn.Module, dict[Any, int]] = WeakKeyDictionary()


def mult_adds(block: nn.Module, *inputs: State) -> int:
    """Multiply-adds of ``block`` for one image, by torchinfo; remembered for each module and input shape.

    Args:
        block: the module; its mode and the random generators are left as they were.
        inputs: what it is called with, any number of images, any device.
    """
    known = _PRICES.setdefault(block, {})
    key = _shapes(inputs)
    if key not in known:
        known[key] = _count(block, inputs)
    return known[key]


def _count(block: nn.Module, inputs: tuple[State, ...]) -> int:
    from torchinfo import summary

    # torchinfo restores the mode of the root only, and a training-mode norm would refuse one image.
    modes = [(m, m.training) for m in block.modules()]
    block.eval()
    one = [
        map_tensors(x, lambda t: torch.zeros((1, *t.shape[1:]), dtype=t.dtype, device=t.device))
        for x in inputs
    ]
    try:
        with torch.no_grad():
            found = summary(block, input_data=one, verbose=0, mode="eval", col_names=(), device=_device(one))
    finally:
        for module, training in modes:
            module.training = training
    return int(found.total_mult_adds)


def _device(inputs: State) -> torch.device:
    return next(t.device for t in tensors(inputs))


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

    def run(self, block: nn.Module, *inputs: State) -> Any:
        """Run ``block`` for the whole group and charge each of its images."""
        self.spent = self.spent + mult_adds(block, *inputs)
        return block(*inputs)

    def split(self, choice: Tensor, ways: int, *state: State) -> Iterator[tuple[Any, ...]]:
        """Send each image the way that ``choice`` (its index, or a bool for two ways) names.

        Yields:
            (way, group, *state) for each way that any image takes, the state cut down to the group.
            The group that was split must not be used afterwards.
        """
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

    def patch(self, mask: Tensor, block: nn.Module, *inputs: State, into: Tensor) -> Tensor:
        """Run ``block`` for the masked images only; the others keep their rows of ``into``.

        Args:
            mask: bool, one per image of the group.
            into: what the others go on with; not changed.
        """
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
        params: parameters of the network that is priced, all branches.
        sites: how many skippable blocks were met.
    """

    def __init__(self) -> None:
        self._size = 1
        self.rows = None
        self.spent: Any = Interval(0, 0)
        self.routes: dict[int, Interval] = {}
        self.params = 0
        self._sites = [0]

    @property
    def bounds(self) -> Interval:
        """Cheapest and dearest way from the images to logits."""
        whole = list(self.routes.values())
        if not whole:
            raise ValueError("a route must finish at least once, got none")
        return Interval(min(w.min for w in whole), max(w.max for w in whole))

    @property
    def sites(self) -> int:
        return self._sites[0]

    def run(self, block: nn.Module, *inputs: State) -> Any:
        price = mult_adds(block, *inputs)
        self.spent = self.spent + Interval(price, price)
        return block(*inputs)

    def split(self, choice: Tensor, ways: int, *state: State) -> Iterator[tuple[Any, ...]]:
        for way in range(ways):
            yield (way, copy.copy(self), *state)

    def patch(self, mask: Tensor, block: nn.Module, *inputs: State, into: Tensor) -> Tensor:
        self.spent = self.spent + Interval(0, mult_adds(block, *inputs))
        self._sites[0] += 1
        return into

    def finish(self, logits: Tensor, route: int = 0) -> None:
        self.routes[route] = self.routes[route] | self.spent if route in self.routes else self.spent


def tensors(state: State) -> Iterator[Tensor]:
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, list | tuple):
        for part in state:
            yield from tensors(part)


def map_tensors(state: State, change: Any) -> State:
    if isinstance(state, Tensor):
        return change(state)
    if isinstance(state, list | tuple):
        return type(state)(map_tensors(part, change) for part in state)
    return state


def _shapes(state: State) -> Any:
    if isinstance(state, Tensor):
        return tuple(state.shape[1:])
    return tuple(_shapes(part) for part in state) if isinstance(state, list | tuple) else None
