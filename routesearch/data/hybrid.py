"""The hybrid data set of McGill and Perona (2017): easy digits and hard pictures in one task.

Digits 0-4 are recoloured, because grey would tell them from colour photographs at a glance: two colours
are drawn for each image, black becomes the first, white the second, and grey lies between (figure 4).
Pictures are gamma-decoded. Both happen once, when the set is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from routesearch.data import idx
from routesearch.data.base import Dataset, Images, Shape, Source
from routesearch.data.cifar import CIFAR10, CIFAR10_CLASSES
from routesearch.data.digits import Digits
from routesearch.data.download import downloading
from routesearch.data.fashion_mnist import FashionMNIST
from routesearch.data.splits import pick
from routesearch.errors import Refusal

SIZE = 32
APART = 0.3
"""Least distance of an image's two colours, in RGB space with white at (1, 1, 1)."""
_DIGITS = tuple("01234")
_PHOTOGRAPHS = ("airplane", "automobile", "deer", "frog", "horse")
_CLOTHES = FashionMNIST.class_names[:5]
_DRAWS, _SHARE = 201, 202  # tell the two draws from those that cut splits


class Hybrid(Dataset):
    """Ten classes: digits 0-4, then five of pictures.

    ``mnist+cifar10`` is the paper's: all images of these classes, 55,596 to train and 10,139 to test;
    validation images are cut from the training images. ``digits+fashion_mnist`` is the same recipe on
    the embedded digits and as many pictures of clothes (Fashion-MNIST), which are recoloured too since they
    are grey; all three splits are cut.

    The paper's augmentation is ``augment: {crop: 4, fill: mean, flip: true, flip_only: [5, 6, 7, 8, 9]}``.
    """

    name: ClassVar[str] = "hybrid"
    shape: ClassVar[Shape] = (3, SIZE, SIZE)
    class_names: ClassVar[tuple[str, ...]] = _DIGITS + _PHOTOGRAPHS
    whereabouts: ClassVar[frozenset[str]] = frozenset({"path", "download"})

    sources: Literal["mnist+cifar10", "digits+fashion_mnist"] = Field(
        default="mnist+cifar10", description="where digits and pictures come from"
    )
    colour_seed: int = Field(default=0, ge=0, lt=2**32, description="decides the colours of the digits")
    path: Path = Field(
        default=Path("data"), description="folder of MNIST/raw and cifar-10-batches-py, or FashionMNIST/raw"
    )
    download: bool = Field(default=False, description="fetch the files into path where there are none")

    def facts(self, base: Path) -> tuple[Shape, tuple[str, ...]]:
        own = self.sources == "mnist+cifar10"
        return self.shape, self.class_names if own else _DIGITS + _CLOTHES

    def read(self, base: Path) -> Source:
        random = np.random.RandomState((self.colour_seed, _DRAWS))
        classes = self.facts(base)[1]
        if self.sources == "digits+fashion_mnist":
            return Source(classes, self._at_hand(base, random))
        root = base / self.path
        folder = self._mnist(root)
        pictures = CIFAR10.read(root, self.download)
        wanted = [CIFAR10_CLASSES.index(name) for name in _PHOTOGRAPHS]
        splits = []
        for split in ("train", "test"):
            digits = of_classes(idx.read(folder, split), range(5))
            photographs = of_classes(pictures[split], wanted, first=5)
            coloured = recolour(_grey(enlarge(digits.pixels)), random)
            splits.append(
                _joined((coloured, digits.labels), (gamma_decode(photographs.pixels), photographs.labels))
            )
        return Source(classes, splits[0], test=splits[1])

    def _at_hand(self, base: Path, random: np.random.RandomState) -> Images:
        digits = of_classes(Digits().read(base).train, range(5))
        source = FashionMNIST(path=self.path, download=self.download).read(base)
        clothes = of_classes(source.train, range(5), first=5)
        count = min(len(digits), len(clothes))
        chosen, _ = pick(clothes.labels.numpy(), count, self.split_seed, _SHARE)
        clothes = clothes.select(torch.from_numpy(chosen))
        light = gamma_decode(enlarge(clothes.pixels))[..., 0]
        return _joined(
            (recolour(_grey(enlarge(digits.pixels)), random), digits.labels),
            (recolour(light, random), clothes.labels),
        )

    def _mnist(self, root: Path) -> Path:
        folders = (root / "MNIST" / "raw", root)
        folder = idx.find(folders)
        if folder is None and self.download:
            _download(root)
            folder = idx.find(folders)
        if folder is None:
            how = "set data.download: true or data.path, or data.sources: digits+fashion_mnist"
            raise Refusal(f"hybrid: no MNIST files in {folders[0]}: {how}")
        return folder


def of_classes(images: Images, wanted: Sequence[int], first: int = 0) -> Images:
    """The images of the ``wanted`` classes, whose labels become ``first``, ``first`` + 1 and so on."""
    label = torch.full((int(images.labels.max()) + 1 if len(images) else 0,), -1)
    for new, old in enumerate(wanted, first):
        if old < len(label):
            label[old] = new
    labels = label[images.labels]
    keep = (labels >= 0).nonzero().view(-1)
    return Images(images.pixels[keep], labels[keep])


def enlarge(pixels: Tensor) -> Tensor:
    """N,C,H,W in uint8 to N,C,32,32, bilinear, rounded to uint8 as the authors' tool does.

    The weights are sixteenths where H is 28 or 16, so that the sums are exact on every machine.
    """
    large = F.interpolate(pixels.float(), size=(SIZE, SIZE), mode="bilinear", align_corners=False)
    return large.round().to(torch.uint8)


def gamma_decode(pixels: Tensor) -> npt.NDArray[np.float32]:
    """N,C,H,W in uint8 to the light they stand for, (v / 255) ^ 2.2, as N,H,W,C."""
    light = ((np.arange(256) / 255) ** 2.2).astype(np.float32)
    values: npt.NDArray[np.float32] = light[pixels.permute(0, 2, 3, 1).numpy()]
    return values


def recolour(light: npt.NDArray[np.float32], random: np.random.RandomState) -> npt.NDArray[np.float32]:
    """N,H,W in [0, 1] to N,H,W,3: black becomes one drawn colour, white another, grey what lies between."""
    black, white = colours(len(light), random)
    span = (white - black)[:, None, None]
    return np.clip(black[:, None, None] + span * light[..., None], 0.0, 1.0)


def colours(
    count: int, random: np.random.RandomState
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Two uniform RGB colours for each image, N,3 each; the second is redrawn until it lies ``APART``."""
    first, second = random.uniform(size=(2, count, 3))
    while len(close := np.flatnonzero(np.linalg.norm(first - second, axis=1) < APART)):
        second[close] = random.uniform(size=(len(close), 3))
    return first.astype(np.float32), second.astype(np.float32)


def _grey(pixels: Tensor) -> npt.NDArray[np.float32]:
    """N,1,H,W in uint8 to N,H,W in [0, 1]."""
    return pixels[:, 0].numpy().astype(np.float32) / np.float32(255)


def _joined(*parts: tuple[npt.NDArray[np.float32], Tensor]) -> Images:
    rows = torch.from_numpy(np.concatenate([rows for rows, _ in parts]))
    return Images(rows.permute(0, 3, 1, 2), torch.cat([labels for _, labels in parts]))


def _download(root: Path) -> None:
    from torchvision import datasets

    with downloading("hybrid", root):
        datasets.MNIST(str(root), download=True)
