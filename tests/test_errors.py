from __future__ import annotations

import pytest

from routesearch.errors import MAX_MESSAGE, Refusal, UnknownName, headline, shortened


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
    long = shortened(ValueError("x" * 500))
    assert long == "ValueError: " + "x" * MAX_MESSAGE + "…"
