"""Folders that are there whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from routesearch.errors import Refusal
from routesearch.utils.folders import check_replaceable, folder_draft

RULE = "a thing is saved as a new folder"


def anything(folder: Path) -> None:
    """A check that lets every folder be replaced."""


def test_a_folder_appears_when_it_is_full(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "thing"
    with folder_draft(folder, anything, "a thing") as draft:
        (draft / "new").write_text("1")
        assert not folder.exists()
    assert [path.name for path in folder.iterdir()] == ["new"]
    assert [path.name for path in folder.parent.iterdir()] == ["thing"]


def test_an_older_folder_is_replaced_whole(tmp_path: Path) -> None:
    folder = tmp_path / "thing"
    folder.mkdir()
    (folder / "old").write_text("0")
    with folder_draft(folder, anything, "a thing") as draft:
        (draft / "new").write_text("1")
        assert (folder / "old").exists()
    assert [path.name for path in folder.iterdir()] == ["new"]


@pytest.mark.parametrize("error", [ValueError("wrong"), KeyboardInterrupt()])
def test_after_an_error_the_older_folder_stays(error: BaseException, tmp_path: Path) -> None:
    folder = tmp_path / "thing"
    folder.mkdir()
    (folder / "old").write_text("0")

    def fill() -> None:
        with folder_draft(folder, anything, "a thing") as draft:
            (draft / "new").write_text("1")
            raise error

    with pytest.raises(type(error)):
        fill()
    assert [path.name for path in tmp_path.iterdir()] == ["thing"]
    assert [path.name for path in folder.iterdir()] == ["old"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    told = r"^a thing must be saved in a writable place, got .*/file/thing: "
    with pytest.raises(Refusal, match=told), folder_draft(tmp_path / "file" / "thing", anything, "a thing"):
        pass


def test_what_may_be_replaced(tmp_path: Path) -> None:
    def older(folder: Path) -> bool:
        return check_replaceable(folder, RULE, "mark", lambda name: name in ("mark", "more"))

    folder = tmp_path / "thing"
    assert not older(folder)
    folder.mkdir()
    assert not older(folder)
    (folder / "more").write_text("")
    with pytest.raises(Refusal, match=rf"^{RULE}, got .*thing without mark$"):
        older(folder)
    (folder / "mark").write_text("")
    assert older(folder)
    (folder / "thesis.txt").write_text("")
    with pytest.raises(Refusal, match=rf"^{RULE}, got .*thing with thesis.txt in it$"):
        older(folder)
    with pytest.raises(Refusal, match=rf"^{RULE}, got .*mark, which is a file$"):
        older(folder / "mark")
