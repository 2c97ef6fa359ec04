from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def test_plan_as_json(run: Any, write_study: Callable[..., Path]) -> None:
    file = write_study(budget={"max_macs": "0.5x"})
    done = run("plan", file, "--json")
    assert (done.status, done.err) == (0, "")
    assert set(done.json) == {"methods"}
    assert list(done.json["methods"]) == ["static", "skipper"]
    for found in done.json["methods"].values():
        assert set(found) == {"share", "macs", "seconds"}
        assert 0 <= found["share"] <= 1
        assert 0 < found["macs"]["min"] <= found["macs"]["max"]
        assert found["seconds"] > 0
    assert not (file.parent / ".routesearch").exists()


def test_plan_for_people(run: Any, write_study: Callable[..., Path]) -> None:
    status, out, err = run("plan", write_study(search={"trials": 7}))
    assert (status, err) == (0, "")
    assert "pocket" in out
    assert "no budget" in out
    assert "100%" in out
    assert "7 trials" in out
    assert "trunk" not in out


def test_plan_tells_what_the_trunk_takes(run: Any, write_study: Callable[..., Path]) -> None:
    out = run("plan", write_study(methods=["static", "dgate"])).out
    assert "The trunk, trained once for dgate: about " in out


def test_a_budget_out_of_reach_is_planned_not_refused(run: Any, write_study: Callable[..., Path]) -> None:
    found = run("plan", write_study(), "--json", "--set", "budget.max_macs=10").json["methods"]
    assert {name: method["share"] for name, method in found.items()} == {"static": 0, "skipper": 0}


def test_a_gpu_that_is_not_here(
    run: Any, write_study: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    done = run("plan", write_study(resources={"gpu": 1}), "--json")
    assert done.status == 0
    assert len(done.lines) == 1
    assert "this machine has none" in done.err
    assert all(method["seconds"] is None for method in done.json["methods"].values())
