"""Layers that are priced as a whole, as torchinfo counts them: which, and what each costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from routesearch.routing.operators import Work

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.LayerNorm, nn.GroupNorm)
LAYERS: tuple[type[nn.Module], ...] = (
    *(nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.LSTM, nn.GRU, nn.RNN),
    *(nn.LSTMCell, nn.GRUCell, nn.RNNCell, *NORMS),
)
"""Layers that are priced as a whole where they are exactly of these classes: a subclass may do anything."""


_ROWS: WeakKeyDictionary[nn.Module, dict[Any, Work | None]] = WeakKeyDictionary()


def layer_work(layer: nn.Module, output: Any) -> Work | None:
    """A layer's work for the whole batch that gave ``output``, by torchinfo.

    Returns:
        None for a layer, or an output, that torchinfo does not count right.
    """
    first = output[0] if isinstance(output, tuple) else output
    if not isinstance(first, Tensor) or first.dim() < 2 or layer._modules:
        return None
    rows = _ROWS.setdefault(layer, {})
    key = first.shape[1:], *(None if p is None else p.shape for p in layer._parameters.values())
    if key not in rows:
        rows[key] = _row_work(layer, first.shape[1:])
    row = rows[key]
    return None if row is None else row * len(first)


def _row_work(layer: nn.Module, shape: Sequence[int]) -> Work | None:
    """The :func:`layer_work` of one row of an output whose rows have this shape: all are linear in rows."""
    parameters = {name: p for name, p in layer._parameters.items() if p is not None}
    every = sum(p.numel() for p in parameters.values())
    matrices = sum(p.numel() for p in parameters.values() if p.dim() > 1)
    if isinstance(layer, nn.RNNCellBase):  # of which torchinfo multiplies the price by the hidden entries
        return Work(every, matrices) if len(shape) == 1 else None
    if isinstance(layer, nn.RNNBase):
        if len(shape) != 2:  # packed, or one sequence without a batch
            return None
    elif not parameters.keys() <= {"weight", "bias"} or "weight" not in parameters:
        return None  # re-parametrised, or without weights
    if isinstance(layer, NORMS):
        return Work(_torchinfo(layer, shape))
    if isinstance(layer, _ConvNd) and len(shape) + 1 < parameters["weight"].dim():
        return None  # one image without a batch
    # torchinfo counts a linear layer at one position of each image, whatever its input.
    positions = math.prod(shape[:-1]) if isinstance(layer, nn.Linear) else 1
    macs = positions * _torchinfo(layer, shape)
    return Work(macs, macs * matrices // every)


def _torchinfo(layer: nn.Module, shape: Sequence[int]) -> int:
    from torchinfo.layer_info import LayerInfo

    info = LayerInfo("", layer, 0)
    info.output_size = [1, *shape]
    info.calculate_macs()
    return int(info.macs)
