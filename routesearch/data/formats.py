"""Which files are images: what the installed Pillow, and its plugin for HEIC, can read."""

from __future__ import annotations

import contextlib
import importlib
from functools import lru_cache

NOT_READ = frozenset({"BUFR", "CUR", "EPS", "FITS", "GRIB", "HDF5", "ICNS", "ICO", "MPEG", "WMF"})
"""Pillow's formats that are left alone: icons, measurements, films, and those that start another program."""

NEEDED = {
    ".avif": "`pip install 'pillow>=11.3'`",
    ".heic": "`pip install pillow-heif`",
    ".heif": "`pip install pillow-heif`",
    ".hif": "`pip install pillow-heif`",
}
"""What reads files of these suffixes, where this installation does not."""


@lru_cache(maxsize=1)
def readable_formats() -> tuple[str, ...]:
    """Pillow's names of the formats that are read, in the order in which it tries them."""
    from PIL import Image

    Image.init()
    with contextlib.suppress(ImportError):  # a plugin that has to be asked
        importlib.import_module("pillow_heif").register_heif_opener()
    return tuple(name for name in Image.ID if name in Image.OPEN and name not in NOT_READ)


@lru_cache(maxsize=1)
def readable_suffixes() -> frozenset[str]:
    """Suffixes of image files, in lower case, each with its dot."""
    from PIL import Image

    formats = set(readable_formats())
    return frozenset(suffix for suffix, name in Image.EXTENSION.items() if name in formats)


def needed(suffix: str) -> str | None:
    """What has to be installed for files of a suffix to be read; None where nothing is needed, or helps."""
    suffix = suffix.lower()
    return None if suffix in readable_suffixes() else NEEDED.get(suffix)
