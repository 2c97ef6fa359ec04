"""A study's folder that moved: runs, artifacts and registered models are found where they are now."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from routesearch import load
from routesearch.results.reader import StudyResults
from routesearch.results.record import TrialRecord
from routesearch.tracking import Tracker, charts_link, publish
from routesearch.tracking.client import CALM, connect, default_uri
from routesearch.tracking.registry import register
from routesearch.tracking.relocation import COLUMNS, relocate

Open = Callable[[Path], StudyResults]


@pytest.fixture
def opened(make_results: Callable[..., StudyResults], make_records: Callable[..., list[TrialRecord]]) -> Open:
    """The study of six trials in a folder."""
    return lambda folder: make_results(make_records(6), folder=folder)


@pytest.fixture
def study(opened: Open, trained_model: Path, tmp_path: Path) -> Path:
    """A study's folder with a model registered."""
    folder = tmp_path / "study"
    folder.mkdir()
    publish(opened(folder))
    register(opened(folder), "toys", trained_model)
    return folder


def addresses(folder: Path) -> dict[str, list[str]]:
    """Column -> what is in it, of the study's own."""
    with closing(sqlite3.connect(folder / "mlflow.db")) as database:
        return {
            f"{table}.{column}": [row[0] for row in database.execute(f"SELECT {column} FROM {table}")]
            for table, column in COLUMNS
        }


def runs(folder: Path) -> set[str]:
    client = connect(default_uri(folder))
    experiment = client.get_experiment_by_name("quickstart")
    assert experiment is not None
    return {run.info.run_id for run in client.search_runs([experiment.experiment_id])}


def repair_by_search(results: StudyResults) -> None:
    tracker = Tracker(default_uri(results.config.dir))
    tracker.search_started(results)
    tracker.close()
    assert tracker.failure is None


@pytest.mark.parametrize("repair", [publish, charts_link, repair_by_search])
@pytest.mark.parametrize("name", ["elsewhere", "nr #1, why? 100%"])
def test_everything_is_found_after_a_move(
    name: str, repair: Callable[[StudyResults], object], study: Path, opened: Open, tmp_path: Path
) -> None:
    before, moved = runs(study), tmp_path / "deep" / name
    moved.parent.mkdir()
    study.rename(moved)
    repair(opened(moved))
    assert runs(moved) == before
    for column, found in addresses(moved).items():
        assert found, column
        assert all(address.startswith(moved.as_uri()) for address in found), column
    client = connect(default_uri(moved))
    for run in before:
        for each in client.list_artifacts(run):
            assert Path(client.download_artifacts(run, each.path)).is_file()
    assert not study.exists()


LOAD = """
import sys, numpy, mlflow
mlflow.set_tracking_uri(sys.argv[1])
images = numpy.random.default_rng(0).random((5, 8, 8, 1), numpy.float32)
print(*mlflow.pyfunc.load_model("models:/toys/1").predict(images)["label"])
"""


def test_a_registered_model_is_loaded_after_a_move(
    study: Path, opened: Open, trained_model: Path, tmp_path: Path
) -> None:
    """By MLflow alone, in a process of its own."""
    moved = tmp_path / "nr #1, 100%"
    study.rename(moved)

    def ask() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", LOAD, default_uri(moved)]
        return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **CALM})

    assert ask().returncode == 1
    publish(opened(moved))
    model = load(trained_model, plugins=sorted((trained_model / "plugins").iterdir()))
    images = np.random.default_rng(0).random((5, 8, 8, 1), np.float32)
    answer = ask()
    assert answer.stdout.split() == [model.classes[label] for label in model.predict(images).labels], answer


def test_a_copy_is_on_its_own(study: Path, opened: Open, tmp_path: Path) -> None:
    before, copy = addresses(study), tmp_path / "copy"
    shutil.copytree(study, copy)
    publish(opened(copy))
    assert all(a.startswith(copy.as_uri()) for found in addresses(copy).values() for a in found)
    assert addresses(study) == before


def test_what_is_only_at_the_old_place_stays(study: Path, opened: Open, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(study, copy)
    shutil.rmtree(copy / "artifacts" / "models")
    run = min(runs(study))
    shutil.rmtree(copy / "artifacts" / run)
    assert relocate(copy / "mlflow.db", copy / "artifacts", opened(copy).id) > 0
    found = addresses(copy)
    assert all(each.startswith(study.as_uri()) for each in found["model_versions.source"])
    assert [each for each in found["runs.artifact_uri"] if not each.startswith(copy.as_uri())] == [
        f"{study.as_uri()}/artifacts/{run}/artifacts"
    ]


def test_addresses_elsewhere_stay(study: Path, opened: Open, tmp_path: Path) -> None:
    client, others = (
        connect(default_uri(study)),
        ["s3://bucket/x", f"{study.as_uri()}/artifacts2", "file:///x/y"],
    )
    for number, place in enumerate(others):
        client.create_run(client.create_experiment(f"other {number}", artifact_location=place))
    before, moved = addresses(study), tmp_path / "moved"
    study.rename(moved)
    publish(opened(moved))
    after = addresses(moved)
    for column in ("runs.artifact_uri", "experiments.artifact_location"):
        kept = [each for each in before[column] if each.startswith(tuple(others))]
        assert len(kept) == 3
        assert set(kept) <= set(after[column])


def test_a_database_that_the_user_names_stays(
    study: Path, make_results: Callable[..., StudyResults], make_records: Callable[..., list[TrialRecord]]
) -> None:
    moved = study.with_name("moved")
    study.rename(moved)
    before = addresses(moved)
    publish(make_results(make_records(6), folder=moved, uri=default_uri(moved)))
    after = addresses(moved)
    assert all(set(before[column]) <= set(after[column]) for column in before)


def test_a_database_that_cannot_be_changed_is_told(
    study: Path, opened: Open, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*arguments: object) -> int:
        raise sqlite3.OperationalError("attempt to write a readonly database")

    monkeypatch.setattr("routesearch.tracking.own_database.relocate", fail)
    assert charts_link(opened(study))
    assert "what was logged before the study was moved is not found: attempt to write" in caplog.text
