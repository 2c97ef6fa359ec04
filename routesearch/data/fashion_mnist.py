"""Fashion-MNIST: 70,000 grey 28x28 pictures of clothes, read from the IDX files as they are published.

The files are looked for where torchvision puts them, and where Debian's package puts them.
"""

from __future__ import annotations

import contextlib
import gzip
import math
import sys
import zlib
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field

from routesearch.data.base import Dataset, Images, Shape, Source
from routesearch.errors import Refusal

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


class FashionMNIST(Dataset):
    """Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017); validation images are cut from the training images."""

    name: ClassVar[str] = "fashion_mnist"
    shape: ClassVar[Shape] = (1, 28, 28)
    class_names: ClassVar[tuple[str, ...]] = (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    )
    whereabouts: ClassVar[frozenset[str]] = frozenset({"path", "download"})

    path: Path = Field(
        default=Path("data"), description="folder of FashionMNIST/raw (torchvision's layout), or of the files"
    )
    download: bool = Field(default=False, description="fetch the files into path where there are none")

    def read(self, base: Path) -> Source:
        root = base / self.path.expanduser()
        folder = _find(root)
        if folder is None and self.download:
            _download(root)
            folder = _find(root)
        if folder is None:
            how = "apt-get install dataset-fashion-mnist, or set data.download: true or data.path"
            raise Refusal(f"fashion_mnist: no files in {root / 'FashionMNIST/raw'} nor in {DEBIAN}: {how}")
        return Source(self.class_names, _images(folder, "train"), test=_images(folder, "test"))


def _find(root: Path) -> Path | None:
    """The first folder that has all four files, packed or not."""
    names = [name for pair in _FILES.values() for name in pair]
    for folder in (root / "FashionMNIST" / "raw", root, DEBIAN):
        if all((folder / name).is_file() or (folder / f"{name}.gz").is_file() for name in names):
            return folder
    return None


def _download(root: Path) -> None:
    from torchvision import datasets

    try:
        with contextlib.redirect_stdout(sys.stderr):  # stdout belongs to the command's own output
            datasets.FashionMNIST(str(root), download=True)
    except (OSError, RuntimeError) as error:  # no network, no space, or files that fail their checksum
        reason = " ".join(str(error).split())
        raise Refusal(f"fashion_mnist: download into {root} failed: {reason}") from error


def _images(folder: Path, split: str) -> Images:
    pixels, labels = _idx(folder, _FILES[split][0], 3), _idx(folder, _FILES[split][1], 1)
    if pixels.shape[1:] != (28, 28) or labels.shape != pixels.shape[:1]:
        law = "N images of 28x28 and N labels must be there"
        raise Refusal(f"{folder}: {law}, got {pixels.shape} and {labels.shape} for {split}")
    return Images(torch.from_numpy(pixels)[:, None], torch.from_numpy(labels).long())


def _idx(folder: Path, name: str, ndim: int) -> npt.NDArray[np.uint8]:
    """An IDX file of bytes: 0, 0, 8, number of dimensions, each dimension in 4 bytes, then the values."""
    file = folder / name
    try:
        if file.is_file():
            content = bytearray(file.read_bytes())
        else:
            file = folder / f"{name}.gz"
            content = bytearray(gzip.decompress(file.read_bytes()))
    except (OSError, EOFError, zlib.error) as error:
        raise Refusal(f"{file} cannot be read: {error}") from error
    start = 4 + 4 * ndim
    if content[:4] != bytes((0, 0, 8, ndim)) or len(content) < start:
        law = f"an IDX file of bytes in {ndim} dimensions must start with 000008{ndim:02x}"
        raise Refusal(f"{file}: {law}, got {content[:4].hex()} and {len(content)} bytes in all")
    shape = [int.from_bytes(content[at : at + 4]) for at in range(4, start, 4)]
    if len(content) != start + math.prod(shape):
        raise Refusal(f"{file} must unpack to {start + math.prod(shape)} bytes, got {len(content)}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
