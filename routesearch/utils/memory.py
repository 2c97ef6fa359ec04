"""Garbage collection, paused where many objects are made that all stay."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collection_paused() -> Iterator[None]:
    """No garbage collection inside: where a great many objects are made that all stay.

    Otherwise the collector walks through all of them, again and again as their number grows: more than
    half of the time that reading a large study takes.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
