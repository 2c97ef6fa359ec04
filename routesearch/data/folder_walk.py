"""The image files in a folder, and what else lies there, with the reason why it is passed over."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from routesearch.data.formats import needed, readable_suffixes
from routesearch.errors import Refusal
from routesearch.errors.texts import printable

SYSTEM = frozenset(
    {
        "$recycle.bin",
        "#recycle",
        "#snapshot",
        "@eadir",
        "@recycle",
        "__macosx",
        "__pycache__",
        "desktop.ini",
        "ehthumbs.db",
        "icon\r",
        "lost+found",
        "system volume information",
        "thumbs.db",
        ".ds_store",
        ".ipynb_checkpoints",
        ".spotlight-v100",
        ".trashes",
    }
)
"""Files and folders that systems and programs put beside the user's, in lower case."""

SUFFIX = "no image by its suffix"
HIDDEN = "hidden"
OF_SYSTEMS = "made by a system or program"
BROKEN_LINK = "a link that leads nowhere"
LOOP = "a link back to a folder around it"
FOLDER_LINK = "a link to a folder among images, not followed"
SPECIAL = "a device, pipe or socket"
BESIDE = "an image beside the class folders, without a class"
NEEDS = "needs "
UNLABELLED = "a folder without class folders, so without labels"


class PassedOver:
    """What is in a folder and was not taken, by reason; names are relative to the folder."""

    def __init__(self) -> None:
        self._names: dict[str, list[str]] = {}

    def add(self, reason: str, name: str) -> None:
        self._names.setdefault(reason, []).append(name)

    def by_reason(self) -> Mapping[str, Sequence[str]]:
        """Reason -> names, both in order, as they may be printed."""
        return {reason: [printable(n) for n in sorted(self._names[reason])] for reason in sorted(self._names)}


def subfolders(root: Path, inside: str, passed: PassedOver, beside: str = BESIDE) -> list[str]:
    """Names of the folders directly in ``root / inside``, in order; links to folders count as folders.

    Args:
        inside: relative to ``root``; names are noted relative to it too.
        beside: why files there are passed over, that could be images.
    """
    found = []
    for entry, name in _entries(root, inside):
        reason = _reason(entry)
        if reason is None and _is_folder(entry):
            if not entry.is_symlink() or not _leads_back(root / name):
                found.append(entry.name)
                continue
            reason = LOOP
        passed.add(reason or _reason_of_file(entry) or beside, name)
    return found


def images_below(root: Path, inside: str, passed: PassedOver) -> list[str]:
    """Names, relative to ``root``, of all image files below ``root / inside``, sorted folder by folder."""
    found: list[str] = []
    folders = [inside]
    while folders:
        for entry, name in _entries(root, folders.pop()):
            reason = _reason(entry)
            if reason is None and _is_folder(entry):
                if not entry.is_symlink():
                    folders.append(name)
                    continue
                reason = LOOP if _leads_back(root / name) else FOLDER_LINK
            reason = reason or _reason_of_file(entry)
            if reason is None:
                found.append(name)
            else:
                passed.add(reason, name)
    return sorted(found, key=lambda name: name.split("/"))


def _entries(root: Path, inside: str) -> Iterator[tuple[os.DirEntry[str], str]]:
    folder = root / inside
    try:
        with os.scandir(folder) as entries:
            every = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise Refusal(f"{printable(folder)} cannot be read: {error.strerror}") from error
    for entry in every:
        yield entry, str(PurePosixPath(inside, entry.name))


def _reason(entry: os.DirEntry[str]) -> str | None:
    """Why a file or folder of this name is passed over, whatever it holds."""
    if entry.name.lower() in SYSTEM:
        return OF_SYSTEMS
    return HIDDEN if entry.name.startswith(".") else None


def _reason_of_file(entry: os.DirEntry[str]) -> str | None:
    try:
        there = not entry.is_symlink() or Path(entry.path).exists()
        regular = entry.is_file()
    except OSError:  # links in a circle
        there = regular = False
    if not there:
        return BROKEN_LINK
    if not regular:
        return SPECIAL
    suffix = Path(entry.name).suffix.lower()
    if suffix in readable_suffixes():
        return None
    package = needed(suffix)
    return f"{NEEDS}{package}" if package else SUFFIX


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _leads_back(link: Path) -> bool:
    """Whether a link leads to a folder that it lies in."""
    return link.parent.resolve().is_relative_to(link.resolve())
