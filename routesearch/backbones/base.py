"""What a backbone is: a list of units to cut between, and a head, any of it built afresh at any width."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor, nn

from routesearch.errors import Refusal
from routesearch.routing.cost import mult_adds
from routesearch.routing.shapes import shapes_only
from routesearch.space.domains import Cuts


class Plain(nn.Module):
    """The static network: units one after the other, then a head.

    Attributes:
        units: unit k is ``units[k - 1]``.
        head: from the last unit's output to logits.
    """

    def __init__(self, units: Sequence[nn.Module], head: nn.Module) -> None:
        super().__init__()
        self.units = nn.ModuleList(units)
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        x = images
        for unit in self.units:
            x = unit(x)
        logits: Tensor = self.head(x)
        return logits


class Backbone(ABC):
    """A static network as units, counted from 1; position *k* is the cut after unit *k*.

    ``len(backbone)`` is the number of units. Every method builds fresh modules (a tree needs copies),
    with random weights, on torch's default device; the meta device included.

    Args:
        shape: C, H, W of the images.
        classes: how many.
        width: fraction of all channels; multiplied by the ``width`` of each call.

    Attributes:
        name: what a study calls it.
        contract: what the conformance tests have to know: declarations of
            ``routesearch.testing.BackboneContract`` by name.

    Raises:
        Refusal: for images or widths that the architecture cannot take.
    """

    name: ClassVar[str]
    contract: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, shape: tuple[int, int, int], classes: int, width: float = 1.0) -> None:
        if not 0 < width <= 16:
            raise Refusal(f"0 < width <= 16 must hold for backbone {self.name}, got width={width}")
        self.image_shape = shape
        self.classes = classes
        self.width = width
        self._shapes: dict[tuple[int, float], tuple[int, ...]] = {}

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def unit(self, k: int, width: float = 1.0, width_in: float | None = None) -> nn.Module:
        """Unit ``k``, fresh; ``width_in`` is the width of the unit before it (default: the same)."""

    @abstractmethod
    def head(self, width: float = 1.0) -> nn.Module:
        """The layers from the last unit's output to logits."""

    @abstractmethod
    def channels(self, k: int, width: float = 1.0) -> int:
        """Entries of :meth:`neck`'s vector after unit ``k``."""

    def neck(self, k: int) -> nn.Module:
        """Unit ``k``'s output to a vector, N x ``channels(k)``: global average pooling."""
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def exit(self, k: int, width: float = 1.0, out: int | None = None) -> nn.Module:
        """A classifier on unit ``k``'s output: neck and Linear; after the last unit the own head."""
        self.check(k)
        if k == len(self) and out is None:
            return self.head(width)
        return nn.Sequential(self.neck(k), nn.Linear(self.channels(k, width), out or self.classes))

    def plain(self, width: float = 1.0, depth: int | None = None) -> Plain:
        """The static network: the first ``depth`` units (default all) and the exit after them."""
        depth = len(self) if depth is None else depth
        self.check(depth)
        return Plain([self.unit(k, width) for k in range(1, depth + 1)], self.exit(depth, width))

    @final
    def check_cuts(self, positions: Sequence[int], field: str) -> None:
        """Raise Refusal unless these are cuts of the backbone: rising positions, each before the last unit.

        Args:
            field: what a refusal calls them, such as ``dgate: positions``.
        """
        rule = Cuts(last=len(self) - 1).violation(positions)
        if rule is not None:
            where = f"on backbone {self.name}, got {list(positions)}"
            raise Refusal(f"{field}: {rule} must hold {where}")

    def shape(self, k: int, width: float = 1.0) -> tuple[int, ...]:
        """Shape of unit ``k``'s output for one image (k = 0: the image), found on the meta device.

        A list of maps has no one shape: where a unit gives one, that of the neck's vector.
        """
        if k == 0:
            return self.image_shape
        self.check(k)
        if (k, width) not in self._shapes:
            with shapes_only():
                x = torch.empty(1, *self.image_shape)
                for i in range(1, len(self) + 1):
                    x = self.unit(i, width).eval()(x)
                    one = isinstance(x, Tensor)
                    self._shapes[i, width] = tuple(x.shape[1:]) if one else (self.channels(i, width),)
        return self._shapes[k, width]

    def scaled(self, channels: int, width: float = 1.0) -> int:
        """``channels`` at this backbone's width times ``width``: max(1, round(c * f)).

        Raises:
            Refusal: for a width that is not more than 0.
        """
        if not width > 0:
            raise Refusal(f"0 < width must hold on backbone {self.name}, got width={width}")
        return max(1, round(channels * self.width * width))

    def check(self, k: int) -> None:
        """Raise Refusal unless ``k`` is a unit."""
        if not 1 <= k <= len(self):
            raise Refusal(f"1 <= position <= {len(self)} must hold on backbone {self.name}, got position={k}")

    def published(self) -> Sequence[str]:
        """Names of :meth:`plain`'s tensors in weights that others publish, in its order; empty: none."""
        return ()

    def describe(self) -> dict[str, Any]:
        return {"units": len(self)}


def kaiming(module: nn.Module, mode: Literal["fan_in", "fan_out"] = "fan_in") -> nn.Module:
    """Draw conv and linear weights from He's normal, biases 0.

    torch's default init leaves a network without normalisation at chance level (docs/decisions.md).

    Args:
        mode: what a convolution's spread goes by; a linear layer's is always the number of its inputs.
    """
    for m in module.modules():
        if any(p.is_meta for p in m.parameters(recurse=False)):
            continue  # nothing to draw, and normal_ on the meta device imports torch._dynamo: over a second
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight, nonlinearity="relu", mode=mode)
        elif isinstance(m, nn.Linear):
            nn.init.kaiming_normal_(m.weight, nonlinearity="linear")
        else:
            continue
        if m.bias is not None:
            nn.init.zeros_(m.bias)
    return module


def reference_cost(backbone: Backbone) -> tuple[int, int]:
    """Parameters and MACs of the static backbone, found on the meta device."""
    with shapes_only():
        net = backbone.plain().eval()
        macs = mult_adds(net, torch.empty(1, *backbone.image_shape))
    return sum(p.numel() for p in net.parameters()), macs
