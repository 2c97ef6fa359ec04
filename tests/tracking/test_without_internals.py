"""MLflow's own names: one that is not there is told of, once."""

from __future__ import annotations

import pytest

from routesearch.tracking.client import import_mlflow
from routesearch.tracking.database import let_go
from routesearch.tracking.relocation import _forget
from routesearch.utils import internals


@pytest.fixture(autouse=True)
def _nothing_told_yet() -> None:
    internals._tell.cache_clear()
    import_mlflow("")


def test_a_store_without_its_connections(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    monkeypatch.delattr(SqlAlchemyStore, "_engine_map")
    for _ in range(2):
        let_go("sqlite:///x.db")
    (told,) = [record.getMessage() for record in caplog.records]
    assert "has no mlflow.store.tracking.sqlalchemy_store.SqlAlchemyStore._engine_map: connections to" in told


def test_places_of_runs_that_are_kept_elsewhere(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from mlflow.tracking._tracking_service import utils

    monkeypatch.delattr(utils, "_artifact_repos_cache")
    for _ in range(2):
        _forget()
    (told,) = [record.getMessage() for record in caplog.records]
    assert "has no mlflow.tracking._tracking_service.utils._artifact_repos_cache: this process" in told


def test_nothing_is_told_of_the_mlflow_that_is_installed(caplog: pytest.LogCaptureFixture) -> None:
    let_go("sqlite:///x.db")
    _forget()
    assert caplog.records == []
