"""The other way to count, that of most papers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

Count = Callable[..., int]


@pytest.fixture
def weights_only() -> Count:
    """MACs of convolutions and linear layers of a network on the meta device, without biases and norms."""

    def count(net: nn.Module, *inputs: Any) -> int:
        total = 0

        def add(layer: nn.Module, _: Any, output: torch.Tensor) -> None:
            nonlocal total
            assert isinstance(layer, nn.Conv2d | nn.Linear)
            total += layer.weight.numel() * output[0, 0].numel()

        layers = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        handles = [layer.register_forward_hook(add) for layer in layers]
        net.eval()(*inputs)
        for handle in handles:
            handle.remove()
        return total

    return count
