from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from routesearch.errors import Refusal
from routesearch.results.journal import Journal
from routesearch.results.points import Interval
from routesearch.results.reader import StudyResults
from routesearch.results.record import Outcome, State, TrialRecord
from routesearch.search import ray_cluster as cluster
from routesearch.search.dispatcher import MAX_FAILED, MAX_REFUSED, Dispatcher, Snapshot
from routesearch.search.interrupt import Interrupts
from routesearch.search.ray_cluster import Capacity, check_fits
from routesearch.search.ray_tasks import pack_trial, unpack_trial
from routesearch.search.resume import open_trials
from routesearch.search.trial_weights import read_weights, weights_path
from routesearch.search.worker import WorkerResources
from routesearch.utils.arrays import write_arrays


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def records(dispatcher: Dispatcher) -> list[TrialRecord]:
    """What is stored of its trials."""
    config: Any = None
    return StudyResults(config, dispatcher.trials.journal).records


@pytest.fixture
def start(make_fake: Any, folder: Path) -> Iterator[Callable[..., Dispatcher]]:
    """A dispatcher on the study in ``folder``; a new one closes the one before, as a crash would."""
    opened: list[Journal] = []

    def make(total: int = 6, task: Any = None, **settings: Any) -> Dispatcher:
        if opened:
            opened.pop().close()
        opened.append(Journal.open_for_writing(folder))
        return Dispatcher(open_trials(opened[-1], task or make_fake())[0], total, **settings)

    yield make
    for journal in opened:
        journal.close()


def finish(dispatcher: Dispatcher, outcome: Callable[..., Outcome]) -> list[int]:
    """Run trials one by one until there are no more."""
    done = []
    while (record := dispatcher.next()) is not None:
        macs = record.bounds.min if record.bounds else 100.0
        dispatcher.ended(record.number, outcome(0.5, macs))
        done.append(record.number)
    return done


def test_the_total_is_spent_once_over_all_runs(start: Callable[..., Dispatcher], outcome: Any) -> None:
    first = start(6)
    running = [first.next(), first.next()]
    assert all(running)
    assert first.running == 2
    first.ended(running[0].number, outcome())
    second = start(6)
    adopted = second.next()
    assert adopted == running[1]
    second.ended(adopted.number, outcome())
    assert len(finish(second, outcome)) == 4
    assert second.done
    third = start(6)
    assert third.done
    assert third.next() is None
    assert len(finish(start(8), outcome)) == 2


def test_no_more_trials_run_than_the_total(start: Callable[..., Dispatcher]) -> None:
    dispatcher = start(3)
    handed_out = [dispatcher.next() for _ in range(4)]
    assert [r is not None for r in handed_out] == [True, True, True, False]
    assert dispatcher.done


def test_after_the_time_limit_nothing_starts_and_cut_trials_stay(
    start: Callable[..., Dispatcher],
) -> None:
    cut = start(9).next()
    clock = Clock()
    dispatcher = start(9, clock=clock)
    dispatcher.start(60.0)
    clock.now += 59
    assert dispatcher.snapshot().time_left == 1.0
    assert not dispatcher.done
    clock.now += 2
    assert dispatcher.done
    assert dispatcher.next() is None
    assert dispatcher.snapshot().time_left == 0.0
    assert start(9).trials.interrupted() == [cut]


def test_a_method_that_is_refused_again_and_again_is_excluded(
    start: Callable[..., Dispatcher], make_fake: Any, outcome: Any
) -> None:
    task = make_fake(budget=99.0, sampler="random")  # wide costs 100 at least
    task.bounds = lambda m, c: SimpleNamespace(min=50 if m == "deep" else 100 + int(900 * c.width), max=1000)
    notes: list[str | None] = []
    dispatcher = start(4, task, on_progress=lambda s: notes.append(s.note))
    finish(dispatcher, outcome)
    snapshot = dispatcher.snapshot()
    assert (snapshot.finished, snapshot.refused) == (4, MAX_REFUSED)
    finished = [r for r in records(dispatcher) if r.state is State.FINISHED]
    assert {r.method for r in finished} == {"deep"}
    assert str(snapshot.note).startswith(
        f"wide is excluded from this run: {MAX_REFUSED} configs in a row were refused (the last: "
    )
    assert notes.count(None) > MAX_REFUSED / 2


def test_a_search_ends_when_every_method_is_excluded(
    start: Callable[..., Dispatcher], make_fake: Any
) -> None:
    task = make_fake(budget=10.0, sampler="random")
    del task.spaces["deep"]
    dispatcher = start(4, task)
    assert dispatcher.next() is None
    assert dispatcher.done
    assert dispatcher.snapshot().refused == MAX_REFUSED


def fail(dispatcher: Dispatcher, reasons: Callable[[TrialRecord], str | None], outcome: Any) -> list[str]:
    """Run trials one by one, failing for the reasons that are given, and list their methods."""
    asked = []
    while (record := dispatcher.next()) is not None:
        asked.append(record.method)
        reason = reasons(record)
        dispatcher.ended(record.number, outcome(0.5, 300.0) if reason is None else Outcome.failure(reason))
    return asked


def test_a_method_that_fails_in_one_way_again_and_again_is_excluded(
    start: Callable[..., Dispatcher], outcome: Any
) -> None:
    notes: list[str | None] = []
    dispatcher = start(20, on_progress=lambda s: notes.append(s.note))
    asked = fail(dispatcher, lambda r: "it broke" if r.method == "wide" else None, outcome)
    assert asked.count("wide") == MAX_FAILED
    assert asked.count("deep") == 20 - MAX_FAILED
    told = f"wide is excluded from this run: {MAX_FAILED} trials in a row failed and none finished: it broke"
    assert set(notes) == {None, told}


def test_a_search_ends_when_every_method_fails_and_another_run_tries_again(
    start: Callable[..., Dispatcher], outcome: Any
) -> None:
    dispatcher = start(40)
    assert len(fail(dispatcher, lambda r: "it broke", outcome)) == 2 * MAX_FAILED
    assert dispatcher.done
    assert dispatcher.snapshot().failed == 2 * MAX_FAILED
    assert len(fail(start(40), lambda r: None, outcome)) == 40 - 2 * MAX_FAILED


def test_failures_for_different_reasons_or_after_a_success_set_nothing_aside(
    start: Callable[..., Dispatcher], outcome: Any
) -> None:
    assert len(fail(start(16), lambda r: f"it broke with seed {r.seed}", outcome)) == 16
    assert len(fail(start(20), lambda r: None, outcome)) == 4
    assert len(fail(start(40), lambda r: "it broke", outcome)) == 20  # successes of an earlier run count


def test_a_success_of_what_still_runs_brings_a_method_back(
    start: Callable[..., Dispatcher], make_fake: Any, outcome: Any
) -> None:
    task = make_fake()
    del task.spaces["deep"]
    dispatcher = start(20, task)
    running = [dispatcher.next() for _ in range(MAX_FAILED + 1)]
    numbers = [record.number for record in running if record is not None]
    for number in numbers[:-1]:
        dispatcher.ended(number, Outcome.failure("it broke"))
    assert dispatcher.next() is None  # nothing now, but not for good
    assert not dispatcher.done
    dispatcher.ended(numbers[-1], outcome(0.5, 300.0))
    assert dispatcher.next() is not None


def test_drawing_lets_running_trials_be_heard(start: Callable[..., Dispatcher], make_fake: Any) -> None:
    class Slow(Clock):
        def __call__(self) -> float:
            self.now += 0.1
            return self.now

    task, prices = make_fake(sampler="random"), [100, 100, *[1000] * 50]  # the default is priced first
    task.bounds = lambda *_: SimpleNamespace(min=prices.pop(0), max=1000)
    dispatcher = start(4, task, clock=Slow())
    assert dispatcher.next() is not None
    assert dispatcher.next() is None  # nothing yet, but not for good
    assert not dispatcher.done
    assert 0 < dispatcher.snapshot().refused < 20


def test_a_check_may_end_the_search_while_it_draws(start: Callable[..., Dispatcher]) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        start(check=stop).next()


def test_observers_hear_of_trained_trials_and_progress_of_everything(
    start: Callable[..., Dispatcher], outcome: Any
) -> None:
    heard: list[TrialRecord] = []
    seen: list[Snapshot] = []
    observer: Any = SimpleNamespace(trial_ended=heard.append)
    dispatcher = start(5, observers=[observer], on_progress=seen.append)
    dispatcher.start()
    record = dispatcher.next()
    assert record is not None
    dispatcher.ended(record.number, Outcome.failure("it broke"))
    finish(dispatcher, outcome)
    assert [r.state for r in heard] == [State.FAILED] + [State.FINISHED] * 4
    last = seen[-1]
    assert (last.finished, last.failed, last.running, last.total) == (4, 1, 0, 5)
    assert last.best is not None
    assert last.best.feasible
    assert 0 < (last.feasible_hypervolume or 0) < last.hypervolume <= 1
    assert any(s.running == 1 for s in seen)
    assert len(seen) >= 1 + 2 * 5


def test_weights_are_kept_for_the_front_and_for_what_runs(
    start: Callable[..., Dispatcher], folder: Path, outcome: Any
) -> None:
    dispatcher = start()
    for number in range(4):
        write_arrays(weights_path(folder, number), {"w": np.zeros(3)})
    draft = folder / "weights" / ".000001.safetensors.77.part"
    draft.touch()
    running = [dispatcher.next() for _ in range(3)]
    assert all(running)
    numbers = [r.number for r in running if r is not None]
    for number in numbers:
        write_arrays(weights_path(folder, number), {"w": np.zeros(3)})
    dispatcher.ended(numbers[0], outcome(0.9, 100.0))
    assert draft.exists()  # somebody may be writing it
    dispatcher.ended(numbers[1], outcome(0.5, 200.0))  # dominated
    kept = {int(f.stem) for f in (folder / "weights").glob("0*.safetensors")}
    assert kept == {numbers[0], numbers[2]}
    start()  # what ran is cut off: it is trained again
    assert {f.name for f in (folder / "weights").iterdir()} == {f"{numbers[0]:06d}.safetensors"}


def test_weights_that_are_not_there_are_none(folder: Path) -> None:
    path = weights_path(folder, 12)
    assert read_weights(path) == {}
    write_arrays(path, {"w": np.ones(2)})
    assert read_weights(path)["w"].tolist() == [1, 1]


def test_a_half_written_trunk_is_swept_away(start: Callable[..., Dispatcher], folder: Path) -> None:
    draft = folder / "trunks" / ".nin-0123.safetensors.77.part"
    draft.parent.mkdir(parents=True)
    draft.touch()
    start()
    assert not draft.exists()


# ---- trials whose worker or whose search died ----------------------------------------------------------


def test_a_trial_whose_worker_died_comes_again_first_and_fails_after_the_retries(
    start: Callable[..., Dispatcher], outcome: Any
) -> None:
    dispatcher = start(3, retries=2)
    first = dispatcher.next()
    other = dispatcher.next()
    for _ in range(2):
        dispatcher.lost(first.number, "the worker was lost")
        assert dispatcher.running == 1
        assert not dispatcher.done
        assert dispatcher.next() == first
    dispatcher.lost(first.number, "the worker was lost: it died")
    failed = records(dispatcher)[first.number].outcome
    assert failed.state is State.FAILED
    assert failed.reason == (
        "interrupted 3 times while it ran, the last time because the worker was lost: it died"
    )
    dispatcher.ended(other.number, outcome())
    assert dispatcher.trials.spent == 2


def test_without_retries_a_dead_worker_is_a_failure_at_once(start: Callable[..., Dispatcher]) -> None:
    dispatcher = start(3, retries=0)
    dispatcher.lost(dispatcher.next().number, "the worker was lost")
    assert records(dispatcher)[0].outcome == Outcome.failure("the worker was lost")


def test_a_trial_that_was_running_when_its_search_died_three_times_fails(
    start: Callable[..., Dispatcher], make_fake: Any
) -> None:
    """Not on the third time: the count is on disk before a trial is handed out."""
    number = start(3).next().number
    for _ in range(2):
        assert start(3).next().number == number
    last = start(3)
    assert last.next().number != number
    failed = records(last)[number].outcome
    assert failed == Outcome.failure("interrupted 3 times while it ran; the search may have died of it")


def test_a_search_that_is_interrupted_on_purpose_costs_its_trials_nothing(
    start: Callable[..., Dispatcher],
) -> None:
    number = start(3).next().number
    for _ in range(6):
        dispatcher = start(3)
        assert dispatcher.next().number == number
        dispatcher.leave()
        assert dispatcher.running == 0
    assert start(3).next().number == number


def test_a_trial_that_was_not_begun_costs_nothing(start: Callable[..., Dispatcher]) -> None:
    dispatcher = start(3, retries=0)
    number = dispatcher.next().number
    for _ in range(4):
        dispatcher.returned(number)
        assert dispatcher.next().number == number
    assert dispatcher.trials.spent == 0
    assert dispatcher.trials.begun(number) == 1


def test_a_method_that_no_worker_can_run_is_left_to_the_next_run(
    start: Callable[..., Dispatcher], outcome: Any
) -> None:
    dispatcher = start(4)
    first = dispatcher.next()
    dispatcher.exclude(first.method, "host: no module named foo")
    dispatcher.returned(first.number)
    assert str(dispatcher.note).endswith("is excluded from this run: host: no module named foo")
    assert len(finish(dispatcher, outcome)) == 4
    kept = records(dispatcher)
    assert {r.method for r in kept if r.state is State.FINISHED} == {"wide", "deep"} - {first.method}
    assert [r.number for r in kept if r.state is State.RUNNING] == [first.number]
    assert start(5).next() == first


def test_trials_that_hang_do_not_keep_a_search_past_its_time_for_ever(
    start: Callable[..., Dispatcher], outcome: Any
) -> None:
    clock = Clock()
    dispatcher = start(9, clock=clock)
    dispatcher.start(3600.0)
    hung, slow = dispatcher.next(), dispatcher.next()
    clock.now += 2 * 3600 - 1
    assert dispatcher.done
    assert not dispatcher.overdue
    dispatcher.ended(slow.number, outcome())
    clock.now += 2
    assert dispatcher.overdue
    dispatcher.cut(hung.number)
    assert dispatcher.running == 0
    assert dispatcher.done
    again = start(9)
    assert again.next() == hung
    assert again.trials.begun(hung.number) == 2


def test_a_short_time_limit_still_lets_long_trials_end(start: Callable[..., Dispatcher]) -> None:
    clock = Clock()
    dispatcher = start(9, clock=clock)
    dispatcher.start(10.0)
    dispatcher.trials.longest = 1000.0
    dispatcher.next()
    clock.now += 3000
    assert not dispatcher.overdue
    clock.now += 11
    assert dispatcher.overdue
    forever = start(9, clock=clock)
    forever.next()
    clock.now += 1e9
    assert not forever.overdue


# ---- machine and process -----------------------------------------------------------------------------


def test_a_trial_travels_as_one_text() -> None:
    record = TrialRecord(3, "dgate", {"a": [1, 2], "grid_search": {"b": None}}, 7, Interval(1, 2))
    config = pack_trial(record)
    assert set(config) == {"trial"}
    assert unpack_trial(json.loads(json.dumps(config))) == record
    assert unpack_trial(pack_trial(TrialRecord(0, "m", {}, 1))).bounds is None


@pytest.mark.parametrize(
    ("cpu", "gpu", "fits"), [(1, 0, 6), (2, 0, 3), (3, 0, 1), (0.5, 0, 12), (1, 0.5, 2), (1, 1, 1), (5, 0, 0)]
)
def test_capacity_is_what_fits_machine_by_machine(
    monkeypatch: pytest.MonkeyPatch, cpu: float, gpu: float, fits: int
) -> None:
    nodes = [
        {"NodeID": "a", "Alive": True, "Resources": {"CPU": 4.0}},
        {"NodeID": "b", "Alive": True, "Resources": {"CPU": 2.0, "GPU": 1.0}},
        {"NodeID": "c", "Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}},
    ]
    monkeypatch.setattr(cluster, "nodes", lambda: nodes)
    assert Capacity(WorkerResources(cpu, gpu))() == fits
    assert (Capacity(WorkerResources(cpu, gpu)).nodes() == set()) is (fits == 0)
    if not fits:
        with pytest.raises(Refusal, match=r"got cpu=5, gpu=0; the largest here has 4 CPUs and 1 GPUs"):
            check_fits(WorkerResources(cpu, gpu))


def test_a_first_signal_waits_for_a_safe_place_and_a_second_does_not() -> None:
    before = signal.getsignal(signal.SIGTERM)
    interrupts = Interrupts()
    with interrupts:
        interrupts.check()
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before


def test_scratch_folders_of_killed_searches_are_removed_and_those_in_use_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(cluster, "MAX_FOLDER", 200)
    dead = tmp_path / f"routesearch-{os.getuid()}-dead"
    dead.mkdir()
    (dead / "lock").touch()
    with cluster.short_folder() as one, cluster.short_folder() as two:
        assert not dead.exists()
        assert one.is_dir()
        assert two.is_dir()
        assert one != two
    assert list(tmp_path.iterdir()) == []
