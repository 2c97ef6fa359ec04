"""Searches on real Ray that time their front, and that have latency as their budget."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from routesearch import Study
from routesearch.results.facts import read_timings
from routesearch.results.journal import Journal
from routesearch.results.points import Budget, front
from routesearch.results.reader import StudyResults

SCRIPT = Path(__file__).with_name("fake_study.py")
CONFIG: Any = None
"""Of no matter for what the trials of a study are."""


def search(folder: Path, **settings: object) -> None:
    command = [sys.executable, str(SCRIPT), str(folder), json.dumps(settings)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr


def test_the_front_is_timed_when_a_search_has_ended(tmp_path: Path) -> None:
    """And when it is continued, only what is missing."""
    search(tmp_path, trials=3, budget=None, batches=[1])
    with Journal.open_for_reading(tmp_path) as journal:
        members = {
            p.key
            for p in front([p for r in StudyResults(CONFIG, journal).records for p in r.points(Budget())])
        }
        first = read_timings(journal.facts())
    assert first.keys() == members
    assert all(list(found) == [1] for found in first.values())
    search(tmp_path, trials=3, budget=None, batches=[1, 8])
    with Journal.open_for_reading(tmp_path) as journal:
        second = read_timings(journal.facts())
    assert second.keys() == members
    assert all(set(found) == {1, 8} for found in second.values())
    assert all(second[place][1] == found[1] for place, found in first.items()), "taken once"


def test_a_search_with_latency_as_its_budget(write_study: Callable[..., Path]) -> None:
    file = write_study(
        budget={"max_latency": "10s", "batch": 4},
        latency={"batch": 2},
        search={"trials": 2},
        training={"epochs": 1, "trunk_epochs": 1, "batch_size": 16},
    )
    study = Study.load(file)
    summary = study.search()
    assert (summary.finished, summary.failed) == (2, 0)
    stored = [p for record in study.results().records for p in record.points(study.results().budget)]
    assert all(p.latency is not None and 0 < p.latency < 10 and p.feasible for p in stored)
    assert summary.best is not None
    assert summary.best.accuracy == max(p.accuracy for p in stored)
    assert [p.latency for p in study.front("test")] == [p.latency for p in study.front()]
    found = study.results().timings
    assert found.keys() == {p.key for p in summary.front}
    assert all([t.batch for t in each] == [2] for each in found.values())
    again = Study.load(file, {"budget.max_latency": "1us"})
    assert not any(p.feasible for p in again.results().points)
    assert again.results().best is None
