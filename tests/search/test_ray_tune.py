"""The bridge to Ray Tune: what Tune asks and tells, with trials of its own and none of its machinery."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from routesearch.errors import RunFailed
from routesearch.results.record import Outcome, State, TrialRecord
from routesearch.search.ray_tasks import unpack_trial
from routesearch.search.ray_tune import Abort, Bridge, make_callback, make_searcher


class Dispatcher:
    """Hands out so many trials, keeps their outcomes."""

    def __init__(self, total: int = 3) -> None:
        self.left = [TrialRecord(n, "one", {"x": n}, 10 + n) for n in range(total)]
        self.live: set[int] = set()
        self.heard: list[tuple[int, Outcome]] = []
        self.patient = True
        """Whether a trial that could not be drawn yet may be asked for again."""

    @property
    def running(self) -> int:
        return len(self.live)

    @property
    def done(self) -> bool:
        return not self.left and self.patient

    def next(self) -> TrialRecord | None:
        if not self.left:
            return None
        record = self.left.pop(0)
        self.live.add(record.number)
        return record

    def ended(self, number: int, outcome: Outcome) -> None:
        self.live.remove(number)
        self.heard.append((number, outcome))


class TuneTrial:
    """The part of Tune's trial that the bridge reads."""

    def __init__(self, trial_id: str, error_file: str | None = None, finished: bool = False) -> None:
        self.trial_id, self.error_file, self.finished = trial_id, error_file, finished
        self.run_metadata = SimpleNamespace(last_result={"outcome": "a long curve"})

    def is_finished(self) -> bool:
        return self.finished


class Table:
    """A bridge between a dispatcher and Tune's searcher and callback; capacity and check can be changed."""

    def __init__(self, total: int = 3, capacity: int = 2) -> None:
        self.dispatcher: Any = Dispatcher(total)
        self.capacity = capacity
        self.checks = 0
        self.stop: BaseException | None = None
        self.bridge = Bridge(self.dispatcher, lambda: self.capacity, self.check)
        self.searcher, self.callback = make_searcher(self.bridge), make_callback(self.bridge)

    def check(self) -> None:
        self.checks += 1
        if self.stop is not None:
            raise self.stop

    def step(self, *trials: TuneTrial) -> None:
        """A turn of Tune's loop."""
        self.callback.on_step_begin(1, list(trials))
        self.callback.on_step_end(1, list(trials))


DONE = Outcome(State.FINISHED, seconds=1.5)


def result(outcome: Outcome = DONE) -> dict[str, Any]:
    """As Tune hands it to its searcher, with entries of its own."""
    return {"outcome": outcome.dumps(), "done": True, "training_iteration": 1, "trial_id": "a"}


# ---- asking --------------------------------------------------------------------------------------------


def test_tune_is_given_each_trial_once_as_far_as_they_fit_and_then_the_end() -> None:
    table = Table(total=3, capacity=2)
    given = [table.searcher.suggest(name) for name in "abc"]
    assert [unpack_trial(config).number for config in given[:2]] == [0, 1]
    assert given[2] is None
    table.searcher.on_trial_complete("b", result())
    assert unpack_trial(table.searcher.suggest("c")) == TrialRecord(2, "one", {"x": 2}, 12)
    table.searcher.on_trial_complete("a", result())
    assert table.searcher.suggest("d") == "FINISHED"
    assert [number for number, _ in table.dispatcher.heard] == [1, 0]


def test_a_cluster_that_grows_or_shrinks_is_followed() -> None:
    table = Table(total=5, capacity=1)
    assert table.searcher.suggest("a")
    assert table.searcher.suggest("b") is None
    table.capacity = 3
    assert table.searcher.suggest("b")
    assert table.searcher.suggest("c")
    table.capacity = 0
    assert table.searcher.suggest("d") is None
    assert table.dispatcher.left


def test_none_for_now_is_not_the_end() -> None:
    """FINISHED ends a search for good, so it is said only when nothing can come any more."""
    table = Table(total=0)
    table.dispatcher.patient = False
    assert table.searcher.suggest("a") is None
    table.dispatcher.left.append(TrialRecord(7, "one", {}, 1))
    assert unpack_trial(table.searcher.suggest("a")).number == 7


# ---- results -------------------------------------------------------------------------------------------


def test_an_outcome_arrives_as_it_was_sent() -> None:
    table = Table()
    table.searcher.suggest("a")
    failed = Outcome.failure("ValueError: no", "Traceback ...\nValueError: no", 2.5)
    table.searcher.on_trial_complete("a", result(failed))
    assert table.dispatcher.heard == [(0, failed)]


def test_an_outcome_is_told_once() -> None:
    """Tune reports a trial to its searcher and its callback; one that nobody asked for is nobody's."""
    table = Table()
    table.searcher.suggest("a")
    trial = TuneTrial("a")
    table.step(trial)
    table.searcher.on_trial_complete("a", result())
    trial.finished = True
    table.step(trial)
    table.searcher.on_trial_complete("a", result())
    table.searcher.on_trial_complete("unknown", result())
    assert table.dispatcher.heard == [(0, DONE)]


@pytest.mark.parametrize("said", [None, {}, {"done": True}])
def test_an_end_without_a_result_waits_for_the_callback_to_say_why(said: dict[str, Any] | None) -> None:
    table = Table()
    table.searcher.suggest("a")
    table.searcher.on_trial_complete("a", said, error=True)
    assert table.dispatcher.heard == []
    table.step(TuneTrial("a", finished=True))
    assert table.dispatcher.heard == [(0, Outcome.failure("the worker was lost"))]


def test_trials_that_join_late_are_watched_and_each_is_lost_once() -> None:
    """Tune's list only grows; a trial that was there already is not looked for again."""
    table = Table(total=3, capacity=3)
    trials = [TuneTrial(name) for name in "ab"]
    for trial in trials:
        table.searcher.suggest(trial.trial_id)
    table.step(*trials)
    table.searcher.suggest("c")
    trials.append(TuneTrial("c"))
    trials[1].finished = trials[2].finished = True
    for _ in range(2):
        table.step(*trials)
    assert [number for number, _ in table.dispatcher.heard] == [1, 2]
    assert table.dispatcher.live == {0}
    assert set(table.bridge.trials) == {"a"}, "what ended is not kept"


def test_tune_forgets_the_curve_of_a_trial_that_ended() -> None:
    table, trial = Table(), TuneTrial("a")
    table.callback.on_trial_complete(1, [trial], trial)
    assert trial.run_metadata.last_result == {}


# ---- ends ----------------------------------------------------------------------------------------------


def test_every_turn_looks_for_an_interrupt() -> None:
    table = Table()
    table.searcher.suggest("a")
    table.step(TuneTrial("a"))
    assert table.checks == 2
    table.stop = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        table.searcher.suggest("b")
    with pytest.raises(KeyboardInterrupt):
        table.callback.on_step_begin(1, [])
    assert table.dispatcher.live == {0}, "nothing was asked for after the interrupt"


def test_what_goes_wrong_in_the_driver_is_no_exception_that_tune_would_swallow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert not issubclass(Abort, Exception)
    table, error = Table(), RunFailed("the journal cannot be written")

    def full(*_: Any) -> Any:
        raise error

    table.searcher.suggest("a")
    monkeypatch.setattr(table.dispatcher, "next", full)
    monkeypatch.setattr(table.dispatcher, "ended", full)
    acts: tuple[Callable[[], Any], ...] = (
        lambda: table.searcher.suggest("b"),
        lambda: table.searcher.on_trial_complete("a", result()),
    )
    for act in acts:
        with pytest.raises(Abort) as stopped:
            act()
        assert stopped.value.reason is error
    table.bridge.numbers["a"] = 0
    with pytest.raises(Abort) as stopped:
        table.step(TuneTrial("a", finished=True))
    assert stopped.value.reason is error


def test_a_full_disk_ends_the_search_and_leaves_the_trial_to_the_next_one() -> None:
    table = Table()
    table.searcher.suggest("a")
    with pytest.raises(Abort) as stopped:
        table.searcher.on_trial_complete("a", {"disk": "the weights of trial 0 cannot be written: full"})
    assert isinstance(stopped.value.reason, RunFailed)
    told = "the weights of trial 0 cannot be written: full; finished trials are kept, run the search again"
    assert str(stopped.value.reason).startswith(told)
    assert table.dispatcher.live == {0}


def test_tune_keeps_nothing_of_the_searcher(tmp_path: Path) -> None:
    """It may save; what a search goes on from is the journal, so nobody may restore."""
    table = Table()
    table.searcher.save(str(tmp_path / "searcher.pkl"))
    assert (tmp_path / "searcher.pkl").read_bytes() == b""
    with pytest.raises(RuntimeError, match="continued by a new one"):
        table.searcher.restore(str(tmp_path / "searcher.pkl"))


# ---- why a worker was lost, in Ray's own words ---------------------------------------------------------


def died(why: str, **context: Any) -> Exception:
    from ray.core.generated.common_pb2 import ActorDiedErrorContext
    from ray.exceptions import ActorDiedError

    ident = b"\x01" * 16
    cause = ActorDiedErrorContext(error_message=why, class_name="F", actor_id=ident, pid=7, **context)
    return ActorDiedError(cause=cause)


def raised() -> Exception:
    from ray.exceptions import RayTaskError

    error = ValueError("no room for this")
    text = 'Traceback (most recent call last):\n  File "x.py", line 1, in f\n    g()\n    ^^^\n'
    return RayTaskError("train", f"{text}ValueError: {error}", error, "ray::F.train", pid=7, ip="10.0.0.1")


def of_ray(name: str, *words: Any) -> Exception:
    from ray import exceptions

    error: Exception = getattr(exceptions, name)(*words)
    return error


EXIT = (
    "its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: "
    "Worker unexpectedly exits with a connection error code 2. End of file."
)
KILLED = (
    f"The actor is dead because {EXIT} Some common causes include: "
    "(1) the process was killed by the OOM killer due to high memory usage. (2) ray stop --force is called."
)
LOST: dict[str, tuple[Callable[[], Exception], str]] = {
    "a worker that was killed": (lambda: died(KILLED, node_ip_address="10.0.0.1"), EXIT),
    "a machine that is gone": (
        lambda: died("The actor is dead because its node has died. Node Id: 12ab\n\tit was drained"),
        "its node has died. Node Id: 12ab",
    ),
    "an error of a worker": (raised, "ValueError: no room for this"),
    "no memory": (
        lambda: of_ray("OutOfMemoryError", "Task was killed due to low memory.\nMemory on the node was 1 GB"),
        "Task was killed due to low memory.",
    ),
    "no environment": (
        lambda: of_ray("RuntimeEnvSetupError", "pip failed"),
        "Failed to set up runtime environment.",
    ),
    "no machine": (
        lambda: of_ray("ActorUnschedulableError", "no node has 64 GPUs"),
        "The actor is not schedulable: no node has 64 GPUs",
    ),
    "nothing at all": (lambda: Exception(""), "no reason given"),
}


@pytest.mark.parametrize("what", LOST)
def test_a_lost_worker_is_a_failure_with_rays_reason_in_a_line(what: str, tmp_path: Path) -> None:
    """The reason is of the error as Ray words it, in the file that Tune's own trial writes."""
    from ray.tune.experiment.trial import Trial

    make, reason = LOST[what]
    error, trial = make(), TuneTrial("a", str(tmp_path / "error.txt"), finished=True)
    metadata = SimpleNamespace(num_failures=0, num_failures_after_restore=0, invalidate_cache=lambda: None)
    written: Any = SimpleNamespace(
        is_restoring=False,
        local_path=str(tmp_path),
        run_metadata=metadata,
        error_file=trial.error_file,
        pickled_error_file=str(tmp_path / "error.pkl"),
        _handle_ray_actor_error=lambda error: None,
        _handle_ray_task_error=lambda error: None,
    )
    Trial.handle_error(written, error)
    table = Table()
    table.searcher.suggest("a")
    table.step(trial)
    [(number, outcome)] = table.dispatcher.heard
    assert (number, outcome.state) == (0, State.FAILED)
    assert outcome.reason == f"the worker was lost: {reason}"
    assert "\x1b" not in str(outcome.traceback), "no colours"
    assert re.sub(r"\x1b\[\d+m", "", str(error)).strip() in str(outcome.traceback), "the whole story"


def test_a_file_that_cannot_be_read_is_no_second_failure(tmp_path: Path) -> None:
    for file in (None, str(tmp_path / "gone.txt"), str(tmp_path)):
        table = Table()
        table.searcher.suggest("a")
        table.step(TuneTrial("a", file, finished=True))
        assert table.dispatcher.heard == [(0, Outcome.failure("the worker was lost"))]
