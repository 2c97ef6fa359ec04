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
from routesearch.errors.texts import MAX_TRACEBACK, one_line, printable_lines, several_lines

if TYPE_CHECKING:
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
    from routesearch.cli.tables import draw, plain

    if not sys.stdout.isatty():
        for part in parts:
            lines = printable_lines(part) if isinstance(part, str) else "\n".join(plain(part))
            sys.stdout.write(f"{lines}\n")
        return
    from rich.console import Console

    console = Console(highlight=False)
    for part in parts:
        if isinstance(part, str):
            console.print(printable_lines(part), markup=False)
        else:
            draw(part, console)


class _Lines(logging.Handler):
    """One record, one line on what standard error is now (a live display puts itself in between)."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
            text = record.getMessage()
            if not log.isEnabledFor(logging.DEBUG):
                text = one_line(text)
            elif record.exc_info:
                text += "\n" + logging.Formatter().formatException(record.exc_info)
            sys.stderr.write(f"{PROGRAM}: {level}{several_lines(text, MAX_TRACEBACK)}\n")
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
