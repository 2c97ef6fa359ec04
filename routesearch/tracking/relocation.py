"""Where artifacts lie, after a study's folder was moved or copied: MLflow keeps absolute addresses.

MLflow has no call that changes them, so it is done in its tables, whose schema is the installed MLflow's by
then.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from routesearch.tracking.experiment import STUDY
from routesearch.utils.internals import internal

COLUMNS = (
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("experiments", "artifact_location"),
)
"""Tables and columns with addresses of files; that of the experiments last, since it tells the old place."""

OLD_PLACES = """
    SELECT DISTINCT artifact_location FROM experiments JOIN experiment_tags USING (experiment_id)
    WHERE key = ? AND value = ? AND artifact_location LIKE 'file:%'
"""


def relocate(database: Path, artifacts: Path, study_id: str) -> int:
    """Point a study's database at the artifacts beside it.

    Only addresses below an older place of this study's artifacts change, and only where the file is at the
    new place, or at neither.

    Returns:
        Addresses that changed.

    Raises:
        sqlite3.Error: it cannot be written, or MLflow keeps addresses elsewhere.
    """
    new, changes = artifacts.as_uri(), []
    with closing(sqlite3.connect(database, timeout=20, isolation_level=None)) as connection:
        places = [place for (place,) in connection.execute(OLD_PLACES, (STUDY, study_id))]
        old = [place for place in places if place != new]
        if not old:
            return 0
        connection.execute("BEGIN IMMEDIATE")
        for table, column in COLUMNS:
            query = f"SELECT DISTINCT {column} FROM {table} WHERE {column} LIKE 'file:%'"
            for (address,) in connection.execute(query):
                moved = _moved(address, old, new)
                if moved is not None:
                    changes.append((table, column, address, moved))
        for table, column, address, moved in changes:
            statement = f"UPDATE {table} SET {column} = ? WHERE {column} = ?"
            connection.execute(statement, (moved, address))
        connection.execute("COMMIT")
    _forget()
    return len(changes)


def _forget() -> None:
    """MLflow keeps the places of runs for as long as a process lives."""
    without = "this process may look for artifacts where the study was before; start the command again"
    places = internal("mlflow.tracking._tracking_service.utils:_artifact_repos_cache", without)
    if places is not None:
        places.clear()


def _moved(address: str, old: list[str], new: str) -> str | None:
    """The address at the new place; None where it is to stay."""
    for place in old:
        if address == place or address.startswith(f"{place}/"):
            moved = new + address.removeprefix(place)
            return moved if _path(moved).exists() or not _path(address).exists() else None
    return None


def _path(address: str) -> Path:
    return Path(url2pathname(urlsplit(address).path))
