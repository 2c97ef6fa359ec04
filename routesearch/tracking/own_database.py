"""The database that a study keeps in its own folder: what is wrong with it is mended before it is used."""

from __future__ import annotations

import logging
import os
import sqlite3
from pathlib import Path

from routesearch.errors import Refusal
from routesearch.results.reader import StudyResults
from routesearch.tracking.addresses import file_of
from routesearch.tracking.client import artifact_folder, import_mlflow, tracking_uri
from routesearch.tracking.database import Condition, Finding, alone, examine, make, move_aside, upgrade
from routesearch.tracking.relocation import relocate

log = logging.getLogger("routesearch.tracking")


def mend(results: StudyResults) -> bool:
    """Have a study's own database whole, of the installed MLflow's schema, and aware of where it lies.

    A broken one is moved aside, for the models that are registered in it are the user's; a new one is put in
    its place. A newer one is whole, and of use to the MLflow that made it: it stays. Where the study file
    names a tracking URI, nothing is done.

    Returns:
        Whether a new one stands in the place of a broken one.

    Raises:
        Refusal: a newer MLflow made it, or it cannot be replaced.
        RunFailed: another process has been mending it for too long.
    """
    if results.config.tracking.uri is not None or not results.config.dir.is_dir():
        return False
    uri = tracking_uri(results.config)
    file, artifacts = file_of(uri), artifact_folder(uri)
    assert file is not None, "a study's own database is an SQLite file"
    assert artifacts is not None, "it has its artifacts beside it"
    import_mlflow(uri)
    anew = False
    try:
        found = examine(file)
        if found.condition not in (Condition.WHOLE, Condition.NEWER):
            with alone(file.parent):
                found = examine(file)  # another process may have mended it by now
                anew = _mend(file, artifacts, found)
    except (OSError, sqlite3.Error) as error:
        raise Refusal(f"{file} must be in a writable folder: {error}") from None
    if found.condition is Condition.NEWER:
        rule = f"{file} must be of the MLflow that is installed, or older"
        raise Refusal(f"{rule}; {found.reason}: upgrade mlflow, or rename the file and publish again")
    try:
        if relocate(file, artifacts, results.id):
            log.info("%s: its artifacts are found where they are now, in %s", file, artifacts)
    except sqlite3.Error as error:
        log.warning("%s: what was logged before the study was moved is not found: %s", file, error)
    return anew


def _mend(file: Path, artifacts: Path, found: Finding) -> bool:
    """Returns: whether a new database stands in the place of a broken one."""
    if found.condition is Condition.MISSING:
        make(file, artifacts)
        return False
    if found.condition is Condition.OLDER:
        aside = upgrade(file)
        if aside is not None:
            log.warning("%s: %s; upgraded, the older one is %s", file, found.reason, aside.name)
            return False
    if found.condition in (Condition.WHOLE, Condition.NEWER):
        return False
    aside = move_aside(file, "broken")
    log.warning("%s was no whole database of MLflow's (%s): it is %s now", file, found.reason, aside.name)
    make(file, artifacts)
    return True


def check_writable(uri: str) -> None:
    """Raise Refusal where an SQLite file cannot be written; a study in it can still be shown."""
    file = file_of(uri)
    for place in () if file is None or not file.exists() else (file, file.parent):
        if not os.access(place, os.W_OK):
            raise Refusal(f"{place} must be writable for MLflow, got mode {place.stat().st_mode & 0o777:o}")
