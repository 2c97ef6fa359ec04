"""Searches on real Ray that time their front, and that have latency as their budget."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from routesearch import Study
from routesearch.results.journal import Journal
from routesearch.results.points import Budget, front, key
from routesearch.search.trials import records, timings

SCRIPT = Path(__file__).with_name("fake_study.py")


def search(folder: Path, **settings: object) -> None:
    command = [sys.executable, str(SCRIPT), str(folder), json.dumps(settings)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr


def test_the_front_is_timed_when_a_search_has_ended(tmp_path: Path) -> None:
    """And when it is continued, only what is missing."""
    search(tmp_path, trials=3, budget=None, batches=[1])
    with Journal.open_for_reading(tmp_path) as journal:
        members = {key(p) for p in front([p for r in records(journal) for p in r.points(Budget())])}
        first = timings(journal)
    assert first.keys() == members
    assert all(list(found) == [1] for found in first.values())
    search(tmp_path, trials=3, budget=None, batches=[1, 8])
    with Journal.open_for_reading(tmp_path) as journal:
        second = timings(journal)
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
    stored = [p for record in study.trials() for p in record.points(study.budget)]
    assert all(p.latency is not None and 0 < p.latency < 10 and p.feasible for p in stored)
    assert summary.best is not None
    assert summary.best.accuracy == max(p.accuracy for p in stored)
    assert [p.latency for p in study.front("test")] == [p.latency for p in study.front()]
    found = study.timings()
    assert found.keys() == {key(p) for p in summary.front}
    assert all([t.batch for t in each] == [2] for each in found.values())
    again = Study.load(file, {"budget.max_latency": "1us"})
    assert not any(p.feasible for p in again.all_points())
    assert again.summary().feasible_hypervolume == 0
