"""What commands tell of the user's data, and the line that shows how far they have looked."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from routesearch import Study
from routesearch.cli import survey
from routesearch.cli.survey import showing_decoding
from routesearch.data import decode_once
from routesearch.data.decode_once import on_decoded
from routesearch.errors import RunFailed


def test_a_search_tells_it_once_and_decodes_each_file_once(
    run: Any, write_study: Callable[..., Path], photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []
    real = decode_once.examine_image

    def counted(file: Path, size: tuple[int, int]) -> Any:
        opened.append(file)
        return real(file, size)

    def search(self: Study, **_: Any) -> None:
        assert len(self.task.data.train) == 24
        raise RunFailed("far enough")

    monkeypatch.setattr(decode_once, "examine_image", counted)
    monkeypatch.setattr(Study, "search", search)
    (photos / "cover.png").write_bytes(b"x")
    data = {"name": "image_folder", "path": str(photos), "size": 16}
    done = run("search", write_study(data=data, methods=["static"]))
    assert done.lines == [
        f"routesearch: data: {photos}: 2 classes; images: 40 (dark 20, light 20)",
        "routesearch: data: passed over 1: an image beside the class folders, without a class (cover.png)",
        "routesearch: far enough",
    ]
    assert len(opened) == len(set(opened)) == 40


def test_progress_is_shown_on_a_terminal_once_it_takes_a_while(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with showing_decoding():
        tell = on_decoded.get()
        assert tell is not None
        tell(256, 2000)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(survey, "PATIENCE", -1.0)
    with showing_decoding():
        tell = on_decoded.get()
        assert tell is not None
        tell(256, 2000)
        tell(2000, 2000)
    assert on_decoded.get() is None
    shown = "routesearch: looking at images: 256 of 2,000"
    err = capsys.readouterr().err
    assert err.startswith(f"\r{shown}\r{shown.replace('256', '2,000')}\r ")
    assert err.endswith(" \r")  # nothing is left of it


def test_no_progress_elsewhere() -> None:
    with showing_decoding():
        assert on_decoded.get() is None
