"""Private names of libraries that have no call for what is needed; one that is missing is told once."""

from __future__ import annotations

import logging
from functools import cache
from pkgutil import resolve_name
from typing import Any

log = logging.getLogger("routesearch")


def internal(name: str, without: str) -> Any:
    """The thing that a library calls so, ``package.module:name``; None where there is no such thing.

    Args:
        without: what does not work then.
    """
    try:
        return resolve_name(name)
    except (ImportError, AttributeError):
        _tell(name, without)
        return None


@cache
def _tell(name: str, without: str) -> None:
    package = name.partition(".")[0]
    log.warning("the %s that is installed has no %s: %s", package, name.replace(":", "."), without)
