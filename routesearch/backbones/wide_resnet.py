"""Wide residual networks of 6n + 4 layers (Zagoruyko and Komodakis, 2016), as DecisioNet uses them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from routesearch.backbones.base import Backbone, Plain, kaiming
from routesearch.errors import Refusal

STEM = 16
GROUPS = (16, 32, 64)
"""Filters of the three groups before they are widened."""


class PreActBlock(nn.Module):
    """Twice batch norm, ReLU, 3x3 convolution, and a shortcut from the raw input.

    The shortcut is a 1x1 convolution where shape or width changes, without a norm.
    """

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(before)
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)
        self.dropout: nn.Module = nn.Identity()
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            self.shortcut = nn.Conv2d(before, after, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv1(F.relu(self.norm1(x), inplace=True))
        y = self.conv2(self.dropout(F.relu(self.norm2(y), inplace=True)))
        y += self.shortcut(x)
        return y


class WideResNet(Backbone):
    """Unit k is residual block k; the stem belongs to unit 1; norm, ReLU, pooling and classes to the head.

    A subclass names one network: WRN-16-4 has ``layers = 16`` and ``widen = 4``.

    A unit's output is raw, a sum that no norm or ReLU has seen, and :meth:`neck` averages it as it is:
    that is what DecisioNet's routing modules read. A classifier gets the norm and the ReLU that the
    next block would begin with, so every exit is made like the head.

    Raises:
        Refusal: for a number of layers that is not 6n + 4, or a factor below 1.
    """

    layers: ClassVar[int]
    """6n + 4: 2n convolutions in each of three groups, the stem, two projections and the class layer."""

    widen: ClassVar[int]
    """k: what the groups' filters are multiplied by."""

    dropout: ClassVar[float] = 0.3
    """Inside the blocks of :meth:`plain` only: the authors train the baseline with it, trees without."""

    def __init__(self, shape: tuple[int, int, int], classes: int, width: float = 1.0) -> None:
        super().__init__(shape, classes, width)
        if self.layers < 10 or self.layers % 6 != 4 or self.widen < 1:
            rule = "layers = 6n + 4 with n >= 1 and widen >= 1"
            got = f"layers={self.layers}, widen={self.widen}"
            raise Refusal(f"{rule} must hold for backbone {self.name}, got {got}")
        self.blocks = (self.layers - 4) // 6

    def __len__(self) -> int:
        return 3 * self.blocks

    def unit(self, k: int, width: float = 1.0, width_in: float | None = None) -> nn.Module:
        self.check(k)
        after = self.channels(k, width)
        if k == 1:
            stem = nn.Conv2d(self.image_shape[0], self.scaled(STEM, width), 3, padding=1, bias=False)
            block = PreActBlock(stem.out_channels, after, 1)
            return kaiming(nn.Sequential(stem, block), "fan_out")
        before = self.channels(k - 1, width if width_in is None else width_in)
        group, place = divmod(k - 1, self.blocks)
        return kaiming(PreActBlock(before, after, stride=2 if group and not place else 1), "fan_out")

    def channels(self, k: int, width: float = 1.0) -> int:
        return self.scaled(GROUPS[(k - 1) // self.blocks] * self.widen, width)

    def exit(self, k: int, width: float = 1.0, out: int | None = None) -> nn.Module:
        self.check(k)
        channels = self.channels(k, width)
        norm, linear = nn.BatchNorm2d(channels), nn.Linear(channels, out or self.classes)
        return kaiming(nn.Sequential(norm, nn.ReLU(inplace=True), self.neck(k), linear))

    def head(self, width: float = 1.0) -> nn.Module:
        return self.exit(len(self), width)

    def plain(self, width: float = 1.0, depth: int | None = None) -> Plain:
        net = super().plain(width, depth)
        for module in net.modules():
            if isinstance(module, PreActBlock):
                module.dropout = nn.Dropout(self.dropout)
        return net


class WRN28x10(WideResNet):
    """WRN-28-10: 12 pre-activation blocks, ten times as wide as ResNet's."""

    name: ClassVar[str] = "wrn28_10"
    contract: ClassVar[Mapping[str, Any]] = {"width": 0.05}
    layers: ClassVar[int] = 28
    widen: ClassVar[int] = 10
