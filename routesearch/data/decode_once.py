"""All image files of a data set decoded in one pass: broken ones are found, pixels kept where they fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from routesearch.data.decode import BrokenImage, examine_image
from routesearch.data.images import Images
from routesearch.data.streamed import StreamedImages, Sums, decoding_pool
from routesearch.errors.texts import printable

AT_A_TIME = 256
"""Images that are in work at a time, and after which progress is told."""

on_decoded: ContextVar[Callable[[int, int], None] | None] = ContextVar("on_decoded", default=None)
"""Called with the images decoded and those to be decoded, where somebody wants to know."""


@dataclass(frozen=True)
class Decoded:
    """Splits whose files are all known to be readable.

    Attributes:
        splits: in memory, or as files with the sums of their pixels; without the broken ones.
        broken: name, fit to be printed -> reason.
        several: names of files that hold several frames or pages, of which the first is read.
    """

    splits: dict[str, Images]
    broken: dict[str, str]
    several: tuple[str, ...]


def decode_once(splits: Mapping[str, Images], memory: int | None) -> Decoded:
    """Decode every file of the splits, once for each; what is in memory already stays as it is.

    Args:
        memory: bytes of pixels that may be held; pixels of splits that take more together are dropped again,
            and of each image only their sums are kept. None: all are kept.
    """
    keep = memory is None or sum(images.nbytes for images in splits.values()) <= memory
    files = {name: images for name, images in splits.items() if isinstance(images, StreamedImages)}
    work = {name: images for name, images in files.items() if keep or images.sums is None}
    one_pass = _Pass(sum(len(images) for images in work.values()), keep)
    done = {name: one_pass.run(images) for name, images in work.items()}
    return Decoded({**splits, **done}, dict(sorted(one_pass.broken.items())), tuple(sorted(one_pass.several)))


class _Pass:
    """One pass over the files of several splits."""

    def __init__(self, total: int, keep: bool) -> None:
        self.broken: dict[str, str] = {}
        self.several: list[str] = []
        self._total, self._keep, self._done = total, keep, 0
        self._tell = on_decoded.get()

    def run(self, images: StreamedImages) -> Images:
        """The split without its broken files."""
        count, size = len(images), images.files.size
        rows = np.empty((count if self._keep else 0, size, size, 3), np.uint8)
        sums: Sums = np.zeros((count, 2, 3), np.int64)
        good = np.zeros(count, bool)

        def decode(row: int) -> tuple[str | None, bool]:
            """Why a file cannot be read, and whether it holds several frames."""
            try:
                pixels, several = examine_image(images.files[row], (size, size))
            except BrokenImage as broken:
                return broken.reason, False
            good[row] = True
            if self._keep:
                rows[row] = pixels
            else:
                sums[row] = _sums(pixels)
            return None, several

        pool = decoding_pool(torch.get_num_threads())
        for start in range(0, count, AT_A_TIME):
            part = range(start, min(start + AT_A_TIME, count))
            for row, (reason, several) in zip(part, pool.map(decode, part), strict=True):
                if reason is not None:
                    self.broken[printable(images.files.name(row))] = reason
                elif several:
                    self.several.append(printable(images.files.name(row)))
            self._done += len(part)
            if self._tell is not None:
                self._tell(self._done, self._total)
        kept = images if good.all() else images.select(torch.from_numpy(np.flatnonzero(good)))
        if not self._keep:
            return StreamedImages(kept.files, kept.labels, kept.aux, sums[good])
        pixels = torch.from_numpy(rows if good.all() else rows[good])
        return Images(pixels.permute(0, 3, 1, 2).to(kept.labels.device), kept.labels, kept.aux)


def _sums(pixels: npt.NDArray[np.uint8]) -> Sums:
    """Sums of an image's pixels and of their squares, for each channel: whole numbers, exact in any order."""
    flat = pixels.reshape(-1, 3).astype(np.uint32)
    return np.stack([flat.sum(0, dtype=np.int64), (flat * flat).sum(0, dtype=np.int64)])
