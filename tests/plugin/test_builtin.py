"""The unrouted reference method."""

from __future__ import annotations

import pytest
import torch

from routesearch.backbones import NiN
from routesearch.backbones.base import Backbone, reference_cost
from routesearch.methods.running import price, run
from routesearch.methods.static import Static
from routesearch.results.points import Interval
from routesearch.testing import MethodContract

NIN = NiN((1, 28, 28), 10)


class TestStatic(MethodContract):
    method = Static
    most_configs = 3


def bounds(backbone: Backbone = NIN, **fields: float) -> Interval:
    return price(Static, Static.Config(**fields), backbone).bounds


def test_as_it_is_it_is_the_backbone() -> None:
    assert bounds() == Interval(163_298_282, 163_298_282)


@pytest.mark.parametrize("width", [0.2, 0.5])
def test_width_multiplies_the_backbones(width: float) -> None:
    expected = reference_cost(NiN((1, 28, 28), 10, width))[1]
    assert bounds(width_fraction=width).max == expected
    assert bounds(NiN((1, 28, 28), 10, 0.5), width_fraction=2 * width).max == expected


@pytest.mark.parametrize(("depth", "units"), [(0.2, 2), (0.5, 4), (0.9, 7), (1.0, 8)])
def test_depth_keeps_the_first_units(depth: float, units: int) -> None:
    with torch.device("meta"):
        net = Static(Static.Config(depth=depth), NIN)
    assert len(net.plain.units) == units


def test_three_units_and_an_exit_by_the_papers_figures() -> None:
    assert bounds(depth=0.375).max == 3_913_728 + 24_209_920 + 12_117_504 + 10 * (96 + 1)


def test_every_image_goes_the_same_way(pocket: Backbone) -> None:
    net = Static(Static.Config(), pocket)
    assert net.knobs() == [{}]
    billed = run(net, torch.rand(5, 1, 8, 8))
    assert (billed.route.tolist(), billed.macs.unique().tolist()) == ([0] * 5, [net.bounds().max])
    assert billed.ran.shape == (5, 0)
