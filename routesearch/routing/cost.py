"""What a block costs: multiply-adds for one image, counted twice (:mod:`routesearch.routing.counter`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from routesearch.routing.counter import check, counted

Tensors = Any
"""A tensor, or nested lists and tuples of tensors, images always dim 0."""


@dataclass(frozen=True)
class Price:
    """Multiply-adds of a block for one image.

    Attributes:
        macs: with biases and parameters of normalisation.
        products: without: convolutions, matrix products and attention.
        shared: of these, products of weights alone, which a batch needs once.
    """

    macs: int
    products: int
    shared: int = 0


_PRICES: WeakKeyDictionary[nn.Module, dict[Any, tuple[Price, Any]]] = WeakKeyDictionary()


def mult_adds(block: nn.Module, *inputs: Tensors) -> int:
    """Multiply-adds of ``block`` for one image; remembered for each module and input shape.

    Biases and normalisation parameters are included; activations, pooling and additions are free.

    Args:
        block: the module; its mode and the random generators are left as they were.
        inputs: what it is called with, any number of images, any device.

    Raises:
        CountError: an operator with parameters that no formula knows, or two counts that differ.
    """
    return price_of(block, *inputs).macs


def image_products(block: nn.Module, *inputs: Tensors) -> int:
    """As :func:`mult_adds`, without biases, normalisation parameters and products of weights alone.

    So many run for each image whatever the batch; what a counter of operators sees.
    """
    price = price_of(block, *inputs)
    return price.products - price.shared


def price_of(block: nn.Module, *inputs: Tensors) -> Price:
    """Both counts of a block; as :func:`mult_adds`."""
    return _priced(block, inputs)[0]


def run_for_shapes(block: nn.Module, *inputs: Tensors) -> tuple[Price, Any]:
    """A block's price and its output for one image on the meta device; run only when it meets new shapes."""
    price, output = _priced(block, inputs)
    return price, map_tensors(output, lambda t: t.new_empty(t.shape))


def _priced(block: nn.Module, inputs: tuple[Any, ...]) -> tuple[Price, Any]:
    known = _PRICES.setdefault(block, {})
    key = _shapes(inputs)
    try:
        found = known.get(key)
    except TypeError:  # an input that is neither a tensor nor hashable
        return _count(block, inputs)
    if found is None:
        found = known[key] = _count(block, inputs)
    return found


def _count(block: nn.Module, inputs: tuple[Any, ...]) -> tuple[Price, Any]:
    modes = [(m, m.training) for m in block.modules()]
    block.eval()  # a norm in training mode would refuse one image
    one = [
        map_tensors(x, lambda t: torch.zeros((1, *t.shape[1:]), dtype=t.dtype, device=t.device))
        for x in inputs
    ]
    try:
        with torch.no_grad(), counted(block) as count:
            output = block(*one)
    finally:
        for module, training in modes:
            module.training = training
    check(count, type(block).__name__)
    price = Price(count.macs, count.products + count.shared_products, count.shared_products)
    return price, map_tensors(output, lambda t: torch.empty(t.shape, dtype=t.dtype, device="meta"))


def tensors(state: Tensors) -> Iterator[Tensor]:
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, list | tuple):
        for part in state:
            yield from tensors(part)


def map_tensors(state: Tensors, change: Any) -> Tensors:
    if isinstance(state, Tensor):
        return change(state)
    if isinstance(state, list | tuple):
        return type(state)(map_tensors(part, change) for part in state)
    return state


def _shapes(state: Any) -> Any:
    """What the price of a call depends on: shapes for tensors, everything else as it is."""
    if isinstance(state, Tensor):
        return tuple(state.shape[1:]), state.is_meta
    return tuple(_shapes(part) for part in state) if isinstance(state, list | tuple) else state
