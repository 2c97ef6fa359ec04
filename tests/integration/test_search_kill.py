"""Searches on real Ray, in driver processes of their own, that are killed, interrupted, starved, resumed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from optuna.trial import TrialState

from routesearch.errors import Refusal
from routesearch.results.confirmed import CONFIRMED, fact_name
from routesearch.results.journal import Journal
from routesearch.results.measurements import read_test_results
from routesearch.results.reader import StudyResults
from routesearch.results.record import State
from routesearch.results.replay import ASKED, META
from routesearch.search.optuna_studies import BEGUN
from routesearch.search.trial_weights import confirmed_path, read_weights
from routesearch.study.config import BudgetConfig

if TYPE_CHECKING:
    from tests.integration.conftest import Search

CONFIG: Any = None
"""No study file: the records of trials do not depend on it."""
PATIENCE = 120
"""Seconds until a search that hangs is given up."""


def count(fake: ModuleType, folder: Path) -> Counter[State]:
    return Counter(r.state for r in fake.read(folder))


def optuna_states(folder: Path) -> Counter[TrialState]:
    with Journal.open_for_reading(folder) as journal:
        studies = [i for name, i in journal.names().items() if name != META]
        return Counter(t.state for i in studies for t in journal.storage.get_all_trials(i, deepcopy=False))


def trained_lines(lines: list[str]) -> list[int]:
    return [int(line.split()[0]) for line in lines if line.split() and line.split()[0].isdigit()]


def test_killed_twice_and_resumed_spends_each_trial_once(
    search: Callable[..., Search], fake: ModuleType, tmp_path: Path
) -> None:
    folder, settings = tmp_path / "study", {"trials": 10, "seconds": 0.3}
    told: list[int] = []
    orphans: set[int] = set()
    for ended in (2, 4):
        running = search(**settings)
        running.wait_for(ended)
        refused = f"the study is locked by process {running.process.pid} on "
        with pytest.raises(Refusal, match=refused):
            Journal.open_for_writing(folder)
        assert count(fake, folder)[State.FINISHED] >= ended
        status, _ = running.end(signal.SIGKILL)
        assert status == -signal.SIGKILL
        told += trained_lines(running.lines)
        orphans |= {r.number for r in fake.read(folder) if r.state is State.RUNNING}
    before = {r.number: r for r in fake.read(folder)}
    assert orphans

    last = search(**settings)
    status, complaint = last.end()
    assert (status, complaint) == (0, "")
    assert last.lines[-1] == "ended"
    told += trained_lines(last.lines)

    after = {r.number: r for r in fake.read(folder)}
    assert sorted(after) == list(range(len(after)))
    states = Counter(r.state for r in after.values())
    assert states[State.FINISHED] == 10
    assert set(states) <= {State.FINISHED, State.REFUSED}
    assert set(optuna_states(folder)) <= {TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL}
    assert optuna_states(folder)[TrialState.COMPLETE] == 10
    assert max(Counter(told).values()) == 1  # no trial ended twice
    for number, record in before.items():
        if record.state is not State.RUNNING:
            assert after[number] == record
        else:  # adopted: same number, config and seed
            assert (after[number].config, after[number].seed) == (record.config, record.seed)
            assert after[number].state is State.FINISHED

    with Journal.open_for_reading(folder) as journal:
        measured = read_test_results(journal.facts())
    kept = {int(file.stem) for file in (folder / "weights").iterdir()}
    assert kept == set(measured)
    assert 0 < len(kept) <= 10

    started = time.monotonic()
    again = search(**settings)
    assert again.end() == (0, "")
    assert again.lines == ["ended"]  # all is spent and measured: nothing to run
    assert fake.read(folder) == list(after.values())
    assert time.monotonic() - started < PATIENCE


def test_killed_between_trunk_and_confusion_and_resumed_keeps_the_trunk(
    search: Callable[..., Search], fake: ModuleType, tmp_path: Path
) -> None:
    trunk, confusion = (
        tmp_path / "study" / "trunks" / f"{part}.safetensors" for part in ("trunk", "confusion")
    )
    needs: dict[str, Any] = {"trials": 2, "needs_trunk": True, "needs_confusion": True}
    running = search(**needs, trouble={"confusion": "slow"})
    deadline = time.monotonic() + PATIENCE
    while not trunk.exists():
        assert running.process.poll() is None, running.end()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert running.end(signal.SIGKILL)[0] == -signal.SIGKILL
    assert not confusion.exists()
    before = trunk.stat()

    assert search(**needs, trouble={"trunk": "raise"}).end() == (0, "")  # the trunk is not asked again
    assert (fake.stored(trunk), fake.stored(confusion)) == (42, 7)
    assert (trunk.stat().st_ino, trunk.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert {int(read_weights(file)["trunk"][0]) for file in (tmp_path / "study" / "weights").iterdir()} == {
        49
    }


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_interrupted_leaves_a_study_that_goes_on(
    search: Callable[..., Search], fake: ModuleType, tmp_path: Path, number: int
) -> None:
    folder = tmp_path / "study"
    running = search(trials=4, seconds=1.0, needs_trunk=True)
    running.wait_for(1)
    started = time.monotonic()
    status, complaint = running.end(number)
    assert (status, complaint) == (130, "")
    assert "ended" not in running.lines
    assert time.monotonic() - started < PATIENCE
    cut = [r for r in fake.read(folder) if r.state is State.RUNNING]
    assert cut
    assert begun(folder) == {r.number: 0 for r in cut}, "it is not their fault"
    assert fake.stored(folder / "trunks" / "trunk.safetensors") == 42

    # the trunk is there now, so it does not matter that it could not be trained
    assert search(trials=4, needs_trunk=True, trouble={"trunk": "raise"}).end() == (0, "")
    assert count(fake, folder)[State.FINISHED] == 4
    finished = {r.number: (r.config, r.seed) for r in fake.read(folder) if r.state is State.FINISHED}
    assert all(finished[r.number] == (r.config, r.seed) for r in cut)


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("raylet", "node manager (raylet)"),
        pytest.param("gcs_server", "control store (GCS)", marks=pytest.mark.slow),
    ],
)
def test_a_ray_that_dies_is_told_in_one_line_and_the_search_goes_on_later(
    search: Callable[..., Search], fake: ModuleType, tmp_path: Path, part: str, name: str
) -> None:
    running = search(trials=6, seconds=1.0, budget=None)
    running.wait_for(1)
    os.kill(child_of(running.process.pid, part), signal.SIGKILL)
    status, complaint = running.end()
    assert status == 1
    assert re.fullmatch(
        rf"Ray died while the search ran: its {re.escape(name)} at [0-9.:]+ is gone; finished trials are"
        r" kept, and the same command goes on from there\n",
        complaint,
    )
    before = {r.number: r for r in fake.read(tmp_path / "study") if r.state is State.FINISHED}
    assert before
    assert search(trials=6, budget=None).end() == (0, "")
    after = {r.number: r for r in fake.read(tmp_path / "study")}
    assert Counter(r.state for r in after.values()) == {State.FINISHED: 6}
    assert all(after[number] == record for number, record in before.items())


def child_of(parent: int, name: str) -> int:
    """The process of this name that another one started."""
    for each in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, _, rest = each.read_text().partition(" (")
        except OSError:
            continue
        called, _, facts = rest.rpartition(") ")
        if called == name and int(facts.split()[1]) == parent:
            return int(pid)
    raise AssertionError(f"process {parent} has no child {name}")


@pytest.mark.slow
def test_a_trial_that_its_search_dies_of_again_and_again_fails(
    search: Callable[..., Search], fake: ModuleType, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"trials": 3, "budget": None, "trouble": {"1": "hang"}}
    for started in range(3):
        running = search(**settings)
        running.wait_for(2 if started == 0 else 0)
        deadline = time.monotonic() + PATIENCE
        while begun(tmp_path / "study").get(1, 1) < started + 1:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert running.end(signal.SIGKILL)[0] == -signal.SIGKILL
    assert search(**settings).end() == (0, "")
    kept = {r.number: r for r in fake.read(tmp_path / "study")}
    assert {number: r.state for number, r in kept.items()} == {
        0: State.FINISHED,
        1: State.FAILED,
        2: State.FINISHED,
    }
    assert kept[1].outcome is not None
    assert kept[1].outcome.reason == "interrupted 3 times while it ran; the search may have died of it"


def begun(folder: Path) -> dict[int, int]:
    """How often the trials in a journal were begun, where that is written down."""
    with Journal.open_for_reading(folder) as journal:
        attributes = [trial.user_attrs for _, trial in journal.trials()]
    return {each[ASKED]["number"]: each[BEGUN] for each in attributes if BEGUN in each}


def test_no_trial_starts_after_the_time_limit(
    search: Callable[..., Search], fake: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    running = search(trials=1000, seconds=0.2, time_limit=4.0)
    assert running.end() == (0, "")
    states = count(fake, tmp_path / "study")
    assert states[State.RUNNING] == 0
    assert 0 < states[State.FINISHED] < 1000
    assert running.lines[-1] == "ended"
    assert list(home.iterdir()) == []  # a search leaves nothing outside of its folder


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"address": "ray://head:10001"}, "--address must be auto or HOST:PORT, got ray://head:10001: "),
        ({"address": "127.0.0.1:1"}, "could not reach Ray at --address 127.0.0.1:1: "),
        ({"address": "head"}, "--address must be auto or HOST:PORT, got head"),
    ],
)
def test_what_cannot_run_is_refused_in_one_line(
    search: Callable[..., Search], settings: dict[str, Any], complaint: str
) -> None:
    status, said = search(**settings).end()
    assert status == 2, said
    assert said.startswith(complaint)
    assert said.count("\n") == 1


@pytest.fixture
def small_disk(make_disk: Callable[[int], Path]) -> Path:
    return make_disk(64)


def test_a_full_disk_ends_the_search_in_one_line_and_space_lets_it_go_on(
    search: Callable[..., Search], small_disk: Path, fake: ModuleType
) -> None:
    folder, settings = small_disk / "study", {"trials": 60, "seconds": 0.0, "budget": None}
    status, complaint = search(folder, **settings).end()
    assert status == 1
    assert "No space left on device" in complaint
    assert "finished trials are kept" in complaint
    assert complaint.count("\n") == 1
    before = {r.number: r for r in fake.read(folder) if r.state is State.FINISHED}
    assert 3 < len(before) < 60
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    assert search(folder, **settings).end() == (0, "")
    after = {r.number: r for r in fake.read(folder)}
    assert Counter(r.state for r in after.values()) == {State.FINISHED: 60}
    assert all(after[number] == record for number, record in before.items())


def test_reading_a_study_that_never_was_is_a_refusal(fake: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="run `routesearch search` first"):
        fake.read(tmp_path / "study")


def retrainings(folder: Path) -> dict[str, Any]:
    with Journal.open_for_reading(folder) as journal:
        return {name: fact for name, fact in journal.facts().items() if name.startswith(CONFIRMED)}


def test_killed_and_interrupted_among_retrainings_and_resumed_does_only_what_is_missing(
    search: Callable[..., Search], fake: ModuleType, tmp_path: Path
) -> None:
    folder, settings = tmp_path / "study", {"trials": 6, "seconds": 0.4, "seeds": 3, "budget": None}
    before: dict[str, Any] = {}
    for how in (signal.SIGKILL, signal.SIGINT):
        running, known = search(**settings), len(before)
        if not before:
            running.wait_for(6)
        end = time.monotonic() + PATIENCE
        while len(found := retrainings(folder)) < known + 2:
            assert time.monotonic() < end
            time.sleep(0.05)
        running.end(how)
        assert found.items() >= before.items()
        before = retrainings(folder)

    last = search(**settings)
    assert last.end() == (0, "")
    after = retrainings(folder)
    assert after.items() > before.items()  # none is lost, none is done again
    front = {p.trial for p in results_in(folder).front}
    assert set(after) == {fact_name(trial, number) for trial in front for number in range(3)}
    seeds = [fact["seed"] for fact in after.values()]
    assert len(set(seeds)) == len(seeds)
    assert not set(seeds) & {r.seed for r in fake.read(folder)}

    confirmed = results_in(folder).confirmed
    for (trial, _), each in confirmed.items():
        weights = read_weights(confirmed_path(folder, trial, each.best))
        assert weights["seed"].item() == each.chosen.seed
    kept = {(trial, each.best) for (trial, _), each in confirmed.items()}
    assert len(list((folder / "confirmed").iterdir())) == len(kept)
    assert search(**settings).end() == (0, "")
    assert retrainings(folder) == after
    assert search(**settings | {"seeds": 4}).end() == (0, "")
    assert retrainings(folder).items() > after.items()
    assert len(retrainings(folder)) == len(front) * 4


def results_in(folder: Path) -> StudyResults:
    config: Any = SimpleNamespace(budget=BudgetConfig())
    with Journal.open_for_reading(folder) as journal:
        return StudyResults(config, journal)


@pytest.mark.parametrize(
    ("trouble", "told"),
    [("fail", "failed: the loss must stay finite"), ("nan", "failed: accuracy must be"), ("kill", "")],
)
def test_a_retraining_that_ends_badly_leaves_the_others(
    trouble: str, told: str, search: Callable[..., Search], fake: ModuleType, tmp_path: Path
) -> None:
    folder, settings = tmp_path / "study", {"trials": 3, "seeds": 2, "budget": None}
    assert search(**settings | {"seeds": 1}).end()[0] == 0
    one, *others = sorted({p.trial for p in results_in(folder).front})
    running = search(**settings, trouble={f"retrain {one}": trouble})
    assert running.end()[0] == 0
    found = retrainings(folder)
    assert {name for name in found if not found[name]["failed"]} == {
        fact_name(trial, number) for trial in others for number in range(2)
    }
    if trouble == "kill":  # no fault of the retraining: the next search has it again
        assert search(**settings).end()[0] == 0
        assert fact_name(one, 0) in retrainings(folder)
    else:
        assert told.removeprefix("failed: ") in found[fact_name(one, 0)]["failed"]
        assert search(**settings).end()[0] == 0
        assert retrainings(folder) == found
