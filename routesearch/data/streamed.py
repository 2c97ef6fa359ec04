"""Labelled images that stay in their files: what a folder larger than memory is read as."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BeforeValidator
from torch import Tensor

from routesearch.data.decode import read_image
from routesearch.data.images import Images, as_tensor, chosen
from routesearch.utils.units import parse_bytes

Names = npt.NDArray[np.bytes_]
Sums = npt.NDArray[np.int64]
"""Sums, N,2,3: of each image's pixels and of their squares, for each channel."""

HELD = 1024
"""Images that are in work at a time where all are decoded."""

Memory = Annotated[str, BeforeValidator(parse_bytes)]
"""A number of bytes as a user writes it; K, M, G and T are powers of 1024."""


@dataclass(frozen=True, eq=False)
class Files:
    """Image files below one folder.

    Attributes:
        folder: absolute.
        names: relative to it, encoded; one array, so that a million of them travel without a copy.
        size: height and width that every image is brought to.
    """

    folder: Path
    names: Names
    size: int

    @classmethod
    def of(cls, folder: Path, names: Sequence[str], size: int) -> Files:
        """Images below ``folder`` by their names relative to it, one at least."""
        encoded = np.array([os.fsencode(name) for name in names])
        return cls(folder.absolute(), encoded, size)  # a worker has a working directory of its own

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, row: int) -> Path:
        return self.folder / self.name(row)

    def name(self, row: int) -> str:
        """Relative to the folder."""
        return os.fsdecode(bytes(self.names[row]))


class StreamedImages(Images):
    """Images whose pixels are decoded when they are asked for, by as many threads as torch may use.

    All that :class:`Images` offers, with the same numbers. At most three batches are held at a time:
    the one that was handed out, and two that were expected.

    Attributes:
        sums: of the pixels, where all were decoded before; None: not known.
    """

    def __init__(
        self,
        files: Files,
        labels: Tensor,
        aux: Mapping[str, Tensor] | None = None,
        sums: Sums | None = None,
    ) -> None:
        object.__setattr__(self, "labels", labels)  # a frozen class
        object.__setattr__(self, "aux", dict(aux or {}))
        self.files, self.sums = files, sums
        self._expected: list[_Batch] = []

    def __repr__(self) -> str:
        return f"StreamedImages({len(self)} files in {self.files.folder})"

    @property
    def pixels(self) -> Tensor:
        """All of them, decoded now and kept by nobody."""
        return self.in_memory().pixels

    @property
    def sizes(self) -> tuple[int, ...]:
        return len(self.files), 3, self.files.size, self.files.size

    @property
    def dtype(self) -> torch.dtype:
        return torch.uint8

    def take(self, index: Tensor) -> Images:
        """Decode the images at ``index``.

        Raises:
            Refusal: a file is gone or broken; names it.
        """
        rows = index.cpu().numpy()  # file names live here: an index on a GPU has to be waited for
        index = index.to(self.labels.device)
        batch = next((batch for batch in self._expected if np.array_equal(batch.rows, rows)), None)
        if batch is None:
            batch = _Batch(self.files, rows)
        else:
            self._expected.remove(batch)
        pixels = batch.pixels().to(self.labels.device)
        return Images(pixels, self.labels.index_select(0, index), chosen(self.aux, index))

    def select(self, index: Tensor) -> StreamedImages:
        rows = index.cpu().numpy()
        files = Files(self.files.folder, self.files.names[rows], self.files.size)
        sums = None if self.sums is None else self.sums[rows]
        return StreamedImages(files, self.labels.index_select(0, index), chosen(self.aux, index), sums)

    def chunks(self, size: int) -> Iterator[Images]:
        """All images in order, ``size`` at a time; from the second on, the next is decoded meanwhile."""
        parts = torch.arange(len(self)).split(size) if len(self) else ()
        for number, part in enumerate(parts):
            if 0 < number < len(parts) - 1:
                self.prefetch(part)
                self.prefetch(parts[number + 1])
            yield self.take(part)

    def prefetch(self, index: Tensor) -> None:
        """Begin to decode the images at ``index``; of more than two such requests the oldest is dropped."""
        rows = index.cpu().numpy()
        if not any(np.array_equal(batch.rows, rows) for batch in self._expected):
            self._expected.append(_Batch(self.files, rows))
        for batch in self._expected[:-2]:
            batch.drop()
        del self._expected[:-2]

    def in_memory(self) -> Images:
        """All of them decoded, in memory."""
        _, channels, height, width = self.sizes
        rows, end = torch.empty((len(self), height, width, channels), dtype=self.dtype), 0
        for chunk in self.chunks(HELD):
            rows[end : end + len(chunk)] = chunk.pixels.permute(0, 2, 3, 1)
            end += len(chunk)
        return Images(rows.permute(0, 3, 1, 2).to(self.labels.device), self.labels, self.aux)

    def to(self, device: torch.device | str) -> StreamedImages:
        """The same files, with labels, and in time pixels, on ``device``."""
        aux = {name: values.to(device) for name, values in self.aux.items()}
        return StreamedImages(self.files, self.labels.to(device), aux, self.sums)

    def pack(self) -> dict[str, Any]:
        """The split of all images, with the names of the files for their pixels."""
        return {
            "files": str(self.files.folder),
            "names": self.files.names,
            "size": self.files.size,
            "labels": self.labels.cpu().numpy(),
            "aux": {name: values.cpu().numpy() for name, values in self.aux.items()},
        }

    @classmethod
    def unpack(cls, values: Mapping[str, Any]) -> StreamedImages:
        files = Files(Path(values["files"]), values["names"], values["size"])
        aux = {name: as_tensor(array) for name, array in values["aux"].items()}
        return cls(files, as_tensor(values["labels"]), aux)


class _Batch:
    """Some images of ``files`` on their way to memory. Pillow decodes outside Python's lock."""

    def __init__(self, files: Files, rows: npt.NDArray[np.int64]) -> None:
        self.rows = rows
        self._decoded = np.empty((len(rows), files.size, files.size, 3), np.uint8)
        pool = decoding_pool(torch.get_num_threads())
        self._work: list[Future[None]] = [
            pool.submit(self._place, place, files[row]) for place, row in enumerate(rows.tolist())
        ]

    def _place(self, place: int, file: Path) -> None:
        self._decoded[place] = read_image(file, self._decoded.shape[1:3])

    def pixels(self) -> Tensor:
        """N,3,size,size in uint8, once all are there."""
        try:
            for each in self._work:
                each.result()
        finally:
            self.drop()
        return torch.from_numpy(self._decoded).permute(0, 3, 1, 2)

    def drop(self) -> None:
        """Decode no more of them."""
        for each in self._work:
            each.cancel()


@lru_cache(maxsize=4)
def decoding_pool(threads: int) -> ThreadPoolExecutor:
    """One pool in a process: a trial is granted so many cores, however many images it has."""
    return ThreadPoolExecutor(threads, thread_name_prefix="decode")
