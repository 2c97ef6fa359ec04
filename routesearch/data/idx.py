"""MNIST's file format, IDX, and the four files that MNIST and Fashion-MNIST are published in."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from routesearch.data.images import Images
from routesearch.errors import Refusal

_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


def find(folders: Iterable[Path]) -> Path | None:
    """The first folder that has all four files, packed or not."""
    names = [name for pair in _FILES.values() for name in pair]
    for folder in folders:
        if all((folder / name).is_file() or (folder / f"{name}.gz").is_file() for name in names):
            return folder
    return None


def read(folder: Path, split: str) -> Images:
    """``train`` or ``test``: N,1,28,28 in uint8.

    Raises:
        Refusal: a file is broken or of another size; names it.
    """
    pixels, labels = _array(folder, _FILES[split][0], 3), _array(folder, _FILES[split][1], 1)
    if pixels.shape[1:] != (28, 28) or labels.shape != pixels.shape[:1]:
        rule = "N images of 28x28 and N labels must be there"
        raise Refusal(f"{folder}: {rule}, got {pixels.shape} and {labels.shape} for {split}")
    if labels.max(initial=0) > 9:
        raise Refusal(f"{folder}: labels must lie in 0..9, got {labels.min()}..{labels.max()} for {split}")
    return Images(torch.from_numpy(pixels)[:, None], torch.from_numpy(labels).long())


def _array(folder: Path, name: str, ndim: int) -> npt.NDArray[np.uint8]:
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
        rule = f"an IDX file of bytes in {ndim} dimensions must start with 000008{ndim:02x}"
        raise Refusal(f"{file}: {rule}, got {content[:4].hex()} and {len(content)} bytes in all")
    shape = [int.from_bytes(content[at : at + 4]) for at in range(4, start, 4)]
    if len(content) != start + math.prod(shape):
        raise Refusal(f"{file} must unpack to {start + math.prod(shape)} bytes, got {len(content)}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
