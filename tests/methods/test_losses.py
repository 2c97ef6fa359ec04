"""Losses that more than one stage uses."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from routesearch import Batch
from routesearch.methods.losses import cross_entropy


def test_cross_entropy_is_of_the_networks_logits_and_reaches_its_weights() -> None:
    torch.manual_seed(0)
    net, inputs, labels = nn.Linear(5, 3), torch.randn(7, 5), torch.arange(7) % 3
    loss = cross_entropy(net)(Batch(inputs, labels, 0.0))
    assert torch.equal(loss, F.cross_entropy(net(inputs), labels))
    loss.backward()
    assert net.weight.grad is not None
    assert bool(net.weight.grad.any())
