"""Telling what was found when the user's data were looked at."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from routesearch.cli.output import PROGRAM, log

if TYPE_CHECKING:
    from routesearch.data.survey import Survey

PATIENCE = 1.0
"""Seconds of decoding after which progress is shown."""


def tell_survey(survey: Survey, of: str = "data", *, counts: bool = True) -> None:
    """A line for each thing found, on standard error; all names where the user wants detail.

    Args:
        of: what was looked at, before each line.
        counts: also how many images there are.
    """
    whole = log.isEnabledFor(logging.DEBUG)
    for line in survey.lines(whole) if counts else survey.exceptions(whole):
        log.info("%s: %s", of, line)


@contextmanager
def showing_decoding() -> Iterator[None]:
    """While image files are decoded, a line on a terminal says how many are done."""
    from routesearch.data.decode_once import on_decoded

    if not sys.stderr.isatty():
        yield
        return
    line = _Line()
    token = on_decoded.set(line)
    try:
        yield
    finally:
        on_decoded.reset(token)
        line.clear()


class _Line:
    """One line that is written over; it appears once decoding takes a while."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._width = 0

    def __call__(self, done: int, total: int) -> None:
        if self._width or time.monotonic() - self._begun > PATIENCE:
            text = f"{PROGRAM}: looking at images: {done:,} of {total:,}"
            sys.stderr.write("\r" + text.ljust(self._width))
            sys.stderr.flush()
            self._width = len(text)

    def clear(self) -> None:
        if self._width:
            sys.stderr.write("\r" + " " * self._width + "\r")
            sys.stderr.flush()
