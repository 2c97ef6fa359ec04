"""What a block costs: multiply-adds as torchinfo counts them, for one image.

Biases and normalisation parameters are included, activations, pooling and additions are free, and
functional convolutions are invisible (wrap them in a module).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

Tensors = Any
"""A tensor, or nested lists and tuples of tensors, images always dim 0."""


_PRICES: WeakKeyDictionary[nn.Module, dict[Any, int]] = WeakKeyDictionary()


def mult_adds(block: nn.Module, *inputs: Tensors) -> int:
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


def _count(block: nn.Module, inputs: tuple[Tensors, ...]) -> int:
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
    except RuntimeError as error:  # torchinfo's own says only that something failed
        raise error.__cause__ or error from None
    finally:
        for module, training in modes:
            module.training = training
    return int(found.total_mult_adds)


def _device(inputs: Tensors) -> torch.device:
    return next(t.device for t in tensors(inputs))


def layer_macs(layer: nn.Module, output: Tensors) -> int:
    """Multiply-adds of a layer, by torchinfo, for the whole batch that gave ``output``."""
    from torchinfo.layer_info import LayerInfo

    info = LayerInfo("", layer, 0)
    info.output_size, _ = LayerInfo.calculate_size(output, None)
    info.calculate_macs()
    return int(info.macs)


@dataclass
class Executed:
    """Multiply-adds of everything that ran, of all images together."""

    macs: int = 0


@contextmanager
def executed(net: nn.Module, weight: Callable[[Tensors], int] = lambda output: 1) -> Iterator[Executed]:
    """Add up the work of every layer of ``net`` that runs inside, whoever runs it.

    Args:
        weight: a layer's output to a factor on its price.
    """
    work = Executed()

    def add(module: nn.Module, inputs: tuple[Tensors, ...], output: Tensors) -> None:
        work.macs += layer_macs(module, output) * weight(output)

    # What torchinfo counts: modules without children, by their own parameters.
    leaves = [m for m in net.modules() if not any(m.children()) and any(True for _ in m.parameters())]
    handles = [leaf.register_forward_hook(add) for leaf in leaves]
    try:
        yield work
    finally:
        for handle in handles:
            handle.remove()


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


def _shapes(state: Tensors) -> Any:
    if isinstance(state, Tensor):
        return tuple(state.shape[1:])
    return tuple(_shapes(part) for part in state) if isinstance(state, list | tuple) else None
