"""What can go wrong, in two kinds: a request that violates a constraint, and a run that failed.

A message states the constraint, then the values: ``position <= units must hold, got position=9,
units=8``. It is one line, because the command line prints it as it is.
"""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

MAX_MESSAGE = 200
"""Characters of another library's message that are shown: torch lists every tensor that does not fit."""


class RouteSearchError(Exception):
    """Anything this package raises on purpose."""


class Refusal(RouteSearchError):
    """The request cannot be carried out as it stands; nothing was changed (exit status 2)."""


class UnknownName(Refusal):
    """A name that nothing installed offers: of a method, a backbone, a data set or a sampler."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.kind, self.name = kind, name
        offers = sorted(known)
        close = difflib.get_close_matches(name, offers, 1)
        hint = f"; did you mean {close[0]!r}?" if close else ";"
        super().__init__(f"no {kind} {name!r}{hint} installed: {', '.join(offers) or 'none'}")


class CodeFailed(Refusal):
    """A config whose network cannot be built or routed because the method's own code raises."""


class RunFailed(RouteSearchError):
    """The work was started and could not be finished (exit status 1)."""


def origin(error: BaseException) -> str:
    """`` (file.py:47)``, the last line outside of installed libraries and this package, or nothing."""
    if isinstance(error, RouteSearchError):
        return ""  # says itself what is wrong
    here, library = Path(__file__).parent, Path(traceback.__file__).parent
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename)
        if here in file.parents or "site-packages" in file.parts or file.suffix != ".py":
            continue
        if library not in file.parents:
            return f" ({file.name}:{frame.lineno})"
    return ""


@contextmanager
def noted(where: str) -> Iterator[None]:
    """Adds to an error that comes out of it where that was: ``in stage 2 of 3``."""
    try:
        yield
    except Exception as error:
        error.add_note(where)
        raise


def described(error: BaseException) -> str:
    """An error in one line: its name, its message, where it happened, and whose line raised it."""
    text = " ".join(str(error).split())
    notes = "".join(f", {note}" for note in getattr(error, "__notes__", ()))
    return f"{type(error).__name__}: {text}{notes}{origin(error)}"


def headline(error: BaseException) -> str:
    """First line of an error, or the last where its message holds a whole traceback, as Ray's do."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[-1 if any("Traceback (" in line or line.startswith("Traceback") for line in lines) else 0]


def shortened(error: BaseException) -> str:
    """Name and whole message of another library's error in one line, cut where it is long."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text if len(text) <= MAX_MESSAGE else text[:MAX_MESSAGE] + '…'}"
