"""What a journal keeps of points beside the trials: test results and timings, and how they are written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from routesearch.results.points import OperatingPoint, PointKey, knob_key
from routesearch.results.timing import Timing

Facts = Mapping[str, Any]
"""Name -> JSON value: :meth:`Journal.facts`."""

_TEST, _TIMING = "test:", "timing:"


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
