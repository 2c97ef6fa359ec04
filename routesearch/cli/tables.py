"""Tables as wide as a terminal: text runs over lines, whole columns go, and no number is ever cut."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING

from routesearch.report.table import Table

if TYPE_CHECKING:
    from rich.console import Console

NARROWEST = 12
"""Characters that a column of text is left with at least, where it has so many."""

GAP = 2
"""Characters between columns."""

LINES = 3
"""Lines that a text may take in a row before its column, if it can be spared, goes."""

_ATOM = re.compile(r"[+-]?\d[\d.,]*(?:e[+-]?\d+)?(?<!,)(?: ?%)?|.", re.ASCII | re.DOTALL | re.IGNORECASE)
"""What a line is never broken within: a number, or any other character."""

_AFTER = " ,=/[(:;_-"
"""Characters after which a line is better broken than elsewhere; a space is best."""

Measure = Callable[[str], int]
Row = list[list[str]]
"""Cells, each in lines."""


def plain(table: Table) -> list[str]:
    """A table as lines, as wide as they need to be: columns two spaces apart."""
    widths = [max(map(len, column)) for column in zip(table.columns, *table.rows, strict=True)]
    rows = [table.columns, *table.rows]
    return [(" " * GAP).join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]


def draw(table: Table, console: Console) -> None:
    """Print a table on a terminal, and which of its columns had no room there."""
    from rich.cells import cell_len
    from rich.text import Text

    rows, left_out = fitted(table, console.width - 1, cell_len)  # some terminals break a line that is full
    widths = [max(cell_len(line) for lines in column for line in lines) for column in zip(*rows, strict=True)]
    head, *_ = rows
    most = max(map(len, head))
    head[:] = [[""] * (most - len(cell)) + cell for cell in head]  # headings stand on the rule below them
    for row in rows:
        for lines in zip_longest(*row, fillvalue=""):
            cells = [line + " " * (w - cell_len(line)) for line, w in zip(lines, widths, strict=True)]
            text = (" " * GAP).join(cells).rstrip()
            console.print(Text(text, "bold" if row is head else ""), soft_wrap=True)
        if row is head:
            console.print("─" * (sum(widths) + GAP * (len(widths) - 1)), soft_wrap=True)
    if left_out:
        console.print(f"No room for {', '.join(left_out)}.", markup=False)


def fitted(table: Table, width: int, measure: Measure = len) -> tuple[list[Row], tuple[str, ...]]:
    """The headings and rows of a table no wider than ``width``, and the columns that were left out for it.

    The first column always stays; where even that is wider, so is the table.

    Args:
        measure: a text to the characters that it takes.
    """
    left_out: list[str] = []
    while True:
        widths = _widths(table, width, measure)
        name = _first_to_go(table) if widths is None else _too_long(table, widths, measure)
        if name is None:
            break
        table = table.without(name)
        left_out.append(name)
    widths = widths or [_least(table, 0, measure)]
    rows = [
        [wrapped(cell, w, measure) for cell, w in zip(row, widths, strict=True)]
        for row in (table.columns, *table.rows)
    ]
    return rows, tuple(left_out)


def wrapped(text: str, width: int, measure: Measure = len) -> list[str]:
    """Text as lines of at most ``width`` characters, broken between words, and in no case within a number."""
    lines, line, best = [], "", 0
    for atom in _ATOM.findall(text):
        if line and measure(line + atom) > width and atom != " ":
            cut = best or len(line)
            lines.append(line[:cut].rstrip())
            line, best = line[cut:].lstrip(), 0
        line += atom
        if atom == " " or (atom in _AFTER and " " not in line):
            best = len(line)
    return [*lines, line.rstrip()]


def _first_to_go(table: Table) -> str | None:
    """The spare columns in their order, then others from the right; never the first."""
    return next(iter([*_spare(table), *reversed(table.columns[1:])]), None)


def _spare(table: Table) -> list[str]:
    return [name for name in table.spare if name in table.columns[1:]]


def _too_long(table: Table, widths: Sequence[int], measure: Measure) -> str | None:
    """What goes where a text makes rows of many lines: the text if it can be spared, else another column."""
    long = [
        table.columns[i]
        for i in _text_columns(table)
        if any(len(wrapped(cell, widths[i], measure)) > LINES for cell in _cells(table, i))
    ]
    spare = _spare(table)
    return next((name for name in long if name in spare), next(iter(spare), None)) if long else None


def _widths(table: Table, width: int, measure: Measure) -> list[int] | None:
    """Characters of each column, those of text sharing what others leave; None where that is too little."""
    least = [_least(table, i, measure) for i in range(len(table.columns))]
    most = [_most(table, i, measure) for i in range(len(table.columns))]
    room = width - GAP * (len(least) - 1) - sum(least)
    if room < 0:
        return None
    widths = least
    texts = sorted(_text_columns(table), key=lambda i: most[i])  # a short text leaves the others more
    for done, i in enumerate(texts):
        more = min(room // (len(texts) - done), most[i] - widths[i])
        widths[i] += more
        room -= more
    return widths


def _text_columns(table: Table) -> list[int]:
    return [i for i, name in enumerate(table.columns) if name in table.texts]


def _cells(table: Table, i: int) -> Sequence[str]:
    return [row[i] for row in table.rows]


def _most(table: Table, i: int, measure: Measure) -> int:
    """What a column takes on one line; its heading may be broken between words."""
    words = table.columns[i].split() or [""]
    return max(map(measure, (*_cells(table, i), *words)))


def _least(table: Table, i: int, measure: Measure) -> int:
    """What a column takes at least: all of it, or of a text the longest number."""
    most = _most(table, i, measure)
    if i not in _text_columns(table):
        return most
    texts = (*_cells(table, i), *table.columns[i].split())
    numbers = [measure(atom) for text in texts for atom in _ATOM.findall(text)]
    return min(most, max(NARROWEST, *numbers, *map(measure, table.columns[i].split())))
