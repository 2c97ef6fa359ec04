from __future__ import annotations

from pathlib import Path

import pytest

from routesearch.tracking.client import connect, default_uri


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's tables take a second to make."""
    folder = tmp_path_factory.mktemp("mlflow")
    connect(default_uri(folder))
    return folder / "mlflow.db"
