"""Labelled images in memory, and what everything that holds labelled images offers.

Pixels stay as they were read, uint8 where the source is uint8, in memory laid out N,H,W,C behind an
N,C,H,W view (torch's channels_last).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Shape = tuple[int, int, int]
"""Channels, height, width."""
PIECE = 32 << 20
"""Bytes of pixels that are looked at in one go."""


@dataclass(frozen=True, eq=False)
class Images:
    """Labelled images in memory.

    Attributes:
        pixels: N,C,H,W; uint8 in [0, 255], or float32 where 0 is black and 1 is white.
        labels: class of each image, int64, N.
        aux: further labels by name, int64, N each: ``superclass`` of CIFAR-100.
    """

    pixels: Tensor
    labels: Tensor
    aux: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def sizes(self) -> tuple[int, ...]:
        """N, C, H, W."""
        return tuple(self.pixels.shape)

    @property
    def shape(self) -> Shape:
        channels, height, width = self.sizes[1:]
        return channels, height, width

    @property
    def dtype(self) -> torch.dtype:
        """Type of the pixels."""
        return self.pixels.dtype

    @property
    def nbytes(self) -> int:
        """What all pixels take in memory."""
        return int(np.prod(self.sizes)) * self.dtype.itemsize

    def take(self, index: Tensor) -> Images:
        """The images at ``index`` (int64, on any device), copied, still channels_last."""
        index = index.to(self.labels.device)
        # rows of N,H,W,C are whole pieces of memory: copying them is several times faster than x[index]
        rows = self.pixels.permute(0, 2, 3, 1).index_select(0, index)
        return Images(rows.permute(0, 3, 1, 2), self.labels.index_select(0, index), chosen(self.aux, index))

    def select(self, index: Tensor) -> Images:
        """A subset that is kept: as :meth:`take`, but files stay files."""
        return self.take(index)

    def chunks(self, size: int) -> Iterator[Images]:
        """All images in order, ``size`` at a time; nothing is copied."""
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            aux = {name: values[part] for name, values in self.aux.items()}
            yield Images(self.pixels[part], self.labels[part], aux)

    def pieces(self) -> Iterator[Images]:
        """All images in order, as many at a time as are quick to look at and small to hold."""
        return self.chunks(max(1, PIECE * len(self) // max(1, self.nbytes)))

    def prefetch(self, index: Tensor) -> None:
        """Announce the images that :meth:`take` will be asked for next; does nothing in memory."""

    def in_memory(self) -> Images:
        """The same images in memory, laid out N,H,W,C."""
        return Images(to_nhwc(self.pixels).permute(0, 3, 1, 2), self.labels.contiguous(), self.aux)

    def to(self, device: torch.device | str) -> Images:
        aux = {name: values.to(device) for name, values in self.aux.items()}
        return Images(self.pixels.to(device), self.labels.to(device), aux)

    def pack(self) -> dict[str, Any]:
        """Plain values and numpy arrays, which share memory with the tensors where they can."""
        return {
            "pixels": to_nhwc(self.pixels).cpu().numpy(),
            "labels": self.labels.cpu().numpy(),
            "aux": {name: values.cpu().numpy() for name, values in self.aux.items()},
        }

    @classmethod
    def unpack(cls, values: Mapping[str, Any]) -> Images:
        """The inverse of :meth:`pack`, without a copy; read-only arrays are welcome."""
        aux = {name: as_tensor(array) for name, array in values["aux"].items()}
        return Images(as_tensor(values["pixels"]).permute(0, 3, 1, 2), as_tensor(values["labels"]), aux)


def count_images(classes: Sequence[str], splits: Mapping[str, Images]) -> dict[str, dict[str, int]]:
    """Split -> class -> images."""
    return {
        split: dict(zip(classes, torch.bincount(images.labels, minlength=len(classes)).tolist(), strict=True))
        for split, images in splits.items()
    }


def chosen(aux: Mapping[str, Tensor], index: Tensor) -> dict[str, Tensor]:
    """The further labels of the images at ``index``."""
    return {name: values.index_select(0, index) for name, values in aux.items()}


def to_nhwc(pixels: Tensor) -> Tensor:
    """Pixels as N,H,W,C, contiguous; no copy where they lie so already."""
    return pixels.permute(0, 2, 3, 1).contiguous()


def as_tensor(array: npt.NDArray[Any]) -> Tensor:
    """A tensor that shares the array's memory, also where it may only be read."""
    with warnings.catch_warnings():  # torch warns of read-only memory; nothing here writes to it
        warnings.filterwarnings("ignore", message=".*not writable")
        return torch.from_numpy(array)
