"""What a stored trial must be, its keys, types and ranges: checked when it is read or comes from a worker.

A refusal says the key, what it must be and what it got; who reads adds the file, the line and the trial.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

from routesearch.errors import Refusal
from routesearch.errors.texts import shown

MAX_MACS = 1e18
"""Multiply-adds of an image, at most; one that costs more takes days."""
MAX_SPENT = 1e30
"""The largest number of whatever is counted over a whole trial."""
MAX_RUNGS = 64
"""Rungs of a trial, at most."""
ROUNDING = 1e-6
"""How far a sum of shares may be from 1."""

_NUMBERS = {int, float}


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON's")


decode: Callable[[str], Any] = json.JSONDecoder(parse_constant=_refuse_constant).decode
"""JSON by the letter: NaN and Infinity, which Python writes and reads, are refused."""


def need(holds: bool, key: str, rule: str, value: object) -> None:
    """Refuse a value of a key unless something holds."""
    if not holds:
        raise Refusal(f"{key} must be {rule}, got {shown(value)}")


def need_number(key: str, value: object, low: float, high: float, rule: str) -> None:
    """Refuse what is no number within bounds; true and false are none."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    need(is_number and low <= value <= high, key, rule, value)  # type: ignore[operator]


def need_count(key: str, value: object, high: float = MAX_SPENT) -> None:
    """Refuse what is no whole number from 0."""
    need(type(value) is int and 0 <= value <= high, key, "a whole number from 0", value)


def need_text(key: str, value: object) -> None:
    """Refuse what is no text, or an empty one."""
    need(isinstance(value, str) and bool(value), key, "text", value)


def need_keys(values: object, keys: Sequence[str], optional: Sequence[str] = ()) -> Mapping[str, Any]:
    """The value, if it is a mapping with these keys and no others."""
    if not isinstance(values, dict):
        raise Refusal(f"it must be a mapping, got {shown(values)}")
    for key in keys:
        if key not in values:
            raise Refusal(f"{key} must be there, and is missing")
    unknown = values.keys() - set(keys) - set(optional)
    if unknown:
        raise Refusal(f"unknown key {shown(min(unknown))}")
    return values


def check_proposal(values: object) -> None:
    """Refuse what is no proposal of a trial, as :meth:`TrialRecord.proposal` makes them."""
    data = need_keys(values, ("number", "method", "config", "seed", "bounds"))
    need_count("number", data["number"], 2**53)
    need_text("method", data["method"])
    need(isinstance(data["config"], dict), "config", "a mapping", data["config"])
    need_count("seed", data["seed"], 2**64)
    bounds = data["bounds"]
    rule = "null, or the MACs of the cheapest and of the most expensive route"
    if bounds is not None:
        pair = isinstance(bounds, list) and len(bounds) == 2 and {*map(type, bounds)} <= _NUMBERS
        need(pair and 0 <= bounds[0] <= bounds[1] <= MAX_MACS, "bounds", rule, bounds)


def check_outcome(values: object, states: Sequence[str], trained: Sequence[str]) -> None:
    """Refuse what is no outcome, as :meth:`Outcome.dumps` writes them.

    Args:
        states: that a trial may end in.
        trained: those of them that bring a curve.
    """
    data = need_keys(
        values, ("state", "params", "training_macs", "seconds", "points"), ("reason", "traceback", "rungs")
    )
    state = data["state"]
    known = isinstance(state, str) and state in states
    need(known, "state", f"one of {', '.join(states)}", state)
    need_count("params", data["params"])
    need_count("training_macs", data["training_macs"])
    need_number("seconds", data["seconds"], 0, MAX_SPENT, "a number from 0")
    for key in ("reason", "traceback"):
        text = data.get(key)
        need(text is None or isinstance(text, str), key, "text or null", text)
    need(isinstance(data["points"], list), "points", "a list", data["points"])
    if state in trained and not data["points"]:
        raise Refusal("a trained network must have at least one operating point, got none")
    check_curve(data["points"])
    _check_rungs(data.get("rungs", []))


def _check_rungs(rungs: object) -> None:
    """Refuse what is no list of rungs: training MACs, and pairs of accuracy and MACs."""
    need(isinstance(rungs, list) and len(rungs) <= MAX_RUNGS, "rungs", f"at most {MAX_RUNGS} of them", rungs)
    for rung in rungs:  # type: ignore[attr-defined]
        pair = isinstance(rung, list) and len(rung) == 2 and isinstance(rung[1], list)
        need(pair, "a rung", "training MACs and a curve", rung)
        need_count("a rung's MACs", rung[0])
        for point in rung[1]:
            need(isinstance(point, list) and len(point) == 2, "a rung's point", "accuracy and MACs", point)
            need_number("accuracy", point[0], 0, 1, "a number in [0, 1]")
            need_number("macs", point[1], math.ulp(0.0), MAX_MACS, f"a number above 0, at most {MAX_MACS:g}")


def check_curve(rows: Sequence[Any]) -> None:
    """Refuse what is no curve: rows of knob, accuracy, MACs, share per route and perhaps a latency."""
    try:
        sound = _is_sound(rows)  # in a few calls: studies have hundreds of thousands of points
    except OverflowError:  # integers that no float can hold
        sound = False
    if not sound:
        for place, row in enumerate(rows):
            try:
                _check_point(row)
            except Refusal as refusal:
                raise Refusal(f"point {place}: {refusal}") from None


def _is_sound(rows: Sequence[Any]) -> bool:
    """Whether all rows surely are points; False where they have to be looked at one by one."""
    if not rows:
        return True
    if {*map(type, rows)} != {list} or {*map(len, rows)} != {4}:
        return False
    knobs, accuracies, macs, shares = zip(*rows, strict=True)
    if {*map(type, knobs)} != {dict} or {*map(type, shares)} != {list}:
        return False
    share = [*chain.from_iterable(shares)]
    if not ({*map(type, accuracies)} | {*map(type, macs)} | {*map(type, share)}) <= _NUMBERS:
        return False
    # NaN is smaller and larger than nothing, so a minimum may pass it by; a sum does not.
    if not math.isfinite(sum(accuracies) + sum(share)):
        return False
    if share and not (min(share) >= 0 and max(share) <= 1 + ROUNDING):
        return False
    if min(macs) <= 0 or not sum(macs) <= MAX_MACS:
        return False
    return bool(min(accuracies) >= 0 and max(accuracies) <= 1)


def _check_point(row: Any) -> None:
    whole = isinstance(row, list) and 4 <= len(row) <= 5
    need(whole, "it", "knob, accuracy, MACs, shares and perhaps a latency", row)
    knob, accuracy, macs, shares = row[:4]
    need(isinstance(knob, dict), "knob", "a mapping", knob)
    need_number("accuracy", accuracy, 0, 1, "a number in [0, 1]")
    need_number("macs", macs, math.ulp(0.0), MAX_MACS, f"a number above 0, at most {MAX_MACS:g}")
    need(isinstance(shares, list), "route_share", "a list", shares)
    for share in shares:
        need_number("route_share", share, 0, 1 + ROUNDING, "numbers in [0, 1]")
    for seconds in row[4:]:
        need_number("latency", seconds, math.ulp(0.0), MAX_SPENT, "a number of seconds above 0")
