"""A saved model's folder: ``model.json``, ``model.safetensors``, ``plugins/``; there whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt

from routesearch.errors import Refusal
from routesearch.saved.card import Card, read_card
from routesearch.utils.arrays import read_arrays
from routesearch.utils.files import file_digest
from routesearch.utils.folders import check_replaceable

CARD, WEIGHTS, PLUGINS = "model.json", "model.safetensors", "plugins"


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
    """
    shutil.copyfile(weights, draft / WEIGHTS)
    for name, file in plugins.items():
        (draft / name).parent.mkdir(parents=True, exist_ok=True)
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
