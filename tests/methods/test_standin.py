"""A module in the place of one whose output is known already."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from routesearch import Refusal, StandIn


class Unit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(3, 3)
        self.shortcut: nn.Module = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x) + self.shortcut(x)
        return y


def test_a_unit_gives_what_it_gave_before_its_part_was_taken_out() -> None:
    unit, x = Unit(), torch.randn(4, 3)
    whole, names = unit(x), set(unit.body.state_dict())
    shortcut, stand_in = unit.shortcut, StandIn()
    unit.shortcut = stand_in
    assert torch.equal(stand_in.run(unit, x, gives=shortcut(x)), whole)
    assert set(unit.state_dict()) == {f"body.{name}" for name in names}, "no names of its own"
    twin = copy.deepcopy(unit)
    assert isinstance(twin.shortcut, StandIn)
    assert torch.equal(twin.shortcut.run(twin, x, gives=shortcut(x)), whole)


def test_it_holds_nothing_afterwards() -> None:
    unit, x, stand_in = Unit(), torch.randn(4, 3), StandIn()
    unit.shortcut = stand_in
    with pytest.raises(RuntimeError, match="must match"):
        stand_in.run(unit, x, gives=torch.zeros(5, 7))
    with pytest.raises(Refusal, match="must be called by its run"):
        unit(x)


def test_it_can_be_held_to_one_input() -> None:
    class Odd(Unit):
        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.shortcut(x.relu())
            return y

    unit, x, stand_in = Odd(), torch.randn(4, 3), StandIn("mine: the shortcut")
    unit.shortcut = stand_in
    with pytest.raises(Refusal, match=r"^mine: the shortcut must read the unit's input, got another tensor"):
        stand_in.run(unit, x, gives=x, only_for=x)
