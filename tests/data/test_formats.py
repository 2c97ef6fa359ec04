"""Which suffixes are images: what Pillow reads here, and what would have to be installed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from PIL import Image, features

from routesearch.data import formats


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Formats are looked up anew, before and after; what is registered here is forgotten."""
    Image.init()
    for name in ("ID", "OPEN", "EXTENSION"):
        monkeypatch.setattr(Image, name, getattr(Image, name).copy())
    yield
    monkeypatch.undo()
    for cached in (formats.readable_formats, formats.readable_suffixes):
        cached.cache_clear()


def anew(monkeypatch: pytest.MonkeyPatch, plugin: object) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", plugin)  # None: it is not installed
    for cached in (formats.readable_formats, formats.readable_suffixes):
        cached.cache_clear()


def test_pictures_in_all_their_spellings() -> None:
    usual = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp", ".jfif"}
    assert usual <= formats.readable_suffixes()
    assert (".jp2" in formats.readable_suffixes()) is features.check("jpg_2000")
    assert (".avif" in formats.readable_suffixes()) is (features.check("avif") is True)


def test_icons_films_and_programs_for_others_are_none() -> None:
    assert not {".ico", ".eps", ".ps", ".pdf", ".mpg", ".h5", ".wmf", ".txt"} & formats.readable_suffixes()


def test_heic_needs_its_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    anew(monkeypatch, None)
    assert ".heic" not in formats.readable_suffixes()
    assert formats.needed(".HEIC") == "`pip install pillow-heif`"
    assert formats.needed(".jpg") is None
    assert formats.needed(".txt") is None


def test_heic_is_read_where_its_plugin_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def register() -> None:
        Image.register_open("HEIF", lambda *_: None)  # type: ignore[arg-type, return-value]
        Image.register_extension("HEIF", ".heic")

    anew(monkeypatch, SimpleNamespace(register_heif_opener=register))
    assert ".heic" in formats.readable_suffixes()
    assert "HEIF" in formats.readable_formats()
    assert formats.needed(".heic") is None
