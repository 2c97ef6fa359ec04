"""The pyramid against the figures of McGill and Perona's paper and code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from routesearch.backbones import Pyramid8
from routesearch.backbones.pyramid import Column, Scales
from routesearch.errors import Refusal
from routesearch.routing.billing import BatchMeter
from routesearch.routing.cost import mult_adds
from routesearch.routing.shapes import shapes_only

HYBRID = Pyramid8((3, 32, 32), 10)
Count = Callable[..., int]


@pytest.mark.parametrize(
    ("columns", "params", "macs"),
    [
        (1, 11_402, 1_364_224),
        (2, 27_722, 5_271_808),
        (3, 62_826, 7_559_936),
        (4, 109_194, 11_393_792),
        (5, 188_426, 13_463_296),
        (6, 299_402, 17_002_240),
        (7, 383_754, 18_192_128),
        (8, 531_594, 20_551_424),
    ],
)
def test_static_networks(columns: int, params: int, macs: int, weights_only: Count) -> None:
    with shapes_only():
        net = HYBRID.plain(depth=columns)
        assert weights_only(net, torch.empty(1, 3, 32, 32)) == macs
        price = mult_adds(net, torch.empty(1, 3, 32, 32))
    assert sum(p.numel() for p in net.parameters()) == params
    filters = (16, 16, 32, 32, 64, 64, 128, 128)
    pixels = (1360, 1360, 336, 336, 80, 80, 16, 16)
    norms = sum(p.numel() for m in net.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters())
    biases = sum(a * b for a, b in zip(filters[:columns], pixels, strict=False)) + 10
    assert price == macs + biases + norms, "what torchinfo adds"


@pytest.mark.parametrize(("width", "macs"), [(2, 80_989_696), (3, 181_314_816)])
def test_wider_networks(width: int, macs: int, weights_only: Count) -> None:
    with shapes_only():
        assert weights_only(Pyramid8((3, 32, 32), 10, width).plain(), torch.empty(1, 3, 32, 32)) == macs
        assert weights_only(HYBRID.plain(float(width)), torch.empty(1, 3, 32, 32)) == macs


@pytest.mark.parametrize(
    ("column", "macs", "sides"),
    [
        (1, 1_361_664, (32, 16, 8, 4)),
        (2, 3_907_584, (32, 16, 8, 4)),
        (3, 2_285_568, (16, 8, 4)),
        (4, 3_833_856, (16, 8, 4)),
        (5, 2_064_384, (8, 4)),
        (6, 3_538_944, (8, 4)),
        (7, 1_179_648, (4,)),
        (8, 2_359_296, (4,)),
    ],
)
def test_columns(column: int, macs: int, sides: tuple[int, ...], weights_only: Count) -> None:
    with shapes_only():
        x: Any = torch.empty(1, 3, 32, 32)
        for k in range(1, column):
            x = HYBRID.unit(k).eval()(x)
        unit = HYBRID.unit(column)
        assert weights_only(unit, x) == macs
        maps = unit(x)
    filters = (16, 16, 32, 32, 64, 64, 128, 128)[column - 1]
    assert [tuple(m.shape) for m in maps] == [(1, filters, side, side) for side in sides]
    assert HYBRID.channels(column) == 16 * filters
    assert HYBRID.shape(column) == (16 * filters,)


def test_a_column_by_its_formula() -> None:
    """Across the previous column's maps, and down from this one's finer sums before norm and ReLU."""
    torch.manual_seed(0)
    column = Column(3, 5, 2).eval()
    for norm in column.norms:
        assert isinstance(norm, nn.BatchNorm2d)
        assert (norm.eps, norm.momentum) == (1e-6, 0.1)
        norm.running_mean = torch.randn(5)
    dropped, fine, coarse = (torch.randn(2, 3, side, side) for side in (16, 8, 4))
    found = column([dropped, fine, coarse])
    first = column.across[0](fine)
    second = column.across[1](coarse) + column.down[0](F.max_pool2d(first, 2))
    assert len(found) == 2
    for got, norm, y in zip(found, column.norms, (first, second), strict=True):
        torch.testing.assert_close(got, norm(y).relu())
    assert [column.across[0].bias is None, column.down[0].bias is None] == [False, True]


def test_scales_are_strided_pixels() -> None:
    images = torch.randn(2, 3, 32, 32)
    maps = Scales(32, 32)(images)
    assert [m.shape[-1] for m in maps] == [32, 16, 8, 4]
    assert torch.equal(maps[0], images)
    assert torch.equal(maps[3], images[:, :, ::8, ::8])


@pytest.mark.parametrize(
    ("shape", "sides", "entries"),
    [
        ((1, 28, 28), (32, 32), 256),
        ((1, 8, 8), (32, 32), 256),
        ((3, 33, 40), (40, 40), 400),
        ((3, 20, 49), (32, 56), 448),
        ((3, 64, 32), (64, 32), 512),
    ],
)
def test_images_of_any_size(shape: tuple[int, int, int], sides: tuple[int, int], entries: int) -> None:
    backbone = Pyramid8(shape, 4, 1.0)
    assert backbone.sides == sides
    assert backbone.channels(1) == entries
    with torch.no_grad():
        maps = backbone.unit(1).eval()(torch.randn(2, *shape))
    assert tuple(maps[0].shape[-2:]) == sides
    real = backbone.plain(0.25).eval()
    with torch.no_grad():
        assert real(torch.randn(2, *shape)).shape == (2, 4)
    with shapes_only():
        priced = mult_adds(backbone.plain(0.25), torch.empty(1, *shape))
    assert priced == mult_adds(real, torch.zeros(1, *shape))


def test_the_resize_is_bilinear() -> None:
    images = torch.rand(1, 1, 16, 16)
    finest = Pyramid8((1, 16, 16), 2).unit(1)[0](images)[0]  # type: ignore[index]
    expected = F.interpolate(images, (32, 32), mode="bilinear", align_corners=False)
    assert torch.equal(finest, expected)


def test_the_draw_is_the_authors() -> None:
    """Variance 1 / (9 x maps in) and 1 / entries in, whatever comes after; biases 0."""
    torch.manual_seed(0)
    column = HYBRID.unit(6)
    assert isinstance(column, Column)
    for conv in (*column.across, *column.down):
        assert isinstance(conv, nn.Conv2d)
        assert float(conv.weight.detach().std()) == pytest.approx((1 / (9 * 64)) ** 0.5, rel=0.03)
        assert conv.bias is None or not conv.bias.any()
    linear = HYBRID.exit(7)[1]  # type: ignore[index]
    assert float(linear.weight.detach().std()) == pytest.approx((1 / 2048) ** 0.5, rel=0.03)
    assert not linear.bias.any()


def test_a_group_parts_with_its_list_of_maps() -> None:
    """Routed and dense agree, and each image pays for the columns that it saw."""
    torch.manual_seed(0)
    backbone = Pyramid8((1, 16, 16), 3, 0.25)
    first, early, second, late = (
        backbone.unit(1).eval(),
        backbone.exit(1).eval(),
        backbone.unit(2).eval(),
        backbone.exit(2).eval(),
    )
    images = torch.randn(5, 1, 16, 16)
    goes_on = torch.tensor([True, False, True, False, True])
    with torch.no_grad():
        meter = BatchMeter(images)
        x = meter.run(first, images)
        for way, group, maps in meter.split(goes_on, 2, x):
            maps = group.run(second, maps) if way else maps
            group.finish(group.run(late if way else early, maps), route=way)
        bill = meter.bill()
        dense = torch.where(goes_on[:, None], late(second(first(images))), early(first(images)))
    torch.testing.assert_close(bill.logits, dense)
    short, deep = (backbone_macs(backbone, depth) for depth in (1, 2))
    assert bill.macs.tolist() == [deep, short, deep, short, deep]


def backbone_macs(backbone: Pyramid8, depth: int) -> int:
    with shapes_only():
        return mult_adds(backbone.plain(depth=depth), torch.empty(1, *backbone.image_shape))


def test_what_is_off_it_is_refused() -> None:
    rule = "1 <= position <= 8 must hold on backbone pyramid8, got position="
    for use in (HYBRID.unit, HYBRID.exit, HYBRID.shape, lambda k: HYBRID.plain(depth=k)):
        with pytest.raises(Refusal, match=f"{rule}9"):
            use(9)
    assert HYBRID.shape(0) == (3, 32, 32)
    with pytest.raises(Refusal, match="0 < width <= 16 must hold for backbone pyramid8, got width=17"):
        Pyramid8((3, 32, 32), 10, 17)
