"""The front as rows of text, for the terminal, for Markdown and for the page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from routesearch.errors.texts import MAX_REASON, bounded, printable
from routesearch.results.budget import Budget
from routesearch.results.points import Point, PointKey
from routesearch.results.timing import Timing

MEAN, BETWEEN, SHRINKAGE = "mean", "95 % interval", "validation - test"
"""Columns of a front that was confirmed."""

SPARE = (SHRINKAGE, "config", "in budget", "knob", "x backbone", "on test")
"""Columns of a front that a narrow terminal does without, the first first: a trial's number leads to them."""


@dataclass(frozen=True)
class Table:
    """Text in columns; every row is as long as ``columns``. Cells are made fit to be shown.

    Attributes:
        texts: columns that may run over several lines.
        spare: columns that go first where there is no room for all, in this order.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    texts: tuple[str, ...] = ()
    spare: tuple[str, ...] = ()

    def without(self, name: str) -> Table:
        """The table with one column less, if it has it."""
        keep = [i for i, column in enumerate(self.columns) if column != name]
        columns, *rows = (tuple(row[i] for i in keep) for row in (self.columns, *self.rows))
        return replace(self, columns=columns, rows=tuple(rows))

    def __post_init__(self) -> None:
        shown = tuple(tuple(printable(bounded(cell, MAX_REASON)) for cell in row) for row in self.rows)
        object.__setattr__(self, "rows", shown)

    def markdown(self) -> str:
        rule = tuple("---" for _ in self.columns)
        lines = (" | ".join(c.replace("|", "\\|") for c in row) for row in (self.columns, rule, *self.rows))
        return "\n".join(f"| {line} |" for line in lines)


def limits(budget: Budget, backbone_macs: float) -> str:
    """A budget in words: ``40 M MACs (0.5x) and 2 ms for a batch of 1``; empty without one."""
    bounds = []
    if budget.max_macs is not None:
        bounds.append(f"{mega(budget.max_macs)} M MACs ({budget.max_macs / backbone_macs:.3g}x)")
    if budget.max_latency is not None:
        bounds.append(f"{milli(budget.max_latency)} ms for a batch of {budget.batch}")
    return " and ".join(bounds)


def front_table(
    points: Sequence[Point],
    backbone_macs: float,
    test: Sequence[Point] = (),
    timings: Mapping[PointKey, Sequence[Timing]] | None = None,
    shrinkage: Mapping[PointKey, float] | None = None,
) -> Table:
    """One row per point, in the order given.

    Args:
        points: the front, on the split that it was chosen on.
        backbone_macs: the static backbone's, what ``0.4x`` is of.
        test: the same points measured on test, where known; matched by trial and knob.
        timings: of the points, where they were timed; by the same match.
        shrinkage: accuracy on validation less that on test, of those that were confirmed.
    """
    measured = {p.key: p for p in test}
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
        row = [str(p.trial), p.method, percent(p.accuracy), mega(p.macs), f"{p.macs / backbone_macs:.3f}"]
        row += ["yes" if p.feasible else "no", short(p.knob), short(p.config)]
        if measured:
            again = measured.get(p.key)
            row.insert(3, percent(again.accuracy) if again else "")
            row.insert(6, mega(again.macs) if again else "")
        rows.append(tuple(row))
    table = Table(columns, tuple(rows), texts=("knob", "config"), spare=SPARE)
    table = _with_times(table, points, backbone_macs, timings or {})
    return _with_confirmations(table, points, shrinkage or {})


def _with_confirmations(table: Table, points: Sequence[Point], shrinkage: Mapping[PointKey, float]) -> Table:
    """Columns of the means over seeds beside the accuracy, where a point was confirmed."""
    if all(p.confirmation is None for p in points):
        return table
    added = [(MEAN, BETWEEN, "seeds", SHRINKAGE)]
    for p in points:
        c, lost = p.confirmation, shrinkage.get(p.key)
        cells = ("", "", "") if c is None else (percent(c.mean), between(*c.interval()), str(c.seeds))
        added.append((*cells, "" if lost is None else f"{100 * lost:+.2f} points"))
    place = table.columns.index("accuracy") + 1
    rows = [table.columns, *table.rows]
    widened = [(*row[:place], *more, *row[place:]) for row, more in zip(rows, added, strict=True)]
    whole = replace(table, columns=widened[0], rows=tuple(widened[1:]))
    return whole if shrinkage else whole.without(SHRINKAGE)


def _with_times(
    table: Table,
    points: Sequence[Point],
    backbone_macs: float,
    timings: Mapping[PointKey, Sequence[Timing]],
) -> Table:
    """Columns of time beside those of MACs: the budget's latency, and what was timed at each batch size."""
    added: list[tuple[str, ...]] = []
    if any(p.latency is not None for p in points):
        added.append(("ms", *("" if p.latency is None else milli(p.latency) for p in points)))
    batches = sorted({timing.batch for found in timings.values() for timing in found})
    if batches:
        added.append(("MAC saving", *(whole(1 - p.macs / backbone_macs) for p in points)))
    for batch in batches:
        found = [next((t for t in timings.get(p.key, ()) if t.batch == batch), None) for p in points]
        added.append((f"ms at {batch}", *(milli(t.p50) if t else "" for t in found)))
        added.append((f"time saving at {batch}", *(whole(t.time_saving) if t else "" for t in found)))
    place = table.columns.index("in budget")
    rows = [table.columns, *table.rows]
    widened = [(*row[:place], *(column[i] for column in added), *row[place:]) for i, row in enumerate(rows)]
    return replace(table, columns=widened[0], rows=tuple(widened[1:]))


def percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def between(low: float, high: float) -> str:
    """An interval of shares: ``91.2 to 93.4 %``."""
    return f"{100 * low:.2f} to {100 * high:.2f} %"


def whole(share: float) -> str:
    return f"{100 * share:.0f} %"


def milli(seconds: float) -> str:
    """Milliseconds, three digits of them."""
    return f"{1e3 * seconds:.3g}"


def mega(macs: float) -> str:
    """MACs in millions, four digits of it."""
    return f"{macs / 1e6:.4g}" if macs < 1e9 else f"{macs / 1e6:.0f}"


def short(settings: Mapping[str, Any], most: int = 120) -> str:
    """``name=value`` pairs on one line, floats with four digits.

    Of more than ``most`` characters it is the first ones, up to the end of a value, and an ellipsis.
    """
    text = printable(", ".join(f"{name}={_value(value)}" for name, value in settings.items()))
    if len(text) <= most:
        return text
    end = text.rfind(", ", 0, most)
    return f"{text[:end]}, …" if end > 0 else "…"


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    return value if isinstance(value, str) else json.dumps(value)
