"""What backbones share beside the invariants of the kit: widths, exits, and refusals of wrong numbers."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch

from routesearch.backbones import BACKBONES, Backbone
from routesearch.backbones.base import kaiming
from routesearch.errors import Refusal

SMALL = [kind for kind in BACKBONES if kind.name in ("nin", "resnet38")]
Make = Callable[..., Backbone]


@pytest.fixture(params=[*(kind.name for kind in SMALL), "pocket"])
def make(request: pytest.FixtureRequest, own_backbone: ModuleType) -> Make:
    kinds = {kind.name: kind for kind in SMALL} | {"pocket": own_backbone.Pocket}
    kind: type[Backbone] = kinds[request.param]
    return lambda width=0.25: kind((3, 12, 10), 4, width)


@pytest.mark.parametrize("width", [1.0, 0.25])
def test_widths_multiply(make: Make, width: float) -> None:
    half = make(0.5 * width)
    assert [half.channels(k) for k in range(1, len(half) + 1)] == [
        make(1.0).channels(k, 0.5 * width) for k in range(1, len(half) + 1)
    ]


def test_an_exit_in_the_middle_is_a_linear_layer_and_at_the_end_the_head(make: Make) -> None:
    backbone = make()
    middle = [tuple(p.shape) for p in backbone.exit(2).parameters()]
    assert middle == [(4, backbone.channels(2)), (4,)]
    end = [p.shape for p in backbone.exit(len(backbone)).parameters()]
    assert end == [p.shape for p in backbone.head().parameters()]
    assert backbone.exit(2, out=7)(torch.rand(2, *backbone.shape(2))).shape == (2, 7)
    last = len(backbone)
    assert backbone.exit(last, out=7)(torch.rand(2, *backbone.shape(last))).shape == (2, 7)


@pytest.mark.parametrize("position", [0, -1, 99])
def test_a_position_off_the_backbone_is_refused(make: Make, position: int) -> None:
    backbone = make()
    rule = rf"1 <= position <= {len(backbone)} must hold on backbone {backbone.name}, got position={position}"
    for use in (backbone.unit, backbone.exit, lambda k: backbone.plain(depth=k)):
        with pytest.raises(Refusal, match=rule):
            use(position)
    assert backbone.shape(0) == backbone.image_shape
    if position != 0:  # 0: the image
        with pytest.raises(Refusal, match=rule):
            backbone.shape(position)


@pytest.mark.parametrize("width", [0.0, -1.0, 17.0, float("nan")])
def test_a_width_out_of_range_is_refused(make: Make, width: float) -> None:
    with pytest.raises(Refusal, match=r"0 < width <= 16 must hold for backbone \w+, got width="):
        make(width)


@pytest.mark.parametrize(
    ("channels", "width", "scaled"), [(192, 0.25, 48), (10, 0.25, 2), (16, 0.01, 1), (6, 0.25, 2)]
)
def test_channels_are_rounded_and_at_least_one(channels: int, width: float, scaled: int) -> None:
    """max(1, round(c * f)), Python's round: 2.5 and 1.5 both become 2."""
    assert BACKBONES[0]((1, 8, 8), 2, width).scaled(channels) == scaled


def test_the_draw_has_the_spread_of_he() -> None:
    torch.manual_seed(0)
    conv = kaiming(torch.nn.Conv2d(32, 64, 3))
    assert float(conv.weight.detach().std()) == pytest.approx((2 / (32 * 9)) ** 0.5, rel=0.03)
    assert not conv.bias.any()


@pytest.mark.parametrize("width", [0.0, -0.5, float("nan")])
def test_a_width_that_is_not_positive_is_refused(make: Make, width: float) -> None:
    backbone = make()
    rule = f"^0 < width must hold on backbone {backbone.name}, got width={width}$"
    with pytest.raises(Refusal, match=rule):
        backbone.unit(1, width)
    with pytest.raises(Refusal, match="0 < width must hold"):
        backbone.scaled(8, width)


@pytest.mark.parametrize(
    ("cuts", "rule"),
    [
        ([], "at least 1 of them"),
        ([0], "1 <= position <= 3"),
        ([4], "1 <= position <= 3"),
        ([2, 2], "increasing unit numbers"),
        ([3, 1], "increasing unit numbers"),
        ([1.5], "a list of unit numbers"),
    ],
)
def test_cuts_stand_between_units(cuts: Any, rule: str, pocket: Backbone) -> None:
    pocket.check_cuts([1, 3], "mine: positions")
    with pytest.raises(Refusal, match=rf"^mine: positions: {rule} must hold on backbone pocket, got \["):
        pocket.check_cuts(cuts, "mine: positions")
