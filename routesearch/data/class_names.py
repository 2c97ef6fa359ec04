"""What a class may be called: text that a terminal, a file name, JSON and another system can all hold."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

from routesearch.errors import Refusal
from routesearch.errors.texts import printable, shown

LONGEST = 200
"""Characters of a class name, at most."""

FORMER = {"T-shirt or top": "T-shirt/top"}
"""What earlier versions called a class: fingerprints keep that, so that studies begun then go on."""


def check_class_names(where: str, names: Sequence[Any]) -> None:
    """Raise Refusal unless ``names`` can name classes: two or more, all different, each a plain name.

    Args:
        where: how a refusal calls their owner.
    """
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise Refusal(f"{where}: class names must be a tuple of texts, got {shown(names)}")
    if len(names) < 2:
        raise Refusal(f"{where}: at least 2 classes must exist, got {len(names)}")
    for label, name in enumerate(names):
        if rule := _broken(name):
            raise Refusal(f"{where}: a class name must {rule}, got {shown(name)} for label {label}")
    if len(set(names)) < len(names):
        twice = next(name for place, name in enumerate(names) if name in names[:place])
        raise Refusal(f"{where}: class names must differ, got {shown(twice)} twice")


def composed(name: str) -> str:
    """A name in Unicode's composed form, NFC: macOS writes an accent as a character of its own."""
    return unicodedata.normalize("NFC", name)


def _broken(name: Any) -> str | None:
    """What a class name must do and this one does not; None for a sound one."""
    if not isinstance(name, str):
        return "be a text"
    if not name.strip():
        return "not be empty"
    if len(name) > LONGEST:
        return f"have at most {LONGEST} characters"
    if any("\ud800" <= character <= "\udfff" for character in name):
        return "be valid UTF-8"
    if printable(name) != name:
        return "hold no control character or line break"
    if name in (".", "..") or "/" in name or "\\" in name:
        return "hold no path: no / or \\, and not . or .."
    if not unicodedata.is_normalized("NFC", name):
        return "be in Unicode's composed form (unicodedata.normalize('NFC', name))"
    return None
