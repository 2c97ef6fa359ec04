from __future__ import annotations

import csv
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from routesearch.cli import results

POINT = {
    *("trial", "method", "config", "knob", "accuracy", "macs", "feasible", "split", "seed", "params"),
    *("route_share", "latency"),
}


def test_front_as_json(run: Any, stored: Path) -> None:
    done = run("front", stored, "--json")
    assert (done.status, done.err) == (0, "")
    found = done.json
    assert set(found) == {"split", "reference", "front"}
    assert found["split"] == "validation"
    assert found["reference"] > 0
    assert all(set(point) == POINT for point in found["front"])
    assert all(point["split"] == "validation" and point["latency"] is None for point in found["front"])
    macs = [point["macs"] for point in found["front"]]
    assert macs == sorted(macs)
    assert [p["feasible"] for p in found["front"]] == [m <= found["reference"] / 2 for m in macs]


def test_front_on_test_has_the_same_points(run: Any, stored: Path) -> None:
    chosen, tested = (run("front", stored, "--json", "--split", s).json for s in ("validation", "test"))
    assert tested["split"] == "test"
    pairs = list(zip(chosen["front"], tested["front"], strict=True))
    assert all(a["knob"] == b["knob"] and a["trial"] == b["trial"] for a, b in pairs)
    assert all(b["accuracy"] == pytest.approx(a["accuracy"] - 0.02) for a, b in pairs)


def test_front_that_is_not_measured_on_test_yet(
    run: Any, write_study: Callable[..., Path], fill: Callable[..., None]
) -> None:
    file = write_study()
    fill(file)
    done = run("front", file, "--split", "test")
    assert (done.status, done.out, len(done.lines)) == (2, "", 1)
    assert "not measured on test yet" in done.err
    assert "on test" not in run("front", file).out


def test_front_for_people(run: Any, stored: Path) -> None:
    status, out, err = run("front", stored)
    assert (status, err) == (0, "")
    head, columns, *rows = out.splitlines()
    assert head.startswith("toy: front on validation, ")
    assert "budget" in head
    assert columns.split()[:3] == ["trial", "method", "accuracy"]
    assert "on test" in columns
    assert len(rows) == len(run("front", stored, "--json").json["front"])
    assert "\x1b" not in out


def test_a_table_on_a_terminal_fits_it(run: Any, stored: Path, terminal: Callable[[str], None]) -> None:
    terminal("stdout")
    out = run("front", stored).out
    assert "─" in out
    lines = re.sub(r"\x1b\[[0-9;]*m", "", out).splitlines()
    assert max(map(len, lines)) <= 100
    first = run("front", stored, "--json").json["front"][0]
    assert any(f"{first['accuracy']:.2%}".replace("%", " %") in line for line in lines)


def test_front_as_files(run: Any, stored: Path, tmp_path: Path) -> None:
    files = {kind: tmp_path / f"front.{kind}" for kind in ("html", "png", "csv")}
    options = [word for kind, file in files.items() for word in (f"--{kind}", file)]
    done = run("front", stored, "--json", *options)
    assert done.status == 0
    assert done.lines == [f"routesearch: wrote {file}" for file in files.values()]
    assert "</html>" in files["html"].read_text()
    assert files["png"].read_bytes().startswith(b"\x89PNG")
    rows = list(csv.DictReader(files["csv"].open()))
    assert [float(row["macs"]) for row in rows] == [p["macs"] for p in done.json["front"]]


def test_a_file_that_cannot_be_written(run: Any, stored: Path, tmp_path: Path) -> None:
    for kind in ("html", "png", "csv"):
        done = run("front", stored, f"--{kind}", tmp_path / "nowhere" / "front")
        assert (done.status, done.out, len(done.lines)) == (2, "", 1)
        assert "must be a file in a writable folder" in done.err


def test_a_long_front_is_shown_in_part(
    run: Any,
    write_study: Callable[..., Path],
    fill: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(results, "MAX_POINTS", 3)
    file = write_study()
    fill(file, finished=6)
    every = run("front", file, "--json", "--csv", tmp_path / "front.csv").json["front"]
    assert len(every) > 3
    assert len((tmp_path / "front.csv").read_text().splitlines()) == 1 + len(every)
    *few, last = run("front", file).out.splitlines()[2:]
    left = len(every) - len(few)
    assert last == f"{left} of {len(every)} points in between are not shown; --all shows them."
    full = run("front", file, "--all").out.splitlines()[2:]
    assert len(full) == len(every)
    assert {few[0].split()[2], few[-1].split()[2]} == {full[0].split()[2], full[-1].split()[2]}


def test_a_selection_has_both_ends_and_the_best() -> None:
    points: list[Any] = [SimpleNamespace(macs=i) for i in range(200)]
    shown = results.few(points, points[80], 20)
    assert len(shown) == 20
    assert {0, 80, 199} <= {p.macs for p in shown}
    assert max(b.macs - a.macs for a, b in pairwise(shown)) < 13
    assert results.few(points[:20], None, 20) == points[:20]


def test_best_is_a_point_within_the_budget(run: Any, stored: Path) -> None:
    front = run("front", stored, "--json").json
    for budget, limit in (("0.5x", 0.5 * front["reference"]), ("1x", front["reference"])):
        point = run("best", stored, "--max-macs", budget, "--json").json
        assert set(point) == POINT
        within = [p for p in front["front"] if p["macs"] <= limit]
        assert point == max(within, key=lambda p: p["accuracy"])
    assert run("best", stored, "--json").json == run("best", stored, "--max-macs", "0.5x", "--json").json


def test_best_for_people(run: Any, stored: Path) -> None:
    status, out, err = run("best", stored)
    assert (status, err) == (0, "")
    point = run("best", stored, "--json").json
    for text in (
        point["method"],
        f"{point['accuracy']:.2%}".replace("%", " %"),
        "on test",
        "1,234",
        "threshold=",
    ):
        assert text in out


@pytest.mark.parametrize(("budget", "told"), [("10", "the cheapest is"), ("much", "a budget must be MACs")])
def test_no_best(run: Any, stored: Path, budget: str, told: str) -> None:
    done = run("best", stored, "--max-macs", budget, "--json")
    assert (done.status, done.out, len(done.lines)) == (2, "", 1)
    assert told in done.err


def test_trials(run: Any, write_study: Callable[..., Path], fill: Callable[..., None]) -> None:
    file = write_study()
    fill(file, finished=2, failed=("ValueError: no good",), running=1)
    found = run("trials", file, "--json").json
    assert set(found) == {"trials"}
    keys = {"number", "method", "config", "state", "reason", "seed", "training_macs", "points"}
    assert all(set(trial) == keys for trial in found["trials"])
    assert [t["state"] for t in found["trials"]] == ["finished", "finished", "failed", "running"]
    assert [t["number"] for t in found["trials"]] == [0, 1, 2, 3]
    assert found["trials"][2]["reason"] == "ValueError: no good"
    assert found["trials"][2]["points"] == []
    status, out, err = run("trials", file)
    assert (status, err) == (0, "")
    assert len(out.splitlines()) == 1 + 4
    assert "ValueError: no good" in out


def test_tracebacks_of_failed_trials_for_those_who_ask(
    run: Any, write_study: Callable[..., Path], fill: Callable[..., None]
) -> None:
    file = write_study()
    fill(file, finished=1, failed=("ValueError: no good",))
    assert "Traceback" not in run("trials", file).err
    done = run("-v", "trials", file, "--json")
    assert re.search(r"trial 1 \((static|skipper)\) failed: ValueError: no good", done.err)
    assert "Traceback of ValueError: no good" in done.err
    assert len(done.json["trials"]) == 2


def test_refused_trials_are_listed(
    run: Any, write_study: Callable[..., Path], fill: Callable[..., None]
) -> None:
    file = write_study(methods=["static"], budget={"max_macs": "0.05x"}, search={"sampler": "random"})
    fill(file, finished=3)
    refused = [t for t in run("trials", file, "--json").json["trials"] if t["state"] == "refused"]
    assert refused
    assert all("cheapest route <= budget must hold" in t["reason"] and not t["points"] for t in refused)
    assert "or more" in run("trials", file).out


def test_results_can_be_read_elsewhere(run: Any, stored: Path, tmp_path: Path) -> None:
    """The storage named on the command line, as a search with the same setting would have used it."""
    (tmp_path / ".routesearch" / "toy").rename(tmp_path / "moved")
    assert run("trials", stored).status == 2
    assert len(run("trials", stored, "--json", "--set", "storage.dir=moved").json["trials"]) == 3


def test_ui_opens_the_charts(run: Any, stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the server notes what it is asked for; the browser gets what it answers."""
    asked: list[Any] = []
    opened: list[str] = []

    def open_ui(uri: str, link: str, port: int | None, on_ready: Callable[[str], None]) -> None:
        asked.append((uri, link, port))
        on_ready(f"http://127.0.0.1:{port}/{link}")

    monkeypatch.setattr("routesearch.tracking.open_ui", open_ui)
    monkeypatch.setattr("routesearch.tracking.charts_link", lambda results: "#/experiments/1")
    monkeypatch.setattr("webbrowser.open", opened.append)
    address = "http://127.0.0.1:7777/#/experiments/1"
    for options, browsed in ((["--no-browser"], []), ([], [address])):
        done = run("ui", stored, "--port", 7777, *options)
        assert (done.status, done.out) == (0, "")
        assert address in done.err
        assert opened == browsed
    uri = f"sqlite:///{tmp_of(stored)}/mlflow.db"
    assert asked == [(uri, "#/experiments/1", 7777)] * 2


def tmp_of(file: Path) -> Path:
    """Where the study's storage is by default."""
    return file.resolve().parent / ".routesearch" / file.stem


def test_publish_says_where_to(run: Any, stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("routesearch.tracking.publish", lambda results: results.config.name)
    done = run("publish", stored)
    assert (done.status, done.out) == (0, "")
    assert done.err == f"routesearch: published to sqlite:///{tmp_of(stored)}/mlflow.db, experiment toy\n"


@pytest.mark.parametrize("command", [["publish"], ["ui", "--no-browser"]])
def test_an_mlflow_that_does_not_answer_is_one_line(run: Any, stored: Path, command: list[str]) -> None:
    done = run(command[0], stored, *command[1:], "--set", "tracking.uri=nowhere://x")
    assert (done.status, done.out, len(done.lines)) == (1, "", 1)
    assert re.match("routesearch: could not (reach|publish to) MLflow at nowhere://x: ", done.err)


@pytest.mark.slow
def test_published_for_real(run: Any, stored: Path) -> None:
    assert run("publish", stored).status == 0
    import sqlite3

    with sqlite3.connect(tmp_of(stored) / "mlflow.db") as database:
        (runs,) = database.execute("select count(*) from runs").fetchone()
    assert runs == 1 + 3  # the study's own, and one for each trial
