from __future__ import annotations

import io
import logging
import sys
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from routesearch.cli import progress
from routesearch.cli.output import start_logging
from routesearch.cli.progress import Drawing, Lines, duration, watching
from routesearch.results.budget import Budget
from routesearch.results.points import Point
from routesearch.search.dispatcher import Snapshot

BEST = Point(3, "dgate", {}, {}, 0.9444, 5e6, True, "validation", 0, 10)


def snapshot(done: int = 0, elapsed: float = 0.0, **changes: Any) -> Snapshot:
    values: dict[str, Any] = {
        "finished": done,
        "stopped": 0,
        "failed": 0,
        "refused": 0,
        "running": 2,
        "total": 40,
        "training_macs": 0,
        "total_macs": None,
        "best": None,
        "hypervolume": 0.5,
        "feasible_hypervolume": None,
        "elapsed": elapsed,
        "time_left": None,
        "note": None,
    }
    return Snapshot(**(values | changes))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which a test sets."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Callable[[], list[str]]:
    start_logging(verbose=False)
    return lambda: capsys.readouterr().err.splitlines()


def test_without_a_terminal_a_line_for_every_tenth(
    lines: Callable[[], list[str]], clock: list[float]
) -> None:
    with watching("toy", 1e7, Budget(6e6)) as told:
        assert type(told) is Lines
        for done in range(41):
            clock[0] = 1000 + done
            told(snapshot(done, elapsed=done, best=BEST if done else None))
    found = lines()
    assert len(found) == 10
    assert found[0] == (
        "routesearch: toy: 4/40 trials, 2 running; best within 6 M MACs (0.6x): dgate 94.44 % at 5 M "
        "(0.50x); 4 s, about 36 s left"
    )


def test_a_line_after_a_while_in_any_case(lines: Callable[[], list[str]], clock: list[float]) -> None:
    told = Lines("toy", 1e7, Budget())
    told(snapshot())
    for seconds in (10, 20, 31, 40, 62):
        clock[0] = 1000 + seconds
        told(snapshot(elapsed=seconds, refused=seconds))
    assert [line.split("; ")[0] for line in lines()] == [
        "routesearch: toy: 0/40 trials, 2 running, 31 refused",
        "routesearch: toy: 0/40 trials, 2 running, 62 refused",
    ]


def test_a_note_is_a_warning_once(lines: Callable[[], list[str]]) -> None:
    told = Lines("toy", 1e7, Budget())
    for _ in range(3):
        told(snapshot(note="method x is excluded from this run"))
    assert lines() == ["routesearch: warning: method x is excluded from this run"]


def test_time_left_is_the_pace_of_this_run_or_the_limit(clock: list[float]) -> None:
    told = Lines("toy", 1e7, Budget())
    told(snapshot(20, elapsed=0))  # of an earlier run
    told(snapshot(25, elapsed=50))
    clock[0] += 50
    assert told.times(clock[0]) == "50 s, about 2 min 30 s left"
    told(snapshot(25, elapsed=50, time_left=60))
    assert told.times(clock[0] + 20) == "1 min 10 s, about 40 s left"


def test_training_macs_are_told_and_may_be_what_ends_it(
    lines: Callable[[], list[str]], clock: list[float]
) -> None:
    with watching("toy", 1e7, Budget(6e6)) as told:
        told(snapshot())
        clock[0] += 60
        told(snapshot(2, 60.0, stopped=1, training_macs=1_500_000_000_000, total_macs=2e12))
        assert "3/40 trials, 2 running, 1 stopped early" in told.counts()
        assert told.volume() == "hypervolume 0.5000; 1.5 T of 2 T training MACs"
        assert told.times(clock[0]) == "1 min, about 20 s left"
    assert len(lines()) == 1, "a line for a tenth of the MACs, too"


def test_when_all_trials_have_ended_the_test_data_are_next(clock: list[float]) -> None:
    told = Lines("toy", 1e7, Budget())
    told(snapshot(0))
    told(snapshot(40, elapsed=50, running=0))
    assert told.times(clock[0] + 50) == "50 s, measuring the front on test data"


def test_both_hypervolumes() -> None:
    told = Lines("toy", 1e7, Budget(6e6))
    told(snapshot(feasible_hypervolume=0.25))
    assert told.volume() == "hypervolume 0.5000, 0.2500 within the budget"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min"), (185, "3 min 5 s"), (3600, "1 h"), (7800, "2 h 10 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def drawn(told: Drawing, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(told.draw())
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_on_a_terminal_it_is_drawn(clock: list[float]) -> None:
    told = Drawing("toy", 1e7, Budget(6e6), Console(file=io.StringIO(), force_terminal=True, width=100))
    assert "toy: starting" in drawn(told)
    told(snapshot())
    told(snapshot(10, elapsed=30, refused=3, failed=1, best=BEST, feasible_hypervolume=0.25))
    clock[0] += 30
    text = drawn(told)
    for part in ("11/40 trials", "2 running", "3 refused", "1 failed", "dgate 94.44 %", "0.2500", "left"):
        assert part in text


@pytest.mark.parametrize("width", [30, 40, 60, 80, 120])
def test_no_figure_is_cut_where_the_terminal_is_narrow(width: int, clock: list[float]) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=width)
    told = Drawing("quickstart", 1e7, Budget(6e6), console)
    told(snapshot(10, elapsed=30, refused=123, failed=1, best=BEST, feasible_hypervolume=0.25))
    lines = drawn(told, width).splitlines()
    assert max(map(len, lines)) <= width
    text = " ".join(" ".join(lines).split())
    for part in ("quickstart", "11/40 trials", "2 running", "123 refused", "1 failed", "94.44 %", "0.2500"):
        assert part in text
    assert ("━" in text) == (width >= 80)


def test_log_lines_pass_above_the_drawing_and_it_leaves_no_trace(
    monkeypatch: pytest.MonkeyPatch, terminal: Callable[[str], None]
) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    terminal("stderr")
    monkeypatch.setattr(screen, "isatty", lambda: True, raising=False)
    start_logging(verbose=False)
    with watching("toy", 1e7, Budget()) as told:
        assert isinstance(told, Drawing)
        told(snapshot(1, elapsed=1))
        logging.getLogger("routesearch").warning("method x is excluded from this run")
    text = screen.getvalue()
    assert "routesearch: warning: method x is excluded from this run\n" in text
    assert "1/40 trials" in text
    assert text.rsplit("1/40 trials", 1)[1].count("\x1b[2K")  # the lines of the drawing are erased


def test_a_dumb_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "dumb")
    assert type(watching("toy", 1e7, Budget())) is Lines
