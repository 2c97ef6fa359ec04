"""What Tune is given to ask, and what is changed in it while a search runs."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from routesearch.errors import RunFailed
from routesearch.results.points import OperatingPoint
from routesearch.results.record import Outcome, State, TrialRecord
from routesearch.search.bridge import Abort, Bridge
from routesearch.search.ray_cluster import _job_config
from routesearch.search.ray_pulse import RayLost
from routesearch.search.ray_tune import _supervised, make_callback, make_scheduler, make_searcher
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


# ---- trials at rungs -----------------------------------------------------------------------------------

RUNG = Outcome(State.STOPPED, (OperatingPoint({"t": 1}, 0.5, 10.0),), training_macs=30)


class Rungs:
    """A trial that Tune runs, and a dispatcher that stops it at its second rung."""

    def __init__(self, stops: int = 2) -> None:
        self.left = [TrialRecord(0, "one", {"x": 1}, 10)]
        self.shown: list[tuple[int, Outcome]] = []
        self.heard: list[tuple[int, Outcome]] = []
        self.problem: Exception | None = None

        def reported(number: int, outcome: Outcome) -> bool:
            if self.problem is not None:
                raise self.problem
            self.shown.append((number, outcome))
            return len(self.shown) == stops

        dispatcher: Any = SimpleNamespace(
            running=0,
            done=False,
            next=self.left.pop,
            reported=reported,
            ended=lambda number, outcome: self.heard.append((number, outcome)),
        )
        places: Any = lambda: 1  # noqa: E731
        self.bridge = Bridge(dispatcher, places, lambda: None)
        self.scheduler, self.callback = make_scheduler(self.bridge), make_callback(self.bridge)
        self.trial = SimpleNamespace(trial_id="a")
        make_searcher(self.bridge).suggest("a")
        self.callback.on_trial_start(1, [], self.trial)
        self.tell(ready=json.dumps({"node": "n", "host": "h", "problem": None, "missing": {}}))

    def tell(self, **result: Any) -> tuple[str, dict[str, Any]]:
        """What Tune is to do after a worker's answer, and what it keeps of it: it asks in this order."""
        decision = self.scheduler.on_trial_result(None, self.trial, result)
        self.callback.on_trial_result(1, [], self.trial, result)
        return decision, result


def test_tune_goes_on_at_a_rung_until_the_dispatcher_stops_the_trial() -> None:
    table = Rungs()
    assert table.tell(rung=RUNG.dumps(), done=False) == ("CONTINUE", {"done": False})
    assert table.tell(rung=RUNG.dumps(), done=False) == ("STOP", {"done": False})
    assert table.shown == [(0, RUNG)] * 2
    assert table.bridge.runs == {}, "its place is free"
    assert table.heard == [], "the dispatcher has ended it itself"


def test_a_trial_that_passed_its_rungs_ends_with_its_outcome() -> None:
    table = Rungs(stops=3)
    finished = Outcome(State.FINISHED, RUNG.points, training_macs=90)
    for _ in range(2):
        assert table.tell(rung=RUNG.dumps())[0] == "CONTINUE"
    assert table.tell(outcome=finished.dumps(), done=True) == ("CONTINUE", {"done": True})
    assert table.heard == [(0, finished)]


@pytest.mark.parametrize("answer", [None, 7, b"x", "{", "[]", '{"state": "stopped"}', "[" * 100_000])
def test_an_answer_at_a_rung_that_cannot_be_read_fails_its_trial_and_stops_it(answer: Any) -> None:
    table = Rungs()
    assert table.tell(rung=answer)[0] == "STOP"
    [(number, outcome)] = table.heard
    assert (number, outcome.state) == (0, State.FAILED)
    assert str(outcome.reason).startswith("the worker's answer cannot be read: ")
    assert "\n" not in str(outcome.reason)
    assert table.shown == []
    assert table.tell(rung=RUNG.dumps())[0] == "CONTINUE", "what comes later is nobody's"
    assert (len(table.heard), table.shown) == (1, [])


def test_an_outcome_at_a_rung_that_is_an_end_is_one() -> None:
    for end in (Outcome(State.FINISHED, RUNG.points), Outcome.failure("it broke")):
        table = Rungs()
        assert table.tell(rung=end.dumps())[0] == "STOP"
        assert table.heard == [(0, end)]
        assert table.shown == []


def test_what_goes_wrong_in_the_driver_at_a_rung_ends_the_search() -> None:
    table = Rungs()
    table.problem = OSError(28, "No space left on device")
    with pytest.raises(Abort) as aborted:
        table.tell(rung=RUNG.dumps())
    assert aborted.value.reason is table.problem


def test_a_trial_that_nobody_asked_for_is_not_stopped() -> None:
    table = Rungs()
    table.trial = SimpleNamespace(trial_id="unknown")
    assert table.tell(rung=RUNG.dumps())[0] == "CONTINUE"
    assert table.tell(rung="{")[0] == "CONTINUE"
    assert (table.heard, table.shown) == ([], [])
