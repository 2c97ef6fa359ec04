"""Tables at the width of a terminal: whole columns go, and what is printed is whole."""

from __future__ import annotations

import io
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from routesearch.cli.tables import LINES, draw, fitted, plain, wrapped
from routesearch.report.table import Table

WIDTHS = (40, 60, 80, 120)

FRONT = Table(
    ("trial", "method", "accuracy", "M MACs", "x backbone", "in budget", "knob", "config"),
    (
        (
            "7",
            "decisionet",
            "97.76 %",
            "1.077",
            "0.321",
            "yes",
            "thresholds=[-0.8929, 0.1072]",
            "depth=0.4526",
        ),
        (
            "123",
            "dgate",
            "9.00 %",
            "1207",
            "1.000",
            "no",
            "",
            "learning_rate=0.005, positions=[2, 3, 5], a=1",
        ),
    ),
    texts=("knob", "config"),
    spare=("config", "knob"),
)

NUMBER = re.compile(r"[-+]?\d[\d.]*")


def drawn(table: Table, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, force_terminal=False, highlight=False)
    draw(table, console)
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", WIDTHS)
def test_every_number_that_is_printed_is_whole(width: int) -> None:
    lines = drawn(FRONT, width)
    assert max(map(len, lines)) < width
    whole = {n for row in FRONT.rows for cell in row for n in NUMBER.findall(cell)}
    printed = {n for line in lines[1:] for n in NUMBER.findall(line)}
    assert printed <= whole
    assert {"97.76", "9.00", "123", "7"} <= printed


@pytest.mark.parametrize("width", WIDTHS)
def test_what_has_no_room_is_said(width: int) -> None:
    lines = drawn(FRONT, width)
    head = " ".join(lines[: next(i for i, line in enumerate(lines) if line.startswith("─"))]).split()
    said = re.findall(r"No room for (.*)\.", " ".join(line.strip() for line in lines))
    said = said[0].split(", ") if said else []
    words = {name: name.split() for name in FRONT.columns}
    assert [name for name in FRONT.columns if set(words[name]) <= set(head)] == [
        name for name in FRONT.columns if name not in said
    ]
    assert said == list(fitted(FRONT, width - 1)[1])


def test_spare_columns_go_first_and_then_those_on_the_right() -> None:
    gone = [fitted(FRONT, width)[1] for width in range(120, 10, -1)]
    longest = gone[-1]
    assert longest == ("config", "knob", "in budget", "x backbone", "M MACs", "accuracy", "method")
    assert all(names == longest[: len(names)] for names in gone)


def test_a_text_of_many_lines_goes_if_it_can_be_spared() -> None:
    words = "word " * 60
    table = Table(("a", "b"), (("1", words),), texts=("b",), spare=("b",))
    assert fitted(table, 80)[1] == ("b",)
    assert fitted(Table(table.columns, table.rows, texts=("b",)), 80)[1] == ()
    short = Table(table.columns, (("1", "word " * 30),), texts=("b",), spare=("b",))
    assert fitted(short, 80)[1] == ()
    assert len(fitted(short, 80)[0][1][1]) <= LINES


def test_a_text_gets_what_the_others_leave() -> None:
    table = Table(("a", "b", "c"), (("1", "two words", "word " * 10),), texts=("b", "c"))
    head, row = fitted(table, 40)[0]
    assert head == [["a"], ["b"], ["c"]]
    assert row[1] == ["two words"]
    assert max(map(len, row[2])) > 19


def test_headings_stand_on_the_rule() -> None:
    first, second, rule, *rows = drawn(Table(("a", "two words"), (("1", "2"), ("10", "20"))), 40)
    assert (first.split(), second.split(), set(rule)) == (["two"], ["a", "words"], {"─"})
    assert [row.split() for row in rows] == [["1", "2"], ["10", "20"]]


def test_wide_letters_take_two_columns() -> None:
    lines = drawn(Table(("name", "n"), (("日本語", "1"), ("abc", "2"))), 40)
    assert lines[-2:] == ["日本語  1", "abc     2"]


def test_a_pipe_gets_everything() -> None:
    lines = plain(FRONT)
    assert len(lines) == 3
    assert all(cell in line for row, line in zip(FRONT.rows, lines[1:], strict=True) for cell in row)


@given(
    st.text(st.sampled_from("ab 0123456789.,=-[]%_"), max_size=60),
    st.integers(12, 40),
)
@settings(derandomize=True, max_examples=300, deadline=None)
def test_lines_hold_the_text_and_whole_numbers(text: str, width: int) -> None:
    lines = wrapped(text, width)
    assert "".join("".join(lines).split()) == "".join(text.split())
    number = re.compile(r"\d[\d.]*")
    assert [n for line in lines for n in number.findall(line)] == number.findall(text)
    longest = max((len(n) for n in re.findall(r"[-+]?[\d.,]+(?: ?%)?", text)), default=0)
    assert all(len(line) <= max(width, longest) for line in lines)
