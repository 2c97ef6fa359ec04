"""What a class may be called."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routesearch.data.class_names import LONGEST, check_class_names, composed
from routesearch.errors import Refusal


def refusal(*names: Any) -> str | None:
    try:
        check_class_names("mine", names)
    except Refusal as refused:
        return str(refused)
    return None


@pytest.mark.parametrize(
    "name",
    [
        "cat",
        "T-shirt or top",
        "0",
        "Straße",
        "kočka",
        "猫",
        "👩\u200d🔬",
        "a" * LONGEST,
        ".hidden",
        "a b",
        "été",
    ],
)
def test_plain_names_are_taken(name: str) -> None:
    assert refusal(name, "dog") is None


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("", "not be empty, got '' for label 1"),
        (" \u3000", "not be empty"),
        ("a" * (LONGEST + 1), f"have at most {LONGEST} characters, got 'aaa"),
        ("caf\udce9", r"be valid UTF-8, got 'caf\udce9'"),
        ("e\u0301te", "be in Unicode's composed form"),
        ("a/b", "hold no path"),
        ("a\\b", "hold no path"),
        ("..", "hold no path"),
        (".", "hold no path"),
        ("a\0b", "hold no control character"),
        ("a\nb", "hold no control character"),
        ("\x1b[31mred", r"hold no control character or line break, got '\x1b[31mred'"),
        ("a\x7f", "hold no control character"),
        ("a\x85", "hold no control character"),
        ("a\u2028b", "hold no control character or line break"),
        ("a\u202eb", "hold no control character or line break"),
        (7, "be a text, got 7 for label 1"),
        (None, "be a text, got None"),
    ],
)
def test_names_that_something_cannot_hold_are_refused(name: Any, rule: str) -> None:
    found = refusal("dog", name)
    assert found is not None
    assert found.startswith("mine: a class name must ")
    assert rule in found
    assert found.isprintable(), "a terminal obeys the others"


def test_names_differ_and_are_two_or_more() -> None:
    assert refusal("a", "b", "a") == "mine: class names must differ, got 'a' twice"
    assert refusal("a") == "mine: at least 2 classes must exist, got 1"
    for names in ("ab", {"a": 1, "b": 2}, None, 7):
        with pytest.raises(Refusal, match=r"^mine: class names must be a tuple of texts, got"):
            check_class_names("mine", names)  # type: ignore[arg-type]


@given(st.text(st.characters(exclude_categories=()), max_size=20))
def test_whatever_is_taken_names_a_file_and_survives_json(name: str) -> None:
    if refusal(name, "other than these") is not None:
        return
    assert Path("folder", name).name == name
    assert os.fsdecode(name.encode()) == name == json.loads(json.dumps(name))
    assert composed(name) == name
    assert len(name.splitlines()) == 1
