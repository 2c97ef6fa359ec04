"""Quantities as people write them: multiply-adds, times and bytes, each with its units."""

from __future__ import annotations

import re
from collections.abc import Mapping

MACS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}
LATENCIES = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
TIMES = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
BYTES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}

_FORM = re.compile(r"(\d+(?:\.\d+)?)((?:e\+?\d+)?)\s*([a-z]*)", re.ASCII)


def _quantity(value: object, units: Mapping[str, float], exponents: bool = False) -> tuple[float, str] | None:
    """Number and unit (lower case) of a text such as ``1.5 h``; None for anything else."""
    found = None if isinstance(value, bool) else _FORM.fullmatch(str(value).strip().lower())
    if found is None or found[3] not in units or (found[2] and not exponents):
        return None
    return float(found[1] + found[2]), found[3]


def parse_macs(value: object) -> str:
    """Canonical text of a budget: ``40M``, ``1.2G``, a plain number of MACs, ``0.4x`` of the backbone.

    Raises:
        ValueError: for anything else.
    """
    found = _quantity(value, {**MACS, "x": 1.0}, exponents=True)
    if found is None:
        raise ValueError(
            "a budget must be MACs such as 40M, 1.2G, 40000000, or a fraction of the backbone such as 0.4x"
        )
    if not 0 < found[0] < 1e30:
        raise ValueError("a budget must be more than 0 and finite")
    return str(value).strip().replace(" ", "")


def macs_of(text: str, backbone_macs: float) -> float:
    """The MACs that a budget (:func:`parse_macs`) means on a backbone of ``backbone_macs``."""
    found = _quantity(text, {**MACS, "x": backbone_macs}, exponents=True)
    assert found is not None, "a budget is parsed before it is computed with"
    number, unit = found
    return number * backbone_macs if unit == "x" else number * MACS[unit]


def parse_latency(value: object) -> float | None:
    """Seconds of ``500us``, ``2ms``, ``0.1s``; None stays None.

    Raises:
        ValueError: for anything else.
    """
    if value is None:
        return None
    found = _quantity(value, LATENCIES)
    if found is None or not 0 < found[0] < 1e9:
        raise ValueError("a latency must be more than 0 with its unit, such as 500us, 2ms or 0.1s")
    return found[0] * LATENCIES[found[1]]


def parse_time(value: object) -> float | None:
    """Seconds of ``90``, ``90s``, ``10m``, ``1.5h``, ``2d``; None stays None.

    Raises:
        ValueError: for anything else.
    """
    if value is None:
        return None
    found = _quantity(value, TIMES)
    if found is None or not 0 < found[0] < 1e9:
        raise ValueError("a time must be more than 0, such as 90s, 10m or 1.5h")
    return found[0] * TIMES[found[1]]


def parse_bytes(value: object) -> str:
    """Canonical text of a number of bytes: ``4G``, ``512M``, ``100000``; units are powers of 1024.

    Raises:
        ValueError: for anything else.
    """
    text = str(value).strip().upper()
    if _quantity(value, BYTES) is None or len(text.split()) > 1:
        raise ValueError("must be bytes such as 4G, 512M or 100000")
    return text


def bytes_of(text: str) -> int:
    """The bytes that a text (:func:`parse_bytes`) means."""
    found = _quantity(text, BYTES)
    assert found is not None, "bytes are parsed before they are computed with"
    return int(found[0] * BYTES[found[1]])
