"""Paths of a study file: homes and variables, where they lead, and what no file can be called."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routesearch.utils.paths import escape, expand, is_utf8, located


@pytest.fixture(autouse=True)
def _variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("DATA", "/data sets")
    monkeypatch.setenv("LATIN", "caf\udce9")
    monkeypatch.delenv("UNSET", raising=False)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("photos/x", "photos/x"),
        ("~", "/home/me"),
        ("~/photos", "/home/me/photos"),
        ("a~/b~", "a~/b~"),
        ("./~/x", "./~/x"),
        ("$HOME/photos", "/home/me/photos"),
        ("${DATA}/a$DATA", "/data sets/a/data sets"),
        ("100$", "100$"),
        ("a$-b", "a$-b"),
        ("a$$DATA", "a$DATA"),
        ("${a b}", "${a b}"),
        ("50% of #1? é", "50% of #1? é"),
    ],
)
def test_what_stands_in_a_path(text: str, path: str) -> None:
    assert expand(text) == path


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("$UNSET/x", "must be a path whose variables are set, and $UNSET is not ($$ is a dollar sign)"),
        ("x${UNSET}", "must be a path whose variables are set, and $UNSET is not ($$ is a dollar sign)"),
        ("~nobody-of-this-name/x", "must be a path, and ~nobody-of-this-name is no home"),
        ("", "must be a path"),
        ("a\0b", "must be a path, without control characters"),
        ("a\nb", "must be a path, without control characters"),
        ("a\u202eb", "must be a path, without control characters"),
        ("\udcff", "must be a path in UTF-8"),
        ("$LATIN", "must be a path in UTF-8"),
        ("x" * 256, "must be a path with names of 255 bytes"),
        ("é" * 128, "must be a path with names of 255 bytes"),
        ("x/" * 2048, "must be a path with names of 255 bytes"),
    ],
)
def test_no_path(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=r"^must be a path") as refused:
        expand(text)
    assert str(refused.value).startswith(told)


@given(st.text("a~$/{}D", min_size=1, max_size=12))
def test_an_escaped_path_stays_itself(text: str) -> None:
    path = Path(text)
    assert located(expand(str(escape(path, Path("/base")))), Path("/base")) == located(path, Path("/base"))


def test_paths_are_relative_to_the_study(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "link").symlink_to("there")
    assert located("link/x", tmp_path) == tmp_path / "there" / "x"
    assert located("../x", tmp_path) == tmp_path.parent / "x"
    assert located("/x", tmp_path) == Path("/x")
    assert located("loop", tmp_path) == tmp_path / "loop"


def test_names_in_other_encodings() -> None:
    assert is_utf8("é")
    assert not is_utf8(Path("caf\udce9"))
