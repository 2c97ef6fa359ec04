"""Residual units that a method may leave out for some images, whatever family they are of."""

from __future__ import annotations

from torch import Tensor, nn

from routesearch.methods.standin import StandIn


def shortcut_of(unit: nn.Module) -> nn.Module | None:
    """The module on the unit's way around: ``shortcut``, or torchvision's ``downsample`` (None: identity).

    None where the unit is not residual.
    """
    for name in ("shortcut", "downsample"):
        if hasattr(unit, name):
            found = getattr(unit, name)
            return found if isinstance(found, nn.Module) else nn.Identity()
    return None


class Residual(nn.Module):
    """A residual unit, with the projection on its way around taken out (None: the identity).

    A skipped image needs the projection and no more, one that runs the unit needs both: so it is run
    first, for all, and only once.

        past = x if unit.projection is None else meter.run(unit.projection, x)
        x = meter.patch(mask, unit, x, past, into=past)

    Args:
        unit: one with a :func:`shortcut_of`; it is changed.
    """

    def __init__(self, unit: nn.Module) -> None:
        super().__init__()
        way = shortcut_of(unit)
        self.projection = None if way is None or isinstance(way, nn.Identity) else way
        self.unit = unit
        self.around = StandIn()
        if self.projection is not None:
            setattr(unit, "shortcut" if hasattr(unit, "shortcut") else "downsample", self.around)

    def forward(self, x: Tensor, past: Tensor) -> Tensor:
        """N inputs and what the way around made of them, to the unit's N outputs."""
        y: Tensor = self.around.run(self.unit, x, gives=past)
        return y
