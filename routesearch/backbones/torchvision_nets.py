"""torchvision's classification networks as units: ResNet-101, DenseNet-201, VGG-16 and AlexNet.

The layers, their order and the names of a block's parts are torchvision's, so its checkpoints fit layer
by layer; torchvision itself is not needed to build them. Its own blocks tie the widths inside to each
other (4 x the rounded filters), where a width here rounds each number of channels by itself.

Each comes with the ImageNet stem and, as ``*_cifar``, for small images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from routesearch.backbones.base import Backbone, kaiming
from routesearch.errors import Refusal
from routesearch.routing.shapes import shapes_only

STEM = 64

PHOTOS = ((1, 33, 40),)
"""Images that the conformance tests try where a stem halves them twice, and more."""


class Sized(Backbone):
    """A backbone whose pooling needs images of some size."""

    smallest: ClassVar[int] = 1
    """Pixels that height and width must have."""

    def __init__(self, shape: tuple[int, int, int], classes: int, width: float = 1.0) -> None:
        super().__init__(shape, classes, width)
        if min(shape[1:]) < self.smallest:
            rule = f"height and width >= {self.smallest} must hold for backbone {self.name}"
            raise Refusal(f"{rule}, got {shape[1]}x{shape[2]} images")


def stem(before: int, after: int, small: bool) -> list[nn.Module]:
    """A convolution, norm and ReLU; for ImageNet's sizes with strides down to a quarter."""
    if small:
        conv = nn.Conv2d(before, after, 3, padding=1, bias=False)
        return [conv, nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
    conv = nn.Conv2d(before, after, 7, 2, padding=3, bias=False)
    return [conv, nn.BatchNorm2d(after), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, padding=1)]


def torchvision_names(network: str) -> list[str]:
    """Names of tensors of torchvision's network, in its order and ours; ``NAME_cifar`` has ``NAME``'s."""
    from torchvision import models

    with shapes_only():
        return list(models.get_model(network.removesuffix("_cifar")).state_dict())


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with batch norm and a shortcut; the stride is the 3x3's."""

    def __init__(self, before: int, inside: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, inside, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inside)
        self.conv2 = nn.Conv2d(inside, inside, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(inside)
        self.conv3 = nn.Conv2d(inside, after, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(after)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            self.downsample = nn.Sequential(
                nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        y = self.bn3(self.conv3(y))
        y += self.downsample(x)
        return F.relu(y, inplace=True)


class ResNet101(Backbone):
    """33 bottleneck blocks behind ImageNet's stem, which takes images down to a quarter."""

    name: ClassVar[str] = "resnet101"
    contract: ClassVar[Mapping[str, Any]] = {"width": 0.1, "shapes": PHOTOS}
    small: ClassVar[bool] = False
    groups: ClassVar[tuple[tuple[int, int], ...]] = ((64, 3), (128, 4), (256, 23), (512, 3))
    """Filters inside a block, a quarter of those it gives, and the number of blocks."""

    def __len__(self) -> int:
        return sum(blocks for _, blocks in self.groups)

    def unit(self, k: int, width: float = 1.0, width_in: float | None = None) -> nn.Module:
        self.check(k)
        group, place = self._place(k)
        inside, after = self.scaled(self.groups[group][0], width), self.channels(k, width)
        if k == 1:
            before = self.scaled(STEM, width)
            layers = stem(self.image_shape[0], before, self.small)
            return kaiming(nn.Sequential(*layers, Bottleneck(before, inside, after, 1)), "fan_out")
        before = self.channels(k - 1, width if width_in is None else width_in)
        stride = 2 if group and not place else 1
        return kaiming(Bottleneck(before, inside, after, stride), "fan_out")

    def _place(self, k: int) -> tuple[int, int]:
        """Group of unit ``k`` and its place there, both from 0."""
        group, place = 0, k - 1
        while place >= self.groups[group][1]:
            place -= self.groups[group][1]
            group += 1
        return group, place

    def channels(self, k: int, width: float = 1.0) -> int:
        return self.scaled(4 * self.groups[self._place(k)[0]][0], width)

    def published(self) -> Sequence[str]:
        return torchvision_names(self.name)

    def head(self, width: float = 1.0) -> nn.Module:
        linear = nn.Linear(self.channels(len(self), width), self.classes)
        return kaiming(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear))


class ResNet101Cifar(ResNet101):
    """33 bottleneck blocks behind a 3x3 stem for small images, as d-gate uses it."""

    name: ClassVar[str] = "resnet101_cifar"
    contract: ClassVar[Mapping[str, Any]] = {"width": 0.1}
    small: ClassVar[bool] = True


class DenseLayer(nn.Module):
    """Twice batch norm, ReLU and convolution (1x1, 3x3); what comes out is appended to what came in."""

    def __init__(self, before: int, inside: int, growth: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(before)
        self.conv1 = nn.Conv2d(before, inside, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(inside)
        self.conv2 = nn.Conv2d(inside, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.relu(self.norm1(x), inplace=True))
        y = self.conv2(F.relu(self.norm2(y), inplace=True))
        return torch.cat([x, y], 1)


class Transition(nn.Sequential):
    """DenseNet's transition: half of the channels and, by averages, half of the sides."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(before)
        self.relu = nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(before, after, 1, bias=False)
        self.pool = nn.AvgPool2d(2)


class DenseNet201(Sized):
    """98 dense layers and 3 transitions, each a unit, behind ImageNet's stem.

    A unit's output is raw, as in a pre-activation network, and :meth:`neck` averages it as it is; a
    classifier begins with norm and ReLU, so every exit is made like the head.

    A dense layer passes on all that it gets: only a transition can have another width than the unit before.
    """

    name: ClassVar[str] = "densenet201"
    contract: ClassVar[Mapping[str, Any]] = {"width": 0.2, "shapes": PHOTOS, "narrows_at": (7, 20, 69)}
    small: ClassVar[bool] = False
    smallest: ClassVar[int] = 29
    blocks: ClassVar[tuple[int, ...]] = (6, 12, 48, 32)
    growth: ClassVar[int] = 32

    def __len__(self) -> int:
        return sum(self.blocks) + len(self.blocks) - 1

    def unit(self, k: int, width: float = 1.0, width_in: float | None = None) -> nn.Module:
        self.check(k)
        if k == 1:
            before = self.scaled(STEM, width)
            layers = stem(self.image_shape[0], before, self.small)
            # Dense layers begin with a norm: for small images the authors have no other behind the stem.
            return kaiming(nn.Sequential(*layers[: 1 if self.small else None], self._layer(before, width)))
        before = self.channels(k - 1, width if width_in is None else width_in)
        if self._place(k)[1] == 0:
            return kaiming(Transition(before, self.channels(k, width)))
        if before != self.channels(k - 1, width):
            turns = ", ".join(str(sum(self.blocks[:b]) + b) for b in range(1, len(self.blocks)))
            rule = f"width must change at a transition (units {turns}) on backbone {self.name}"
            raise Refusal(f"{rule}, got width={width} after width_in={width_in} at unit {k}")
        return kaiming(self._layer(before, width))

    def _layer(self, before: int, width: float) -> DenseLayer:
        return DenseLayer(before, self.scaled(4 * self.growth, width), self.scaled(self.growth, width))

    def _place(self, k: int) -> tuple[int, int]:
        """Block of unit ``k``, from 0, and how many of its dense layers have run then; 0: its transition."""
        block = 0
        while block < len(self.blocks) - 1 and k > self.blocks[block]:
            k -= self.blocks[block] + 1
            block += 1
        return block, k

    def channels(self, k: int, width: float = 1.0) -> int:
        block, layers = self._place(k)
        entering = STEM
        for earlier in self.blocks[:block]:
            entering = (entering + earlier * self.growth) // 2
        return self.scaled(entering, width) + layers * self.scaled(self.growth, width)

    def published(self) -> Sequence[str]:
        return torchvision_names(self.name)

    def exit(self, k: int, width: float = 1.0, out: int | None = None) -> nn.Module:
        self.check(k)
        channels = self.channels(k, width)
        norm, linear = nn.BatchNorm2d(channels), nn.Linear(channels, out or self.classes)
        return kaiming(nn.Sequential(norm, nn.ReLU(inplace=True), self.neck(k), linear))

    def head(self, width: float = 1.0) -> nn.Module:
        return self.exit(len(self), width)


class DenseNet201Cifar(DenseNet201):
    """98 dense layers and 3 transitions behind a 3x3 stem for small images, as d-gate uses it."""

    name: ClassVar[str] = "densenet201_cifar"
    contract: ClassVar[Mapping[str, Any]] = {"width": 0.2, "narrows_at": (7, 20, 69)}
    small: ClassVar[bool] = True
    smallest: ClassVar[int] = 8


class Conv(NamedTuple):
    """A convolution with its ReLU."""

    filters: int
    kernel: int = 3
    stride: int = 1
    padding: int = 1
    pooled: bool = False  # whether the network's max-pooling comes after it


class Chain(Sized):
    """Unit k is convolution k with its ReLU and pooling, without a norm; the linear layers are the head."""

    convs: ClassVar[tuple[Conv, ...]]
    pool: ClassVar[int]
    """Side of the max-pooling's window; its stride is 2."""

    round_up: ClassVar[bool] = False
    """Whether pooling keeps the last row of an odd side, so that no map is too small for it."""

    grid: ClassVar[int] = 1
    """Side of the averages that the linear layers read."""

    hidden: ClassVar[int]
    """Units of the two hidden linear layers."""

    def __len__(self) -> int:
        return len(self.convs)

    def unit(self, k: int, width: float = 1.0, width_in: float | None = None) -> nn.Module:
        self.check(k)
        _, kernel, stride, padding, pooled = self.convs[k - 1]
        before = (
            self.image_shape[0] if k == 1 else self.channels(k - 1, width if width_in is None else width_in)
        )
        conv = nn.Conv2d(before, self.channels(k, width), kernel, stride, padding)
        pooling = [nn.MaxPool2d(self.pool, 2, ceil_mode=self.round_up)] if pooled else []
        return kaiming(nn.Sequential(conv, nn.ReLU(inplace=True), *pooling))

    def channels(self, k: int, width: float = 1.0) -> int:
        return self.scaled(self.convs[k - 1].filters, width)

    def published(self) -> Sequence[str]:
        return torchvision_names(self.name)

    def head(self, width: float = 1.0) -> nn.Module:
        entries = self.channels(len(self), width) * self.grid**2
        hidden = self.scaled(self.hidden, width)
        view = (nn.AdaptiveAvgPool2d(self.grid), nn.Flatten())
        first = (nn.Dropout(0.5), nn.Linear(entries, hidden), nn.ReLU(inplace=True))
        second = (nn.Dropout(0.5), nn.Linear(hidden, hidden), nn.ReLU(inplace=True))
        return kaiming(nn.Sequential(*view, *first, *second, nn.Linear(hidden, self.classes)))


class VGG16(Chain):
    """13 convolutions of 3x3 and three linear layers for ImageNet's sizes."""

    name: ClassVar[str] = "vgg16"
    contract: ClassVar[Mapping[str, Any]] = {"width": 0.1, "shapes": PHOTOS}
    smallest: ClassVar[int] = 32
    convs: ClassVar[tuple[Conv, ...]] = tuple(
        Conv(filters, pooled=last == count)
        for filters, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
        for last in range(1, count + 1)
    )
    pool: ClassVar[int] = 2
    grid: ClassVar[int] = 7
    hidden: ClassVar[int] = 4096


class VGG16Cifar(VGG16):
    """13 convolutions of 3x3 and three linear layers of 512 on the pooled last map, for small images."""

    name: ClassVar[str] = "vgg16_cifar"
    contract: ClassVar[Mapping[str, Any]] = {"width": 0.1}
    smallest: ClassVar[int] = 1
    round_up: ClassVar[bool] = True
    grid: ClassVar[int] = 1
    hidden: ClassVar[int] = 512


class AlexNet(Chain):
    """Five convolutions and three linear layers for ImageNet's sizes."""

    name: ClassVar[str] = "alexnet"
    contract: ClassVar[Mapping[str, Any]] = {"width": 0.1, "shapes": ((1, 64, 72),)}
    smallest: ClassVar[int] = 63
    convs: ClassVar[tuple[Conv, ...]] = (
        Conv(64, 11, 4, 2, pooled=True),
        Conv(192, 5, padding=2, pooled=True),
        Conv(384),
        Conv(256),
        Conv(256, pooled=True),
    )
    pool: ClassVar[int] = 3
    grid: ClassVar[int] = 6
    hidden: ClassVar[int] = 4096


class AlexNetCifar(AlexNet):
    """Five convolutions behind a 3x3 stem, and three linear layers of 256, for small images."""

    name: ClassVar[str] = "alexnet_cifar"
    contract: ClassVar[Mapping[str, Any]] = {"width": 0.1}
    smallest: ClassVar[int] = 7
    convs: ClassVar[tuple[Conv, ...]] = (Conv(64), *AlexNet.convs[1:])
    grid: ClassVar[int] = 1
    hidden: ClassVar[int] = 256
