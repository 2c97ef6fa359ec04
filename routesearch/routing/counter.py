"""Counting what runs: layers as torchinfo prices them, everything else operator by operator, twice.

torchinfo's count of a layer, which is how the papers counted, holds for the layers of :data:`TORCHINFO`,
biases and parameters of normalisation included. What runs elsewhere (functions, ``@``, attention,
subclasses, re-parametrised layers, fused kernels) is priced by :mod:`routesearch.routing.operators`. All of
it is counted a second time by :mod:`routesearch.routing.flop_formulas`, and the two must agree.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

from routesearch.errors import CodeFailed
from routesearch.routing.operators import Formula, Work, needs_formula, work_formula

TORCHINFO: tuple[type[nn.Module], ...] = (
    *(nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.LSTM, nn.GRU, nn.RNN),
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.LayerNorm, nn.GroupNorm),
)
"""Layers that torchinfo counts right, where they are exactly of these classes: a subclass may do anything."""


class CountError(CodeFailed):
    """Multiply-adds that cannot be counted, or of which two counts disagree."""


@dataclass
class Count:
    """Work that was done, for all images together.

    Attributes:
        work: the bill of what depends on the images.
        products: the second count of ``work.products``.
        shared: the bill of matrix products of weights alone, which a batch needs once (a table of positions
            that a small network makes).
        shared_products: the second count of ``shared.products``.
        unknown: an operator that has parameters and no formula, or None.
    """

    work: Work = field(default_factory=Work)
    products: int = 0
    shared: Work = field(default_factory=Work)
    shared_products: int = 0
    unknown: str | None = None

    @property
    def macs(self) -> int:
        """Everything that ran."""
        return self.work.macs + self.shared.macs

    def add(self, other: Count) -> None:
        self.work += other.work
        self.products += other.products
        self.shared += other.shared
        self.shared_products += other.shared_products
        self.unknown = self.unknown or other.unknown

    def __mul__(self, factor: int) -> Count:
        return Count(
            self.work * factor,
            self.products * factor,
            self.shared * factor,
            self.shared_products * factor,
            self.unknown,
        )


@dataclass
class _Frame:
    """A layer that is at work right now, and what its operators did so far."""

    module: nn.Module
    inputs: tuple[Any, ...]
    count: Count = field(default_factory=Count)
    ran: bool = False  # anything for an image


class _Counter(TorchDispatchMode):
    """Prices every operator that runs, in one thread.

    Args:
        modules: whose parameters and buffers are weights.
        inside: count only what runs within these modules.
        weight: arguments of a call to a factor on its price.
    """

    def __init__(
        self, modules: Mapping[int, nn.Module], inside: bool, weight: Callable[[Iterable[Tensor]], int] | None
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = Count()
        self._modules, self._inside, self._weight = modules, inside, weight
        self._depth = 0  # modules of the network that are at work
        self._frames: list[_Frame] = []
        # Weights and what is made of them alone, held so that their ids stay theirs.
        self._constant: dict[int, Tensor] = {}
        for module in modules.values():
            for tensor in (*module._parameters.values(), *module._buffers.values()):
                if tensor is not None:
                    self._constant[id(tensor)] = tensor
        self._thread = threading.get_ident()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """False: else torch imports its compiler to wrap the method below, for over a second."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        operator = _operator(func)
        if operator.composite and torch.is_inference_mode_enabled():  # it would come taken apart otherwise
            with self:
                return func.decompose(*args, **kwargs)
        out = func(*args, **kwargs)
        given = _tensors((*args, *kwargs.values()) if kwargs else args)
        known = self._constant
        weights = sum(id(t) in known or isinstance(t, nn.Parameter) for t in given)
        shared = 0 < weights == len(given)
        for tensor in (out,) if isinstance(out, Tensor) else _tensors((out,)):
            if shared:
                known[id(tensor)] = tensor
            elif id(tensor) in known:
                del known[id(tensor)]
        if self._frames and not shared:
            self._frames[-1].ran = True
        if operator.counts and (self._depth or not self._inside) and not (shared and operator.of_vectors):
            work, products = operator.price(args, kwargs, out)
            self._add(
                Count(shared=work, shared_products=products) if shared else Count(work, products), given
            )
        elif operator.unknown and weights and not shared:
            self._add(Count(unknown=func._overloadpacket._qualified_op_name), given)
        return out

    def _add(self, found: Count, touched: Iterable[Tensor]) -> None:
        """Add what is not part of a layer that is at work, or leave it to the layer."""
        if self._frames:
            self._frames[-1].count.add(found)
        elif self._weight is None:
            self.total.add(found)
        else:
            self.total.add(found * self._weight(touched))

    # ---- layers ---------------------------------------------------------------------------------

    def enter(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if threading.get_ident() != self._thread or id(module) not in self._modules:
            return
        self._depth += 1
        if stated(module) is not None or type(module) in TORCHINFO:
            self._frames.append(_Frame(module, inputs))

    def leave(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if threading.get_ident() != self._thread or id(module) not in self._modules:
            return
        self._depth -= 1
        if not self._frames or self._frames[-1].module is not module:
            return
        frame = self._frames.pop()
        if output is None:  # it raised, and somebody may have caught that
            self._add(frame.count, ())
            return
        self._add(self._settled(frame, output), _tensors((output,)))

    def _settled(self, frame: _Frame, output: Any) -> Count:
        """What a layer costs, from what it states, from torchinfo, or from its operators."""
        module, seen = frame.module, frame.count
        name = type(module).__name__
        if (state := stated(module)) is not None:
            return _stated(name, state(*frame.inputs), len(_tensors(frame.inputs)[0]), seen)
        layer = layer_work(module, output) if frame.ran else None
        if layer is None:
            return seen
        if layer.products != seen.products:
            counts = f"torchinfo counts {layer.products:,} products and torch's operators {seen.products:,}"
            raise CountError(f"the multiply-adds of a layer must be certain, got {name}, of which {counts}")
        return Count(layer, seen.products, seen.shared, seen.shared_products, seen.unknown)


def _stated(name: str, macs: Any, images: int, seen: Count) -> Count:
    rule = f"{name}.macs must give the multiply-adds of one image, an integer from 0"
    if isinstance(macs, bool) or not isinstance(macs, int) or macs < 0:
        raise CountError(f"{rule}, got {macs!r}")
    if macs * images < seen.products:
        raise CountError(f"{rule} and no less than its operators show, got {macs:,} of {seen.products:,}")
    return Count(Work(macs * images, seen.products), seen.products)


def stated(module: nn.Module) -> Callable[..., Any] | None:
    """A block's own ``macs(*inputs)``, where it has one."""
    if not callable(getattr(type(module), "macs", None)):
        return None
    return cast("Callable[..., Any]", module.macs)


def layer_work(layer: nn.Module, output: Any) -> Work | None:
    """A layer's work for the whole batch that gave ``output``, by torchinfo.

    Returns:
        None for a layer, or an output, that torchinfo does not count right.
    """
    names = {name for name, parameter in layer._parameters.items() if parameter is not None}
    first = output[0] if isinstance(output, tuple) else output
    weight = getattr(layer, "weight", None)
    if isinstance(layer, nn.RNNBase):
        if not isinstance(first, Tensor) or first.dim() != 3:  # packed, or one sequence without a batch
            return None
        names = {name.split("_")[0] for name in names}
    elif isinstance(weight, Tensor) and weight.dim() > max(first.dim(), 1):
        return None  # one image without a batch
    if not names <= {"weight", "bias"} or "weight" not in names or layer._modules:
        return None  # re-parametrised, or without weights
    # torchinfo counts a linear layer at one position of each image, whatever its input.
    positions = first[0].numel() // first.shape[-1] if isinstance(layer, nn.Linear) and first.dim() > 2 else 1
    macs = positions * _torchinfo(layer, output)
    every = sum(p.numel() for p in layer._parameters.values() if p is not None)
    matrices = sum(p.numel() for p in layer._parameters.values() if p is not None and p.dim() > 1)
    return Work(macs, macs * matrices // every)


def _torchinfo(layer: nn.Module, output: Any) -> int:
    from torchinfo.layer_info import LayerInfo

    info = LayerInfo("", layer, 0)
    info.output_size, _ = LayerInfo.calculate_size(output, None)
    info.calculate_macs()
    return int(info.macs)


@contextmanager
def counted(
    *nets: nn.Module, inside: bool = False, weight: Callable[[Iterable[Tensor]], int] | None = None
) -> Iterator[Count]:
    """Count what runs inside, in this thread, all images together.

    Args:
        nets: the networks whose parameters and buffers are weights: work on these alone is no image's.
        inside: count only what runs within modules of ``nets``, not what surrounds them.
        weight: tensors that an operator read, or that a layer gave, to a factor on its price.

    Raises:
        CountError: two counts of a layer differ; ``macs`` states less than runs.
    """
    modules = {id(module): module for net in nets for module in net.modules()}
    counter = _Counter(modules, inside, weight)
    handles = [
        register_module_forward_pre_hook(counter.enter),
        register_module_forward_hook(counter.leave, always_call=True),
    ]
    try:
        with counter:
            yield counter.total
    finally:
        for handle in handles:
            handle.remove()


def check(count: Count, what: str) -> None:
    """Raise CountError unless every operator was known and the two counts of products agree.

    Args:
        what: that was counted, for the error.
    """
    if count.unknown is not None:
        rule = "the multiply-adds of every operator with parameters must be known"
        remedy = "give its module a method macs(*inputs) that returns the multiply-adds of one image"
        raise CountError(f"{rule}, got {count.unknown} in {what}; {remedy}")
    first, second = count.work.products + count.shared.products, count.products + count.shared_products
    if first != second:
        raise CountError(
            f"two counts of what runs must agree, got {first:,} and {second:,} products in {what}"
        )


@dataclass(frozen=True)
class _Operator:
    """What is known of an operator.

    Attributes:
        work, products: its two formulas; None where it has none.
        composite: whether it can be taken apart into others.
        unknown: whether it may multiply matrices, and has no formula.
        of_vectors: whether it multiplies vectors: with weights alone, this is how they are normalised.
    """

    work: Formula | None
    products: Callable[..., int] | None
    composite: bool
    unknown: bool
    of_vectors: bool

    @property
    def counts(self) -> bool:
        return self.work is not None or self.products is not None

    def price(self, args: Any, kwargs: Any, out: Any) -> tuple[Work, int]:
        work = Work() if self.work is None else self.work(*args, **kwargs, out=out)
        return work, 0 if self.products is None else self.products(args, kwargs, out)


@functools.cache
def _operator(func: Any) -> _Operator:
    from routesearch.routing.flop_formulas import products_of

    work, products = work_formula(func), products_of(func)
    key = torch._C.DispatchKey.CompositeImplicitAutograd
    composite = torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), key)
    unknown = work is None and products is None and needs_formula(func)
    of_vectors = func._overloadpacket.__name__ in ("mv", "addmv", "dot", "vdot")
    return _Operator(work, products, composite, unknown, of_vectors)


def _tensors(values: Sequence[Any]) -> list[Tensor]:
    found = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += _tensors(value)
    return found
