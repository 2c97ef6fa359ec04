"""A study whose trials only wait, as a module that Ray's workers find too, and in a process of its own."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

HERE = str(Path(__file__).parent)
PATIENCE = 120
"""Seconds until a search that hangs is given up."""


@pytest.fixture(scope="module")
def fake() -> Iterator[ModuleType]:
    """``fake_study.py``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(HERE)
        patch.setenv("PYTHONPATH", HERE, prepend=os.pathsep)
        yield importlib.import_module("fake_study")


class Search:
    """A driver process; its lines are read as they come."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        command = [sys.executable, str(Path(HERE, "fake_study.py")), str(folder), json.dumps(settings)]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C goes to a whole group of processes
        )
        self.lines: list[str] = []

    def wait_for(self, count: int) -> None:
        """Wait until so many trials have ended."""
        assert self.process.stdout is not None
        while len(self.lines) < count:
            line = self.process.stdout.readline()
            assert line, f"the search ended early: {self.process.communicate()[1]}"
            self.lines.append(line.strip())

    def wait_until(self, there: Callable[[], bool]) -> None:
        """Wait until something has happened."""
        deadline = time.monotonic() + PATIENCE
        while not there():
            assert self.process.poll() is None, f"the search ended early: {self.end()}"
            assert time.monotonic() < deadline, "it does not happen"
            time.sleep(0.05)

    def end(self, with_signal: int | None = None) -> tuple[int, str]:
        """Exit status and stderr."""
        if with_signal == signal.SIGINT:
            os.killpg(self.process.pid, signal.SIGINT)
        elif with_signal is not None:
            self.process.send_signal(with_signal)
        out, err = self.process.communicate(timeout=PATIENCE)
        self.lines += out.split("\n")[:-1]
        return self.process.returncode, err


@pytest.fixture
def search(tmp_path: Path) -> Iterator[Callable[..., Search]]:
    started: list[Search] = []

    def start(folder: Path = tmp_path / "study", **settings: Any) -> Search:
        started.append(Search(folder, **settings))
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            each.process.kill()
            each.process.communicate()
