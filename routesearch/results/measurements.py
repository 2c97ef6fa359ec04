"""What a journal keeps of points beside the trials: test results and timings, and how they are written."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from routesearch.errors import Refusal
from routesearch.errors.texts import shown
from routesearch.results.calibrated import CALIBRATED, check_calibration
from routesearch.results.checks import (
    MAX_MACS,
    MAX_SPENT,
    check_curve,
    need,
    need_count,
    need_keys,
    need_number,
    need_text,
)
from routesearch.results.confirmed import CONFIRMED, check_retraining
from routesearch.results.points import OperatingPoint, PointKey, knob_key
from routesearch.results.timing import Timing

Facts = Mapping[str, Any]
"""Name -> JSON value: :meth:`Journal.facts`."""

TRUNK_MACS = "trunk_macs"
"""Name of the fact that says what the training of the shared trunk took."""

_TEST, _TIMING = "test:", "timing:"


def check_facts(path: Path, facts: Facts) -> None:
    """Refuse facts that are not what is kept under their names.

    Args:
        path: of the journal.
    """
    for name, value in facts.items():
        try:
            _check_fact(name, value)
        except Refusal as refusal:
            raise Refusal(f"the journal {path}: {shown(name)}: {refusal}") from None


def _check_fact(name: str, value: Any) -> None:
    if name == "id":
        need_text("it", value)
    elif name == "reference":
        need_number(
            "it", value, math.ulp(0.0), MAX_MACS, f"the backbone's MACs, above 0, at most {MAX_MACS:g}"
        )
    elif name == TRUNK_MACS:
        need_count("it", value)
    elif name in ("fingerprint", "code"):
        texts = isinstance(value, dict) and all(isinstance(each, str) for each in value.values())
        need(texts, "it", "a mapping of texts", value)
    elif name == "inputs":
        inputs = need_keys(value, ("shape", "classes", "mean", "std"), optional=("pixel_range", "images"))
        for name, count in need_keys(
            inputs.get("images", {}), (), ("validation", "test", "calibration")
        ).items():
            need_count(name, count)
        for key in inputs.keys() - {"images"}:
            need(isinstance(inputs[key], list), key, "a list", inputs[key])
    elif name.startswith(CALIBRATED):
        check_calibration(name, value)
    elif name.startswith(CONFIRMED):
        check_retraining(name, value)
    elif name.startswith((_TEST, _TIMING)):
        need(name.rpartition(":")[2].isdecimal(), "its name", "that of a trial's number", name)
        need(isinstance(value, list), "it", "a list", value)
        if name.startswith(_TEST):
            check_curve(value)
        else:
            for row in value:
                _check_timing(row)


def _check_timing(row: Any) -> None:
    whole = isinstance(row, list) and len(row) == 3 and all(isinstance(part, dict) for part in row)
    need(whole, "a timing", "knob, resources and times", row)
    times = need_keys(row[2], [each.name for each in fields(Timing)])
    need_count("batch", times["batch"])
    for key in times.keys() - {"batch"}:
        need_number(key, times[key], math.ulp(0.0), MAX_SPENT, "a number above 0")


def read_test_results(facts: Facts) -> dict[int, list[OperatingPoint]]:
    """Trial number -> its points that were measured on test data."""
    return {
        int(name.removeprefix(_TEST)): [OperatingPoint(k, a, m, tuple(r)) for k, a, m, r in rows]
        for name, rows in facts.items()
        if name.startswith(_TEST)
    }


def with_test_results(facts: Facts, trial: int, points: Iterable[OperatingPoint]) -> tuple[str, Any]:
    """Name and value of the fact that holds a trial's known test results and these."""
    name = f"{_TEST}{trial}"
    new = [[dict(p.knob), p.accuracy, p.macs, list(p.route_share)] for p in points]
    return name, [*facts.get(name, ()), *new]


def read_timings(facts: Facts, on: Mapping[str, Any] | None = None) -> dict[PointKey, dict[int, Timing]]:
    """Timings of front members: point -> batch size -> timing.

    Args:
        on: resources; only timings that were measured with these. None: all.
    """
    found: dict[PointKey, dict[int, Timing]] = {}
    for name, rows in facts.items():
        if name.startswith(_TIMING):
            for knob, resources, values in rows:
                if on is None or resources == on:
                    point = int(name.removeprefix(_TIMING)), knob_key(knob)
                    found.setdefault(point, {})[values["batch"]] = Timing(**values)
    return found


def with_timings(
    facts: Facts, trial: int, knob: Mapping[str, Any], on: Mapping[str, Any], measured: Iterable[Timing]
) -> tuple[str, Any]:
    """Name and value of the fact that holds a trial's known timings and these; of one batch size the last.

    Args:
        on: the resources that they were measured with, JSON values.
    """
    name = f"{_TIMING}{trial}"
    new = [[dict(knob), dict(on), asdict(timing)] for timing in measured]
    again = [(row[0], row[2]["batch"]) for row in new]
    kept = [row for row in facts.get(name, ()) if (row[0], row[2]["batch"]) not in again]
    return name, [*kept, *new]
