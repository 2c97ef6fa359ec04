"""SQLite files as tracking URIs: the file that is meant is the file that is made, in every folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from routesearch.tracking.addresses import file_of, uri_of
from routesearch.tracking.client import artifact_folder, connect, default_uri, resolve_uri

NAMES = [
    "plain",
    "my study",
    "100%",
    "100% ?",
    "why?",
    "a?b=c&d",
    "nr #1",
    "a%20b",
    "50%25",
    "ü ñ",
    "a;b:c@d",
    "..x",
]


@pytest.mark.parametrize(
    ("name", "made"), [*((name, False) for name in NAMES), ("why?", True), ("a%20b", True)]
)
def test_the_file_that_is_meant_is_the_one_that_is_used(
    name: str, made: bool, empty_database: Path, tmp_path: Path
) -> None:
    folder = tmp_path / name
    folder.mkdir()
    if not made:
        shutil.copy(empty_database, folder)
    uri = default_uri(folder)
    assert file_of(uri) == folder / "mlflow.db"
    assert artifact_folder(uri) == folder / "artifacts"
    connect(uri).create_experiment("mine")
    assert connect(uri).get_experiment_by_name("mine")
    assert sorted(each.name for each in folder.iterdir()) in (["mlflow.db"], [".mlflow.lock", "mlflow.db"])
    assert [each.name for each in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["plain", "nr #1", "my study"])
def test_plain_names_are_not_escaped(name: str, tmp_path: Path) -> None:
    assert uri_of(tmp_path / name) == f"sqlite:///{tmp_path / name}"


def test_a_path_in_a_study_file_is_relative_to_a_folder_of_any_name(tmp_path: Path) -> None:
    base = tmp_path / "why?"
    assert file_of(resolve_uri("sqlite:///shared/mlflow.db", base)) == base / "shared" / "mlflow.db"
    assert resolve_uri("https://mlflow.example/?a=b", base) == "https://mlflow.example/?a=b"
    assert file_of("postgresql://here/db") is None
