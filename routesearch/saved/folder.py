"""A saved model's folder: ``model.json``, ``model.safetensors``, ``plugins/``; there whole or not at all."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt

from routesearch.errors import Refusal, message_of
from routesearch.saved.card import PLUGINS, Card, read_card
from routesearch.saved.plain_json import MAX_BYTES
from routesearch.utils.arrays import read_arrays, read_forms
from routesearch.utils.files import file_digest
from routesearch.utils.folders import check_replaceable

CARD, WEIGHTS = "model.json", "model.safetensors"

MAX_WEIGHTS = 8 << 30
"""Bytes; a network of two thousand million parameters."""


def replaceable(folder: Path) -> None:
    """Raise Refusal unless a model may be written here: a new or empty folder, or an older saved model."""
    rule = "a model is saved as a new folder or in place of an older saved model"
    if check_replaceable(folder, rule, CARD, lambda name: name in (CARD, WEIGHTS, PLUGINS)):
        read_card(folder / CARD)


def write(draft: Path, card: Card, weights: Path, plugins: Mapping[str, Path]) -> None:
    """Fill a model's folder.

    Args:
        card: its ``weights`` is filled in here.
        weights: a safetensors file, copied.
        plugins: name in the folder -> the plain file whose copy that is to be.

    Raises:
        Refusal: nobody could read the card again, as large as it is.
    """
    shutil.copyfile(weights, draft / WEIGHTS)
    for name, file in plugins.items():
        (draft / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, draft / name)
    text = card.model_copy(update={"weights": file_digest(draft / WEIGHTS)}).dumps()
    content = text.encode("utf-8")
    if len(content) > MAX_BYTES:
        rule = f"{CARD} of a saved model must have {MAX_BYTES >> 20} MiB at most"
        raise Refusal(f"{rule}, got {len(content):,} bytes for {len(card.classes):,} classes")
    (draft / CARD).write_bytes(content)


class Weights:
    """A model's weights on disk, whose content is what ``model.json`` names; read when they are asked for.

    Attributes:
        file: a safetensors file.
        forms: name of a tensor -> its type (``F32``) and shape.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.forms = read_forms(file)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """All of them, in memory."""
        return read_arrays(self.file)[0]


def read(folder: Path) -> tuple[Card, Weights]:
    """What a model's folder holds.

    Raises:
        Refusal: it is none, or it is damaged.
    """
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise Refusal(f"a saved model is a folder, got {folder}, which {what}")
    card, file = read_card(folder / CARD), folder / WEIGHTS
    try:
        size = file.stat().st_size
        if not file.is_file() or size > MAX_WEIGHTS:
            got = f"{size:,} bytes" if file.is_file() else "something else"
            raise Refusal(f"{file} must be a plain file of {MAX_WEIGHTS >> 30} GiB at most, got {got}")
        found = file_digest(file)
        if found != card.weights:
            rule = "must be the weights that model.json names by their SHA-256"
            raise Refusal(
                f"{file} {rule}, got {found[:16]}… and not {card.weights[:16]}…: damaged or exchanged"
            )
        return card, Weights(file)
    except FileNotFoundError:
        raise Refusal(f"{folder}: a saved model has its weights in {WEIGHTS}, got none") from None
    except (OSError, ValueError) as error:
        raise Refusal(f"{file} cannot be read: {message_of(error)}") from None


def code_file(folder: Path, name: str | None) -> Path | None:
    """A file with code that ``model.json`` names, where it is a plain one whose name needs no quotes."""
    if name is None or not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_./-]*\.py", name):
        return None
    file = folder / name
    inside = file.is_file() and file.resolve() == folder.resolve() / name  # no link, and no way out
    return file if inside and name.startswith(f"{PLUGINS}/") else None
