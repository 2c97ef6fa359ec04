"""CIFAR residual networks of 6n + 2 layers (He et al., 2016), with SkipNet's projection shortcuts."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from routesearch.backbones.base import Backbone, kaiming

GROUPS = (16, 32, 64)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm and a shortcut; a 1x1 projection where shape or width changes."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(
                nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)), inplace=True)
        y = self.norm2(self.conv2(y))
        y += self.shortcut(x)
        return F.relu(y, inplace=True)


class CifarResNet(Backbone):
    """Unit k is residual block k; the stem belongs to unit 1, pooling and the class layer to the head."""

    blocks: ClassVar[int]
    """n: residual blocks in each of the three groups."""

    def __len__(self) -> int:
        return 3 * self.blocks

    def unit(self, k: int, width: float = 1.0, width_in: float | None = None) -> nn.Module:
        self.check(k)
        width_in = width if width_in is None else width_in
        group, place = divmod(k - 1, self.blocks)
        after = self.scaled(GROUPS[group], width)
        if k == 1:
            stem = nn.Conv2d(self.image_shape[0], after, 3, padding=1, bias=False)
            layers = (stem, nn.BatchNorm2d(after), nn.ReLU(inplace=True), BasicBlock(after, after, 1))
            return kaiming(nn.Sequential(*layers))
        before = self.channels(k - 1, width_in)
        return kaiming(BasicBlock(before, after, stride=2 if group and not place else 1))

    def channels(self, k: int, width: float = 1.0) -> int:
        return self.scaled(GROUPS[(k - 1) // self.blocks], width)

    def head(self, width: float = 1.0) -> nn.Module:
        linear = nn.Linear(self.channels(len(self), width), self.classes)
        return kaiming(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear))


class ResNet38(CifarResNet):
    """ResNet-38: 3 groups of 6 residual blocks with 16, 32 and 64 channels, for small images."""

    name: ClassVar[str] = "resnet38"
    blocks: ClassVar[int] = 6


class ResNet74(CifarResNet):
    """ResNet-74: 3 groups of 12 residual blocks with 16, 32 and 64 channels, for small images."""

    name: ClassVar[str] = "resnet74"
    blocks: ClassVar[int] = 12


class ResNet110(CifarResNet):
    """ResNet-110: 3 groups of 18 residual blocks with 16, 32 and 64 channels, for small images."""

    name: ClassVar[str] = "resnet110"
    blocks: ClassVar[int] = 18


class ResNet152(CifarResNet):
    """ResNet-152: 3 groups of 25 residual blocks with 16, 32 and 64 channels, for small images."""

    name: ClassVar[str] = "resnet152"
    blocks: ClassVar[int] = 25
