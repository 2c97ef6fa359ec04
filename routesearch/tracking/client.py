"""Where MLflow lives, and a client that is quiet and gives up in time."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from routesearch.errors import Refusal
from routesearch.study.config import StudyConfig
from routesearch.tracking.addresses import file_of, uri_of
from routesearch.tracking.database import Condition, alone, examine, make
from routesearch.utils.paths import located

if TYPE_CHECKING:
    from mlflow import MlflowClient

CALM = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_UV_AUTO_DETECT": "false",  # what lies in the working directory has no place in a model
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    # A server that is away shows within seconds, not after seven tries of two minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}
"""Environment for MLflow; what the user has set stays."""


def default_uri(folder: Path) -> str:
    """SQLite inside a study's folder."""
    return uri_of(folder.resolve() / "mlflow.db")


def resolve_uri(uri: str, base: Path) -> str:
    """A tracking URI of a study file: an SQLite path in it is relative to ``base``; others stay."""
    file = file_of(uri)
    if file is None:
        return uri
    _, question, settings = uri.partition("?")
    return f"{uri_of(located(file, base))}{question}{settings}"


def tracking_uri(config: StudyConfig) -> str:
    """Where a study is tracked: where its file says, else SQLite inside its folder."""
    uri = config.tracking.uri
    return default_uri(config.dir) if uri is None else resolve_uri(uri, config.base)


def artifact_folder(uri: str) -> Path | None:
    """Folder of artifacts beside an SQLite file; None where a server keeps them."""
    file = file_of(uri)
    return None if file is None else file.parent / "artifacts"


def calm() -> None:
    """Set MLflow's environment before its first import."""
    for name, value in CALM.items():
        os.environ.setdefault(name, value)


def connect(uri: str) -> MlflowClient:
    """A client of ``uri``; an SQLite file that is not there is made first.

    Does all the importing: to be called once in the main thread, since two threads that import at the
    same time may see half-made modules.

    Raises:
        Refusal: an SQLite file is there that is no whole database of the MLflow that is installed.
    """
    import_mlflow(uri)
    from mlflow import MlflowClient

    file = file_of(uri)
    if file is not None:
        _check(file, uri)
    return MlflowClient(tracking_uri=uri)


def import_mlflow(uri: str) -> None:
    """Import what MLflow needs for ``uri``, and have it be quiet."""
    calm()
    import mlflow

    if not uri.startswith(("http://", "https://")):
        import mlflow.store.tracking.sqlalchemy_store  # noqa: F401 (MLflow would import it at the first call)
    # Tables being made, tries being repeated: of no use to somebody who watches a search.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)


def _check(file: Path, uri: str) -> None:
    """Make a database that is missing; refuse one that MLflow would alter, or not understand."""
    found = examine(file)
    if found.condition is Condition.MISSING:
        file.parent.mkdir(parents=True, exist_ok=True)
        with alone(file.parent):
            make(file, file.parent / "artifacts")
    elif found.condition is not Condition.WHOLE:
        rule = f"{file} must be a whole database of the MLflow that is installed, or a new file"
        cures = {
            Condition.OLDER: f": keep a copy, then `mlflow db upgrade {uri}`",
            Condition.NEWER: ": upgrade mlflow",
        }
        raise Refusal(f"{rule}; {found.reason}{cures.get(found.condition, '')}")
