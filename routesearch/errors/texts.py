"""Texts from outside made fit to be stored and shown: bounded, and without characters that act on a terminal.

An exception's message, a knob, a class name, a value of a study file: each may be of any length and hold any
character. What is shown of it is bounded before it is formatted, and told how much is missing.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

MAX_VALUE = 80
"""Characters of a value in a message."""
MAX_MESSAGE = 200
"""Characters of another library's message that are shown: torch lists every tensor that does not fit."""
MAX_SAID = 1_000
"""Characters of an exception's message in a reason."""
MAX_REASON = 2_000
"""Characters of the reason why a trial failed."""
MAX_TRACEBACK = 20_000
"""Characters of a traceback; of a longer one the beginning and the end are kept."""
MAX_LINE = 10_000
"""Characters of one line of the program's own: a refusal, a warning."""

_LEVELS, _ITEMS, _NODES = 6, 100, 200  # of a nested value: depth, of one collection, in all
_LONG = 100_000  # characters from which on taking a text apart into words takes long

_ACTING = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # control characters: they move the cursor, begin an escape sequence, end a line
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # turn the direction of what follows
    "\u2028\u2029\ufeff\U000e0000-\U000e007f"  # end a line, or are never seen
    "\ud800-\udfff]"  # half a character: no encoding can write it
)
_ACTING_IN_LINES = re.compile(f"(?![\t\n]){_ACTING.pattern}")


def printable(text: str | Path) -> str:
    r"""A text or a path, every character that acts instead of being seen escaped as Python does: ``\x1b``.

    Line ends and tabs are escaped too; see :func:`printable_lines`.
    """
    return _ACTING.sub(_escaped, str(text))


def printable_lines(text: str) -> str:
    """:func:`printable` of a text of several lines, which stay lines; tabs stay as well."""
    return _ACTING_IN_LINES.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:  # how Python holds a byte of a file's name that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return found[0].encode("unicode_escape").decode()


def bounded(text: str, most: int) -> str:
    """The text; of a longer one than ``most`` beginning and end, and how much was left out in between."""
    if len(text) <= most:
        return text
    kept = max(2, most - len(f" … {len(text):,} characters left out … "))
    head = (kept + 1) // 2
    return f"{text[:head]} … {len(text) - kept:,} characters left out … {text[len(text) - kept + head :]}"


def one_line(text: str, most: int = MAX_LINE) -> str:
    """The text as one line of bounded length, fit to be shown."""
    if len(text) > _LONG:
        text = bounded(text, most)
    return _fitted(" ".join(text.split()), most, printable)


def several_lines(text: str, most: int) -> str:
    """The text as lines of bounded length in all, fit to be shown."""
    return _fitted(text, most, printable_lines)


def _fitted(text: str, most: int, escape: Callable[[str], str]) -> str:
    """The text bounded and escaped; escapes are longer than what they stand for, and count."""
    size = most
    while len(told := escape(bounded(text, size))) > most:
        size = min(size - 1, size * most // len(told))
    return told


def shown(value: object, most: int = MAX_VALUE) -> str:
    """A value as a message shows it: its ``repr``, bounded before it is made.

    A few lines of YAML with aliases, or a list of a million numbers, would otherwise be formatted whole.
    """
    if isinstance(value, str):
        return printable(repr(bounded(value, most)))
    text = _Repr(most).repr(value)
    return printable(
        text if len(text) <= most else f"{text[: most - most // 3 - 3]} … {text[-(most // 3) :]}"
    )


class _Repr(reprlib.Repr):
    """``repr`` of the first few hundred values inside a value."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.maxlevel = _LEVELS
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = self.maxfrozenset = self.maxarray = _ITEMS
        self.maxdeque = _ITEMS
        self.maxstring = self.maxother = most
        self._left = _NODES

    def repr1(self, x: Any, level: int) -> str:
        self._left -= 1
        return super().repr1(x, level) if self._left >= 0 else "..."

    def repr_dict(self, x: Mapping[Any, Any], level: int) -> str:
        """The entries in their own order; reprlib sorts them."""
        if not x or level <= 0:
            return "{...}" if x else "{}"
        pairs = islice(x.items(), _ITEMS)
        items = [f"{self.repr1(key, level - 1)}: {self.repr1(value, level - 1)}" for key, value in pairs]
        return "{" + ", ".join([*items, *(["..."] if len(x) > _ITEMS else [])]) + "}"

    def repr_int(self, x: int, level: int) -> str:
        """Python refuses to write an integer of more than 4,300 digits."""
        return repr(x) if x.bit_length() <= 4 * MAX_VALUE else f"an integer of {x.bit_length():,} bits"
