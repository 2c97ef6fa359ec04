"""Counting what runs: layers as torchinfo prices them, everything else operator by operator, twice.

torchinfo's count of a layer, which is how the papers counted, holds for those of
:mod:`routesearch.routing.layers`, biases and parameters of normalisation included. What runs elsewhere
(functions, ``@``, attention, subclasses, re-parametrised layers, fused kernels) is priced by
:mod:`routesearch.routing.operators`. All of it is counted a second time by
:mod:`routesearch.routing.flop_formulas`, and the two must agree.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

from routesearch.errors import CodeFailed
from routesearch.routing.layers import LAYERS, layer_work
from routesearch.routing.nested import map_tensors, tensors
from routesearch.routing.operators import Formula, Work, needs_formula, work_formula


class CountError(CodeFailed):
    """Multiply-adds that cannot be counted, or of which two counts disagree."""


@dataclass
class Count:
    """Work that was done, for all images together.

    Attributes:
        images: what depends on the images.
        shared: matrix products of weights alone, which a batch needs once (a table of positions that a small
            network makes).
        unknown: an operator that may multiply matrices and has no formula, or None.
    """

    images: Work = field(default_factory=Work)
    shared: Work = field(default_factory=Work)
    unknown: str | None = None

    @property
    def macs(self) -> int:
        """Everything that ran."""
        return self.images.macs + self.shared.macs

    def add(self, other: Count) -> None:
        self.images += other.images
        self.shared += other.shared
        self.unknown = self.unknown or other.unknown

    def __mul__(self, factor: int) -> Count:
        return Count(self.images * factor, self.shared * factor, self.unknown)


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
        given = tensors((*args, *kwargs.values()) if kwargs else args)
        known = self._constant
        # What reads weights alone, or nothing, is no image's.
        shared = all(id(t) in known or type(t) is nn.Parameter for t in given)
        for tensor in tensors(out):
            if shared:
                known[id(tensor)] = tensor
                continue
            known.pop(id(tensor), None)
            if operator.writes and tensor._base is not None:  # through a view
                known.pop(id(tensor._base), None)
        if self._frames and not shared:
            self._frames[-1].ran = True
        if operator.counts and (self._depth or not self._inside) and not (shared and operator.of_vectors):
            work = operator.price(args, kwargs, out)
            self._add(Count(shared=work) if shared else Count(work), given)
        elif operator.unknown and not shared:
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
        if stated(module) is not None or type(module) in LAYERS:
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
        self._add(self._settled(frame, output), tensors(output))

    def _settled(self, frame: _Frame, output: Any) -> Count:
        """What a layer costs, from what it states, from torchinfo, or from its operators."""
        module, seen = frame.module, frame.count
        name = type(module).__name__
        if (state := stated(module)) is not None:
            return _stated(name, state, frame.inputs, seen.images)
        layer = layer_work(module, output) if frame.ran or seen.shared.products else None
        if layer is None:
            return seen
        # A recurrent layer's first state is made of nothing, yet each image has one.
        layer.check = seen.images.check + seen.shared.check
        if layer.products != layer.check:
            counts = f"torchinfo counts {layer.products:,} products and torch's operators {layer.check:,}"
            raise CountError(f"the multiply-adds of a layer must be certain, got {name}, of which {counts}")
        return Count(layer, unknown=seen.unknown) if frame.ran else Count(shared=layer)


def _stated(name: str, state: Callable[..., Any], inputs: tuple[Any, ...], seen: Work) -> Count:
    """What a module states for a row of its inputs, times the rows: images, or what they were folded into."""
    rows = len(tensors(inputs)[0])
    macs = state(*(map_tensors(value, lambda t: t[:1]) for value in inputs))
    rule = f"{name}.macs must give the multiply-adds of one image, an integer from 0"
    if isinstance(macs, bool) or not isinstance(macs, int) or macs < 0:
        raise CountError(f"{rule}, got {macs!r}")
    if macs * rows < seen.check:
        raise CountError(f"{rule} and no less than its operators show, got {macs:,} of {seen.check:,}")
    return Count(Work(macs * rows, seen.products, seen.check))


def stated(module: nn.Module) -> Callable[..., Any] | None:
    """A block's own ``macs(*inputs)``, where it has one."""
    if not callable(getattr(type(module), "macs", None)):
        return None
    return cast("Callable[..., Any]", module.macs)


@contextmanager
def counted(
    *nets: nn.Module, inside: bool = False, weight: Callable[[Iterable[Tensor]], int] | None = None
) -> Iterator[Count]:
    """Count what runs inside, in this thread, all images together.

    Args:
        nets: the networks whose parameters and buffers are weights; what reads these alone is ``shared``.
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
        rule = "the multiply-adds of every operator must be known"
        remedy = "give its module a method macs(*inputs) that returns the multiply-adds of one image"
        raise CountError(f"{rule}, got {count.unknown} in {what}; {remedy}")
    first = count.images.products + count.shared.products
    second = count.images.check + count.shared.check
    if first != second:
        got = f"{first:,} and {second:,} products in {what}"
        raise CountError(f"two counts of what runs must agree, got {got}")


@dataclass(frozen=True)
class _Operator:
    """What is known of an operator.

    Attributes:
        work, products: its two formulas; None where it has none.
        composite: whether it can be taken apart into others.
        writes: whether it changes a tensor in place.
        unknown: whether it may multiply matrices, and has no formula.
        of_vectors: whether it multiplies vectors: with weights alone, this is how they are normalised.
    """

    work: Formula | None
    products: Callable[..., int] | None
    composite: bool
    writes: bool
    unknown: bool
    of_vectors: bool

    @property
    def counts(self) -> bool:
        return self.work is not None or self.products is not None

    def price(self, args: Any, kwargs: Any, out: Any) -> Work:
        kwargs = {key: value for key, value in kwargs.items() if key != "out"}
        work = Work() if self.work is None else self.work(*args, **kwargs, out=out)
        work.check = 0 if self.products is None else self.products(args, kwargs, out)
        return work


@functools.cache
def _operator(func: Any) -> _Operator:
    from routesearch.routing.flop_formulas import products_of

    work, products = work_formula(func), products_of(func)
    key = torch._C.DispatchKey.CompositeImplicitAutograd
    composite = torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), key)
    unknown = work is None and products is None and needs_formula(func)
    of_vectors = func._overloadpacket.__name__ in ("mv", "addmv", "dot", "vdot")
    return _Operator(work, products, composite, func._schema.is_mutable, unknown, of_vectors)
