"""Small backbones, images and a trunk: a network of any method is built, trained and run in milliseconds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from routesearch.backbones.base import Backbone, kaiming
from routesearch.backbones.resnet import CifarResNet
from routesearch.data.base import Data, Images, Shape, moments
from routesearch.methods.base import Trunk
from routesearch.study.recipe import Recipe
from routesearch.training.state_arrays import states
from routesearch.training.trunk import train_trunk

CPU = torch.device("cpu")
SHAPE = (1, 8, 8)
CLASSES = 4
RECIPE = Recipe(batch_size=16, epochs=3, trunk_epochs=3, learning_rate=0.01)
"""Some steps on toy images: 18 of 16 images a stage, where there is only one."""


# ---- backbones -----------------------------------------------------------------------------------------


class ToyChain(Backbone):
    """Six 3x3 convolutions with batch norm; units 2, 4 and 6 keep the shape of their input."""

    name: ClassVar[str] = "toy_chain"
    units: ClassVar[Sequence[tuple[int, int]]] = ((8, 1), (8, 1), (12, 2), (12, 1), (16, 2), (16, 1))
    """Channels and stride of each."""

    def __len__(self) -> int:
        return len(self.units)

    def unit(self, k: int, width: float = 1.0, width_in: float | None = None) -> nn.Module:
        self.check(k)
        width_in = width if width_in is None else width_in
        before = self.image_shape[0] if k == 1 else self.channels(k - 1, width_in)
        after, stride = self.channels(k, width), self.units[k - 1][1]
        conv = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        return kaiming(nn.Sequential(conv, nn.BatchNorm2d(after), nn.ReLU(inplace=True)))

    def channels(self, k: int, width: float = 1.0) -> int:
        return self.scaled(self.units[k - 1][0], width)

    def head(self, width: float = 1.0) -> nn.Module:
        linear = nn.Linear(self.channels(len(self), width), self.classes)
        return kaiming(nn.Sequential(self.neck(len(self)), linear))


class ToyResidual(CifarResNet):
    """Six residual blocks of 16, 32 and 64 channels, two of them with a projection."""

    name: ClassVar[str] = "toy_residual"
    blocks: ClassVar[int] = 2


class ToyScales(Backbone):
    """Five units that give a list of maps: a fine and a coarse one, the latter alone from unit 4 on."""

    name: ClassVar[str] = "toy_scales"
    units: ClassVar[Sequence[tuple[int, int]]] = ((8, 2), (8, 2), (12, 2), (12, 1), (16, 1))
    """Channels of each map and number of maps."""

    def __len__(self) -> int:
        return len(self.units)

    def unit(self, k: int, width: float = 1.0, width_in: float | None = None) -> nn.Module:
        self.check(k)
        after, maps = self.scaled(self.units[k - 1][0], width), self.units[k - 1][1]
        if k == 1:
            return kaiming(nn.Sequential(_Halves(), _Scales(self.image_shape[0], after, maps)))
        before = self.scaled(self.units[k - 2][0], width if width_in is None else width_in)
        return kaiming(_Scales(before, after, maps))

    def neck(self, k: int) -> nn.Module:
        return nn.Sequential(_Last(), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def channels(self, k: int, width: float = 1.0) -> int:
        return self.scaled(self.units[k - 1][0], width)

    def exit(self, k: int, width: float = 1.0, out: int | None = None) -> nn.Module:
        self.check(k)
        linear = nn.Linear(self.channels(k, width), out or self.classes)
        return kaiming(nn.Sequential(self.neck(k), linear))

    def head(self, width: float = 1.0) -> nn.Module:
        return self.exit(len(self), width)


class _Halves(nn.Module):
    """Images to a list: as they are, and every second pixel of them."""

    def forward(self, images: Tensor) -> list[Tensor]:
        return [images, images[..., ::2, ::2]]


class _Scales(nn.Module):
    """A convolution and a norm for each of the last ``maps`` maps of a list; a map sees the finer one too."""

    def __init__(self, before: int, after: int, maps: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(before, after, 3, padding=1, bias=False) for _ in range(maps))
        self.down = nn.ModuleList(nn.Conv2d(after, after, 1, bias=False) for _ in range(maps - 1))
        self.norms = nn.ModuleList(nn.BatchNorm2d(after) for _ in range(maps))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        kept, found = maps[len(maps) - len(self.convs) :], list[Tensor]()
        for scale, (conv, norm, x) in enumerate(zip(self.convs, self.norms, kept, strict=True)):
            y = conv(x)
            if scale:
                y += self.down[scale - 1](F.max_pool2d(found[-1], 2))
            found.append(F.relu(norm(y), inplace=True))
        return found


class _Last(nn.Module):
    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return maps[-1]


CHAIN = ToyChain(SHAPE, CLASSES)
RESIDUAL = ToyResidual(SHAPE, CLASSES, 0.5)
SCALES = ToyScales(SHAPE, CLASSES)


# ---- images and trunk ----------------------------------------------------------------------------------


def toy_data(
    classes: int = CLASSES,
    shape: Shape = SHAPE,
    counts: tuple[int, int, int] = (96, 60, 60),
    seed: int = 0,
    superclass: bool = False,
) -> Data:
    """Images that show one of a few fixed patterns, every second one under noise.

    Args:
        counts: of training, validation and test images.
        superclass: give each image the further label ``superclass``, half as many as classes.
    """
    random = torch.Generator().manual_seed(seed)
    patterns = torch.rand(classes, *shape, generator=random)

    def split(count: int) -> Images:
        labels = torch.arange(count) % classes
        noise = torch.rand(count, *shape, generator=random)
        share = torch.where(torch.arange(count) % 2 == 0, 0.2, 0.7)[:, None, None, None]
        aux = {"superclass": labels // 2} if superclass else {}
        return Images((1 - share) * patterns[labels] + share * noise, labels, aux)

    train, validation, test = (split(count) for count in counts)
    names = tuple(f"pattern {i}" for i in range(classes))
    return Data("toy", names, shape, train, validation, test, *moments(train.pixels))


def toy_trunk(backbone: Backbone, data: Data, recipe: Recipe = RECIPE) -> Trunk:
    """The backbone after a short training, with a confusion (mean softmax on the training images)."""
    trained = train_trunk(backbone, data, recipe, seed=0, device=CPU)
    net = backbone.plain()
    net.load_state_dict(trained.state())
    with torch.inference_mode():
        chances = net.eval()(data.inputs(data.train.pixels)).softmax(1)
    rows = [chances[data.train.labels == c].mean(0).tolist() for c in range(backbone.classes)]
    return trained.trunk(rows)


def differing_states(one: nn.Module, two: nn.Module) -> list[str]:
    """Names of the entries of two state dicts that differ, or that only one has."""
    a, b = states(one), states(two)
    return sorted(n for n in a.keys() | b.keys() if n not in a or n not in b or not _same(a[n], b[n]))


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a.nan_to_num(), b.nan_to_num())
