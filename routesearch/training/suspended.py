"""A training held still while its network is looked at, so that the look changes nothing of what follows."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn


@contextmanager
def suspended(net: nn.Module) -> Iterator[None]:
    """The network in eval mode; afterwards weights, buffers, modes and random states are as they were.

    Python objects that the network keeps beside its parameters and buffers are not copied.
    """
    modes = [(module, module.training) for module in net.modules()]
    state = {name: value.clone() for name, value in _tensors(net).items()}
    device = next((t.device for t in state.values()), torch.device("cpu"))
    python, array = random.getstate(), np.random.get_state()  # noqa: NPY002 (a plugin may use the old interface)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            net.eval()
            yield
        finally:
            with torch.no_grad():
                for name, value in _tensors(net).items():
                    value.copy_(state[name])
            for module, mode in modes:
                module.training = mode  # one by one: a network's own train() may do more
            random.setstate(python)
            np.random.set_state(array)  # noqa: NPY002


def _tensors(net: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers, those that are not stored too."""
    return {name: value.detach() for name, value in (*net.named_parameters(), *net.named_buffers())}
