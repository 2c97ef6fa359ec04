"""What is changed in Tune while a search runs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from routesearch.errors import RunFailed
from routesearch.search.bridge import Abort
from routesearch.search.ray_cluster import _job_config
from routesearch.search.ray_pulse import RayLost
from routesearch.search.ray_tune import _supervised
from routesearch.utils import internals


class Resources:
    def __init__(self) -> None:
        self.cleared = 0

    def clear(self) -> None:
        self.cleared += 1


def errors() -> list[Exception]:
    from ray import exceptions

    return [
        exceptions.OutOfMemoryError("Task was killed due to low memory."),
        exceptions.RaySystemError("cannot be unpickled"),
        exceptions.ObjectLostError("0" * 56, None, "call"),
        ValueError("raised by what was unpickled"),
    ]


def test_tune_takes_every_error_for_the_death_of_a_worker() -> None:
    """Else it ends, with all trials that run."""
    from ray.exceptions import RayActorError
    from ray.tune.execution import tune_controller

    before = vars(tune_controller)["RayActorManager"]
    heard: list[Exception] = []
    with _supervised():
        manager: Any = vars(tune_controller)["RayActorManager"](Resources())
        manager._cleanup_actor = lambda tracked_actor: None
        task = SimpleNamespace(
            _tracked_actor=SimpleNamespace(actor_id=1, _on_error=None),
            _on_error=lambda actor, error: heard.append(error),
        )
        for error in errors():
            manager._actor_task_failed(task, error)
    assert vars(tune_controller)["RayActorManager"] is before
    assert all(isinstance(error, RayActorError) for error in heard)
    assert [str(error).partition(":")[0] for error in heard] == [type(error).__name__ for error in errors()]


def test_a_ray_without_the_names_is_told_and_left_as_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from ray.air.execution._internal import RayActorManager
    from ray.job_config import JobConfig
    from ray.tune.execution import tune_controller

    internals._tell.cache_clear()
    monkeypatch.delattr(RayActorManager, "_actor_task_failed")
    for _ in range(2):
        with _supervised():
            assert vars(tune_controller)["RayActorManager"] is RayActorManager
    (told,) = [record.getMessage() for record in caplog.records]
    assert told.startswith(
        "the ray that is installed has no ray.air.execution._internal.RayActorManager._actor"
    )
    caplog.clear()
    assert type(_job_config()) is not JobConfig
    monkeypatch.delattr(JobConfig, "_serialize")
    assert type(_job_config()) is JobConfig
    (told,) = [record.getMessage() for record in caplog.records]
    assert "has no ray.job_config.JobConfig._serialize: workers import from the working directory" in told


@pytest.mark.parametrize(
    ("stop", "cleared"),
    [
        (KeyboardInterrupt(), True),
        (Abort(RunFailed("the disk is full")), True),
        (Abort(None), True),
        (Abort(RayLost("gone")), False),
    ],
)
def test_a_search_that_ends_early_leaves_no_worker_where_ray_is_there(
    stop: BaseException, cleared: bool
) -> None:
    from ray.tune.execution import tune_controller

    resources = Resources()

    def search() -> None:
        with _supervised():
            vars(tune_controller)["RayActorManager"](resources)
            raise stop

    with pytest.raises(type(stop)):
        search()
    assert bool(resources.cleared) is cleared
