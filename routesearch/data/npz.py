"""An npz file with care: its arrays, one by one, or one line that says why not."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from routesearch.errors import Refusal, message_of


class Npz:
    """An npz file that is open for reading; no pickle in it is.

    Attributes:
        names: of its arrays.

    Raises:
        Refusal: it is missing, or no npz; names the file.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        if not file.is_file():
            rule = "an npz with x_train, y_train (numpy.savez) belongs there"
            raise Refusal(f"arrays: no file {file}: {rule}")
        with self._guarded(""):
            stored = np.load(file, allow_pickle=False)
        if not isinstance(stored, np.lib.npyio.NpzFile):
            raise Refusal(f"{file} must be an npz of several arrays (numpy.savez), got a single array")
        self._stored = stored
        self.names = tuple(stored.files)

    def __enter__(self) -> Npz:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stored.close()

    def array(self, name: str) -> npt.NDArray[Any]:
        """One array, whole.

        Raises:
            Refusal: it is damaged, or holds Python objects.
        """
        with self._guarded(name):
            array = self._stored[name]
        if not isinstance(array, np.ndarray):
            raise Refusal(f"{self.file}: {name} must be an array (numpy.savez), got another kind of file")
        return array

    def shape(self, name: str) -> tuple[int, ...]:
        """An array's shape; the array itself is not read."""
        with self._guarded(name):
            archive, inner = self._stored.zip, f"{name}.npy"
            if archive is None or inner not in archive.namelist():
                return self.array(name).shape
            with archive.open(inner) as content:
                version = np.lib.format.read_magic(content)
                if version == (1, 0):
                    return np.lib.format.read_array_header_1_0(content)[0]
                if version == (2, 0):
                    return np.lib.format.read_array_header_2_0(content)[0]
        return self.array(name).shape

    @contextmanager
    def _guarded(self, name: str) -> Iterator[None]:
        """Turns what a reader raises on a broken file, nearly anything, into a refusal."""
        where = f"{self.file}: {name}" if name else str(self.file)
        try:
            yield
        except Refusal:
            raise
        except MemoryError as error:
            raise Refusal(f"{where} is larger than the memory at hand: {error}") from error
        except Exception as error:
            reason = message_of(error)
            if "allow_pickle=False" in reason and name:
                how = "np.stack(images) where all are of one size, np.array(labels) of numbers or texts"
                raise Refusal(f"{where} holds Python objects, which are not read: {how}") from error
            if "allow_pickle=False" in reason or (not name and not zipfile.is_zipfile(self.file)):
                reason = "it is no zip archive, or its end is missing"
            raise Refusal(f"{where} cannot be read as an npz: {reason}") from error
