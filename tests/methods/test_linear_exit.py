"""Exits of one linear layer: what they see, how they are drawn, where a space puts them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from routesearch import (
    Backbone,
    Cuts,
    Features,
    LinearExit,
    Refusal,
    SearchSpace,
    Space,
    kaiming,
    mult_adds,
    place_exits,
)
from routesearch.testing import CHAIN, SCALES


class Config(Space):
    positions: Annotated[tuple[int, ...], Cuts()] = ()
    features: Features = "grid"


class Shapes(Backbone):
    """Units that give maps of these sizes, with 2 channels each."""

    name = "shapes"

    def __init__(self, sizes: Sequence[tuple[int, int]]) -> None:
        super().__init__((2, 8, 8), 3)
        self.sizes = sizes

    def __len__(self) -> int:
        return len(self.sizes)

    def channels(self, k: int, width: float = 1.0) -> int:
        return 2

    def unit(self, k: int, width: float = 1.0, width_in: float | None = None) -> nn.Module:
        return nn.AdaptiveAvgPool2d(self.sizes[k - 1])

    def head(self, width: float = 1.0) -> nn.Module:
        return nn.Sequential(self.neck(len(self)), nn.Linear(2, self.classes))


@given(height=st.integers(1, 9), width=st.integers(1, 9), features=st.sampled_from(["gap", "grid", "flat"]))
def test_an_exit_sees_means_of_its_map_or_all_of_it(height: int, width: int, features: str) -> None:
    """The grid is no finer than the map: of one of 4 x 4 or less it is all."""
    backbone = Shapes([(height, width), (1, 1)])
    x = torch.rand(3, 2, height, width)
    seen = LinearExit(backbone, 1, features, "mine").view(x)
    if features == "gap":
        assert torch.allclose(seen, x.mean((2, 3)))
    elif features == "flat" or max(height, width) <= 4:
        assert torch.equal(seen, x.flatten(1))
    else:
        assert seen.shape == (3, 2 * min(4, height) * min(4, width))


def test_the_grid_holds_the_means_of_its_cells() -> None:
    x = torch.rand(3, 2, 8, 8)
    seen = LinearExit(Shapes([(8, 8), (1, 1)]), 1, "grid", "mine").view(x)
    cells = x.unflatten(3, (4, 2)).unflatten(2, (4, 2)).mean((3, 5))
    assert torch.allclose(seen, cells.flatten(1))


@pytest.mark.parametrize("features", ["gap", "grid", "flat"])
def test_the_view_and_the_layer_can_be_run_apart(features: str) -> None:
    """A frozen trunk's views are kept and the layer is trained on these; only the layer costs."""
    way_out = LinearExit(CHAIN, 3, features, "mine")
    x = torch.rand(5, *CHAIN.shape(3))
    assert torch.equal(way_out(x), way_out.linear(way_out.view(x)))
    assert way_out(x).shape == (5, CHAIN.classes)
    assert mult_adds(way_out, x) == sum(p.numel() for p in way_out.parameters())


@pytest.mark.parametrize("features", ["gap", "grid", "flat"])
def test_weights_are_a_linear_layers_under_names_that_stored_networks_have(features: str) -> None:
    """Nothing else is drawn, so what is built after it stays what it was."""
    torch.manual_seed(0)
    way_out, after = LinearExit(CHAIN, 3, features, "mine"), torch.rand(1)
    torch.manual_seed(0)
    linear = kaiming(nn.Linear(way_out.linear.in_features, CHAIN.classes))
    assert torch.equal(torch.rand(1), after)
    expected = {f"linear.{name}": tensor for name, tensor in linear.state_dict().items()}
    found = way_out.state_dict()
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_lists_of_maps_are_seen_by_the_neck_alone() -> None:
    assert LinearExit(SCALES, 2, "gap", "mine").linear.in_features == SCALES.channels(2)
    for features in ("grid", "flat"):
        with pytest.raises(Refusal, match=f"^mine: features={features} needs unit outputs of C,H,W"):
            LinearExit(SCALES, 2, features, "mine")


@given(
    units=st.integers(2, 30),
    shares=st.lists(st.floats(0, 1), min_size=1, max_size=6),
    most=st.integers(1, 6),
)
def test_exits_stand_after_units_that_the_backbone_has(units: int, shares: list[float], most: int) -> None:
    """By default at the shares; a search draws no more than it may."""
    space = place_exits(SearchSpace(Config), Shapes([(1, 1)] * units), shares, "mine", most)
    default: Any = space.default()
    last = units - 1
    assert set(default.positions) == {max(1, round(last * share)) for share in shares}
    for config in space.extremes():
        drawn = config.model_dump()["positions"]
        assert 1 <= min(drawn) <= max(drawn) <= last
    assert {len(each) for each in space.domains["positions"].extremes()} <= set(range(1, most + 1))


def test_features_are_drawn_where_every_unit_gives_one_map() -> None:
    for backbone, features in ((CHAIN, {"gap", "grid", "flat"}), (SCALES, {"gap"})):
        space = place_exits(SearchSpace(Config), backbone, (0.5,), "mine")
        assert set(space.domains["features"].extremes()) == features
        assert space.default().model_dump()["features"] == ("grid" if "grid" in features else "gap")


def test_a_backbone_of_one_unit_has_no_place_for_an_exit() -> None:
    with pytest.raises(Refusal, match=r"^mine: a backbone must have 2 units or more, shapes has 1$"):
        place_exits(SearchSpace(Config), Shapes([(1, 1)]), (0.5,), "mine")
