"""Ctrl-C and SIGTERM: the first ends a search at a safe place, the second at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class Interrupts:
    """Handlers that note a first SIGINT or SIGTERM for :meth:`check`; a second one is a KeyboardInterrupt.

    Only the main thread can have handlers; elsewhere this does nothing. May be entered again, after
    somebody else (Ray) has put handlers of their own in place.
    """

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._before: list[dict[int, Any]] = []

    def check(self) -> None:
        """Raise if the user wants the search to end."""
        if self._asked.is_set():
            raise KeyboardInterrupt

    def __enter__(self) -> None:
        before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            before = {s: signal.signal(s, self._note) for s in (signal.SIGINT, signal.SIGTERM)}
        self._before.append(before)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.pop().items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._asked.is_set():
            raise KeyboardInterrupt
        self._asked.set()
