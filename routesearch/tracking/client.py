"""Where MLflow lives, and a client that is quiet and gives up in time."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from routesearch.study.config import StudyConfig
from routesearch.utils.paths import located

if TYPE_CHECKING:
    from mlflow import MlflowClient

SQLITE = "sqlite:///"
_WITH_DRIVER = "sqlite+pysqlite:///"

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
    return sqlite_uri(folder.resolve() / "mlflow.db")


def sqlite_uri(file: Path) -> str:
    """The URI of an SQLite file, whatever its name.

    SQLAlchemy decodes the path and ends it at a question mark, while MLflow makes the folder of what follows
    ``sqlite:///`` as it stands: with the driver's name in front, that is left to us.
    """
    path = str(file)
    encoded = path.replace("%", "%25").replace("?", "%3F")
    return f"{SQLITE}{path}" if encoded == path else f"{_WITH_DRIVER}{encoded}"


def sqlite_file(uri: str) -> Path | None:
    """The file of an SQLite URI; None where it is none, or names a file by SQLite's own URI."""
    for start in (SQLITE, _WITH_DRIVER):
        if uri.startswith(start) and not uri.startswith((f"{start}file:", f"{start}:memory:")):
            return Path(unquote(uri.removeprefix(start).partition("?")[0]))
    return None


def resolve_uri(uri: str, base: Path) -> str:
    """A tracking URI of a study file: an SQLite path in it is relative to ``base``; others stay."""
    file = sqlite_file(uri)
    if file is None:
        return uri
    _, question, settings = uri.partition("?")
    return f"{sqlite_uri(located(file, base))}{question}{settings}"


def tracking_uri(config: StudyConfig) -> str:
    """Where a study is tracked: where its file says, else SQLite inside its folder."""
    uri = config.tracking.uri
    return default_uri(config.dir) if uri is None else resolve_uri(uri, config.base)


def artifact_folder(uri: str) -> Path | None:
    """Folder of artifacts beside an SQLite file; None where a server keeps them."""
    file = sqlite_file(uri)
    return None if file is None else file.parent / "artifacts"


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

    file = sqlite_file(uri)
    if file is not None and uri.startswith(_WITH_DRIVER):
        file.parent.mkdir(parents=True, exist_ok=True)
    if not uri.startswith(("http://", "https://")):
        import mlflow.store.tracking.sqlalchemy_store  # noqa: F401 (MLflow would import it at the first call)
    # Tables being made, tries being repeated: of no use to somebody who watches a search.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    return MlflowClient(tracking_uri=uri)
