"""What a block costs: multiply-adds for one image, counted twice (:mod:`routesearch.routing.counter`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from routesearch.routing.counter import check, counted
from routesearch.routing.nested import Tensors, map_tensors, shape_key


@dataclass(frozen=True)
class Price:
    """Multiply-adds of a block for one image.

    Attributes:
        macs: with biases and parameters of normalisation.
        products: without: convolutions, matrix products and attention.
        shared: of ``macs``, what reads weights alone, which a batch needs once.
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
        CountError: an operator that no formula knows, or two counts that differ.
    """
    return price_of(block, *inputs).macs


def image_macs(block: nn.Module, *inputs: Tensors) -> int:
    """The :func:`mult_adds` without what reads weights alone: so many run for each image of any batch."""
    price = price_of(block, *inputs)
    return price.macs - price.shared


def price_of(block: nn.Module, *inputs: Tensors) -> Price:
    """Both counts of a block; as :func:`mult_adds`."""
    return _priced(block, inputs)[0]


def run_for_shapes(block: nn.Module, *inputs: Tensors) -> tuple[Price, Any]:
    """A block's price and its output for one image on the meta device; run only when it meets new shapes."""
    price, output = _priced(block, inputs)
    return price, map_tensors(output, lambda t: t.new_empty(t.shape))


def _priced(block: nn.Module, inputs: tuple[Any, ...]) -> tuple[Price, Any]:
    known = _PRICES.setdefault(block, {})
    key = shape_key(inputs)
    try:
        found = known.get(key)
    except TypeError:  # an input that is neither a tensor nor hashable
        return _count(block, inputs)
    if found is None:
        found = known[key] = _count(block, inputs)
    return found


def _count(block: nn.Module, inputs: tuple[Any, ...]) -> tuple[Price, Any]:
    one = [
        map_tensors(x, lambda t: torch.zeros((1, *t.shape[1:]), dtype=t.dtype, device=t.device))
        for x in inputs
    ]
    modes = [(m, m.training) for m in block.modules()]
    try:
        block.eval()  # a norm in training mode would refuse one image
        with torch.no_grad(), counted(block) as count:
            output = block(*one)
    finally:
        for module, training in modes:
            module.training = training
    check(count, type(block).__name__)
    price = Price(count.macs, count.images.products + count.shared.products, count.shared.macs)
    return price, map_tensors(output, lambda t: torch.empty(t.shape, dtype=t.dtype, device="meta"))
