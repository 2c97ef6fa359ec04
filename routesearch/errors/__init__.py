"""What can go wrong, in two kinds: a request that violates a constraint, and a run that failed.

A message states the constraint, then the values: ``position <= units must hold, got position=9,
units=8``. It is one line, and what it shows of a value is bounded (:mod:`routesearch.errors.texts`).
"""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from routesearch.errors.texts import (
    MAX_MESSAGE,
    MAX_SAID,
    MAX_TRACEBACK,
    MAX_VALUE,
    bounded,
    one_line,
    several_lines,
    shown,
)


class RouteSearchError(Exception):
    """Anything this package raises on purpose."""


class Refusal(RouteSearchError):
    """The request cannot be carried out as it stands; nothing was changed (exit status 2)."""


class UnknownName(Refusal):
    """A name that nothing installed offers: of a method, a backbone, a data set or a sampler."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.kind, self.name = kind, name
        offers = sorted(known)
        # A long name is no misspelling of a known one, and comparing it takes long.
        close = difflib.get_close_matches(name, offers, 1) if len(name) <= MAX_VALUE else []
        hint = f"; did you mean {close[0]!r}?" if close else ";"
        super().__init__(f"no {kind} {shown(name)}{hint} installed: {', '.join(offers) or 'none'}")


class CodeFailed(Refusal):
    """A config whose network cannot be built or routed because the method's own code raises."""


class RunFailed(RouteSearchError):
    """The work was started and could not be finished (exit status 1)."""


def origin(error: BaseException) -> str:
    """`` (file.py:47)``, the last line outside of installed libraries and this package, or nothing."""
    if isinstance(error, RouteSearchError):
        return ""  # says itself what is wrong
    here, library = Path(__file__).parents[1], Path(traceback.__file__).parent
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename)
        if here in file.parents or "site-packages" in file.parts or file.suffix != ".py":
            continue
        if library not in file.parents:
            return f" ({file.name}:{frame.lineno})"
    return ""


@contextmanager
def noted(where: str, *values: object) -> Iterator[None]:
    """Adds to an error that comes out of it where that was: ``in stage 2 of 3``.

    Args:
        values: shown after ``where``; formatted only for an error, and bounded.
    """
    try:
        yield
    except Exception as error:
        error.add_note(" ".join([where, *map(shown, values)]))
        raise


def described(error: BaseException) -> str:
    """An error in one line: its name, its message, where it happened, and whose line raised it."""
    notes = "".join(f", {one_line(str(note), MAX_MESSAGE)}" for note in getattr(error, "__notes__", ()))
    said = one_line(f"{_name(error)}: {_message(error)}", MAX_SAID)
    return f"{said}{bounded(notes, MAX_SAID // 2)}{origin(error)}"


def headline(error: BaseException) -> str:
    """First line of an error, or the last where its message holds a whole traceback, as Ray's do."""
    lines = [line.strip() for line in _message(error).splitlines() if line.strip()] or [_name(error)]
    whole = any("Traceback (" in line or line.startswith("Traceback") for line in lines)
    return one_line(lines[-1 if whole else 0], MAX_SAID)


def shortened(error: BaseException, most: int = MAX_MESSAGE) -> str:
    """Name and message of another library's error in one line, its middle left out where it is long."""
    return f"{_name(error)}: {one_line(_message(error), most)}"


def message_of(error: BaseException) -> str:
    """What another library's error says, in one line; its name where it says nothing."""
    return one_line(_message(error), MAX_MESSAGE) or _name(error)


def full_traceback(error: BaseException) -> str:
    """An error with its traceback, fit to be shown; its middle left out where it is long."""
    return several_lines("".join(traceback.format_exception(error)), MAX_TRACEBACK)


def _name(error: BaseException) -> str:
    return one_line(type(error).__name__, MAX_VALUE)


def _message(error: BaseException) -> str:
    """What an error says; its class may be another's, and fail at that."""
    try:
        return str(error)
    except Exception as second:
        return f"(it cannot say what: {_name(second)})"
