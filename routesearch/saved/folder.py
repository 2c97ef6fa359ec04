"""A saved model's folder: ``model.json``, ``model.safetensors``, ``plugins/``; there whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy.typing as npt

from routesearch.errors import Refusal
from routesearch.saved.card import Card, read_card
from routesearch.utils.arrays import read_arrays
from routesearch.utils.files import file_digest, sync

CARD, WEIGHTS, PLUGINS = "model.json", "model.safetensors", "plugins"


def replaceable(folder: Path) -> None:
    """Raise Refusal unless a model may be written here: a new or empty folder, or an older saved model."""
    rule = "a model is saved as a new folder or in place of an older saved model"
    if holds_only(folder, rule, CARD, lambda name: name in (CARD, WEIGHTS, PLUGINS)):
        read_card(folder / CARD)


def holds_only(folder: Path, rule: str, mark: str, own: Callable[[str], bool]) -> bool:
    """Whether a folder may be replaced because an older version of what is to be written lies in it.

    One with anything beside it stays: it would be deleted with it.

    Args:
        rule: where it may be written, for a refusal.
        mark: the file by which an older version is known.
        own: name of a file -> whether it belongs to an older version.

    Returns:
        False for a new name or an empty folder.

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
def drafting(folder: Path, check: Callable[[Path], None] = replaceable) -> Iterator[Path]:
    """A folder beside ``folder``, to be filled; it takes the name when all went well, and vanishes if not.

    Args:
        check: raises Refusal where what is there now must stay.

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
            f"a model must be saved in a writable place, got {folder}: {error.strerror or error}"
        ) from error
    finally:
        for rest in (draft, old):
            shutil.rmtree(rest, ignore_errors=True)


def write(draft: Path, card: Card, weights: Path, plugins: Mapping[str, Path]) -> None:
    """Fill a model's folder.

    Args:
        card: its ``weights`` is filled in here.
        weights: a safetensors file, copied.
        plugins: name in the folder -> the plain file whose copy that is to be.
    """
    shutil.copyfile(weights, draft / WEIGHTS)
    for name, file in plugins.items():
        (draft / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(file, draft / name)
    text = card.model_copy(update={"weights": file_digest(draft / WEIGHTS)}).dumps()
    (draft / CARD).write_text(text, encoding="utf-8")


def read(folder: Path) -> tuple[Card, dict[str, npt.NDArray[Any]]]:
    """What a model's folder holds.

    Raises:
        Refusal: it is none, or it is damaged.
    """
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise Refusal(f"a saved model is a folder, got {folder}, which {what}")
    card, file = read_card(folder / CARD), folder / WEIGHTS
    try:
        found = file_digest(file)
        if found != card.weights:
            rule = "must be the weights that model.json names by their SHA-256"
            raise Refusal(
                f"{file} {rule}, got {found[:16]}… and not {card.weights[:16]}…: damaged or exchanged"
            )
        return card, read_arrays(file)[0]
    except FileNotFoundError:
        raise Refusal(f"{folder}: a saved model has its weights in {WEIGHTS}, got none") from None
    except (OSError, ValueError) as error:
        raise Refusal(f"{file} cannot be read: {error}") from None


def _settle(folder: Path) -> None:
    """Bring everything below ``folder`` onto the disk: a name must not outlive its content."""
    for path in [*folder.rglob("*"), folder]:
        sync(path)
