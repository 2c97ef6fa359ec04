"""Which files a folder has, and what is passed over and why; a walk ends whatever lies there."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routesearch.data import folder_walk
from routesearch.data.folder_walk import PassedOver, images_below, subfolders
from routesearch.errors import Refusal


def put(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def walked(root: Path, inside: str = "") -> tuple[list[str], dict[str, list[str]]]:
    passed = PassedOver()
    found = images_below(root, inside, passed)
    return found, {reason: list(names) for reason, names in passed.by_reason().items()}


def test_images_in_the_order_of_their_names_folder_by_folder(tmp_path: Path) -> None:
    put(tmp_path, "c/b.jpg", "c/a/z.PNG", "c/a.jpg", "c/a-b/1.tif", "d/1.png")
    found, passed = walked(tmp_path, "c")
    assert found == ["c/a/z.PNG", "c/a-b/1.tif", "c/a.jpg", "c/b.jpg"]
    assert found == [str(p.relative_to(tmp_path)) for p in sorted(map(tmp_path.joinpath, found))]
    assert passed == {}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("notes.txt", folder_walk.SUFFIX),
        ("jpg", folder_walk.SUFFIX),
        (".hidden.png", folder_walk.HIDDEN),
        ("._1.png", folder_walk.HIDDEN),
        (".cache/1.png", folder_walk.HIDDEN),
        ("Thumbs.db", folder_walk.OF_SYSTEMS),
        ("desktop.INI", folder_walk.OF_SYSTEMS),
        (".DS_Store", folder_walk.OF_SYSTEMS),
        ("@eaDir/1.png", folder_walk.OF_SYSTEMS),
        ("__MACOSX/1.png", folder_walk.OF_SYSTEMS),
        (".ipynb_checkpoints/1.png", folder_walk.OF_SYSTEMS),
        ("$RECYCLE.BIN/1.png", folder_walk.OF_SYSTEMS),
        ("System Volume Information/1.png", folder_walk.OF_SYSTEMS),
        ("lost+found/1.png", folder_walk.OF_SYSTEMS),
    ],
)
def test_what_is_passed_over_by_its_name(tmp_path: Path, name: str, reason: str) -> None:
    put(tmp_path, "1.png", name, f"deep/{name}")
    top = name.split("/")[0]
    assert walked(tmp_path) == (
        ["1.png"],
        {reason: [top, f"deep/{top}"] if top < "d" else [f"deep/{top}", top]},
    )


def test_links(tmp_path: Path) -> None:
    put(tmp_path, "photos/cats/1.png", "elsewhere/2.png")
    cats = tmp_path / "photos" / "cats"
    (cats / "file.png").symlink_to(tmp_path / "elsewhere" / "2.png")
    (cats / "gone.png").symlink_to("nowhere.png")
    (cats / "round.png").symlink_to("round.png")
    (cats / "up").symlink_to("..")
    (cats / "here").symlink_to(".")
    (cats / "more").symlink_to(tmp_path / "elsewhere")
    found, passed = walked(tmp_path / "photos")
    assert found == ["cats/1.png", "cats/file.png"]
    assert passed == {
        folder_walk.LOOP: ["cats/here", "cats/up"],
        folder_walk.BROKEN_LINK: ["cats/gone.png", "cats/round.png"],
        folder_walk.FOLDER_LINK: ["cats/more"],
    }


def test_pipes_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to("a.png")
    (tmp_path / "c.png").symlink_to("/dev/null")
    assert walked(tmp_path) == ([], {folder_walk.SPECIAL: ["a.png", "b.png", "c.png"]})


def test_what_a_package_is_needed_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_walk, "readable_suffixes", lambda: frozenset({".png"}))
    monkeypatch.setattr(folder_walk, "needed", {".heic": "`pip install pillow-heif`"}.get)
    put(tmp_path, "1.png", "2.HEIC", "3.jpg")
    assert walked(tmp_path) == (
        ["1.png"],
        {"needs `pip install pillow-heif`": ["2.HEIC"], folder_walk.SUFFIX: ["3.jpg"]},
    )


def test_names_that_cannot_be_printed(tmp_path: Path) -> None:
    names = [os.fsdecode(b"\xff.png"), os.fsdecode(b"\xfe.txt"), "new\nline.txt"]
    put(tmp_path, *names)
    assert walked(tmp_path) == ([names[0]], {folder_walk.SUFFIX: ["new\\nline.txt", "\\xfe.txt"]})


def test_subfolders(tmp_path: Path) -> None:
    put(tmp_path, "b/1.png", "a/1.png", "@eaDir/1.png", ".git/x", "cover.jpg", "readme.md")
    (tmp_path / "c").symlink_to("a")
    (tmp_path / "self").symlink_to(".")
    passed = PassedOver()
    assert subfolders(tmp_path, "", passed) == ["a", "b", "c"]
    assert passed.by_reason() == {
        folder_walk.LOOP: ["self"],
        folder_walk.BESIDE: ["cover.jpg"],
        folder_walk.HIDDEN: [".git"],
        folder_walk.OF_SYSTEMS: ["@eaDir"],
        folder_walk.SUFFIX: ["readme.md"],
    }


def test_a_folder_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="nowhere cannot be read: No such file or directory"):
        walked(tmp_path, "nowhere")


NAMES = st.sampled_from(["a", "b.png", ".c", "d.txt", "Thumbs.db", "@eaDir", "e.JPG", "f\xe4", "lost+found"])


@settings(derandomize=True, max_examples=60, deadline=None)
@given(st.lists(st.lists(NAMES, min_size=1, max_size=4).map("/".join), max_size=12))
def test_everything_is_found_or_told(names: list[str]) -> None:
    """Each file is among the images, or it or a folder around it is told, never both and nothing twice."""
    with tempfile.TemporaryDirectory() as folder:
        root, put_there = Path(folder), []
        for name in names:
            try:
                put(root, name)
                put_there.append(name)
            except OSError:  # a file of that name is there, or a folder
                continue
        found, passed = walked(root)
        told = [name for names in passed.values() for name in names]
        assert len(set(told)) == len(told)
        for name in put_there:
            around = {name, *(str(parent) for parent in Path(name).parents)}
            assert (name in found) is not bool(around & set(told))
        assert set(found) <= set(put_there)
