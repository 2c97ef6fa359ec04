"""Optimizers of a recipe, and steps in which some parameters have no gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from routesearch.study.recipe import Recipe
from routesearch.training.optimizers import allow_missing_gradients, make_optimizer

SGD = torch.optim.SGD


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])


def test_optimizers_of_the_recipe(net: nn.Module) -> None:
    adam = make_optimizer(Recipe(learning_rate=0.1, weight_decay=0.2), list(net.parameters()))
    assert (type(adam), adam.defaults["lr"], adam.defaults["weight_decay"]) == (torch.optim.AdamW, 0.1, 0.2)
    sgd = make_optimizer(Recipe(optimizer="sgd", momentum=0.8), list(net.parameters()))
    assert (type(sgd), sgd.defaults["momentum"], sgd.defaults["nesterov"]) == (torch.optim.SGD, 0.8, True)
    plain = make_optimizer(Recipe(optimizer="sgd", momentum=0.0), list(net.parameters()))
    assert plain.defaults["nesterov"] is False


def steps(net: Any, optimizer: torch.optim.Optimizer, used: list[tuple[int, ...]]) -> list[Tensor]:
    """All weights after steps that run only some of the layers."""
    random = torch.Generator().manual_seed(0)
    for layers in used:
        x = torch.randn(4, 3, generator=random)
        for layer in layers:
            x = net[layer](x)
        optimizer.zero_grad()
        x.square().mean().backward()
        optimizer.step()
    return [p.detach().clone() for p in net.parameters()]


def copied(net: nn.Module) -> Any:
    other = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])
    other.load_state_dict(net.state_dict())
    return other


@pytest.mark.parametrize(
    "options",
    [
        {"momentum": 0.9},
        {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
        {"momentum": 0.9, "dampening": 0.5},
        {"momentum": 0.0},
    ],
    ids=str,
)
def test_fused_steps_are_those_of_the_plain_optimizer(net: nn.Module, options: dict[str, Any]) -> None:
    """Also where a layer meets its first gradient after the other; one that met none is left as it is."""
    used = [(0,), (0,), (0, 1), (1,), (0, 1)]
    one, two = copied(net), copied(net)
    fused = SGD(one.parameters(), 0.1, fused=True, **options)
    allow_missing_gradients(fused)
    plain = SGD(two.parameters(), 0.1, foreach=False, fused=False, **options)
    for a, b in zip(steps(one, fused, used), steps(two, plain, used), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("nesterov", [True, False])
def test_nothing_changes_where_all_have_gradients(net: nn.Module, nesterov: bool) -> None:
    """To the last bit."""
    one, two = copied(net), copied(net)
    made = [SGD(n.parameters(), 0.1, momentum=0.9, nesterov=nesterov, fused=True) for n in (one, two)]
    allow_missing_gradients(made[0])
    used = [(0, 1)] * 5
    assert all(map(torch.equal, steps(one, made[0], used), steps(two, made[1], used)))


def test_other_optimizers_are_left_alone(net: nn.Module) -> None:
    adam = torch.optim.AdamW(net.parameters(), fused=True)
    allow_missing_gradients(adam)
    assert not adam.state
    steps(copied(net), adam, [])
