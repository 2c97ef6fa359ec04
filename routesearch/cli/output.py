"""Where words go: answers to standard output, everything else to standard error.

rich is imported only where a terminal is there to draw on; in a pipe or a file the same tables are
plain lines, as wide as they need to be.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from routesearch.errors import RouteSearchError

if TYPE_CHECKING:
    from rich.console import Console

    from routesearch.report import Table

PROGRAM = "routesearch"
log = logging.getLogger(PROGRAM)


@dataclass(frozen=True)
class Answer:
    """What a command found out.

    Attributes:
        document: what ``--json`` prints.
        parts: what people get to read: lines of text and tables.
        error: raised after the answer was shown: what was found is shown, but the command failed.
    """

    document: Any = None
    parts: Sequence[str | Table] = field(default_factory=tuple)
    error: RouteSearchError | None = None


def answering(function: Callable[..., Answer | None]) -> Callable[..., None]:
    """Make a command of a function that returns its answer.

    While it works, whatever prints to standard output (a plugin, a library) goes to standard error.
    """

    @functools.wraps(function)
    def command(**options: Any) -> None:
        with contextlib.redirect_stdout(sys.stderr):
            answer = function(**options)
        if answer is None:
            return
        if options.get("as_json"):
            sys.stdout.write(json.dumps(answer.document, indent=2, allow_nan=False) + "\n")
        else:
            show(answer.parts)
        if answer.error is not None:
            raise answer.error

    return command


def show(parts: Iterable[str | Table]) -> None:
    """Lines and tables on standard output, drawn on a terminal, plain elsewhere."""
    if sys.stdout.isatty():
        from rich.console import Console

        _draw(Console(highlight=False), parts)
        return
    for part in parts:
        sys.stdout.write("\n".join([part] if isinstance(part, str) else plain(part)) + "\n")


def without(table: Table, name: str) -> Table:
    """The table with one column less, if it has it."""
    from routesearch.report import Table

    keep = [i for i, column in enumerate(table.columns) if column != name]
    columns, *rows = (tuple(row[i] for i in keep) for row in (table.columns, *table.rows))
    return Table(columns, tuple(rows))


def plain(table: Table) -> list[str]:
    """A table as lines: columns two spaces apart."""
    rows = [table.columns, *table.rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(table.columns))]
    return ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]


def _draw(console: Console, parts: Iterable[str | Table]) -> None:
    from rich import box
    from rich.table import Table as Drawn
    from rich.text import Text

    for part in parts:
        if isinstance(part, str):
            console.print(part, markup=False)
            continue
        drawn = Drawn(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        for i, name in enumerate(part.columns):
            # The last two columns give way; others are never broken, only headings that are wider than they.
            longest = max((len(row[i]) for row in part.rows), default=0)
            head = name.replace(" ", "\n") if len(name) > longest else name
            drawn.add_column(Text(head), overflow="fold", no_wrap=i < len(part.columns) - 2)
        for row in part.rows:
            drawn.add_row(*map(Text, row))
        console.print(drawn)


class _Lines(logging.Handler):
    """One record, one line on what standard error is now (a live display puts itself in between)."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
            text = record.getMessage()
            if not log.isEnabledFor(logging.DEBUG):
                text = " ".join(text.split())
            elif record.exc_info:
                text += "\n" + logging.Formatter().formatException(record.exc_info)
            sys.stderr.write(f"{PROGRAM}: {level}{text}\n")
            sys.stderr.flush()
        except BrokenPipeError:
            raise
        except Exception:
            self.handleError(record)


def start_logging(verbose: bool) -> None:
    """One handler for the package; other packages' warnings only where the user wants detail."""
    log.handlers[:] = [_Lines()]
    log.propagate = False
    log.setLevel(logging.DEBUG if verbose else logging.INFO)
    if not verbose and not sys.warnoptions:
        warnings.simplefilter("ignore")


def tell_problems(problems: Iterable[str]) -> None:
    """Plugins that could not be used: a line each."""
    for problem in problems:
        log.warning("%s", problem)
