"""Quantities as people write them: multiply-adds, times and bytes, each with its units."""

from __future__ import annotations

import re
from collections.abc import Collection

MACS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}
LATENCIES = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
TIMES = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
BYTES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}

_NUMBER = r"(\d+(?:_\d+)*(?:\.(?:\d+(?:_\d+)*)?)?|\.\d+)"
_FORM = re.compile(rf"{_NUMBER}((?:e[+-]?\d+)?)\s*([a-zµ%]*)", re.ASCII)
_TIME = re.compile(rf"{_NUMBER}\s*([a-z]+)\s*", re.ASCII)
_MAC_WORDS = re.compile(r"(macs?|mult-?adds?|madds?|multiply-adds?)$")
_FLOP_WORDS = re.compile(r"flops?$")


def _words(**spoken: str) -> dict[str, str]:
    """Word -> unit."""
    return {word: unit for unit, words in spoken.items() for word in (unit, *words.split())}


_SECONDS = "sec secs second seconds"
_TIME_WORDS = _words(s=_SECONDS, m="min mins minute minutes", h="hr hrs hour hours", d="day days")
_LATENCY_WORDS = _words(us="µs usec microseconds", ms="msec millisecond milliseconds", s=_SECONDS)

_BUDGET = "a budget must be MACs such as 40M, 1.2G, 40000000, or a fraction of the backbone such as 0.4x"
_TIME_RULE = "a time must be more than 0, such as 90s, 10m, 1.5h or 1h30m"
_LATENCY = "a latency must be more than 0 with its unit, such as 500us, 2ms or 0.1s"
_BYTES = "must be bytes such as 4G, 512M or 100000"


def _text(value: object) -> str:
    """What was written, lower case; empty for what is no quantity."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    text = str(value).strip().lower().replace("μ", "µ")
    return text if len(text) <= 100 else ""


def _quantity(text: str, units: Collection[str]) -> tuple[float, str] | None:
    """Number and unit of a text such as ``1.5 h``; None for anything else."""
    found = _FORM.fullmatch(text)
    return None if found is None or found[3] not in units else (float(found[1] + found[2]), found[3])


def _meant(rule: str, *forms: str) -> ValueError:
    """A refusal that says which forms may have been meant."""
    return ValueError(f"{rule}; write {' or '.join(forms)}")


def _check_comma(text: str, rule: str) -> None:
    """Raise where a comma stands in a number: its meaning differs between countries."""
    if found := re.fullmatch(r"(\d{1,3}(?:,\d{3})+)([^,]*)", text, re.ASCII):
        raise _meant(rule, found[1].replace(",", "") + found[2], found[1].replace(",", ".", 1) + found[2])
    if re.fullmatch(r"\d*,\d+\s*[a-zµ%]*", text, re.ASCII):
        raise _meant(rule, text.replace(",", "."))


def _plain(number: float) -> str:
    return f"{number:.12g}"


def parse_macs(value: object) -> str:
    """Canonical text of a budget: ``40M``, ``1.2G``, a plain number of MACs, ``0.4x`` of the backbone.

    ``40M MACs`` and ``50%`` are understood as well; what could mean something else is refused with the form
    that may have been meant.

    Raises:
        ValueError: for anything else.
    """
    text = _text(value)
    _check_comma(text, _BUDGET)
    if flops := _FLOP_WORDS.search(text):
        found = _quantity(text[: flops.start()].strip(), MACS)
        if found is not None:
            number, unit = found
            forms = (f"{_plain(n)}{unit.upper()}" for n in (number / 2, number))
            raise _meant("a budget must be MACs, and one MAC is two FLOPs in most counts", *forms)
    text = _MAC_WORDS.sub("", text).strip()
    found = _quantity(text, {*MACS, "x", "%"})
    if found is None:
        raise ValueError(_BUDGET)
    number, unit = found
    if not 0 < number < 1e30:
        raise ValueError("a budget must be more than 0 and finite")
    if unit == "%":
        return f"{_plain(number / 100)}x"
    if unit == "" and number < 1:
        raise _meant("a budget must be 1 MAC or more, or a fraction of the backbone with an x", f"{text}x")
    digits = text.removesuffix(unit).strip().replace("_", "")
    return digits + (unit if unit == "x" else unit.upper())


def macs_of(text: str, backbone_macs: float) -> float:
    """The MACs that a budget (:func:`parse_macs`) means on a backbone of ``backbone_macs``."""
    found = _quantity(_text(text), {*MACS, "x"})
    assert found is not None, "a budget is parsed before it is computed with"
    number, unit = found
    return number * backbone_macs if unit == "x" else number * MACS[unit]


def parse_work(value: object) -> float:
    """MACs of training as people write them: ``2T``, ``500G``, a plain number.

    Raises:
        ValueError: for anything else.
    """
    rule = "work must be MACs of training such as 2T, 500G or 2000000000000"
    text = _text(value)
    _check_comma(text, rule)
    found = _quantity(_MAC_WORDS.sub("", text).strip(), {*MACS})
    if found is None or not 1 <= found[0] * MACS[found[1]] < 1e30:
        raise ValueError(rule)
    return found[0] * MACS[found[1]]


def parse_share(value: object) -> float:
    """A share as 1%, 0.5 % or 0.01: a number in (0, 1).

    Raises:
        ValueError: for anything else.
    """
    text = str(value).strip()
    number = text.removesuffix("%").strip()
    try:
        share = float(number) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 < share < 1:
        raise ValueError("must be a share such as 1% or 0.01, above 0 and below 100%")
    return share


def parse_latency(value: object) -> float | None:
    """Seconds of ``500us``, ``2ms``, ``0.1s``; None stays None.

    Raises:
        ValueError: for anything else.
    """
    if value is None:
        return None
    text = _text(value)
    _check_comma(text, _LATENCY)
    found = _quantity(text, {"", *_LATENCY_WORDS})
    if found is None or not 0 < found[0] < 1e9:
        raise ValueError(_LATENCY)
    number, word = found
    if not word:
        raise _meant(_LATENCY, f"{_plain(number)}ms", f"{_plain(number)}s")
    return number * LATENCIES[_LATENCY_WORDS[word]]


def parse_time(value: object) -> float | None:
    """Seconds of ``90``, ``90s``, ``10 minutes``, ``1h30m``, ``1.5h``, ``2d``; None stays None.

    Raises:
        ValueError: for anything else.
    """
    if value is None:
        return None
    text = _text(value)
    _check_comma(text, _TIME_RULE)
    if clock := re.fullmatch(r"(\d{1,9}):(\d\d)(?::(\d\d))?", text, re.ASCII):
        first, second, third = (int(part or 0) for part in clock.groups())
        if clock[3]:
            raise _meant(_TIME_RULE, f"{first}h{second}m{third}s")
        raise _meant(_TIME_RULE, f"{first}h{second}m", f"{first}m{second}s")
    found = _quantity(text, {""})
    seconds = _sum_of_times(text) if found is None else found[0]
    if not 0 < seconds < 1e9:
        raise ValueError(_TIME_RULE)
    return seconds


def _sum_of_times(text: str) -> float:
    """Seconds of ``1h30m``: each unit once, the largest first; 0 for anything else."""
    seconds, at, last = 0.0, 0, float("inf")
    while at < len(text):
        found = _TIME.match(text, at)
        size = TIMES[_TIME_WORDS[found[2]]] if found and found[2] in _TIME_WORDS else last
        if found is None or size >= last:
            return 0.0
        seconds, at, last = seconds + float(found[1]) * size, found.end(), size
    return seconds


def parse_bytes(value: object) -> str:
    """Canonical text of a number of bytes: ``4G``, ``512M``, ``100000``; units are powers of 1024.

    ``4GB``, ``4 GiB`` and ``4Gi`` are understood as well.

    Raises:
        ValueError: for anything else.
    """
    text = _text(value)
    _check_comma(text, _BYTES)
    found = re.fullmatch(rf"{_NUMBER}\s*(?:([kmgt])i?)?b?", text, re.ASCII)
    if found is None:
        raise ValueError(_BYTES)
    return f"{found[1].replace('_', '')}{(found[2] or '').upper()}"


def bytes_of(text: str) -> int:
    """The bytes that a text (:func:`parse_bytes`) means."""
    found = _quantity(_text(text), BYTES)
    assert found is not None, "bytes are parsed before they are computed with"
    return int(found[0] * BYTES[found[1]])
