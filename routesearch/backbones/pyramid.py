"""The multipath network of McGill and Perona (2017, Fig. 3): columns of maps at several scales at once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from routesearch.backbones.base import Backbone

COLUMNS = ((16, 4), (16, 4), (32, 3), (32, 3), (64, 2), (64, 2), (128, 1), (128, 1))
"""Maps per scale and number of scales of each column; the finest scales go first."""

COARSEST = 8
"""How much smaller the sides of the coarsest maps are than the image's."""

SMALLEST = 32


class Scales(nn.Module):
    """Images to a list of themselves at every scale, the finest first.

    Each scale takes every second pixel of the one before, without averaging, as the authors' resize did.
    Images whose sides are not ``height`` and ``width`` are resized bilinearly first.
    """

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.sides = (height, width)

    def forward(self, images: Tensor) -> list[Tensor]:
        if images.shape[-2:] != self.sides:
            images = F.interpolate(images, self.sides, mode="bilinear", align_corners=False)
        return [images[..., ::step, ::step] for step in (1, 2, 4, COARSEST)]


class Column(nn.Module):
    """One step at the scales that are kept: a list of maps to a list of maps, the finest first.

    At each scale, ``across`` convolves the previous column's map of that scale, ``down`` this column's
    next finer map, pooled and as it is before norm and ReLU; the finest has no ``down``.

    Args:
        before: maps per scale of the previous column, which may have had finer scales too.
        after: maps per scale of this one.
        scales: how many, the coarsest ones.
    """

    def __init__(self, before: int, after: int, scales: int) -> None:
        super().__init__()
        self.across = nn.ModuleList(nn.Conv2d(before, after, 3, padding=1) for _ in range(scales))
        self.down = nn.ModuleList(
            nn.Conv2d(after, after, 3, padding=1, bias=False) for _ in range(scales - 1)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(after, eps=1e-6) for _ in range(scales))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        kept = maps[len(maps) - len(self.across) :]
        sums: list[Tensor] = []
        for scale, (x, across) in enumerate(zip(kept, self.across, strict=True)):
            y = across(x)
            if scale:
                y += self.down[scale - 1](F.max_pool2d(sums[-1], 2))
            sums.append(y)
        return [F.relu(norm(y), inplace=True) for norm, y in zip(self.norms, sums, strict=True)]


class Coarsest(nn.Module):
    """A list of maps to the entries of the last, N x all."""

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return maps[-1].flatten(1)


class Pyramid8(Backbone):
    """McGill and Perona's pyramid: eight columns at four scales and fewer; images resized to 32 or more.

    Unit k is column k and gives a list of maps, one per scale, the finest first. The neck is the whole
    coarsest map, and a classifier is a linear layer on it.
    """

    name: ClassVar[str] = "pyramid8"
    contract: ClassVar[Mapping[str, Any]] = {
        "without_gradient": {r"units\.[135]\.norms\.0\.\w+": "the next column drops this scale"}
    }

    def __len__(self) -> int:
        return len(COLUMNS)

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width that images are resized to: at least 32, and up to a multiple of 8."""
        _, *sides = self.image_shape
        height, width = (max(SMALLEST, math.ceil(side / COARSEST) * COARSEST) for side in sides)
        return height, width

    def unit(self, k: int, width: float = 1.0, width_in: float | None = None) -> nn.Module:
        self.check(k)
        maps, scales = COLUMNS[k - 1]
        if k == 1:
            column = Column(self.image_shape[0], self.scaled(maps, width), scales)
            return _drawn(nn.Sequential(Scales(*self.sides), column))
        before = self.scaled(COLUMNS[k - 2][0], width if width_in is None else width_in)
        return _drawn(Column(before, self.scaled(maps, width), scales))

    def neck(self, k: int) -> nn.Module:
        """Unit ``k``'s output to a vector, N x ``channels(k)``: the coarsest map, flattened."""
        return Coarsest()

    def channels(self, k: int, width: float = 1.0) -> int:
        height, wide = self.sides
        return self.scaled(COLUMNS[k - 1][0], width) * (height // COARSEST) * (wide // COARSEST)

    def exit(self, k: int, width: float = 1.0, out: int | None = None) -> nn.Module:
        self.check(k)
        return _drawn(nn.Sequential(self.neck(k), nn.Linear(self.channels(k, width), out or self.classes)))

    def head(self, width: float = 1.0) -> nn.Module:
        return self.exit(len(self), width)


def _drawn(module: nn.Module) -> nn.Module:
    """Draw weights from the normal with variance 1 / fan-in, biases 0, as the authors do."""
    for m in module.modules():
        if isinstance(m, nn.Conv2d | nn.Linear) and not m.weight.is_meta:
            nn.init.kaiming_normal_(m.weight, nonlinearity="linear")
            if m.bias is not None:
                nn.init.zeros_(m.bias)
    return module
