"""JSON from somebody else: of bounded size and depth, each key once, texts that a terminal can show."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

MAX_BYTES = 64 << 20
"""The largest file: the confusion of a thousand classes takes 22 MiB."""

MAX_DEPTH = 32
MAX_KEY = 200

_HIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""Control characters, line ends, and halves of characters that no file can hold."""


def read_plain_json(file: Path) -> tuple[Any, str]:
    """What a JSON file holds, and its text.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no plain file, too large, torn, or not such JSON as this module's first line says.
    """
    size = file.stat().st_size
    if not file.is_file():
        raise ValueError("it must be a plain file")
    if size > MAX_BYTES:
        raise ValueError(f"{MAX_BYTES >> 20} MiB at most, got {size:,} bytes")
    text = file.read_bytes().decode("utf-8")
    try:
        values = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_once)
    except RecursionError:
        raise ValueError("brackets within brackets, too deep") from None
    _check(values)
    return values, text


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"key {twice[:MAX_KEY]!r} is given twice")
    return found


def _check(values: Any) -> None:
    level, depth = [values], 0
    while level:
        if depth > MAX_DEPTH:
            raise ValueError(f"brackets within brackets, more than {MAX_DEPTH} deep")
        below: list[Any] = []
        for value in level:
            if isinstance(value, str) and _HIDDEN.search(value):
                raise ValueError(f"texts must have no control characters, got {value[:40]!r}")
            if isinstance(value, list):
                below += value
            elif isinstance(value, dict):
                below += value.values()
                for key in value:
                    if len(key) > MAX_KEY or not key.isprintable():
                        raise ValueError(f"keys must be {MAX_KEY} plain characters at most, got {key[:40]!r}")
        level, depth = below, depth + 1
