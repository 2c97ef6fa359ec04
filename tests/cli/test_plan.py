from __future__ import annotations

import re
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
    assert "can be built" in out
    assert "can meet the budget" not in out
    assert "100%" in out
    assert "7 trials" in out
    assert "trunk" not in out


def test_plan_tells_what_the_trunk_takes(run: Any, write_study: Callable[..., Path]) -> None:
    out = run("plan", write_study(methods=["static", "dgate"])).out
    assert "The trunk, trained once for dgate: about " in out


def test_a_budget_out_of_reach_is_planned_not_refused(run: Any, write_study: Callable[..., Path]) -> None:
    words = ("plan", write_study(), "--set", "budget.max_macs=10")
    done = run(*words, "--json")
    assert {name: method["share"] for name, method in done.json["methods"].items()} == {
        "static": 0,
        "skipper": 0,
    }
    assert all(method["seconds"] is None for method in done.json["methods"].values())
    status, out, err = run(*words)
    assert (status, err) == (0, done.err)
    assert re.fullmatch(
        r"routesearch: warning: a search would be refused: budget.max_macs: some route must cost at most "
        r"10 MACs, the cheapest found is [\d,]+ \(0\.\d+x, method \w+\)\n",
        err,
    )
    assert "can meet the budget" in out
    assert "about" not in out.splitlines()[-1]
    assert not re.search(r"\d+ trials", out)


def test_verbose_shows_why_a_trial_would_fail(
    run: Any, write_study: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stages(self: object) -> None:
        raise RuntimeError("no stage")

    monkeypatch.setattr("routesearch.plugin.builtin.Static.stages", stages)
    file = write_study(methods=["static"])
    told = "static: a trial of its default config fails: RuntimeError: no stage"
    assert run("plan", file).lines == [f"routesearch: warning: {told}"]
    done = run("-v", "plan", file)
    assert done.status == 0
    assert told in done.err
    assert "Traceback (most recent call last)" in done.err
    assert 'raise RuntimeError("no stage")' in done.err


def test_a_gpu_that_is_not_here(
    run: Any, write_study: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    done = run("plan", write_study(resources={"gpu": 1}), "--json")
    assert done.status == 0
    assert len(done.lines) == 1
    assert "this machine has none" in done.err
    assert all(method["seconds"] is None for method in done.json["methods"].values())


def test_more_cores_than_there_are(run: Any, write_study: Callable[..., Path]) -> None:
    done = run("plan", write_study(methods=["static"], resources={"cpu": 4096}))
    assert done.status == 0
    assert "a trial asks for 4096 cores" in done.err
    assert "at a time" not in done.out


def test_what_lies_in_a_folder_is_told_once(run: Any, write_study: Callable[..., Path], photos: Path) -> None:
    (photos / "dark" / "notes.txt").write_text("x")
    (photos / "dark" / "a.jpg").write_bytes(b"")
    data = {"name": "image_folder", "path": str(photos), "size": 16, "split_seed": 0}
    file = write_study(data=data, methods=["static"])
    refused = run("plan", file, "--json")
    assert (refused.status, refused.out, len(refused.lines)) == (2, "", 1)
    assert "data: image_folder: 1 of 41 images cannot be read: dark/a.jpg (it is empty); " in refused.err
    assert "data.skip_broken: true" in refused.err
    done = run("plan", file, "--set", "data.skip_broken=true", "--json")
    assert set(done.json) == {"methods"}
    assert done.lines == [
        f"routesearch: data: {photos}: 2 classes; images: 40 (dark 20, light 20)",
        "routesearch: data: left out 1 that cannot be read (data.skip_broken: true)",
        "routesearch: data: left out dark/a.jpg: it is empty",
        "routesearch: data: passed over 1: no image by its suffix (dark/notes.txt)",
    ]
