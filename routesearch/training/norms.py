"""Batch norms that meet a single value a channel: one image, on a map of one pixel."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn


@contextmanager
def single_values_normalised(net: nn.Module) -> Iterator[None]:
    """Batch norms that train take their running statistics for a single value a channel, inside.

    It has no deviation, and torch raises. A batch of one image brings it about, or a block that one image of
    a batch is routed to.
    """
    held: set[nn.Module] = set()

    def before(norm: nn.Module, inputs: tuple[Any, ...]) -> None:
        x = inputs[0] if inputs else None
        if norm.training and isinstance(x, Tensor) and x.ndim > 1 and x.numel() == x.shape[1]:
            held.add(norm)
            norm.training = False

    def after(norm: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if norm in held:
            held.remove(norm)
            norm.training = True

    with ExitStack() as hooks:
        for module in net.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training:
                hooks.enter_context(module.register_forward_pre_hook(before))
                hooks.enter_context(module.register_forward_hook(after, always_call=True))
        yield
