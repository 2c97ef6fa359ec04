"""CIFAR residual networks against SkipNet's figures."""

from __future__ import annotations

import pytest
import torch

from routesearch.backbones import CifarResNet, ResNet38, ResNet74, ResNet110, ResNet152
from routesearch.backbones.base import reference_cost
from routesearch.routing.cost import mult_adds

CIFAR10 = (3, 32, 32)
WEIGHTS_ONLY = {
    "resnet38": 83_280_512,
    "resnet74": 168_215_168,
    "resnet110": 253_149_824,
    "resnet152": 352_240_256,
}


@pytest.mark.parametrize(
    ("kind", "blocks", "params", "params100", "macs"),
    [
        (ResNet38, 18, 564_122, 569_972, 83_283_434),
        (ResNet74, 36, 1_147_418, 1_153_268, 168_220_778),
        (ResNet110, 54, 1_730_714, 1_736_564, 253_158_122),
        (ResNet152, 75, 2_411_226, 2_417_076, 352_251_690),
    ],
)
def test_reference_figures(
    kind: type[CifarResNet], blocks: int, params: int, params100: int, macs: int
) -> None:
    backbone = kind(CIFAR10, 10)
    assert len(backbone) == blocks
    assert reference_cost(backbone) == (params, macs)
    with torch.device("meta"):
        net = kind(CIFAR10, 100).plain()
    assert sum(p.numel() for p in net.parameters()) == params100


@pytest.mark.parametrize("kind", [ResNet38, ResNet152])
def test_weights_alone_cost_what_the_paper_counts(kind: type[CifarResNet]) -> None:
    """torchinfo's figure less what it adds: 2 x channels for each norm, 10 biases."""
    with torch.device("meta"):
        net = kind(CIFAR10, 10).plain()
    norms = sum(
        p.numel() for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d) for p in m.parameters()
    )
    assert reference_cost(kind(CIFAR10, 10))[1] - norms - 10 == WEIGHTS_ONLY[kind.name]


def test_costs_of_blocks() -> None:
    backbone = ResNet38(CIFAR10, 10)

    def weights(k: int) -> int:
        with torch.device("meta"):
            unit = backbone.unit(k)
            price = mult_adds(unit, torch.empty(1, *backbone.shape(k - 1)))
        norms = [m for m in unit.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        return price - sum(p.numel() for m in norms for p in m.parameters())

    assert weights(1) == 442_368 + 4_718_592, "the stem belongs to unit 1"
    assert [weights(k) for k in (2, 6, 8, 12, 14, 18)] == [4_718_592] * 6
    assert [weights(k) for k in (7, 13)] == [3_670_016] * 2


def test_shapes_of_the_groups() -> None:
    backbone = ResNet38(CIFAR10, 10, 0.5)
    assert [backbone.shape(k) for k in (1, 6, 7, 12, 13, 18)] == [
        (8, 32, 32),
        (8, 32, 32),
        (16, 16, 16),
        (16, 16, 16),
        (32, 8, 8),
        (32, 8, 8),
    ]


def test_a_block_is_the_sum_of_its_two_ways() -> None:
    """A block whose second norm is zero is its shortcut, and a ReLU."""
    block = ResNet38((3, 8, 8), 10).unit(2).eval()
    torch.nn.init.zeros_(block.norm2.weight)  # type: ignore[union-attr,arg-type]
    x = torch.randn(2, 16, 8, 8)
    assert torch.equal(block(x), x.relu())
