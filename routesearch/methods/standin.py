"""A module in the place of one whose output is known already."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from routesearch.errors import Refusal


class StandIn(nn.Module):
    """Stands where a part of a unit was taken out, and gives what that part gave already.

    For a method that runs a part of a unit by itself, and the rest of the unit for some images only:

        self.projection, unit.shortcut = unit.shortcut, StandIn()
        ...
        y = unit.shortcut.run(unit, x, gives=self.projection(x))

    It has no parameters, so that the names of the unit's own stay as they were.

    Args:
        part: what a refusal calls the part that was taken out.
    """

    def __init__(self, part: str = "the part that a stand-in replaces") -> None:
        super().__init__()
        self.part = part
        self._value: Tensor | None = None
        self._of: Tensor | None = None

    def run(self, unit: nn.Module, x: Tensor, *, gives: Tensor, only_for: Tensor | None = None) -> Any:
        """``unit(x)``, in which this module gives ``gives``.

        Args:
            only_for: what it must be called with; None: anything.
        """
        self._value, self._of = gives, only_for
        try:
            return unit(x)
        finally:
            self._value = self._of = None  # holds no batch longer than it is needed

    def forward(self, x: Tensor) -> Tensor:
        if self._value is None:
            raise Refusal("a stand-in must be called by its run(), which says what it gives")
        if self._of is not None and x is not self._of:
            raise Refusal(f"{self.part} must read the unit's input, got another tensor")
        return self._value
