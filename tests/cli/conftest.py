"""The command line run in this process, a study with trials in it, and a folder of photos."""

from __future__ import annotations

import contextlib
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from routesearch.cli import main


class Done(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one document on standard output; constants that are not JSON are refused."""
        return json.loads(self.out, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))

    @property
    def lines(self) -> list[str]:
        return self.err.splitlines()


Run = Callable[..., Done]


@pytest.fixture(autouse=True)
def _calm() -> Iterator[None]:
    """What a command does to the process's logging and warnings ends with the test."""
    log = logging.getLogger("routesearch")
    before = log.handlers[:], log.level, log.propagate
    with warnings.catch_warnings():
        yield
    log.handlers[:], log.level, log.propagate = before


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command line given as words; text is not split."""

    def command(*words: object) -> Done:
        capsys.readouterr()
        status = main([str(word) for word in words])
        captured = capsys.readouterr()
        return Done(status, captured.out, captured.err)

    return command


@pytest.fixture
def fill() -> Callable[..., None]:
    """Store trials of a study without training: static and skipper in turn, the last ones as told."""
    from routesearch import Study
    from routesearch.results.journal import Journal
    from routesearch.results.points import OperatingPoint
    from routesearch.results.record import Outcome, State
    from routesearch.search.resume import open_trials

    def curve(number: int, task: Any) -> Outcome:
        points = tuple(
            OperatingPoint(
                {"threshold": t / 4},
                0.5 + 0.1 * t + 0.01 * number,
                task.backbone_macs * (0.2 + 0.2 * t),
                (0.5, 0.5),
            )
            for t in range(4)
        )
        return Outcome(State.FINISHED, points, params=1234, training_macs=10**9, seconds=1.5)

    def store(
        file: Path, finished: int = 3, failed: tuple[str, ...] = (), running: int = 0, tested: bool = False
    ) -> None:
        task = Study.load(file).task
        with Journal.open_for_writing(task.dir) as journal:
            trials = open_trials(journal, task)[0]

            def ask() -> int:
                while (record := trials.ask(trials.next_method() or "")).state is not State.RUNNING:
                    continue
                return record.number

            for _ in range(finished):
                number = ask()
                trials.finish(number, curve(number, task))
            for reason in failed:
                trials.finish(ask(), Outcome.failure(reason, f"Traceback of {reason}"))
            for _ in range(running):
                ask()
            for point in trials.front if tested else ():
                again = OperatingPoint(point.knob, point.accuracy - 0.02, point.macs, point.route_share)
                trials.add_test_results(point.trial, [again])

    return store


@pytest.fixture
def stored(write_study: Callable[..., Path], fill: Callable[..., None]) -> Path:
    """A study file whose search has ended: three trials, a front, measured on test; budget 0.5x."""
    file = write_study(budget={"max_macs": "0.5x"})
    fill(file, tested=True)
    return file


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes that differ in brightness, 20 pictures of 20 x 30 each."""
    from PIL import Image

    random = np.random.default_rng(0)
    for name, low in (("dark", 0), ("light", 120)):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        for i in range(20):
            pixels = random.integers(low, low + 130, (20, 30, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{i:02}.png")
    return tmp_path / "photos"


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Make ``stdout`` or ``stderr`` look like a terminal of 100 columns."""
    import sys

    def pretend(name: str) -> None:
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", "100")
        monkeypatch.delenv("NO_COLOR", raising=False)
        with contextlib.suppress(AttributeError):
            monkeypatch.setattr(getattr(sys, name), "isatty", lambda: True)

    return pretend
