"""Searches on one real Ray: trials that go wrong, trunks, budgets, plugins, studies that change."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml

from routesearch import Study
from routesearch.errors import Refusal, RunFailed
from routesearch.results.budget import Budget
from routesearch.results.calibrated import Calibration, read_calibrations
from routesearch.results.journal import Journal
from routesearch.results.measurements import read_test_results, read_timings
from routesearch.results.points import Point, front
from routesearch.results.reader import StudyResults
from routesearch.results.record import State, TrialRecord
from routesearch.search.driver import run_search
from routesearch.search.ray_cluster import connect


@pytest.fixture(scope="module", autouse=True)
def _ray(fake: ModuleType) -> Iterator[None]:
    """A search takes the Ray that its process is connected to."""
    with connect(None, 1):
        yield


class Heard:
    """What an observer of a search heard."""

    def __init__(self) -> None:
        self.trials: list[TrialRecord] = []
        self.ended = False

    def search_started(self, results: StudyResults) -> None:
        assert not self.trials

    def trial_ended(self, record: TrialRecord) -> None:
        self.trials.append(record)

    def search_ended(self, results: StudyResults) -> None:
        self.ended = True


@pytest.fixture
def search(fake: ModuleType) -> Callable[..., Heard]:
    def run(folder: Path, **settings: Any) -> Heard:
        heard = Heard()
        run_search(fake.FakeTask(folder, **settings), observers=[heard], runner=fake.FakeRunner)
        return heard

    return run


# ---- what can go wrong ---------------------------------------------------------------------------------


def test_what_goes_wrong_in_a_trial_is_its_record_and_the_search_goes_on(
    search: Callable[..., Heard], fake: ModuleType, tmp_path: Path
) -> None:
    troubles = [
        "raise",
        "kill",
        "nan",
        "exit",
        "measure",
        "leave",
        "nothing",
        "crash",
        "hang",
        "worthless",
        "garbage",
        "bomb",
    ]
    trouble = {str(number): what for number, what in enumerate(troubles)}
    heard = search(tmp_path, trials=14, budget=None, trouble=trouble, retries=0, trial_time=4.0)
    assert heard.ended
    assert len(heard.trials) == 14
    kept = fake.read(tmp_path)
    assert [r.number for r in kept if r.state is not State.FAILED] == [4, 6, 12, 13]
    reasons = [r.outcome.reason or "" for r in kept if r.outcome is not None]
    assert re.fullmatch(r"ValueError: the method is broken \(fake_study\.py:\d+\)", reasons[0] or "")
    lost = "the worker was lost: the process"
    assert reasons[1] == f"{lost} was killed from outside, perhaps by the system for want of memory"
    assert reasons[2] == "point 0: accuracy must be a number in [0, 1], got nan"
    assert re.fullmatch(r"the process was asked to end: SystemExit: 3 \(fake_study\.py:\d+\)", reasons[3])
    assert re.fullmatch(rf"{lost} called os\._exit\(3\) \(fake_study\.py:\d+\)", reasons[5])
    assert re.fullmatch(rf"{lost} crashed: Segmentation fault \(fake_study\.py:\d+\)", reasons[7])
    assert reasons[8] == "took longer than resources.trial_time = 4s"
    assert reasons[9] == "point 0: accuracy must be a number in [0, 1], got 17.0"
    assert reasons[10].startswith("the worker's answer cannot be read: the outcome must be JSON: ")
    assert "invalid literal for int() with base 10: 'no number'" in reasons[11]
    assert not any("process was used by a trial" in reason for reason in reasons)
    assert kept[0].outcome is not None
    assert 'raise ValueError("the method\\nis broken")' in str(kept[0].outcome.traceback)
    with Journal.open_for_reading(tmp_path) as journal:
        assert 4 not in read_test_results(journal.facts())  # its measurement failed, and will be tried again


def test_a_worker_that_dies_repeats_its_trial(
    search: Callable[..., Heard], fake: ModuleType, tmp_path: Path
) -> None:
    assert search(tmp_path, trials=3, budget=None, trouble={"1": "kill once"}).ended
    assert (tmp_path / "once").exists()
    assert [(r.number, r.state) for r in fake.read(tmp_path)] == [(n, State.FINISHED) for n in range(3)]


@pytest.mark.parametrize(
    ("trouble", "told"),
    [
        ("raise", r"[^\n]+: ModuleNotFoundError: No module named 'foo' \(fake_study\.py:\d+\)"),
        ("exit", r"[^\n]+: SystemExit: not here \(fake_study\.py:\d+\)"),
        ("die", r"3 in a row died at that: the worker was lost: [^\n]+"),
    ],
)
def test_workers_that_cannot_be_set_up_end_the_search_and_spend_nothing(
    search: Callable[..., Heard], fake: ModuleType, tmp_path: Path, trouble: str, told: str
) -> None:
    """In a process that keeps its Ray nothing of that search is left in the way of the next one."""
    after = "nothing was spent, run the search again after a fix"
    with pytest.raises(RunFailed, match=rf"^no worker can be set up: {told}; {after}$"):
        search(tmp_path, trials=3, budget=None, trouble={"set-up": trouble})
    assert {r.state for r in fake.read(tmp_path)} == {State.RUNNING}
    assert search(tmp_path, trials=3, budget=None).ended
    assert [(r.number, r.state) for r in fake.read(tmp_path)] == [(n, State.FINISHED) for n in range(3)]


def test_a_method_that_workers_lack_fails_no_trial(
    search: Callable[..., Heard], fake: ModuleType, tmp_path: Path
) -> None:
    assert search(tmp_path, trials=4, budget=None, trouble={"set-up": "missing"}).ended
    kept = [(r.method, r.state) for r in fake.read(tmp_path)]
    assert kept.count(("one", State.FINISHED)) == 4
    assert set(kept) <= {("one", State.FINISHED), ("two", State.RUNNING)}


def test_a_trunk_that_cannot_be_trained_ends_the_search(
    search: Callable[..., Heard], fake: ModuleType, tmp_path: Path
) -> None:
    with pytest.raises(
        RunFailed,
        match=r"^the trunk could not be trained: ValueError: no trunk today \(fake_study\.py:\d+\)$",
    ):
        search(tmp_path, needs_trunk=True, trouble={"trunk": "raise"})
    assert fake.read(tmp_path) == []


def test_methods_that_need_no_trunk_go_on_without_it(
    search: Callable[..., Heard], fake: ModuleType, tmp_path: Path
) -> None:
    how: dict[str, Any] = {"budget": None, "needs_trunk": True, "starting": ["two"]}
    heard = search(tmp_path, trials=3, **how, trouble={"trunk": "raise"})
    assert heard.ended
    assert [(r.method, r.state) for r in fake.read(tmp_path)] == [("one", State.FINISHED)] * 3
    assert not (tmp_path / "trunks").exists()
    assert search(tmp_path, trials=14, **how).ended
    assert "two" in {r.method for r in fake.read(tmp_path)}


def test_a_confusion_that_is_asked_for_later_leaves_the_trunk_as_it_was(
    search: Callable[..., Heard], fake: ModuleType, tmp_path: Path
) -> None:
    trunk, confusion = (tmp_path / "trunks" / f"{part}.safetensors" for part in ("trunk", "confusion"))
    assert search(tmp_path, trials=1, needs_trunk=True, trouble={"confusion": "raise"}).ended
    before = trunk.stat()
    both: dict[str, Any] = {"trials": 2, "needs_trunk": True, "needs_confusion": True}
    with pytest.raises(
        RunFailed,
        match=r"^the confusion could not be trained: ValueError: no confusion today \(fake_study\.py:\d+\)$",
    ):
        search(
            tmp_path, **both, trouble={"trunk": "raise", "confusion": "raise"}
        )  # the trunk is not asked again
    assert search(tmp_path, **both, trouble={"trunk": "raise"}).ended
    after = trunk.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert (fake.stored(trunk), fake.stored(confusion)) == (42, 7)


@pytest.mark.parametrize("more", [{"cpu": 4096}, {"gpu": 64}])
def test_what_no_machine_has_is_refused(
    search: Callable[..., Heard], fake: ModuleType, tmp_path: Path, more: dict[str, Any]
) -> None:
    got = {"cpu": 1, "gpu": 0} | more
    told = (
        f"resources of a trial must fit on one machine, got cpu={got['cpu']}, gpu={got['gpu']}; the largest"
    )
    with pytest.raises(Refusal, match=rf"^{told} here has [^\n]+$"):
        search(tmp_path, **more)
    assert fake.read(tmp_path) == []


# ---- calibration ---------------------------------------------------------------------------------------


def calibrations(folder: Path) -> dict[int, Calibration]:
    with Journal.open_for_reading(folder) as journal:
        return read_calibrations(journal.facts())


def front_in(fake: ModuleType, folder: Path) -> list[Point]:
    return front([p for r in fake.read(folder) for p in r.points(Budget())])


def test_the_front_is_calibrated_where_images_are_set_aside_for_it(
    search: Callable[..., Heard], fake: ModuleType, tmp_path: Path
) -> None:
    """Each trial once: a search that goes on compares what came on the front since."""
    search(tmp_path / "none", trials=1, budget=None)
    assert calibrations(tmp_path / "none") == {}
    search(tmp_path, trials=3, budget=None, calibration=20)
    first = calibrations(tmp_path)
    assert first.keys() == {p.trial for p in front_in(fake, tmp_path)}
    for number, found in first.items():
        points = fake.read(tmp_path)[number].points(Budget())
        assert (found.whole.macs, found.images) == (max(p.macs for p in points), 20)
        at = zip((p.knob["t"] for p in points), found.lost, found.gained, strict=True)
        assert sorted(at) == [(0, 10, 0), (1, 0, 0)]
    search(tmp_path, trials=8, budget=None, calibration=20, trouble={f"calibrate {n}": "kill" for n in first})
    assert calibrations(tmp_path).items() > first.items()
    assert calibrations(tmp_path).keys() >= {p.trial for p in front_in(fake, tmp_path)}


@pytest.mark.parametrize("trouble", ["kill", "raise", "worthless"])
def test_a_calibration_that_ends_badly_leaves_the_others_and_is_repeated(
    trouble: str, search: Callable[..., Heard], fake: ModuleType, tmp_path: Path
) -> None:
    settings = {"trials": 4, "budget": None, "calibration": 20}
    search(tmp_path, **settings, trouble={f"calibrate {n}": trouble for n in range(1, 4)})
    assert calibrations(tmp_path).keys() == {0}
    search(tmp_path, **settings)
    assert calibrations(tmp_path).keys() == {p.trial for p in front_in(fake, tmp_path)}


# ---- time ----------------------------------------------------------------------------------------------


def test_the_front_is_timed_when_a_search_has_ended(
    search: Callable[..., Heard], fake: ModuleType, tmp_path: Path
) -> None:
    """A continued search times only what is missing."""
    search(tmp_path, trials=3, budget=None, batches=[1])
    members = {p.key for p in front_in(fake, tmp_path)}
    with Journal.open_for_reading(tmp_path) as journal:
        first = read_timings(journal.facts())
    assert first.keys() == members
    assert all(list(found) == [1] for found in first.values())
    search(tmp_path, trials=3, budget=None, batches=[1, 8])
    with Journal.open_for_reading(tmp_path) as journal:
        second = read_timings(journal.facts())
    assert second.keys() == members
    assert all(set(found) == {1, 8} for found in second.values())
    assert all(second[place][1] == found[1] for place, found in first.items()), "taken once"


def test_a_search_with_latency_as_its_budget(
    write_study: Callable[..., Path], tracking: dict[str, str]
) -> None:
    file = write_study(
        budget={"max_latency": "10s", "batch": 4},
        latency={"batch": 2},
        search={"trials": 2},
        training={"epochs": 1, "trunk_epochs": 1, "batch_size": 16},
        tracking=tracking,
    )
    study = Study.load(file)
    summary = study.search()
    assert (summary.finished, summary.failed) == (2, 0)
    stored = [p for record in study.results().records for p in record.points(study.results().budget)]
    assert all(p.latency is not None and 0 < p.latency < 10 and p.feasible for p in stored)
    assert summary.best is not None
    assert summary.best.accuracy == max(p.accuracy for p in stored)
    assert [p.latency for p in study.front("test")] == [p.latency for p in study.front()]
    found = study.results().timings
    assert found.keys() == {p.key for p in summary.front}
    assert all([t.batch for t in each] == [2] for each in found.values())
    again = Study.load(file, {"budget.max_latency": "1us"})
    assert not any(p.feasible for p in again.results().points)
    assert again.results().best is None


# ---- studies with real networks ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """One MLflow for all: its tables take a second to make."""
    return {"uri": f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"}


def change(file: Path, **changes: Any) -> None:
    """Some keys of a study file."""
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | changes))


def test_a_larger_total_continues_and_a_changed_backbone_is_refused(
    write_study: Callable[..., Path], tracking: dict[str, str]
) -> None:
    file = write_study(methods=["static"], search={"trials": 2}, tracking=tracking)
    first = Study.load(file).search()
    more = Study.load(file, {"search.trials": 3}).search()
    assert (first.finished, more.finished) == (2, 3)
    before = Study.load(file).results().records
    assert before[:2] == first.results.records[:2]
    other = {"backbone": "pocket@0.5"}
    with pytest.raises(Refusal, match=r"backbone.*pocket@0\.5") as refused:
        Study.load(file, other).search()
    assert re.search(r"\bpocket\b(?!@)", str(refused.value)), "both are named"
    assert Study.load(file).results().records == before
    fresh = Study.load(file, other | {"search.trials": 1}).search(fresh=True)
    assert fresh.finished == 1


BROKEN = """\
from routesearch import hookimpl
from routesearch.methods.static import Static


class Broken(Static):
    name = "broken"

    def stages(self):
        raise MemoryError("no room for this network")


@hookimpl
def routesearch_methods():
    return [Broken]
"""


def test_plain_files_join_a_study_and_what_breaks_in_one_is_recorded(
    write_study: Callable[..., Path], tracking: dict[str, str], tmp_path: Path
) -> None:
    """A backbone and two methods that only the study's file knows, beside one that is installed."""
    (tmp_path / "broken.py").write_text(BROKEN)
    file = write_study(tracking=tracking)
    methods = ["broken", "skipper", "dgate"]  # the first is begun before anything is known of the others
    plugins = [*yaml.safe_load(file.read_text())["plugins"], "broken.py"]
    change(file, plugins=plugins, methods=methods, budget={"max_macs": "1.2x"}, search={"trials": 6})
    summary = Study.load(file).search()
    assert summary.finished + summary.failed == 6
    records = summary.results.records
    assert {r.method for r in records if r.state is State.FINISHED} == {"skipper", "dgate"}
    reasons = {r.outcome.reason for r in records if r.state is State.FAILED and r.outcome is not None}
    assert reasons == {"out of memory: MemoryError: no room for this network (broken.py:9)"}


CURIOUS = """\
from routesearch import hookimpl
from routesearch.methods.static import Static


class Curious(Static):
    name = "curious"
    needs_confusion = True

    def stages(self):
        assert [len(row) for row in self.trunk.confusion] == [3] * 3
        assert all(abs(sum(row) - 1) < 1e-9 for row in self.trunk.confusion)
        return super().stages()


@hookimpl
def routesearch_methods():
    return [Curious]
"""


def test_pretrained_weights_and_a_method_that_asks_for_the_confusion_later(
    write_study: Callable[..., Path], own_backbone: ModuleType, tracking: dict[str, str], tmp_path: Path
) -> None:
    weights = tmp_path / "w.pth"
    torch.save(own_backbone.Pocket((1, 8, 8), 3).plain().state_dict(), weights)
    (tmp_path / "curious.py").write_text(CURIOUS)
    file = write_study(tracking=tracking, backbone={"name": "pocket", "weights": "w.pth"})
    plugins = [*yaml.safe_load(file.read_text())["plugins"], "curious.py"]
    change(file, plugins=plugins, methods=["dgate"], search={"trials": 1})
    assert Study.load(file).search().finished == 1
    trunks = tmp_path / ".routesearch" / "toy" / "trunks"
    (trunk,) = trunks.iterdir()
    before = trunk.stat()

    change(file, methods=["dgate", "curious"], search={"trials": 3})
    summary = Study.load(file).search()
    assert (summary.finished, summary.failed) == (3, 0)
    assert {path.name for path in trunks.iterdir()} == {trunk.name, f"{trunk.stem}.confusion.safetensors"}
    assert (trunk.stat().st_ino, trunk.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)

    weights.write_bytes(weights.read_bytes() + b" ")
    with pytest.raises(Refusal, match=r"backbone\.weights") as refused:
        Study.load(file, {"search.trials": 4}).search()
    assert "\n" not in str(refused.value)
