"""Searches on real Ray whose driver is killed while trials wait at rungs."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from routesearch.results.record import State

if TYPE_CHECKING:
    from tests.integration.conftest import Search


def test_killed_while_trials_wait_at_rungs_and_resumed_spends_each_trial_once(
    search: Callable[..., Search], fake: ModuleType, tmp_path: Path
) -> None:
    folder, passed = tmp_path / "study", tmp_path / "study" / "passed" / "3.0"
    settings: dict[str, Any] = {"trials": 8, "budget": None, "rungs": 2, "macs": 30, "seconds": 0.0}
    settings["search"] = {"stop": {"rungs": 3, "keep": 0.5}}
    poor = {"5": "poor", "6": "poor"}
    hung = {f"{number} after rung 0": "hang" for number in range(3, 8)}
    for times in (1, 2):
        running = search(**settings, trouble=poor | hung)
        running.wait_until(lambda: passed.exists() and passed.stat().st_size == times)  # noqa: B023
        assert running.end(signal.SIGKILL)[0] == -signal.SIGKILL
        states = Counter(r.state for r in fake.read(folder))
        assert states[State.FINISHED] + states[State.STOPPED] >= 3
        assert states[State.RUNNING] >= 1
    before = {r.number: r for r in fake.read(folder)}

    last = search(**settings, trouble=poor)
    assert last.end() == (0, "")
    after = {r.number: r for r in fake.read(folder)}
    assert sorted(after) == list(range(8))
    assert {r.state for r in after.values()} <= {State.FINISHED, State.STOPPED}
    assert {number for number, r in after.items() if r.state is State.STOPPED} >= {5, 6}
    for number, record in after.items():
        if before.get(number, record).state is not State.RUNNING and number in before:
            assert record == before[number]
        rungs = 2 if record.state is State.FINISHED else len(record.outcome.rungs)
        assert record.outcome.training_macs == 30 * (rungs + 1), "what was lost is not counted"
        assert [macs for macs, _ in record.outcome.rungs] == [30 * (rung + 1) for rung in range(rungs)]
    again = search(**settings, trouble=poor)
    assert again.end() == (0, "")
    assert again.lines == ["ended"]


@pytest.mark.slow
def test_a_deterministic_search_is_the_same_whether_its_driver_was_killed_or_not(
    search: Callable[..., Search], fake: ModuleType, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"trials": 16, "budget": None, "rungs": 2, "seconds": 0.1}
    settings["search"] = {"stop": {"rungs": 3, "keep": 0.5}, "deterministic": True}
    settings["trouble"] = {str(number): "poor" for number in range(9, 16, 2)}
    for ended in (2, 6):
        running = search(**settings)
        running.wait_for(ended)
        assert running.end(signal.SIGKILL)[0] == -signal.SIGKILL
    assert search(**settings).end() == (0, "")
    assert search(tmp_path / "whole", **settings).end() == (0, "")

    def shown(name: str) -> list[Any]:
        kept = fake.read(tmp_path / name)
        return [(r.method, r.config, r.seed, r.state, r.outcome.rungs, r.outcome.points) for r in kept]

    assert shown("study") == shown("whole")
    assert State.STOPPED in {state for *_, state, _, _ in shown("whole")}
