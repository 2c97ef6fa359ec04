"""What every backbone promises, on all of the core's and on a user's own."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
import torch

from routesearch.backbones import BACKBONES, Backbone
from routesearch.backbones.base import kaiming
from routesearch.errors import Refusal
from routesearch.pricing import mult_adds

SMALL = [kind for kind in BACKBONES if kind.name in ("nin", "resnet38")]
Make = Callable[..., Backbone]


@pytest.fixture(params=[*(kind.name for kind in SMALL), "pocket"])
def make(request: pytest.FixtureRequest, own_backbone: ModuleType) -> Make:
    kinds = {kind.name: kind for kind in SMALL} | {"pocket": own_backbone.Pocket}
    kind: type[Backbone] = kinds[request.param]
    return lambda width=0.25, shape=(3, 12, 10): kind(shape, 4, width)


def test_each_unit_fits_the_next_at_any_width(make: Make) -> None:
    backbone = make()
    for width in (1.0, 0.5):
        x = torch.rand(2, *backbone.image_shape)
        assert backbone.shape(0) == backbone.image_shape
        for k in range(1, len(backbone) + 1):
            x = backbone.unit(k, width).eval()(x)
            assert tuple(x.shape[1:]) == backbone.shape(k, width)
            assert backbone.neck(k)(x).shape == (2, backbone.channels(k, width))
        assert backbone.head(width)(x).shape == (2, 4)


def test_a_branch_reads_a_wider_trunk(make: Make) -> None:
    backbone = make(1.0)
    for k in (2, len(backbone) // 2, len(backbone)):
        x = torch.rand(2, *backbone.shape(k - 1))
        assert tuple(backbone.unit(k, 0.5, width_in=1.0).eval()(x).shape[1:]) == backbone.shape(k, 0.5)


@pytest.mark.parametrize("width", [1.0, 0.25])
def test_widths_multiply(make: Make, width: float) -> None:
    half = make(0.5 * width)
    assert [half.channels(k) for k in range(1, len(half) + 1)] == [
        make(1.0).channels(k, 0.5 * width) for k in range(1, len(half) + 1)
    ]


def test_depth_keeps_the_first_units_and_classifies_after_them(make: Make) -> None:
    backbone = make()
    whole, short = backbone.plain(), backbone.plain(depth=2)
    assert (len(whole.units), len(short.units)) == (len(backbone), 2)
    images = torch.rand(3, *backbone.image_shape)
    assert whole.eval()(images).shape == short.eval()(images).shape == (3, 4)
    assert [p.shape for p in short.units.parameters()] == [p.shape for p in whole.units[:2].parameters()]


def test_an_exit_in_the_middle_is_a_linear_layer_and_at_the_end_the_head(make: Make) -> None:
    backbone = make()
    middle = [tuple(p.shape) for p in backbone.exit(2).parameters()]
    assert middle == [(4, backbone.channels(2)), (4,)]
    end = [p.shape for p in backbone.exit(len(backbone)).parameters()]
    assert end == [p.shape for p in backbone.head().parameters()]
    assert backbone.exit(2, out=7)(torch.rand(2, *backbone.shape(2))).shape == (2, 7)
    last = len(backbone)
    assert backbone.exit(last, out=7)(torch.rand(2, *backbone.shape(last))).shape == (2, 7)


def test_modules_are_fresh_each_time(make: Make) -> None:
    backbone = make()
    one, two = backbone.unit(2), backbone.unit(2)
    assert not {id(p) for p in one.parameters()} & {id(p) for p in two.parameters()}
    assert any(not torch.equal(p, q) for p, q in zip(one.parameters(), two.parameters(), strict=True))


def test_the_meta_device_prices_what_the_cpu_runs(make: Make) -> None:
    backbone = make()
    with torch.device("meta"):
        meta, image = backbone.plain(), torch.empty(1, *backbone.image_shape)
    assert {p.device.type for p in meta.parameters()} == {"meta"}
    real = backbone.plain()
    assert mult_adds(meta.eval(), image) == mult_adds(real.eval(), torch.zeros(1, *backbone.image_shape))
    assert [p.shape for p in meta.parameters()] == [p.shape for p in real.parameters()]


def test_every_parameter_learns(make: Make) -> None:
    backbone = make(1.0, (1, 16, 16))
    net = backbone.plain().train()
    net(torch.randn(8, 1, 16, 16)).logsumexp(1).mean().backward()
    dead = [n for n, p in net.named_parameters() if p.grad is None or not bool(p.grad.abs().sum() > 0)]
    assert dead == []


def test_no_module_changes_what_it_is_given(make: Make) -> None:
    """Groups share a state until they part: an in-place step on an input would change it for all."""
    backbone = make()
    for k in range(1, len(backbone) + 1):
        x = torch.randn(2, *backbone.shape(k - 1))
        before = x.clone()
        backbone.unit(k).eval()(x)
        assert torch.equal(x, before), f"unit {k}"
    x = torch.randn(2, *backbone.shape(len(backbone)))
    before = x.clone()
    backbone.head()(x)
    assert torch.equal(x, before)


@pytest.mark.parametrize("position", [0, -1, 99])
def test_a_position_off_the_backbone_is_refused(make: Make, position: int) -> None:
    backbone = make()
    law = rf"1 <= position <= {len(backbone)} must hold on backbone {backbone.name}, got position={position}"
    for use in (backbone.unit, backbone.exit, lambda k: backbone.plain(depth=k)):
        with pytest.raises(Refusal, match=law):
            use(position)
    if position != 0:  # 0: the image
        with pytest.raises(Refusal, match=law):
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
    law = f"^0 < width must hold on backbone {backbone.name}, got width={width}$"
    with pytest.raises(Refusal, match=law):
        backbone.unit(1, width)
    with pytest.raises(Refusal, match="0 < width must hold"):
        backbone.scaled(8, width)
