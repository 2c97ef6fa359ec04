"""What ``search`` makes of what the search tells it; and, slow, a search for real."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from routesearch import Refusal, Study
from routesearch.cli.search import _best_line
from routesearch.results.budget import Budget
from routesearch.results.journal import Journal
from routesearch.results.points import Point
from routesearch.results.summary import Summary
from routesearch.tracking import tracking_uri

KEYS = {
    *("study", "storage", "tracking_uri", "experiment", "finished", "stopped", "failed", "refused"),
    *("hypervolume", "feasible_hypervolume", "front", "best", "confirmations", "shrinkage"),
}


@pytest.fixture
def faked(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Put a function in the place of the search; what it was called with is kept."""

    def put(work: Callable[[Study], None] = lambda study: None) -> dict[str, Any]:
        called: dict[str, Any] = {}

        def search(self: Study, **options: Any) -> Any:
            called.update(options, study=self)
            print("chatter of a library")  # noqa: T201
            work(self)
            return Summary.of(self.results(), tracking_uri(self.config), self.config.name)

        monkeypatch.setattr(Study, "search", search)
        return called

    return put


def test_the_document(run: Any, stored: Path, faked: Callable[..., dict[str, Any]]) -> None:
    faked()
    done = run("search", stored, "--json")
    assert (done.status, done.err) == (0, "chatter of a library\n")
    assert set(done.json) == KEYS
    assert (done.json["study"], done.json["finished"], done.json["failed"]) == ("toy", 3, 0)
    assert done.json["front"] == run("front", stored, "--json").json["front"]
    assert done.json["best"] == run("best", stored, "--json").json
    assert 0 < done.json["feasible_hypervolume"] < done.json["hypervolume"] < 1


def test_the_ending_for_people(run: Any, stored: Path, faked: Callable[..., dict[str, Any]]) -> None:
    faked()
    status, out, _ = run("search", stored)
    assert status == 0
    assert "toy: front on validation" in out
    assert "Best within " in out
    assert "on test" in out
    assert "Trials: 3 finished, 0 failed, " in out
    assert f"routesearch ui {stored}" in out


def test_words_that_need_it_are_explained(
    run: Any,
    write_study: Callable[..., Path],
    fill: Callable[..., None],
    faked: Callable[..., dict[str, Any]],
    stored: Path,
) -> None:
    faked()
    out = run("search", stored).out
    assert re.search(r"Hypervolume: 0\.\d+, within the budget 0\.\d+ \(the area under the front: ", out)
    assert "0 refused." in out
    file = write_study(
        name="tight", methods=["static"], budget={"max_macs": "0.05x"}, search={"sampler": "random"}
    )
    fill(file)
    assert re.search(r"[1-9]\d* refused \(never trained: over the budget", run("search", file).out)


def test_the_budget_that_is_suggested_next_is_another_one_and_has_an_answer(
    run: Any, stored: Path, faked: Callable[..., dict[str, Any]]
) -> None:
    faked()
    for budget, told in (("0.5x", "0.25x"), ("1x", "0.5x"), ("0.3x", "0.201x")):  # the cheapest: 0.2x
        out = run("search", stored, "--max-macs", budget).out
        assert f"best {stored} --max-macs {told}\n" in out
        assert run("best", stored, "--max-macs", told).status == 0


def test_options_reach_the_study(run: Any, stored: Path, faked: Callable[..., dict[str, Any]]) -> None:
    called = faked()
    options = ("--max-macs", "0.4x", "--trials", 9, "--time-limit", "10m", "--seed", 3, "--fresh")
    assert run("search", stored, *options, "--address", "auto", "--set", "training.epochs=7").status == 0
    config = called["study"].config
    assert (config.budget.max_macs, config.training.epochs) == ("0.4x", 7)
    assert (config.search.trials, config.search.time_limit, config.search.seed) == (9, 600, 3)
    assert (called["fresh"], called["address"]) == (True, "auto")


def test_an_option_of_its_own_wins_over_set(
    run: Any, stored: Path, faked: Callable[..., dict[str, Any]]
) -> None:
    called = faked()
    run("search", stored, "--trials", 9, "--set", "search.trials=5")
    assert called["study"].config.search.trials == 9


def test_no_finished_trial_is_a_failure_with_its_reasons(
    run: Any,
    write_study: Callable[..., Path],
    fill: Callable[..., None],
    faked: Callable[..., dict[str, Any]],
) -> None:
    file = write_study()
    fill(file, finished=0, failed=("ValueError: a", "ValueError: a", "MemoryError: b"))
    faked()
    told = "toy: no trial has finished, 3 failed, 0 refused: ValueError: a (2x); MemoryError: b"
    done = run("search", file, "--json")
    assert done.status == 1
    assert done.json["failed"] == 3
    assert done.json["best"] is None
    assert done.lines[1:] == [
        f"routesearch: {told} (the same command goes on, --fresh starts anew, after a fix)"
    ]
    done = run("search", file, "--trials", 3)
    assert done.lines[-1] == f"routesearch: {told} (raise search.trials, or --fresh after a fix)"
    assert "Traceback of ValueError: a" in run("-v", "search", file).err


def test_some_failed_trials_are_a_warning(
    run: Any,
    write_study: Callable[..., Path],
    fill: Callable[..., None],
    faked: Callable[..., dict[str, Any]],
) -> None:
    file = write_study()
    faked(lambda study: fill(file, failed=("ValueError: a",)))
    done = run("search", file, "--json")
    assert done.status == 0
    assert (
        done.lines[1]
        == "routesearch: warning: 1 trial failed: ValueError: a (`routesearch trials` lists them)"
    )


def test_an_interrupted_search_says_how_to_go_on(
    run: Any, stored: Path, faked: Callable[..., dict[str, Any]]
) -> None:
    def interrupted(study: Study) -> None:
        raise KeyboardInterrupt

    faked(interrupted)
    done = run("search", stored, "--json")
    assert (done.status, done.out) == (130, "")
    assert done.lines[1:] == ["routesearch: warning: interrupted; the same command goes on from here"]


QUICK = {"search": {"trials": 4}, "training": {"epochs": 1, "trunk_epochs": 1, "batch_size": 16}}


@pytest.mark.slow
def test_a_search_from_the_shell(write_study: Callable[..., Path]) -> None:
    """Standard output is one document, standard error our own words; again it adds nothing."""
    file = write_study(budget={"max_macs": "0.7x"}, **QUICK)
    shell = [sys.executable, "-m", "routesearch.cli", "search", str(file), "--json"]
    for _ in range(2):
        done = subprocess.run(shell, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert set(found) == KEYS
        assert (found["finished"], found["failed"]) == (4, 0)
        assert found["front"]
        assert [line for line in done.stderr.splitlines() if not line.startswith("routesearch: ")] == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_study_that_goes_on(write_study: Callable[..., Path], number: int) -> None:
    file = write_study(**{**QUICK, "search": {"trials": 500}})
    shell = [sys.executable, "-m", "routesearch.cli", "search", str(file), "--json"]
    process = subprocess.Popen(shell, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    study, finished = Study.load(file), 0
    for _ in range(600):
        time.sleep(0.2)
        if (study.config.dir / "journal.log").is_file():
            finished = sum(r.state == "finished" for r in study.results().records)
        if finished >= 2 or process.poll() is not None:
            break
    os.kill(process.pid, number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, ""), err
    assert "interrupted; the same command goes on from here" in err
    kept = [r for r in study.results().records if r.state == "finished"]
    assert len(kept) >= finished >= 2


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search that opens the journal and then finds that it cannot run."""

    def refuse(task: Any, **_: Any) -> None:
        with Journal.open_for_writing(task.dir):
            raise Refusal("resources of a trial must fit on one machine")

    monkeypatch.setattr("routesearch.search.driver.run_search", refuse)


@pytest.mark.usefixtures("refusing")
def test_a_refusal_after_the_journal_was_opened_leaves_nothing(
    run: Any, write_study: Callable[..., Path]
) -> None:
    file = write_study()
    done = run("search", file, "--json")
    assert (done.status, done.out, len(done.lines)) == (2, "", 1)
    assert not Study.load(file).config.dir.exists()


@pytest.mark.usefixtures("refusing")
def test_a_refused_fresh_start_gives_the_old_trials_back(run: Any, stored: Path) -> None:
    before = run("trials", stored, "--json").json
    assert run("search", stored, "--fresh").status == 2
    assert run("trials", stored, "--json").json == before
    assert run("search", stored).status == 2  # nor does a refusal take away what was there
    assert run("trials", stored, "--json").json == before


@pytest.mark.slow
@pytest.mark.parametrize("setting", ["resources.cpu=1000", "resources.gpu=1000"])
def test_resources_that_no_machine_has(run: Any, write_study: Callable[..., Path], setting: str) -> None:
    file = write_study()
    done = run("search", file, "--json", "--set", setting)
    assert (done.status, done.out, len(done.lines)) == (2, "", 1)
    assert "resources of a trial must fit on one machine" in done.err
    assert not Study.load(file).config.dir.exists()


def test_a_knob_that_is_named_like_a_field_is_told_as_the_network_has_it() -> None:
    config = {"criterion": "all", "features": "grid"}
    knob = {"criterion": "entropy", "thresholds": [0.25]}
    best = Point(3, "exits", config, knob, 0.9, 50.0, True, "validation", 1, 7)
    line = _best_line(best, None, 100.0, Budget())
    assert "exits, trial 3" in line
    assert "criterion=entropy" in line
    assert "all" not in line
    assert "features=grid" in line
