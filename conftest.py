"""How the tests of the package and of its plugins run: in several processes, some only on demand."""

from __future__ import annotations

import os
from typing import Any

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # before anybody imports torch: workers must not wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(tryfirst=True)  # before pytest deselects by marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark a contract's further cases slow: ``make test`` tries the quick ones, ``make test-all`` all."""
    for item in items:
        callspec = getattr(item, "callspec", None)
        case = None if callspec is None else callspec.params.get("case")
        if not getattr(case, "quick", True):
            item.add_marker(pytest.mark.slow)


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file's tests share a process, since they share fixtures; so do those that start Ray."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduler(LoadFileScheduling):  # type: ignore[misc, unused-ignore]
        def _split_scope(self, nodeid: str) -> str:
            return RAY if nodeid.startswith(RAY) else str(super()._split_scope(nodeid))

    return Scheduler(config, log) if config.getvalue("dist") == "loadfile" else None


RAY = "tests/integration/"
"""Tests that start Ray: one at a time, and from the first, since they take longest."""
