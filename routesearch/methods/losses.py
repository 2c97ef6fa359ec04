"""Losses that more than one stage uses."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from routesearch.methods.base import Batch


def cross_entropy(net: nn.Module) -> Callable[[Batch], Tensor]:
    """A stage's loss: the mean cross-entropy of a network's logits, N x classes, with the labels."""

    def loss(batch: Batch) -> Tensor:
        return F.cross_entropy(net(batch.inputs), batch.labels)

    return loss
