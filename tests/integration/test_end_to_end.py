"""The main job as a user runs it: the command line, real networks on real digits, real Ray, real MLflow."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

ROUTESEARCH = str(Path(sys.executable).with_name("routesearch"))
FIXTURES = Path(__file__).parents[1] / "fixtures"

STUDY: dict[str, Any] = {
    "name": "small",
    "data": {"name": "digits", "noise": 0.5, "train": 320, "validation": 160, "test": 160},
    "backbone": "nin@0.1",
    "methods": ["static", "dgate"],
    "budget": {"max_macs": "0.6x"},
    "search": {"trials": 6},
    "training": {"epochs": 2, "trunk_epochs": 4, "batch_size": 32},
}


def command(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([ROUTESEARCH, *map(str, words)], capture_output=True, text=True, timeout=300)


def answer(*words: object) -> Any:
    done = command(*words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def write(folder: Path, **changes: Any) -> Path:
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(STUDY | changes))
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A small study, searched to its end."""
    study = write(tmp_path_factory.mktemp("study"))
    return study, answer("search", study)


def test_the_search_ends_with_a_front_of_its_trials(finished: tuple[Path, dict[str, Any]]) -> None:
    study, summary = finished
    assert (summary["finished"], summary["failed"], summary["stopped"]) == (6, 0, 0)
    trials = answer("trials", study)["trials"]
    assert [t["number"] for t in trials] == list(range(len(trials)))
    assert {t["method"] for t in trials if t["state"] == "finished"} == {"static", "dgate"}
    assert sum(t["state"] == "refused" for t in trials) == summary["refused"]
    points = [(p["accuracy"], p["macs"]) for t in trials for p in t["points"]]
    for point in summary["front"]:
        beaten = [
            (a, m)
            for a, m in points
            if a >= point["accuracy"] and m <= point["macs"] and (a, m) != (point["accuracy"], point["macs"])
        ]
        assert not beaten
    assert 0 < summary["feasible_hypervolume"] <= summary["hypervolume"] < 1


def test_the_best_is_within_its_budget(finished: tuple[Path, dict[str, Any]]) -> None:
    study, summary = finished
    backbone_macs = answer("front", study)["reference"]
    best = answer("best", study, "--max-macs", "0.6x")
    assert best == summary["best"]
    assert best["macs"] <= 0.6 * backbone_macs
    within = [p["accuracy"] for p in summary["front"] if p["macs"] <= 0.6 * backbone_macs]
    assert best["accuracy"] == max(within)
    nothing = command("best", study, "--max-macs", "0.001x")
    assert nothing.returncode == 2
    assert "the cheapest is" in nothing.stderr


def test_the_front_is_measured_on_test_at_the_same_knobs(finished: tuple[Path, dict[str, Any]]) -> None:
    study, summary = finished
    tested = answer("front", study, "--split", "test")
    assert tested["split"] == "test"
    assert [(p["trial"], p["knob"]) for p in tested["front"]] == [
        (p["trial"], p["knob"]) for p in summary["front"]
    ]
    assert {p["split"] for p in tested["front"]} == {"test"}


def test_mlflow_shows_the_trained_trials(finished: tuple[Path, dict[str, Any]]) -> None:
    _, summary = finished
    from mlflow import MlflowClient

    client = MlflowClient(summary["tracking_uri"])
    experiment = client.get_experiment_by_name(summary["experiment"])
    runs = client.search_runs([experiment.experiment_id], "tags.method != ''")
    assert len(runs) == 6
    holders = {p["trial"] for p in summary["front"]}
    assert sum(run.data.tags["on_front"] == "yes" for run in runs) == len(holders)


def test_continuing_a_finished_study_trains_nothing_more(finished: tuple[Path, dict[str, Any]]) -> None:
    study, summary = finished
    assert answer("search", study) == summary


@pytest.mark.slow  # the same of trials that only wait: test_search_kill.py
def test_killed_in_the_middle_it_goes_on_and_spends_each_trial_once(tmp_path: Path) -> None:
    study = write(tmp_path, search={"trials": 8})
    search = subprocess.Popen(
        [ROUTESEARCH, "search", study, "--json"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    done: dict[int, Any] = {}
    while len(done) < 3:
        assert search.poll() is None, "the search ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.2)
        listed = command("trials", study, "--json")
        if listed.returncode == 0:
            rows = json.loads(listed.stdout)["trials"]
            done = {t["number"]: t for t in rows if t["state"] == "finished"}
    os.kill(search.pid, signal.SIGKILL)
    search.wait()
    summary = answer("search", study)
    assert summary["finished"] + summary["failed"] == 8
    after = {t["number"]: t for t in answer("trials", study)["trials"]}
    assert all(after[number] == trial for number, trial in done.items())
    assert not [t for t in after.values() if t["state"] == "running"]
