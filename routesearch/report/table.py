"""The front as rows of text, for the terminal, for Markdown and for the page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from routesearch.points import Point, key


@dataclass(frozen=True)
class Table:
    """Text in columns; every row is as long as ``columns``."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        rule = tuple("---" for _ in self.columns)
        lines = (" | ".join(c.replace("|", "\\|") for c in row) for row in (self.columns, rule, *self.rows))
        return "\n".join(f"| {line} |" for line in lines)


def front_table(points: Sequence[Point], reference: float, test: Sequence[Point] = ()) -> Table:
    """One row per point, in the order given.

    Args:
        points: the front, on the split that it was chosen on.
        reference: the backbone's MACs, what ``0.4x`` is of.
        test: the same points measured on test, where known; matched by trial and knob.
    """
    measured = {key(p): p for p in test}
    columns: tuple[str, ...] = (
        "trial",
        "method",
        "accuracy",
        "M MACs",
        "x backbone",
        "in budget",
        "knob",
        "config",
    )
    if measured:
        columns = (*columns[:3], "on test", *columns[3:5], "M MACs on test", *columns[5:])
    rows = []
    for p in points:
        row = [str(p.trial), p.method, percent(p.accuracy), mega(p.macs), f"{p.macs / reference:.3f}"]
        row += ["yes" if p.feasible else "no", short(p.knob), short(p.config)]
        if measured:
            again = measured.get(key(p))
            row.insert(3, percent(again.accuracy) if again else "")
            row.insert(6, mega(again.macs) if again else "")
        rows.append(tuple(row))
    return Table(columns, tuple(rows))


def percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def mega(macs: float) -> str:
    """MACs in millions, four digits of it."""
    return f"{macs / 1e6:.4g}" if macs < 1e9 else f"{macs / 1e6:.0f}"


def short(settings: Mapping[str, Any], most: int = 120) -> str:
    """``name=value`` pairs on one line, floats with four digits, cut after ``most`` characters."""
    text = ", ".join(f"{name}={_value(value)}" for name, value in settings.items())
    return text if len(text) <= most else text[: most - 1] + "…"


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    return value if isinstance(value, str) else json.dumps(value)
