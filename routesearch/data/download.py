"""Fetching what is published elsewhere, by torchvision."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from routesearch.errors import Refusal, message_of


@contextlib.contextmanager
def downloading(name: str, root: Path) -> Iterator[None]:
    """Around a download into ``root``: progress goes to stderr, a failure becomes one line."""
    try:
        with contextlib.redirect_stdout(sys.stderr):  # stdout belongs to the command's own output
            yield
    except (OSError, RuntimeError) as error:  # no network, no space, or files that fail their checksum
        reason = message_of(error)
        raise Refusal(f"{name}: download into {root} failed: {reason}") from error
