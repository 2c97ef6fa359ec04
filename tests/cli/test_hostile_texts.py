"""Whatever plugins and journals say, commands print nothing that acts on a terminal, and no megabytes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from routesearch import Study
from routesearch.results.journal import LOG, Journal
from routesearch.results.points import OperatingPoint
from routesearch.results.record import Outcome, State
from routesearch.search.resume import open_trials

ACTING = "\x1b[2J\x1b]0;title\x07 \u202egnp.exe \ud800 \r\n\x9b31m"


@pytest.fixture
def hostile(write_study: Callable[..., Path]) -> Path:
    """A study whose trials failed with such texts, and whose knobs hold them."""
    file = write_study()
    task = Study.load(file).task
    with Journal.open_for_writing(task.dir) as journal:
        trials = open_trials(journal, task)[0]
        curve = tuple(OperatingPoint({"mode": ACTING}, 0.5 + 0.1 * i, 1000.0 * i, (1.0,)) for i in (1, 2))
        for outcome in (
            Outcome.failure(ACTING + "x" * 3_000_000, ACTING + "y" * 3_000_000),
            Outcome(State.FINISHED, curve, params=1, training_macs=1, seconds=1.0),
        ):
            while (record := trials.ask(trials.next_method() or "")).state is not State.RUNNING:
                continue
            assert trials.finish(record.number, outcome).state is outcome.state
    return file


def check(text: str, most: int = 30_000) -> None:
    text.encode()
    assert not set(text) & {*"\x1b\x07\u202e\r\x9b"}
    assert len(text) < most


@pytest.mark.parametrize("command", ["trials", "front", "best"])
def test_tables(command: str, hostile: Path, run: Any) -> None:
    done = run("-v", command, hostile)
    assert done.status == 0
    check(done.out)
    check(done.err, 60_000)
    assert r"\x1b[2J" in done.out


@pytest.mark.parametrize("command", ["trials", "front", "best"])
def test_json(command: str, hostile: Path, run: Any) -> None:
    done = run(command, hostile, "--json")
    assert done.status == 0
    check(done.out)
    assert r"\x1b" in str(json.loads(done.out))


def test_files(hostile: Path, run: Any, tmp_path: Path) -> None:
    html, csv = tmp_path / "front.html", tmp_path / "front.csv"
    assert run("front", hostile, "--html", html, "--csv", csv).status == 0
    check(csv.read_text())
    page = html.read_text()
    assert not set(page[: page.index("<script")] + page[page.rindex("</script>") :]) & {*"\x1b\x07\u202e\x9b"}


def test_a_terminal(capsys: pytest.CaptureFixture[str], terminal: Callable[[str], None]) -> None:
    from routesearch.cli.output import show
    from routesearch.report import Table

    terminal("stdout")
    show([ACTING, Table(("a",), ((ACTING,),))])
    check(re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out))


def test_logs_and_refusals(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    from routesearch.cli.app import complain
    from routesearch.cli.output import log, start_logging

    for verbose in (False, True):
        start_logging(verbose)
        log.warning("%s", ACTING + "x" * 3_000_000)
        log.debug("a", exc_info=ValueError(ACTING + "x" * 3_000_000))
        complain(ACTING + "x" * 3_000_000, ValueError(ACTING + "x" * 3_000_000))
        check(capsys.readouterr().err, 80_000)
    start_logging(False)


@pytest.mark.parametrize("command", ["front", "best", "trials", "search"])
@pytest.mark.parametrize("told", ["accuracy", "state"])
def test_a_damaged_journal_is_one_line(command: str, told: str, stored: Path, run: Any) -> None:
    """With and without checksums: those are of a journal that an earlier version wrote."""
    log = Study.load(stored).config.dir / LOG
    whole = log.read_bytes()
    log.write_bytes(whole.replace(b"finished", b"unheard"))
    done = run(command, stored)
    assert (done.status, done.out, len(done.lines)) == (2, "", 1), done.err
    assert f"the journal {log} is damaged: line " in done.err
    lines = [line[: line.rindex(b',"check"')] + b"}\n" for line in whole.splitlines()]
    text = b"".join(line for line in lines if b'"format"' not in line)
    changed = text.replace(b"finished", b"unheard") if told == "state" else text.replace(b",0.5", b",17", 1)
    assert changed != text
    log.write_bytes(changed)
    done = run(command, stored)
    assert (done.status, done.out, len(done.lines)) == (2, "", 1), done.err
    assert f"the journal {log}, line " in done.err
    assert told in done.err
    assert "must be" in done.err


BOMB = "a0: &a0 [lol]\n" + "".join(f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 10)}]\n" for i in range(30))
CIRCLE = "x: &x [*x]\n"


@pytest.mark.parametrize(
    "key", ["data", "backbone", "methods", "name", "budget", "search", "plugins", "more"]
)
@pytest.mark.parametrize(("text", "alias"), [(BOMB, "*a30"), (CIRCLE, "*x")], ids=["bomb", "circle"])
def test_aliases_that_stand_for_billions_of_values(
    key: str, text: str, alias: str, run: Any, tmp_path: Path
) -> None:
    study = tmp_path / "study.yaml"
    study.write_text(f"{text}{key}: {alias}\n")
    done = run("plan", study)
    assert (done.status, done.out, len(done.lines)) == (2, "", 1)
    assert re.search(
        "not valid YAML: (more than 10,000 values, aliases written out|brackets within)", done.err
    )
    check(done.err, 1000)


def test_a_huge_value_is_shown_in_part(run: Any, tmp_path: Path) -> None:
    study = tmp_path / "study.yaml"
    study.write_text("data: digits\nbackbone: nin\nmethods: [" + "x" * 3_000_000 + "]\n")
    done = run("plan", study)
    assert (done.status, done.out, len(done.lines)) == (2, "", 1)
    check(done.err, 1500)
