"""Files that are there whole or not at all: written beside their place, then moved into it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from routesearch.errors import Refusal


def write_whole(path: Path, content: bytes, *, durable: bool = False) -> None:
    """Put ``content`` at ``path`` in one step; an older file stays until then.

    Args:
        durable: also after a power loss there is the old file or the new one; costs the disk's time.

    Raises:
        OSError: the disk does not take it; nothing is left of the attempt.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with draft.open("wb") as file:
            file.write(content)
            if durable:
                file.flush()
                os.fsync(file.fileno())  # else a power loss could leave the name without the content
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    if durable:
        sync(path.parent)


def save_file(path: Path, content: bytes) -> None:
    """:func:`write_whole` for a path that the user gave.

    Raises:
        Refusal: where the path cannot be written.
    """
    try:
        write_whole(path, content)
    except OSError as error:
        raise Refusal(f"{path} must be a file in a writable folder: {error.strerror or error}") from error


def sync(path: Path) -> None:
    """Bring a file's content, or a folder's names, onto the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sweep_drafts(folder: Path) -> None:
    """Delete what a crash left half written; not to be called while somebody writes."""
    for file in folder.glob(".*.part"):
        file.unlink(missing_ok=True)


def file_digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
