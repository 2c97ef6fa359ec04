"""Damaged journals: a right answer or one clear line, never a traceback, never fewer trials in silence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from routesearch import Refusal, Study
from routesearch.results.journal import LOG, Journal
from routesearch.results.reader import StudyResults
from routesearch.search.resume import open_trials

Lines = list[bytes]

VALUES = [
    17,
    -1,
    0,
    1e999,
    -1e999,
    float("nan"),
    10**400,
    None,
    True,
    "x",
    "",
    [],
    {},
    [[]],
    "\x1b[2J",
    "\ud800",
]
"""What a number, a text or a mapping is replaced by."""


@pytest.fixture(scope="module")
def studies(fixtures: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Study]:
    """A study as an earlier version left it (no checksums), and the same one written by this version."""
    earlier = tmp_path_factory.mktemp("earlier") / "study"
    shutil.copytree(fixtures / "earlier", earlier)
    checked = tmp_path_factory.mktemp("checked") / "study"
    shutil.copytree(earlier, checked)
    log = checked / "earlier" / LOG
    entries = [json.loads(line) for line in log.read_bytes().splitlines()]
    log.write_bytes(b"")
    from routesearch.results.journal_file import JournalFile

    JournalFile(log).append(entries)
    return {name: Study.load(folder / "earlier.yaml") for name, folder in (("1", earlier), ("2", checked))}


def everything(results: StudyResults) -> dict[str, Any]:
    """All that is shown of a study."""
    return {
        "trials": [r.as_dict(results.budget) for r in results.records],
        "front": [p.as_dict() for p in results.front],
        "best": results.best and results.best.as_dict(),
        "points": len(results.points),
        "tested": sorted(results.tested),
        "timings": sorted(results.timings),
    }


def lose(draw: Any, lines: Lines) -> Lines:
    i = draw(st.integers(0, len(lines) - 2))
    return lines[:i] + lines[i + 1 :]


def repeat(draw: Any, lines: Lines) -> Lines:
    i = draw(st.integers(0, len(lines) - 1))
    return lines[: i + 1] + lines[i:]


def swap(draw: Any, lines: Lines) -> Lines:
    i = draw(st.integers(0, len(lines) - 2))
    return [*lines[:i], lines[i + 1], lines[i], *lines[i + 2 :]]


def flip(draw: Any, lines: Lines) -> Lines:
    whole = bytearray(b"".join(lines))
    whole[draw(st.integers(0, len(whole) - 1))] ^= 1 << draw(st.integers(0, 7))
    return [bytes(whole)]


def zero(draw: Any, lines: Lines) -> Lines:
    whole = b"".join(lines)
    i, n = draw(st.integers(0, len(whole) - 1)), draw(st.integers(1, 5000))
    return [whole[:i], b"\0" * len(whole[i : i + n]), whole[i + n :]]


def truncate(draw: Any, lines: Lines) -> Lines:
    whole = b"".join(lines)
    return [whole[: draw(st.integers(0, len(whole) - 1))]]


def join(draw: Any, lines: Lines) -> Lines:
    return lines + lines[draw(st.integers(0, len(lines) - 1)) :]


def glue(draw: Any, lines: Lines) -> Lines:
    """A line end is lost."""
    i = draw(st.integers(0, len(lines) - 2))
    return [*lines[:i], lines[i].rstrip(b"\n"), *lines[i + 1 :]]


def windows(draw: Any, lines: Lines) -> Lines:
    return [line.replace(b"\n", b"\r\n") for line in lines]


def mark(draw: Any, lines: Lines) -> Lines:
    return [b"\xef\xbb\xbf", *lines]


def edit(draw: Any, lines: Lines) -> Lines:
    """A value somewhere in a line, in the trial's outcome too, is another one, or missing."""
    i = draw(st.integers(0, len(lines) - 1))
    entry = json.loads(lines[i])
    inside = entry
    attributes = entry.get("user_attr", {})
    if "outcome" in attributes and draw(st.booleans()):
        inside = json.loads(attributes["outcome"])
    changed = _changed(draw, inside)
    if inside is not entry:
        attributes["outcome"] = json.dumps(changed)
        changed = entry
    return [*lines[:i], json.dumps(changed, separators=(",", ":")).encode() + b"\n", *lines[i + 1 :]]


def _changed(draw: Any, value: Any) -> Any:
    """The value with one thing in it changed."""
    if not isinstance(value, dict | list) or not value or draw(st.integers(0, 5)) == 0:
        return draw(st.sampled_from(VALUES))
    key = (
        draw(st.sampled_from(sorted(value)))
        if isinstance(value, dict)
        else draw(st.integers(0, len(value) - 1))
    )
    if draw(st.integers(0, 7)) == 0:
        del value[key]
    else:
        value[key] = _changed(draw, value[key])
    return value


MUTATIONS: list[Callable[[Any, Lines], Lines]] = [
    lose, repeat, swap, flip, zero, truncate, join, glue, windows, mark, edit, edit, edit,
]  # fmt: skip


@pytest.mark.parametrize("number", ["1", "2"])
@settings(
    max_examples=120,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_a_damaged_journal_is_answered_rightly_or_refused(
    number: str, studies: dict[str, Study], data: st.DataObject, tmp_path: Path
) -> None:
    study = studies[number]
    log = study.config.dir / LOG
    whole = log.read_bytes()
    expected = everything(study.results())
    mutate = data.draw(st.sampled_from(MUTATIONS))
    damaged = b"".join(mutate(data.draw, whole.splitlines(keepends=True)))
    try:
        log.write_bytes(damaged)
        refusals = []
        try:
            found = everything(study.results())
        except Refusal as refusal:
            refusals.append(str(refusal))
        else:
            json.dumps(found)
            check(number, mutate, found, expected, damaged, whole)
        assert log.read_bytes() == damaged, "reading changes nothing"
        try:
            with Journal.open_for_writing(study.config.dir) as journal:
                open_trials(journal, study.task)
        except Refusal as refusal:
            refusals.append(str(refusal))
        for text in refusals:
            assert "\n" not in text
            assert text.isprintable()
            assert len(text) < 1000
            assert str(log) in text or "no study in" in text or "as it was while a study" in text, text
    finally:
        log.write_bytes(whole)


def check(
    number: str, mutate: Any, found: dict[str, Any], expected: dict[str, Any], damaged: bytes, whole: bytes
) -> None:
    """An answer must be the right one: of the whole journal, or of what is left before a torn end."""
    if found == expected:
        return
    trials, all_trials = found["trials"], expected["trials"]
    if whole.startswith(damaged) or (damaged[:-1] in whole and number == "2"):  # an earlier state of the file
        assert [t["number"] for t in trials] == list(range(len(trials)))
        return
    if number == "2":
        # Only what stands in the last line, torn, can be missing.
        common = damaged.rfind(b"\n", 0, len(damaged) - 1) + 1
        assert whole.startswith(damaged[:common]), mutate.__name__
        return
    # Without checksums a value can be another one within its range; no trial may be missing.
    assert len(trials) == len(all_trials), mutate.__name__
    for trial in trials:
        assert all(0 <= p["accuracy"] <= 1 and p["macs"] > 0 for p in trial["points"])
