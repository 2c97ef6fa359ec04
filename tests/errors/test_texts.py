"""Texts from outside: bounded before they are formatted, and without characters that act."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routesearch.errors import described, full_traceback, headline, noted, shortened
from routesearch.errors.texts import (
    MAX_SAID,
    MAX_TRACEBACK,
    MAX_VALUE,
    bounded,
    one_line,
    printable,
    printable_lines,
    shown,
)

TEXTS = st.text(st.characters(codec=None), max_size=50)
HUGE = 30_000_000


@given(TEXTS)
@settings(derandomize=True, database=None)
def test_what_is_printable_can_be_written_and_moves_no_cursor(text: str) -> None:
    told = printable(text)
    told.encode()
    assert not set(told) & {chr(i) for i in [*range(32), *range(0x7F, 0xA0), 0x202E, 0x2066, 0x200F, 0x2028]}
    assert printable(told) == told
    lines = printable_lines(text)
    assert lines.count("\n") == text.count("\n")
    assert set(lines) - set(told) <= {"\n", "\t"}


def test_characters_that_act_are_escaped_as_python_does() -> None:
    assert printable("a\x1b[2Jb\u202ec\ud800d\ne") == r"a\x1b[2Jb\u202ec\ud800d\ne"
    assert printable("Müll 日本 \u200c🙂") == "Müll 日本 \u200c🙂"


@given(TEXTS, st.integers(50, 200))
@settings(derandomize=True, database=None)
def test_a_bounded_text_keeps_its_ends(text: str, most: int) -> None:
    long = text * 30
    told = bounded(long, most)
    assert len(told) <= most
    if len(long) <= most:
        assert told == long
        return
    assert " characters left out … " in told
    assert long.startswith(told.split(" … ")[0][:5])
    assert long.endswith(told.split(" … ")[-1][-5:])


def test_a_bounded_text_says_how_much_is_missing() -> None:
    head, missing, tail = bounded("a" * 600 + "b" * 600, 100).split(" … ")
    assert int(missing.split()[0].replace(",", "")) == 1200 - len(head) - len(tail)


def bomb(levels: int) -> Any:
    """10^levels values in a few objects, as aliases in YAML make them."""
    value: Any = "lol"
    for _ in range(levels):
        value = [value] * 10
    return value


@pytest.mark.parametrize(
    "value",
    [
        bomb(40),
        {"a": bomb(40), "b": {"c": bomb(40)}},
        "x" * HUGE,
        10**100_000,
        list(range(1_000_000)),
        {i: i for i in range(1_000_000)},
        {"\x1b[2J": "\ud800"},
    ],
    ids=["nested", "nested in mappings", "text", "integer", "list", "mapping", "acting"],
)
def test_a_value_is_bounded_before_it_is_formatted(value: Any) -> None:
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    sys.setprofile(count)
    try:
        told = shown(value)
    finally:
        sys.setprofile(None)
    assert len(told) <= MAX_VALUE + 40
    assert told.isprintable()
    assert calls < 20_000, "work that does not grow with the value"


@pytest.mark.parametrize("value", [1, 2.5, None, True, "a'b", [1, "x"], {"b": 1, "a": [2]}, (1,), {"x"}, {}])
def test_a_short_value_is_its_repr(value: Any) -> None:
    assert shown(value) == repr(value)


class Mute(Exception):
    def __str__(self) -> str:
        raise KeyError("no words")


@pytest.mark.parametrize("tell", [described, headline, shortened, full_traceback])
@pytest.mark.parametrize(
    "error",
    [ValueError("\x1b[2J" + "y" * HUGE), ValueError("a b\n" * 1_000_000), Mute(), ValueError("\ud800")],
    ids=["long", "many lines", "mute", "surrogate"],
)
def test_an_error_of_any_size_is_told_in_bounds(tell: Any, error: Exception) -> None:
    told = tell(error)
    assert 0 < len(told) <= (MAX_TRACEBACK if tell is full_traceback else 2 * MAX_SAID)
    if tell is not full_traceback:
        assert printable(told) == told


def test_where_an_error_was_is_formatted_only_for_an_error() -> None:
    class Knob(dict[str, Any]):
        def items(self) -> Any:
            raise AssertionError("formatted without need")

    with noted("at knob", Knob(a=1)):
        pass
    with pytest.raises(ValueError, match="x") as caught, noted("at knob", {"t": [1] * 1_000_000}):
        raise ValueError("x")
    assert described(caught.value).startswith("ValueError: x, at knob {'t': [1, 1,")
    assert len(described(caught.value)) < 300


def test_one_line_of_anything_is_json_and_utf8() -> None:
    told = one_line("a\r\n\tb\x00\ud800\u2028c" + "z" * HUGE)
    assert json.loads(json.dumps(told)) == told
    assert told.encode().startswith(rb"a b\x00\ud800 c")
