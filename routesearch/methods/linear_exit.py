"""Exits of one linear layer: what they see of a unit's output, and where they stand on a backbone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from optuna.distributions import CategoricalDistribution
from torch import Tensor, nn

from routesearch.backbones.base import Backbone, kaiming
from routesearch.errors import Refusal
from routesearch.space.domains import Cuts
from routesearch.space.space import SearchSpace

GRID = 4
"""Side of the averaged map of ``features: grid``; of a smaller map its own."""

Features = Annotated[Literal["gap", "grid", "flat"], CategoricalDistribution(("gap", "grid", "flat"))]
"""What an exit sees: channel means (the neck's vector), the means of a 4 x 4 grid, or the whole map."""


class LinearExit(nn.Module):
    """A linear layer on a view of unit ``k``'s output: N images to N x classes logits.

    ``view`` and ``linear`` can be run apart, such as on what a frozen trunk gave once.

    Args:
        features: what it sees (:data:`Features`).
        name: of the method; a refusal begins with it.

    Raises:
        Refusal: a grid or the whole map is wanted of a unit that gives no one map of C,H,W.
    """

    def __init__(self, backbone: Backbone, k: int, features: str, name: str) -> None:
        super().__init__()
        self.view, entries = _view(backbone, k, features, name)
        self.linear = nn.Linear(entries, backbone.classes)
        kaiming(self)

    def forward(self, x: Any) -> Tensor:
        logits: Tensor = self.linear(self.view(x))
        return logits


def _view(backbone: Backbone, k: int, features: str, name: str) -> tuple[nn.Module, int]:
    """The module from unit ``k``'s output to a vector, and that vector's length."""
    if features == "gap":
        return backbone.neck(k), backbone.channels(k)
    shape = backbone.shape(k)
    if len(shape) != 3:
        rule = f"features={features} needs unit outputs of C,H,W"
        raise Refusal(f"{name}: {rule}, backbone {backbone.name} gives {shape}")
    channels, height, width = shape
    if features == "flat":
        return nn.Flatten(), channels * height * width
    side = (min(GRID, height), min(GRID, width))
    return nn.Sequential(nn.AdaptiveAvgPool2d(side), nn.Flatten()), channels * side[0] * side[1]


def place_exits(
    space: SearchSpace, backbone: Backbone, shares: Sequence[float], name: str, most: int = 3
) -> SearchSpace:
    """A space with fields ``positions`` (:class:`Cuts`) and ``features``, made to fit a backbone.

    Args:
        shares: default positions, as shares of the units before the last one.
        name: of the method; a refusal begins with it.
        most: exits, at most.

    Raises:
        Refusal: the backbone has one unit only.
    """
    last = len(backbone) - 1
    if last < 1:
        raise Refusal(f"{name}: a backbone must have 2 units or more, {backbone.name} has {len(backbone)}")
    usual = sorted({max(1, round(last * share)) for share in shares})
    space = space.refine({"positions": tuple(usual)}, positions=Cuts(last=last, most=most))
    if any(len(backbone.shape(k)) != 3 for k in range(1, last + 1)):
        # Lists of maps, or vectors: only the neck says how a unit's output becomes one vector.
        space = space.refine({"features": "gap"}, features=CategoricalDistribution(("gap",)))
    return space
