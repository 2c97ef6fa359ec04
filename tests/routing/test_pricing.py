"""What each route costs, before anything runs."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchinfo import summary

from routesearch.results.points import Interval
from routesearch.routing.pricing import PricingMeter, RoutePrices


def images_of(choices: list[tuple[bool, bool, int]], seed: int = 0) -> Tensor:
    images = torch.randn(len(choices), 2, 4, 4, generator=torch.Generator().manual_seed(seed))
    for image, (run, leave, branch) in zip(images, choices, strict=True):
        image[0, 0, :3] = torch.tensor([run - 0.5, leave - 0.5, float(branch)])
    return images


CHOICES = st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 2)), max_size=9)


def macs(block: nn.Module, shape: tuple[int, ...]) -> int:
    return int(summary(block, input_size=(1, *shape), verbose=0).total_mult_adds)


@given(CHOICES.filter(len))
@settings(max_examples=25)
def test_no_image_costs_less_or_more_than_the_prices_say(
    tree: Any, choices: list[tuple[bool, bool, int]]
) -> None:
    prices = priced(tree)
    billed = tree.bill(images_of(choices))
    for cost, route in zip(billed.macs.tolist(), billed.route.tolist(), strict=True):
        assert cost in prices.routes[route]
        assert cost in prices.bounds


def priced(tree: Any) -> RoutePrices:
    meta = copy.deepcopy(tree).to("meta")
    meter = PricingMeter()
    with torch.no_grad():
        meta.route(meter, torch.empty(1, 2, 4, 4, device="meta"))
    return meter.prices


def test_the_prices_are_tight_at_both_ends(tree: Any) -> None:
    prices = priced(tree)
    every = [
        tree.price(images_of([(run, leave, branch)]))
        for run in (False, True)
        for leave in (False, True)
        for branch in (0, 1, 2)
    ]
    assert (prices.bounds.min, prices.bounds.max) == (min(every), max(every))
    assert sorted(prices.routes) == [0, 1, 2, 3]
    assert prices.routes[0].max - prices.routes[0].min == macs(tree.skippable, (4, 4, 4))
    assert prices.sites == 1


def test_prices_without_a_finish_have_no_bounds() -> None:
    with pytest.raises(ValueError, match="at least once"):
        _ = RoutePrices().bounds


def test_a_patch_that_would_not_fit_is_refused() -> None:
    x = torch.empty(1, 3, 8, 8, device="meta")
    with torch.device("meta"):
        narrow = nn.Conv2d(3, 3, 3)
    with pytest.raises(ValueError, match=r"goes into, got \(3, 6, 6\) and \(3, 8, 8\)"):
        PricingMeter().patch(torch.empty(1, dtype=torch.bool, device="meta"), narrow, x, into=x)


@pytest.mark.parametrize(
    ("exactly", "low", "high"), [(None, 0, 12 + 20 + 28), (0, 0, 0), (1, 12, 28), (2, 32, 48), (3, 60, 60)]
)
def test_experts_cost_what_so_many_of_them_cost(exactly: int | None, low: int, high: int) -> None:
    with torch.device("meta"):
        blocks = [Wide(k) for k in (3, 5, 7)]
        stem = nn.Linear(4, 4, bias=False)
        x, mask = torch.empty(1, 4), torch.empty(1, 3, dtype=torch.bool)
    meter = PricingMeter()
    y = meter.choose(mask, blocks, meter.run(stem, x), weights=torch.empty(1, 3), into=x, exactly=exactly)
    meter.finish(y)
    assert meter.prices.bounds == Interval(16 + low, 16 + high)
    assert meter.prices.sites == 3


class Wide(nn.Module):
    """4 entries to 4, by 4 x ``k`` multiply-adds."""

    def __init__(self, k: int) -> None:
        super().__init__()
        self.layer = nn.Linear(4, k, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layer(x).mean(1, keepdim=True)


def test_routes_are_known_by_the_ways_that_lead_there(tree: Any) -> None:
    assert priced(tree).reached == {
        (): {0, 1, 2, 3},
        (0,): {1, 2, 3},
        (1,): {0},
        (0, 0): {1},
        (0, 1): {2},
        (0, 2): {3},
    }


def test_the_prices_of_one_of_several_cover_them_all(tree: Any) -> None:
    one, other = (
        RoutePrices({0: Interval(1, 2)}, sites=1, params=7),
        RoutePrices({0: Interval(5, 6), 1: Interval(3, 3)}),
    )
    whole = RoutePrices.any_of([one, other])
    assert whole.routes == {0: Interval(1, 6), 1: Interval(3, 3)}
    assert (whole.sites, whole.params, whole.exact, whole.bounds) == (1, 7, False, Interval(1, 6))
