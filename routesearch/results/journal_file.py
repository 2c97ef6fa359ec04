"""The lines of a journal: Optuna's operations, each line with a checksum over itself and all lines before it.

Optuna's operations name trials by their position: in a file that lost a line all that follows would be
read as something else, without a word. A line here ends with ``,"check":"1a2b3c4d"}``, which Optuna
passes over. Lines of the first format have no checksum; they stay as they are, and the checksums of those
that are appended to them cover them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

from routesearch.errors import Refusal, RunFailed

_CHECK = b',"check":"'
_CHECK_SIZE = len(b',"check":"1a2b3c4d"}')


class Damaged(Refusal):
    """A journal that is not as it was written: names the line."""


class JournalFile:
    """A journal's file: read once from the beginning, then on from where reading ended.

    Attributes:
        line: number of whole lines that were read, from 1 that of the last one.
        torn: what stands after the last whole line: nothing, or a line that is only begun. A search may be
            writing it now, or was killed while it did.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.line = 0
        self.torn = b""
        self._starts = [0]  # where each line starts, and where the next one will
        self._sums = 0  # checksum over all lines that were read
        self._checked = False  # whether lines have checksums by now

    def read(self, line: int | None = None) -> Iterator[tuple[bytes, bool]]:
        """Whole lines after ``line`` (default: the last that was read), each with whether it is checked.

        Raises:
            Damaged: a line is not what was written there.
            OSError: the file cannot be read.
        """
        with self.path.open("rb") as file:
            start = self.line if line is None else line
            file.seek(self._starts[start])
            self.torn = b""
            for number, text in enumerate(file, start + 1):
                if self.torn:
                    raise self.damaged("is incomplete, and others follow it", number - 1)
                if number <= self.line:  # looked at before
                    yield text, self._checked
                    continue
                if not text.endswith(b"\n"):
                    self.torn = text
                    return  # a search may be writing it now: what follows would be its other half
                if not self._take(text, number):
                    self.torn = text
                    continue
                self.line = number
                self._starts.append(self._starts[-1] + len(text))
                yield text, self._checked

    def _take(self, text: bytes, number: int) -> bool:
        """Whether a line is whole; its checksum is compared and taken in."""
        body, check = _apart(text)
        sums = crc32(body, self._sums)
        if check is None:
            if not _is_entry(text):
                return False
            if self._checked:
                raise self.damaged("has no checksum, and those before it have", number)
        elif check != b"%08x" % sums:
            if not _is_entry(text):
                return False
            raise self.damaged("was changed, or a line before it was removed, repeated or moved", number)
        self._sums, self._checked = sums, check is not None
        return True

    def append(self, entries: Sequence[dict[str, Any]]) -> None:
        """Write entries; they are on disk when this returns. All of them, or none.

        Raises:
            RunFailed: they cannot be written.
        """
        for _ in self.read():  # a checksum is over all before it
            pass
        sums, lines = self._sums, []
        for entry in entries:
            body = json.dumps(entry, separators=(",", ":")).encode()[:-1]
            sums = crc32(body, sums)
            lines.append(b'%b%b%08x"}\n' % (body, _CHECK, sums))
        end = self._starts[-1]
        try:
            with self.path.open("ab") as file:
                file.write(b"".join(lines))
                file.flush()
                os.fsync(file.fileno())
        except BaseException as error:
            # Half a line must not stay: the next append would glue itself to it. Cutting needs no space.
            os.truncate(self.path, end)
            if isinstance(error, OSError):
                raise RunFailed(
                    f"the journal cannot be written: {error.strerror} ({self.path}); "
                    "finished trials are kept, run the search again when this is put right"
                ) from error
            raise

    def cut_torn(self) -> int:
        """Remove what stands after the last whole line that was read; its length in bytes."""
        size = len(self.torn)
        if size:
            with self.path.open("r+b") as file:
                file.truncate(self._starts[-1])
                os.fsync(file.fileno())
            self.torn = b""
        return size

    def damaged(self, how: str, line: int) -> Damaged:
        """The error that says what is wrong with a line."""
        cure = "the lines before it are whole; restore a copy, or --fresh starts anew"
        return Damaged(f"the journal {self.path} is damaged: line {line} {how} ({cure})")


def parse_line(text: bytes) -> dict[str, Any]:
    """A line as an entry.

    Raises:
        ValueError, RecursionError: it is none.
    """
    entry = json.loads(text)
    if not isinstance(entry, dict) or "op_code" not in entry:
        raise ValueError("it is no operation of Optuna's")
    return entry


def _apart(text: bytes) -> tuple[bytes, bytes | None]:
    """A line without its checksum, and the checksum if it has one; line ends do not count."""
    line = text.rstrip(b"\r\n")
    if line[-_CHECK_SIZE:].startswith(_CHECK):
        return line[:-_CHECK_SIZE], line[-10:-2]
    return line, None


def _is_entry(text: bytes) -> bool:
    try:
        parse_line(text)
    except (ValueError, RecursionError):
        return False
    return True
