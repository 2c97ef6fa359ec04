from __future__ import annotations

import functools
import re
import statistics

import pytest

from routesearch.errors import (
    Refusal,
    UnknownName,
    described,
    headline,
    noted,
    origin,
    shortened,
)
from routesearch.errors.texts import MAX_MESSAGE


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("nim", "no backbone 'nim'; did you mean 'nin'? installed: nin, resnet110, resnet38"),
        ("resnet39", "no backbone 'resnet39'; did you mean 'resnet38'? installed: nin, resnet110, resnet38"),
        ("tree2", "no backbone 'tree2'; installed: nin, resnet110, resnet38"),
        ("", "no backbone ''; installed: nin, resnet110, resnet38"),
    ],
)
def test_an_unknown_name_and_what_may_have_been_meant(name: str, told: str) -> None:
    error = UnknownName("backbone", name, ["resnet38", "nin", "resnet110"])
    assert isinstance(error, Refusal)
    assert str(error) == told


def test_nothing_is_known() -> None:
    assert str(UnknownName("method", "static", [])) == "no method 'static'; installed: none"


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("", "ValueError"),
        ("  the first  \n\nthe second", "the first"),
        ("ray::f()\n  Traceback (most recent call last):\n  a line\nKeyError: 'x'\n", "KeyError: 'x'"),
    ],
)
def test_an_errors_headline(message: str, line: str) -> None:
    assert headline(ValueError(message)) == line


def test_another_librarys_message_is_one_line_and_not_too_long() -> None:
    assert shortened(KeyError("a\n  b")) == "KeyError: 'a\\n b'"
    assert shortened(ValueError("a\n  b")) == "ValueError: a b"
    long = shortened(ValueError("a" * 250 + "b" * 250))
    assert re.fullmatch(r"ValueError: a+ … 3\d\d characters left out … b+", long)
    assert len(long) <= len("ValueError: ") + MAX_MESSAGE


def test_an_error_says_where_it_was() -> None:
    with pytest.raises(ValueError, match="wrong") as caught, noted("in stage 2 of 3"), noted("at knob {}"):
        raise ValueError("wrong\n  text")
    told = "ValueError: wrong text, at knob {}, in stage 2 of 3 (test_kinds.py:"
    assert described(caught.value).startswith(told)


def test_the_line_is_the_authors_own() -> None:
    """Not the standard library's, which may have called it or been called by it."""
    with pytest.raises(TypeError) as caught:
        functools.reduce(lambda a, b: a + b, [1, "2"])
    assert re.fullmatch(r" \(test_kinds\.py:\d+\)", origin(caught.value))
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        statistics.mean(map(float, ["x"]))
    assert re.fullmatch(r" \(test_kinds\.py:\d+\)", origin(caught.value))
