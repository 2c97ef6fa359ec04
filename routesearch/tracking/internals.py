"""What MLflow keeps for itself and has no call for: where a version lacks it, that is said once."""

from __future__ import annotations

import logging
from functools import cache
from pkgutil import resolve_name
from typing import Any

log = logging.getLogger("routesearch.tracking")


def internal(name: str, without: str) -> Any:
    """What MLflow calls so, ``package.module:name``; None where there is no such thing.

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
    log.warning("the MLflow that is installed has no %s: %s", name.replace(":", "."), without)
