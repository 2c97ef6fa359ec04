"""Fields of methods, data sets and studies, in words."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any


def first_line(doc: str | None) -> str:
    """First line of a docstring."""
    return (doc or "").strip().split("\n")[0]


def size_text(shape: Sequence[int]) -> str:
    """Channels, height and width of images, such as 3x32x32."""
    return "x".join(map(str, shape))


def default_of(facts: Mapping[str, Any]) -> str:
    """The default in a field's JSON schema; ``required`` where there is none."""
    if "default" not in facts:
        return "required"
    value = facts["default"]
    return value if isinstance(value, str) else json.dumps(value)


def range_of(facts: Mapping[str, Any]) -> str:
    """What a search may draw for a field, from its part of :meth:`SearchSpace.schema`."""
    search = facts.get("search")
    if search is None:
        return "no"
    if "choices" in search:
        text = ", ".join(map(str, search["choices"]))
    elif "positions" in search:
        (first, last), (least, most) = search["positions"] or (None, None), search["count"]
        units = "units, by the backbone" if last is None else f"of the units {first} to {last}"
        text = f"{least} to {most} {units}"
    else:
        text = f"{search['low']} to {search['high']}" + (", log" if search.get("log") else "")
    for other, values in search.get("when", {}).items():
        text += f", if {other} is {' or '.join(map(str, values))}"
    return text
