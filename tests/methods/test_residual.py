"""Residual units that can be left out."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from routesearch import Residual, mult_adds, shortcut_of
from routesearch.testing.toys import ToyResidual


def test_other_ways_to_name_a_shortcut() -> None:
    """torchvision's names are known; a unit that merely keeps its shape is no residual unit."""
    conv = nn.Conv2d(1, 1, 1)

    class Block(nn.Module):
        def __init__(self, downsample: nn.Module | None) -> None:
            super().__init__()
            self.downsample = downsample

    assert isinstance(shortcut_of(Block(None)), nn.Identity)
    assert shortcut_of(Block(conv)) is conv
    assert shortcut_of(conv) is None


def test_a_unit_taken_apart_is_the_same_unit() -> None:
    """Its gradients are the same too; a projection is run once, by who calls, and charged apart."""
    backbone = ToyResidual((1, 8, 8), 3, 0.5)
    for k in (2, 3):
        torch.manual_seed(0)
        whole = backbone.unit(k).eval()
        torch.manual_seed(0)
        apart = Residual(backbone.unit(k)).eval()
        x = torch.rand(3, *backbone.shape(k - 1))
        past = x if apart.projection is None else apart.projection(x)
        y = apart(x, past)
        assert torch.equal(y, whole(x))
        y.sum().backward(), whole(x).sum().backward()
        mine = sorted(float(p.grad.abs().sum()) for p in apart.parameters())
        assert mine == pytest.approx(sorted(float(p.grad.abs().sum()) for p in whole.parameters()))
        price = mult_adds(apart, x, past) + (mult_adds(apart.projection, x) if apart.projection else 0)
        assert price == mult_adds(whole, x)
        assert (apart.projection is None) == (k == 2)
