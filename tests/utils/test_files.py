"""Files that are there whole or not at all."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from routesearch.utils.files import file_digest, sweep_drafts, write_whole


@pytest.mark.parametrize("durable", [False, True])
def test_an_older_file_is_replaced_in_one_step(durable: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    for content in (b"one", b"another"):
        write_whole(path, content, durable=durable)
        assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("fails", ["replace", "open"])
def test_nothing_is_left_of_an_attempt_that_fails(
    fails: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, fails, full)
    with pytest.raises(OSError, match="No space"):
        write_whole(path, b"new")
    monkeypatch.undo()
    assert (path.read_bytes(), list(tmp_path.iterdir())) == (b"old", [path])


def test_drafts_of_a_crash_are_swept(tmp_path: Path) -> None:
    for name in (".a.bin.123.part", "a.bin", ".hidden"):
        (tmp_path / name).touch()
    sweep_drafts(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", "a.bin"]


def test_a_digest_is_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert file_digest(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()
