"""The front as CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

from routesearch.results.points import Point
from routesearch.utils.files import save_file

TEXTS = ("knob", "config", "route_share")
"""Fields that a CSV file holds as JSON."""


CONFIRMED = ("accuracy_mean", "accuracy_std", "interval_low", "interval_high", "macs_mean", "seeds")
"""Columns that a front has more where a point of it was confirmed; empty for the others."""


def _confirmation(p: Point) -> list[object]:
    c = p.confirmation
    return [""] * len(CONFIRMED) if c is None else [c.mean, c.std, *c.interval(), c.macs_mean, c.seeds]


def write_csv(points: Sequence[Point], path: Path) -> None:
    """One line per point with the fields of ``front --json``; knob, config and route_share as JSON.

    An interval is two columns, its ends.

    Raises:
        Refusal: where the path cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = ("trial", "method", "accuracy", "macs", "feasible", "split", "seed", "params")
    confirmed = any(p.confirmation is not None for p in points)
    writer.writerow([*names, *TEXTS, "latency", *(CONFIRMED if confirmed else ())])
    for p in points:
        row: list[object] = [p.trial, p.method, p.accuracy, p.macs, str(p.feasible).lower(), p.split, p.seed]
        texts = [json.dumps(getattr(p, name)) for name in TEXTS]
        writer.writerow([*row, p.params, *texts, p.latency, *(_confirmation(p) if confirmed else ())])
    save_file(path, text.getvalue().encode())
