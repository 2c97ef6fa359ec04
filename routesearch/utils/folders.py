"""Folders that are there whole or not at all: filled beside their place, then renamed into it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from routesearch.errors import Refusal
from routesearch.utils.files import sync


def check_replaceable(folder: Path, rule: str, mark: str, own: Callable[[str], bool]) -> bool:
    """Raise Refusal unless a folder may be replaced: it is new, empty, or holds nothing but an older version.

    Anything else in it would be deleted with it.

    Args:
        rule: where it may be written, for a refusal.
        mark: the file by which an older version is known.
        own: name of a file -> whether it belongs to an older version.

    Returns:
        Whether an older version is there.

    Raises:
        Refusal: something else is there.
    """
    if not (folder.exists() or folder.is_symlink()):
        return False
    if not folder.is_dir():
        raise Refusal(f"{rule}, got {folder}, which is a file")
    try:
        names = {each.name for each in folder.iterdir()}
    except OSError as error:
        raise Refusal(f"{folder} cannot be read: {error.strerror}") from None
    if foreign := sorted(name for name in names if not own(name)):
        raise Refusal(f"{rule}, got {folder} with {foreign[0]} in it")
    if names and mark not in names:
        raise Refusal(f"{rule}, got {folder} without {mark}")
    return bool(names)


@contextmanager
def folder_draft(folder: Path, check: Callable[[Path], None], what: str) -> Iterator[Path]:
    """A folder beside ``folder``, to be filled; it takes the name when all went well, and vanishes if not.

    Args:
        check: raises Refusal where what is there now must stay.
        what: that the folder is to hold, for a refusal: "a model".

    Raises:
        Refusal: something else is there, or the disk does not take it.
    """
    folder = folder.resolve()  # through links: what they point at is replaced, not the link
    check(folder)
    draft = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(draft, ignore_errors=True)  # a dead process of the same number left it
        draft.mkdir()
        yield draft
        _settle(draft)
        if folder.exists():
            folder.rename(old)
        try:
            draft.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise
    except OSError as error:
        raise Refusal(
            f"{what} must be saved in a writable place, got {folder}: {error.strerror or error}"
        ) from error
    finally:
        for rest in (draft, old):
            shutil.rmtree(rest, ignore_errors=True)


def _settle(folder: Path) -> None:
    """Bring everything below ``folder`` onto the disk: a name must not outlive its content."""
    for path in [*folder.rglob("*"), folder]:
        sync(path)
