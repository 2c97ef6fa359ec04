"""ResNet-101, DenseNet-201, VGG-16 and AlexNet against torchvision's own and d-gate's figures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from routesearch.backbones import (
    VGG16,
    AlexNet,
    AlexNetCifar,
    Backbone,
    DenseNet201,
    DenseNet201Cifar,
    ResNet101,
    ResNet101Cifar,
    VGG16Cifar,
)
from routesearch.backbones.base import kaiming, reference_cost
from routesearch.errors import Refusal
from routesearch.routing.shapes import shapes_only

CIFAR10, IMAGENET = (3, 32, 32), (3, 224, 224)
LARGE = (ResNet101, DenseNet201, VGG16, AlexNet)
SMALL = (ResNet101Cifar, DenseNet201Cifar, VGG16Cifar, AlexNetCifar)
UNITS = {"resnet101": 33, "densenet201": 101, "vgg16": 13, "alexnet": 5}
Count = Callable[..., int]


def weights(backbone: Backbone, count: Count) -> int:
    with shapes_only():
        return count(backbone.plain(), torch.empty(1, *backbone.image_shape))


@pytest.mark.parametrize(
    ("kind", "params", "macs"),
    [
        (ResNet101Cifar, 42_512_970, 2_509_983_744),
        (DenseNet201Cifar, 18_104_330, 1_363_888_896),
        (VGG16Cifar, 15_245_130, 313_725_952),
        (AlexNetCifar, 2_582_346, 797_551_104),
    ],
)
def test_figures_on_cifar(kind: type[Backbone], params: int, macs: int, weights_only: Count) -> None:
    backbone = kind(CIFAR10, 10)
    assert len(backbone) == UNITS[kind.name.removesuffix("_cifar")]
    assert reference_cost(backbone)[0] == params
    assert weights(backbone, weights_only) == macs


@pytest.mark.parametrize(
    ("kind", "params", "macs"),
    [
        (ResNet101, 44_549_160, 7_801_405_440),
        (DenseNet201, 20_013_928, 4_291_365_888),
        (VGG16, 138_357_544, 15_470_264_320),
        (AlexNet, 61_100_840, 714_188_480),
    ],
)
def test_figures_on_imagenet(kind: type[Backbone], params: int, macs: int, weights_only: Count) -> None:
    backbone = kind(IMAGENET, 1000)
    assert len(backbone) == UNITS[kind.name]
    assert reference_cost(backbone)[0] == params
    assert weights(backbone, weights_only) == macs


@pytest.mark.parametrize("kind", LARGE)
def test_with_torchvisions_weights_it_is_torchvisions_network(kind: type[Backbone]) -> None:
    """Tensors in the same order and of the same shapes, and the same logits."""
    from torchvision import models

    torch.manual_seed(0)
    # VGG's own draw takes seconds; without a norm torch's default draw leaves nothing of the images.
    draw: dict[str, Any] = {"init_weights": False} if kind is VGG16 else {}
    theirs = getattr(models, kind.name)(num_classes=7, **draw).eval()
    kaiming(theirs.features if draw else theirs)
    with torch.device("meta"):
        ours = kind((3, 64, 64), 7).plain().eval()
    names, values = list(ours.state_dict()), list(theirs.state_dict().values())
    ours.load_state_dict(dict(zip(names, values, strict=True)), assign=True)
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        found, expected = ours(images), theirs(images)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert float((expected[0] - expected[1]).abs().max()) > 1e-2, "two images, two answers"


@pytest.mark.parametrize(
    ("kind", "cuts", "cumulative"),
    [
        (ResNet101Cifar, (3, 7, 30, 33), (0.4397, 1.1108, 4.4914, 5.0200)),
        (DenseNet201Cifar, (6, 19, 68), (0.6830, 1.2157, 2.3020)),
        (DenseNet201Cifar, (7, 20, 69, 101), (0.7501, 1.2828, 2.5075, 2.7278)),
    ],
)
def test_what_an_exit_costs(
    kind: type[Backbone], cuts: tuple[int, ...], cumulative: tuple[float, ...], weights_only: Count
) -> None:
    """d-gate's FLOPs, two to a MAC, after stages and dense blocks, or after the transition."""
    backbone = kind(CIFAR10, 10)
    for cut, expected in zip(cuts, cumulative, strict=True):
        with shapes_only():
            units = nn.Sequential(*(backbone.unit(k) for k in range(1, cut + 1)))
            found = weights_only(units, torch.empty(1, *CIFAR10))
        assert 2e-9 * found == pytest.approx(expected, abs=1e-4)


def test_channels_and_shapes_where_they_change() -> None:
    resnet, dense = ResNet101Cifar(CIFAR10, 10), DenseNet201Cifar(CIFAR10, 10)
    assert [resnet.shape(k) for k in (1, 3, 4, 8, 30, 31, 33)] == [
        (256, 32, 32),
        (256, 32, 32),
        (512, 16, 16),
        (1024, 8, 8),
        (1024, 8, 8),
        (2048, 4, 4),
        (2048, 4, 4),
    ]
    assert [dense.shape(k) for k in (1, 6, 7, 8, 19, 20, 68, 69, 101)] == [
        (96, 32, 32),
        (256, 32, 32),
        (128, 16, 16),
        (160, 16, 16),
        (512, 16, 16),
        (256, 8, 8),
        (1792, 8, 8),
        (896, 4, 4),
        (1920, 4, 4),
    ]
    assert VGG16(IMAGENET, 10).shape(13) == (512, 7, 7)
    assert AlexNet(IMAGENET, 10).shape(5) == (256, 6, 6)


@pytest.mark.parametrize("kind", [*SMALL, *LARGE])
def test_any_width_rounds_each_number_of_channels(kind: type[Backbone]) -> None:
    """Outputs, and with 0.3 the layers inside: 19, not a quarter of 77."""
    shape = (3, 64, 64)
    narrow, whole = kind(shape, 5, 0.3), kind(shape, 5)
    with shapes_only():
        x = torch.empty(2, *shape)
        for k in range(1, len(narrow) + 1):
            x = narrow.unit(k).eval()(x)
            assert x.shape[1] == narrow.channels(k) == whole.channels(k, 0.3)
        assert narrow.head()(x).shape == whole.head(0.3)(x).shape == (2, 5)
        conv = next(m for m in whole.unit(2, 0.3).modules() if isinstance(m, nn.Conv2d))
    inside = {"resnet101": 19, "densenet201": 38, "vgg16": 19, "alexnet": 58}
    assert conv.out_channels == inside[kind.name.removesuffix("_cifar")]


def test_a_dense_layer_passes_on_what_it_gets_so_only_a_transition_narrows() -> None:
    backbone = DenseNet201Cifar(CIFAR10, 10)
    rule = (
        r"width must change at a transition \(units 7, 20, 69\) on backbone densenet201_cifar, "
        r"got width=0.5 after width_in=1.0 at unit 5"
    )
    with pytest.raises(Refusal, match=rule):
        backbone.unit(5, 0.5, width_in=1.0)
    with shapes_only():
        for k in (7, 20, 69):
            unit = backbone.unit(k, 0.5, width_in=1.0).eval()
            assert tuple(unit(torch.empty(1, *backbone.shape(k - 1))).shape[1:]) == backbone.shape(k, 0.5)
        backbone.unit(5, 0.5, width_in=0.5)


def test_a_dense_exit_begins_with_the_norm_that_the_raw_maps_lack() -> None:
    backbone = DenseNet201Cifar(CIFAR10, 10, 0.1)
    kinds = [type(m) for m in backbone.exit(9).modules()]
    assert kinds == [type(m) for m in backbone.head().modules()]
    assert nn.BatchNorm2d in kinds


@pytest.mark.parametrize(
    ("kind", "side"),
    [(VGG16, 32), (AlexNet, 63), (AlexNetCifar, 7), (DenseNet201, 29), (DenseNet201Cifar, 8)],
)
def test_images_that_pooling_leaves_nothing_of_are_refused(kind: type[Backbone], side: int) -> None:
    with shapes_only():
        smallest = kind((3, side, side), 10, 0.1)
        assert smallest.plain().eval()(torch.empty(1, 3, side, side)).shape == (1, 10)
        smallest.image_shape = (3, side - 1, side)
        with pytest.raises(RuntimeError, match=r"[Oo]utput size"):
            smallest.plain().eval()(torch.empty(1, *smallest.image_shape))
    rule = f"height and width >= {side} must hold for backbone {kind.name}, got {side - 1}x{side + 5} images"
    with pytest.raises(Refusal, match=rule):
        kind((3, side - 1, side + 5), 10)


@pytest.mark.parametrize("kind", [ResNet101, ResNet101Cifar, VGG16Cifar])
def test_images_of_one_pixel(kind: type[Backbone]) -> None:
    net = kind((3, 1, 1), 10, 0.05).plain().eval()
    with torch.no_grad():
        assert net(torch.randn(2, 3, 1, 1)).shape == (2, 10)


@pytest.mark.parametrize("kind", [*SMALL, *LARGE])
def test_what_is_off_it_is_refused(kind: type[Backbone]) -> None:
    backbone = kind((3, 64, 64), 10)
    off = len(backbone) + 1
    for use in (backbone.unit, backbone.exit, backbone.shape, lambda k: backbone.plain(depth=k)):
        with pytest.raises(Refusal, match=f"1 <= position <= {off - 1} must hold on backbone {kind.name}, "):
            use(off)
    with pytest.raises(Refusal, match=f"0 < width <= 16 must hold for backbone {kind.name}, got width=-1"):
        kind((3, 64, 64), 10, -1)
