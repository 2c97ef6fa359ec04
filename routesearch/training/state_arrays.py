"""A network's weights outside of it: tensors on the CPU, or arrays to be stored and sent."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from routesearch.utils.arrays import Arrays


def states(net: nn.Module) -> Mapping[str, Tensor]:
    """The state dict on the CPU, in plain contiguous form."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in net.state_dict().items()}


def to_arrays(net: nn.Module) -> Arrays:
    """The state dict as arrays by name."""
    return {name: tensor.numpy() for name, tensor in states(net).items()}


def as_tensors(arrays: Arrays) -> dict[str, Tensor]:
    """Arrays by name as tensors; copied, since memory that processes share cannot be written."""
    return {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
