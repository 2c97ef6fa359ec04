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


def write_csv(points: Sequence[Point], path: Path) -> None:
    """One line per point with the fields of ``front --json``; knob, config and route_share as JSON.

    Raises:
        Refusal: where the path cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = ("trial", "method", "accuracy", "macs", "feasible", "split", "seed", "params")
    writer.writerow([*names, *TEXTS, "latency"])
    for p in points:
        row: list[object] = [p.trial, p.method, p.accuracy, p.macs, str(p.feasible).lower(), p.split, p.seed]
        texts = [json.dumps(getattr(p, name)) for name in TEXTS]
        writer.writerow([*row, p.params, *texts, p.latency])
    save_file(path, text.getvalue().encode())
