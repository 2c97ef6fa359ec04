"""Wide residual networks against the figures of DecisioNet's paper and code."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from routesearch.backbones import WideResNet, WRN28x10
from routesearch.backbones.base import reference_cost
from routesearch.backbones.wide_resnet import PreActBlock
from routesearch.errors import Refusal
from routesearch.routing.cost import mult_adds
from routesearch.routing.shapes import shapes_only

CIFAR100 = WRN28x10((3, 32, 32), 100)


class WRN10x1(WideResNet):
    name = "wrn10_1"
    layers = 10
    widen = 1


def test_reference_figures() -> None:
    assert len(CIFAR100) == 12
    assert reference_cost(CIFAR100) == (36_536_884, 5_243_404_420)


def router(channels: int) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1))


@pytest.mark.parametrize(
    ("splits", "params", "path"),
    [
        ((4,), 19_385_465, 2_602_264_101),
        ((8,), 23_635_545, 3_939_201_221),
        ((4, 8), 12_935_427, 2_276_204_102),
    ],
)
def test_the_trees_that_decisionet_makes_of_it(splits: tuple[int, ...], params: int, path: int) -> None:
    """The i-th split halves the width again; a routing module at each, a head at each leaf."""
    found_params = found_path = 0
    width, copies = 1.0, 1
    with shapes_only():
        parts: list[tuple[nn.Module, int, int]] = []
        for k in range(1, len(CIFAR100) + 1):
            before = width * 2 if k - 1 in splits else width
            entering = CIFAR100.shape(k - 1, before)
            unit = CIFAR100.unit(k, width, width_in=before)
            parts.append((unit, copies, mult_adds(unit, torch.empty(1, *entering))))
            if k in splits:
                gate, x = router(CIFAR100.channels(k, width)), torch.empty(1, *CIFAR100.shape(k, width))
                parts.append((gate, copies, mult_adds(gate, x)))
                width, copies = width / 2, copies * 2
        head = CIFAR100.head(width)
        parts.append((head, copies, mult_adds(head, torch.empty(1, *CIFAR100.shape(12, width)))))
    for module, count, macs in parts:
        found_params += count * sum(p.numel() for p in module.parameters())
        found_path += macs
    assert found_params == params
    assert found_path == pytest.approx(path, rel=1e-5)


def test_shapes_of_the_groups() -> None:
    shapes = [CIFAR100.shape(k, 0.5) for k in (1, 4, 5, 8, 9, 12)]
    assert shapes == [(80, 32, 32)] * 2 + [(160, 16, 16)] * 2 + [(320, 8, 8)] * 2


def test_a_shortcut_takes_the_raw_input() -> None:
    """A block whose last convolution is zero is its shortcut: nothing, or one convolution."""
    backbone = WRN10x1((3, 8, 8), 10)
    block = backbone.unit(2).eval()
    assert isinstance(block, PreActBlock)
    assert isinstance(block.shortcut, nn.Conv2d)
    nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, *backbone.shape(1))
    assert torch.equal(block(x), block.shortcut(x))
    same = CIFAR100.unit(2, 0.05).eval()
    assert isinstance(same, PreActBlock)
    nn.init.zeros_(same.conv2.weight)
    x = torch.randn(2, *CIFAR100.shape(1, 0.05))
    assert torch.equal(same(x), x)


def test_the_neck_is_raw_and_an_exit_has_its_own_norm() -> None:
    backbone = WRN10x1((3, 8, 8), 10)
    x = torch.randn(2, *backbone.shape(2))
    assert torch.equal(backbone.neck(2)(x), nn.AdaptiveAvgPool2d(1)(x).flatten(1))
    kinds = [type(m).__name__ for m in backbone.exit(2).modules()]
    assert kinds == [type(m).__name__ for m in backbone.head().modules()]
    assert [kind for kind in kinds if kind != "Sequential"] == [
        "BatchNorm2d",
        "ReLU",
        "AdaptiveAvgPool2d",
        "Flatten",
        "Linear",
    ]
    assert backbone.exit(2, out=7)(x).shape == (2, 7)
    assert backbone.exit(3, out=7)(torch.randn(2, *backbone.shape(3))).shape == (2, 7)


def test_dropout_is_the_static_networks_only() -> None:
    def rates(module: nn.Module) -> list[float]:
        return [m.p for m in module.modules() if isinstance(m, nn.Dropout)]

    backbone = WRN10x1((3, 8, 8), 10)
    assert rates(backbone.plain()) == [0.3] * 3
    assert [rates(backbone.unit(k)) for k in (1, 2, 3)] == [[]] * 3
    units = nn.ModuleList(backbone.unit(k) for k in (1, 2, 3))
    assert list(backbone.plain().units.state_dict()) == list(units.state_dict())


def test_the_draw_goes_by_what_comes_out() -> None:
    torch.manual_seed(0)
    block = CIFAR100.unit(5, 0.5)
    assert isinstance(block, PreActBlock)
    spread = float(block.conv1.weight.detach().std())
    assert spread == pytest.approx((2 / (160 * 9)) ** 0.5, rel=0.03)
    wide = CIFAR100.unit(5, 0.25, width_in=1.0)
    assert isinstance(wide, PreActBlock)
    assert float(wide.conv1.weight.detach().std()) == pytest.approx((2 / (80 * 9)) ** 0.5, rel=0.03)


def test_another_shape_of_the_family_is_refused() -> None:
    for layers, widen in ((28, 0), (30, 10), (4, 1)):
        kind = type("Odd", (WideResNet,), {"name": "odd", "layers": layers, "widen": widen})
        rule = r"layers = 6n \+ 4 with n >= 1 and widen >= 1 must hold for backbone odd, "
        with pytest.raises(Refusal, match=rf"{rule}got layers={layers}, widen={widen}"):
            kind((3, 32, 32), 10)
    wrn16_4 = type("WRN16x4", (WideResNet,), {"name": "wrn16_4", "layers": 16, "widen": 4})
    assert reference_cost(wrn16_4((3, 32, 32), 10))[0] == 2_748_890


def test_a_position_or_a_width_off_it_is_refused() -> None:
    for use in (CIFAR100.unit, CIFAR100.exit, CIFAR100.shape, lambda k: CIFAR100.plain(depth=k)):
        with pytest.raises(
            Refusal, match="1 <= position <= 12 must hold on backbone wrn28_10, got position=13"
        ):
            use(13)
    with pytest.raises(Refusal, match="0 < width <= 16 must hold for backbone wrn28_10, got width=0"):
        WRN28x10((3, 32, 32), 10, 0)
