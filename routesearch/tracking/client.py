"""Where MLflow lives, and a client that is quiet and gives up in time."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from routesearch.study.config import StudyConfig

if TYPE_CHECKING:
    from mlflow import MlflowClient

SQLITE = "sqlite:///"

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
    return f"{SQLITE}{folder.resolve() / 'mlflow.db'}"


def resolve_uri(uri: str, base: Path) -> str:
    """A tracking URI of a study file: an SQLite path in it is relative to ``base``; others stay."""
    if uri.startswith(SQLITE):
        return f"{SQLITE}{(base / uri.removeprefix(SQLITE)).resolve()}"
    return uri


def tracking_uri(config: StudyConfig) -> str:
    """Where a study is tracked: where its file says, else SQLite inside its folder."""
    uri = config.tracking.uri
    return default_uri(config.dir) if uri is None else resolve_uri(uri, config.base)


def artifact_folder(uri: str) -> Path | None:
    """Folder of artifacts beside an SQLite file; None where a server keeps them."""
    return Path(uri.removeprefix(SQLITE)).parent / "artifacts" if uri.startswith(SQLITE) else None


def calm() -> None:
    """Set MLflow's environment before its first import."""
    for name, value in CALM.items():
        os.environ.setdefault(name, value)


def connect(uri: str) -> MlflowClient:
    """A client of ``uri``.

    Does all the importing: to be called once in the main thread, since two threads that import at the
    same time may see half-made modules.
    """
    calm()
    from mlflow import MlflowClient

    if not uri.startswith(("http://", "https://")):
        import mlflow.store.tracking.sqlalchemy_store  # noqa: F401 (MLflow would import it at the first call)
    # Tables being made, tries being repeated: of no use to somebody who watches a search.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    return MlflowClient(tracking_uri=uri)
