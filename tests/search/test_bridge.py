"""The bridge to Ray Tune: what Tune asks and tells, with trials of its own and none of its machinery."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from routesearch.errors import RunFailed
from routesearch.results.points import OperatingPoint
from routesearch.results.record import Outcome, State, TrialRecord
from routesearch.search.bridge import Abort, Bridge
from routesearch.search.ray_tasks import unpack_trial
from routesearch.search.ray_tune import make_callback, make_searcher


class Dispatcher:
    """Hands out so many trials, keeps what it hears of them."""

    def __init__(self, total: int = 3) -> None:
        self.left = [TrialRecord(n, "one", {"x": n}, 10 + n) for n in range(total)]
        self.live: dict[int, TrialRecord] = {}
        self.heard: list[tuple[int, Outcome]] = []
        self.said: list[tuple[str, Any]] = []
        self.excluded: dict[str, str] = {}
        self.overdue = False
        self.patient = True
        """Whether a trial that could not be drawn yet may be asked for again."""

    @property
    def running(self) -> int:
        return len(self.live)

    @property
    def done(self) -> bool:
        return not any(self.usable(record.method) for record in self.left) and self.patient

    def usable(self, method: str) -> bool:
        return method not in self.excluded

    def next(self) -> TrialRecord | None:
        record = next((each for each in self.left if self.usable(each.method)), None)
        if record is not None:
            self.left.remove(record)
            self.live[record.number] = record
        return record

    def ended(self, number: int, outcome: Outcome) -> None:
        del self.live[number]
        self.heard.append((number, outcome))

    def lost(self, number: int, reason: str, story: str | None) -> None:
        self.said.append(("lost", (number, reason, story)))
        self.left.insert(0, self.live.pop(number))

    def returned(self, number: int) -> None:
        self.said.append(("returned", number))
        self.left.insert(0, self.live.pop(number))

    def cut(self, number: int) -> None:
        self.said.append(("cut", number))
        del self.live[number]

    def exclude(self, method: str, reason: str) -> None:
        self.excluded[method] = reason


class TuneTrial:
    """The part of Tune's trial that the bridge reads."""

    def __init__(self, trial_id: str, error_file: str | None = None, finished: bool = False) -> None:
        self.trial_id, self.error_file, self.finished = trial_id, error_file, finished

    def is_finished(self) -> bool:
        return self.finished


class Places:
    """How many trials fit, on which machines."""

    def __init__(self, count: int, *nodes: str) -> None:
        self.count, self.machines = count, set(nodes)

    def __call__(self) -> int:
        return self.count

    def nodes(self) -> set[str]:
        return self.machines


class Table:
    """A bridge between a dispatcher and Tune's searcher and callback, and the trials that Tune keeps."""

    def __init__(self, total: int = 3, capacity: int = 2, trial_time: float | None = None) -> None:
        self.dispatcher: Any = Dispatcher(total)
        self.places = Places(capacity, "n1", "n2")
        self.checks = 0
        self.now = 0.0
        self.stop: BaseException | None = None
        self.killed: list[str] = []
        self.no_worker = False
        self.trials: list[TuneTrial] = []
        self.bridge = Bridge(
            self.dispatcher,
            self.places,
            self.check,
            trial_time=trial_time,
            kill=self.kill,
            clock=lambda: self.now,
        )
        self.searcher, self.callback = make_searcher(self.bridge), make_callback(self.bridge)

    def check(self) -> None:
        self.checks += 1
        if self.stop is not None:
            raise self.stop

    def kill(self, trial: TuneTrial) -> bool:
        """As Ray does, if not at once: Tune then finds the trial failed."""
        if self.no_worker:
            return False
        self.killed.append(trial.trial_id)
        trial.finished = True
        return True

    def step(self) -> None:
        """A turn of Tune's loop."""
        self.callback.on_step_begin(1, self.trials)
        self.callback.on_step_end(1, self.trials)

    def ask(self, trial_id: str) -> Any:
        """Tune asks; what it gets it starts."""
        given = self.searcher.suggest(trial_id)
        if isinstance(given, dict):
            self.trials.append(TuneTrial(trial_id))
            self.callback.on_trial_start(1, self.trials, self.trials[-1])
        return given

    def tell(self, trial_id: str, **result: Any) -> dict[str, Any]:
        """A worker's step returned, with entries of Tune's own beside what it says."""
        trial = next(t for t in self.trials if t.trial_id == trial_id)
        kept = {"training_iteration": 1, "trial_id": trial_id, **result}
        self.callback.on_trial_result(1, self.trials, trial, kept)
        trial.finished = bool(result.get("done"))
        return kept

    def ready(self, trial_id: str, node: str = "n1", problem: str | None = None, **missing: str) -> None:
        found = {"node": node, "host": f"host of {node}", "problem": problem, "missing": missing}
        self.tell(trial_id, ready=json.dumps(found))

    def finish(self, trial_id: str, outcome: Outcome | None = None) -> None:
        self.tell(trial_id, outcome=(outcome or DONE).dumps(), done=True)

    def die(self, trial_id: str, text: str | None = None, folder: Path | None = None) -> None:
        """A worker died, and Tune gave its trial up."""
        trial = next(t for t in self.trials if t.trial_id == trial_id)
        if text is not None and folder is not None:
            file = folder / f"{trial_id}.txt"
            file.write_text(f"Failure # 1 (occurred at noon)\n{text}\n")
            trial.error_file = str(file)
        trial.finished = True
        self.step()

    @property
    def numbers(self) -> list[int]:
        return [number for number, _ in self.dispatcher.heard]


DONE = Outcome(State.FINISHED, (OperatingPoint({"t": 1}, 0.5, 10.0),), seconds=1.5)


# ---- asking --------------------------------------------------------------------------------------------


def test_tune_is_given_each_trial_once_as_far_as_they_fit_and_then_the_end() -> None:
    table = Table(total=3, capacity=2)
    given = [table.ask(name) for name in "abc"]
    assert [unpack_trial(config).number for config in given[:2]] == [0, 1]
    assert given[2] is None
    for name in "ab":
        table.ready(name)
    table.finish("b")
    assert unpack_trial(table.ask("c")) == TrialRecord(2, "one", {"x": 2}, 12)
    table.ready("c")
    table.finish("a")
    assert table.ask("d") is None
    table.finish("c")
    assert table.ask("d") == "FINISHED"
    assert table.numbers == [1, 0, 2]


def test_a_cluster_that_grows_or_shrinks_is_followed() -> None:
    table = Table(total=5, capacity=1)
    assert table.ask("a")
    assert table.ask("b") is None
    table.places.count = 3
    assert table.ask("b")
    assert table.ask("c")
    table.places.count = 0
    assert table.ask("d") is None
    assert table.dispatcher.left


def test_none_for_now_is_not_the_end() -> None:
    """FINISHED ends a search for good, so it is said only when nothing can come any more."""
    table = Table(total=0)
    table.dispatcher.patient = False
    assert table.ask("a") is None
    table.dispatcher.left.append(TrialRecord(7, "one", {}, 1))
    assert unpack_trial(table.ask("a")).number == 7


def test_the_end_waits_for_what_runs_since_it_may_come_again() -> None:
    table = Table(total=1)
    table.ask("a")
    table.ready("a")
    assert table.dispatcher.done
    assert table.ask("b") is None
    table.die("a")
    assert unpack_trial(table.ask("b")).number == 0


# ---- results -------------------------------------------------------------------------------------------


def test_an_outcome_arrives_as_it_was_sent() -> None:
    table = Table()
    table.ask("a")
    table.ready("a")
    failed = Outcome.failure("ValueError: no", "Traceback ...\nValueError: no", 2.5)
    table.finish("a", failed)
    assert table.dispatcher.heard == [(0, failed)]


def test_an_outcome_is_told_once() -> None:
    """A worker whose trial failed dies with the next step, and one that nobody asked for is nobody's."""
    table = Table()
    table.ask("a")
    table.ready("a")
    table.tell("a", outcome=Outcome.failure("ValueError: no").dumps(), done=False)
    table.die("a")
    table.bridge.heard("unknown", {"outcome": DONE.dumps()})
    assert table.numbers == [0]
    assert table.dispatcher.said == []


def test_tune_keeps_no_curve_of_a_trial_that_ended() -> None:
    table = Table()
    table.ask("a")
    table.ready("a")
    assert "outcome" not in table.tell("a", outcome=DONE.dumps(), done=True)


POINT = [{"t": 1}, 0.5, 10.0, []]


def changed(**fields: Any) -> str:
    """A good answer with other values."""
    good = {"state": "finished", "params": 1, "training_macs": 1, "seconds": 1.0, "points": [POINT]}
    return json.dumps(good | fields)


WORTHLESS: dict[str, tuple[Any, str]] = {
    "nothing": (None, "it must be a text, got NoneType"),
    "bytes": (b"\x80", "it must be a text, got bytes"),
    "no JSON": ("{", "must be JSON"),
    "another shape": ("[1, 2]", "it must be a mapping, got [1, 2]"),
    "a missing key": (json.dumps({"state": "finished"}), "params must be there, and is missing"),
    "an unknown key": (changed(colour="red"), "unknown key 'colour'"),
    "an unknown state": (changed(state="splendid"), "state must be one of"),
    "a state that is no end": (changed(state="running"), "state must be one of"),
    "refused by the worker": (changed(state="refused", points=[]), "a trial cannot end as refused"),
    "no points": (changed(points=[]), "at least one operating point, got none"),
    "a short point": (changed(points=[[{}, 0.5]]), "point 0: it must be knob, accuracy, MACs"),
    "a text for a number": (changed(points=[[{}, "0.5", 1.0, []]]), "accuracy must be a number"),
    "NaN": (changed(points=[[{}, float("nan"), 1.0, []]]), "NaN is no number of JSON's"),
    "too accurate": (changed(points=[[{}, 17, 1.0, []]]), "accuracy must be a number in [0, 1], got 17"),
    "negative MACs": (changed(points=[[{}, 0.5, -1.0, []]]), "macs must be a number above 0"),
    "a knob that is none": (changed(points=[[7, 0.5, 1.0, []]]), "knob must be a mapping, got 7"),
    "seconds that are none": (changed(seconds="long"), "seconds must be a number from 0, got 'long'"),
    "shares that are none": (changed(points=[[{}, 0.5, 1.0, ["a"]]]), "route_share must be numbers"),
    "parameters that are none": (changed(params=None), "params must be a whole number from 0, got None"),
    "deep": ("[" * 100_000, "must be JSON"),
}


@pytest.mark.parametrize("what", WORTHLESS)
def test_an_answer_that_is_no_outcome_is_a_failed_trial_with_a_reason(what: str) -> None:
    answer, told = WORTHLESS[what]
    table = Table()
    table.ask("a")
    table.ready("a")
    table.tell("a", outcome=answer, done=True)
    [(number, outcome)] = table.dispatcher.heard
    assert (number, outcome.state) == (0, State.FAILED)
    assert outcome.reason.startswith("the worker's answer cannot be read: ")
    assert told in outcome.reason
    assert "\n" not in outcome.reason
    assert len(outcome.reason) < 300
    assert Outcome.loads(outcome.dumps()) == outcome


def test_a_good_answer_is_taken() -> None:
    table = Table()
    table.ask("a")
    table.ready("a")
    table.tell("a", outcome=changed(), done=True)
    assert [outcome.state for _, outcome in table.dispatcher.heard] == [State.FINISHED]


# ---- workers that cannot be set up ---------------------------------------------------------------------


def test_a_machine_that_cannot_set_up_keeps_its_place_and_the_trial_goes_elsewhere() -> None:
    table = Table(total=1, capacity=2)
    table.ask("a")
    table.ready("a", "n1", problem="ModuleNotFoundError: No module named 'foo'")
    assert table.dispatcher.said == [("returned", 0)]
    assert unpack_trial(table.ask("b")).number == 0
    assert table.ask("c") is None, "one place is taken by the worker that cannot"
    table.ready("b", "n2")
    table.step()
    assert table.killed == []
    table.finish("b")
    assert table.numbers == [0]
    with pytest.raises(Abort) as stopped:  # else Tune would wait for the other worker
        table.step()
    assert stopped.value.reason is None


def test_where_no_machine_can_set_up_the_search_ends_in_a_line_and_spends_nothing() -> None:
    table = Table(total=3, capacity=2)
    table.ask("a")
    table.ask("b")
    table.ready("a", "n1", problem="plugin 'x.py': no module named foo")
    with pytest.raises(Abort) as stopped:
        table.ready("b", "n2", problem="plugin 'x.py': no module named foo")
    assert str(stopped.value.reason) == (
        "no worker can be set up: host of n2: plugin 'x.py': no module named foo; nothing was spent, run the"
        " search again after a fix"
    )
    assert isinstance(stopped.value.reason, RunFailed)
    assert table.dispatcher.heard == []


def test_an_answer_of_ray_without_machines_decides_nothing() -> None:
    table = Table()
    table.places.machines = set()
    table.ask("a")
    table.ready("a", problem="no torch")
    assert table.dispatcher.said == [("returned", 0)]


def test_machines_that_remain_and_cannot_set_up_end_the_search_too() -> None:
    """The one that could is gone, or is not asked for."""
    table = Table(total=3, capacity=1)
    table.ask("a")
    table.ready("a", "n1", problem="no module named foo")
    with pytest.raises(Abort) as stopped:
        table.step()
    assert str(stopped.value.reason).startswith("no worker can be set up: host of n1: no module named foo; ")


def test_a_method_that_no_machine_can_run_leaves_the_others_alone() -> None:
    table = Table(total=0, capacity=2)
    methods = ["bad", "good", "bad", "good"]
    table.dispatcher.left = [TrialRecord(n, m, {}, 1) for n, m in enumerate(methods)]
    table.ask("a")
    table.ask("b")
    table.ready("a", "n1", bad="x.py cannot be loaded")
    assert table.dispatcher.excluded == {}
    table.step()
    assert table.killed == [], "it keeps its place"
    table.ready("b", "n2", bad="x.py cannot be loaded")
    assert table.dispatcher.excluded == {"bad": "host of n2: x.py cannot be loaded"}
    table.step()
    assert table.killed == ["a"], "the place is of use again"
    table.step()
    assert unpack_trial(table.ask("c")).number == 3
    table.ready("c", "n1", bad="x.py cannot be loaded")
    table.finish("b")
    table.finish("c")
    assert table.numbers == [1, 3]
    assert table.ask("d") == "FINISHED"


def test_workers_that_die_while_they_are_set_up_cost_no_trial_but_not_for_ever(tmp_path: Path) -> None:
    table = Table(total=1)
    for name in "ab":
        table.ask(name)
        table.die(name, "The actor is dead because its worker process has died.", tmp_path)
    assert table.dispatcher.said == [("returned", 0)] * 2
    table.ask("c")
    with pytest.raises(Abort) as stopped:
        table.die("c", "The actor is dead because its worker process has died.", tmp_path)
    assert str(stopped.value.reason).startswith(
        "no worker can be set up: 3 in a row died at that: the worker was lost: its worker process has died"
    )
    assert table.dispatcher.heard == []


# ---- trials that take too long -------------------------------------------------------------------------


def test_a_trial_that_takes_too_long_is_ended_and_fails() -> None:
    table = Table(trial_time=60.0)
    table.ask("a")
    table.now = 50.0
    table.ready("a")
    table.now = 109.0
    table.step()
    assert table.killed == []
    table.now = 111.0
    table.step()
    assert table.killed == ["a"]
    table.step()
    assert table.killed == ["a"], "once"
    assert table.dispatcher.heard == [(0, Outcome.failure("took longer than resources.trial_time = 60s"))]


def test_a_worker_that_is_not_there_yet_is_ended_later() -> None:
    table = Table(trial_time=60.0)
    table.ask("a")
    table.ready("a")
    table.now, table.no_worker = 61.0, True
    table.step()
    assert table.killed == []
    table.no_worker = False
    table.step()
    assert table.killed == ["a"]


def test_a_worker_that_hangs_while_it_is_set_up_costs_no_trial() -> None:
    table = Table(trial_time=60.0)
    table.ask("a")
    table.now = 61.0
    table.step()
    table.step()
    assert table.killed == ["a"]
    assert table.dispatcher.said == [("returned", 0)]


def test_without_a_limit_a_trial_may_take_for_ever() -> None:
    table = Table()
    table.ask("a")
    table.ready("a")
    table.now = 1e9
    table.step()
    assert table.killed == []


def test_what_hangs_long_after_the_time_limit_is_left_to_the_next_run() -> None:
    table = Table(total=1)
    table.ask("a")
    table.ready("a")
    table.step()
    table.dispatcher.overdue = True
    with pytest.raises(Abort) as stopped:
        table.step()
    assert stopped.value.reason is None
    assert table.dispatcher.said == [("cut", 0)]


def test_what_still_waits_for_a_worker_then_is_no_trials_fault() -> None:
    table = Table(total=1)
    table.ask("a")
    table.step()
    table.dispatcher.overdue = True
    with pytest.raises(Abort):
        table.step()
    assert table.dispatcher.said == [("returned", 0)]


# ---- ends ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_time", [False, True])
def test_an_end_without_a_result_is_a_lost_worker(in_time: bool) -> None:
    table = Table()
    table.ask("a")
    if in_time:
        table.ready("a")
    table.searcher.on_trial_complete("a", None, error=True)
    assert table.dispatcher.said == []
    table.die("a")
    lost = ("lost", (0, "the worker was lost", None))
    assert table.dispatcher.said == [lost if in_time else ("returned", 0)]


def test_trials_that_join_late_are_watched_and_each_is_lost_once() -> None:
    """Tune's list only grows; a trial that was there already is not looked for again."""
    table = Table(total=3, capacity=3)
    for name in "ab":
        table.ask(name)
        table.ready(name)
    table.step()
    table.ask("c")
    table.ready("c")
    table.trials[1].finished = table.trials[2].finished = True
    for _ in range(2):
        table.step()
    assert [what[1][0] for what in table.dispatcher.said] == [1, 2]
    assert set(table.dispatcher.live) == {0}
    assert set(table.bridge.trials) == {"a"}, "what ended is not kept"


def test_every_turn_looks_for_an_interrupt() -> None:
    table = Table()
    table.ask("a")
    table.step()
    assert table.checks == 2
    table.stop = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        table.ask("b")
    with pytest.raises(KeyboardInterrupt):
        table.step()
    assert set(table.dispatcher.live) == {0}, "nothing was asked for after the interrupt"


def test_what_goes_wrong_in_the_driver_is_no_exception_that_tune_would_swallow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert not issubclass(Abort, Exception)
    table, error = Table(), RunFailed("the journal cannot be written")

    def full(*_: Any) -> Any:
        raise error

    for name in "ab":
        table.ask(name)
        table.ready(name)
    for method in ("next", "ended", "lost"):
        monkeypatch.setattr(table.dispatcher, method, full)
    table.places.count = 3
    acts: tuple[Callable[[], Any], ...] = (
        lambda: table.ask("c"),
        lambda: table.finish("a"),
        lambda: table.die("b"),
    )
    for act in acts:
        with pytest.raises(Abort) as stopped:
            act()
        assert stopped.value.reason is error
    table.stop = error  # Ray was lost
    with pytest.raises(Abort):
        table.step()


def test_a_full_disk_ends_the_search_and_leaves_the_trial_to_the_next_one() -> None:
    table = Table()
    table.ask("a")
    table.ready("a")
    with pytest.raises(Abort) as stopped:
        table.tell("a", disk="the weights of trial 0 cannot be written: full", done=True)
    assert isinstance(stopped.value.reason, RunFailed)
    told = "the weights of trial 0 cannot be written: full; finished trials are kept, run the search again"
    assert str(stopped.value.reason).startswith(told)
    assert set(table.dispatcher.live) == {0}


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


def raised(*more: str) -> Exception:
    from ray.exceptions import RayTaskError

    error = ValueError("\n".join(["no room for this", *more]))
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
        "its node has died. Node Id: 12ab it was drained",
    ),
    "an error of a worker": (raised, "ValueError: no room for this"),
    "an error of several lines": (
        lambda: raised("\tnor for that", "sorry"),
        "ValueError: no room for this nor for that sorry",
    ),
    "a worker that cannot be made": (
        lambda: died(
            "The actor died because of an error raised in its creation task, ray::T.__init__() (pid=7)"
            '\n  File "x.py", line 3, in <module>\n    import foo\nModuleNotFoundError: No module named foo'
        ),
        "ModuleNotFoundError: No module named foo",
    ),
    "no environment": (
        lambda: of_ray("RuntimeEnvSetupError", "pip failed"),
        "Failed to set up runtime environment. pip failed",
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
    table.ask("a")
    table.ready("a")
    table.trials[0] = trial
    table.step()
    [(_, (number, told, story))] = table.dispatcher.said
    assert (number, told) == (0, f"the worker was lost: {reason}")
    assert "\x1b" not in story, "no colours"
    assert re.sub(r"\x1b\[\d+m", "", str(error)).strip() in story, "the whole story"


STARVED = """OutOfMemoryError: 1 worker(s) were killed due to the node running low on memory.
Memory on the node was 22.55GB used / 23.54GB limit (0.96)
OOM kill reason: Memory usage exceeded threshold"""


@pytest.mark.parametrize(
    ("text", "size"), [(STARVED, " (the machine has 23.54GB)"), ("Task was killed due to low memory.", "")]
)
def test_a_worker_that_took_too_much_memory_is_its_trials_failure(
    text: str, size: str, tmp_path: Path
) -> None:
    """At once: it would do so again."""
    table = Table()
    table.ask("a")
    table.ready("a")
    table.die("a", text, tmp_path)
    [(number, outcome)] = table.dispatcher.heard
    assert (number, outcome.state) == (0, State.FAILED)
    assert outcome.reason == f"out of memory: Ray's memory monitor ended the worker{size}"
    assert text in str(outcome.traceback)


def test_a_file_that_cannot_be_read_is_no_second_failure(tmp_path: Path) -> None:
    for file in (None, str(tmp_path / "gone.txt"), str(tmp_path)):
        table = Table()
        table.ask("a")
        table.ready("a")
        table.trials[0].error_file = file
        table.die("a")
        assert table.dispatcher.said == [("lost", (0, "the worker was lost", None))]
