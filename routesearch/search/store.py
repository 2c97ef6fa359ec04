"""Weights of a study's trials on disk.

A file is there whole or not at all. Only safetensors and numpy are needed, so that a process that
writes for others stays small.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

Arrays = Mapping[str, "np.ndarray[Any, Any]"]


def write(path: Path, arrays: Arrays) -> None:
    """Put ``arrays`` into one file: after a crash there is the old file or the new one, never a part."""
    from safetensors.numpy import save

    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with draft.open("wb") as file:
            file.write(save({k: np.ascontiguousarray(v) for k, v in arrays.items()}))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read(path: Path) -> dict[str, np.ndarray[Any, Any]] | None:
    """The arrays of a file, or None where there is none."""
    from safetensors.numpy import load_file

    return dict(load_file(path)) if path.is_file() else None


def weights_path(folder: Path, number: int) -> Path:
    """Where a trial's weights are kept, under the study's folder."""
    return folder / "weights" / f"{number:06d}.safetensors"


def keep_weights(folder: Path, numbers: Collection[int]) -> None:
    """Delete the weights of all trials but these."""
    kept = {weights_path(folder, n).name for n in numbers}
    for file in (folder / "weights").glob("[0-9]*.safetensors"):
        if file.name not in kept:
            file.unlink(missing_ok=True)


def sweep_drafts(folder: Path) -> None:
    """Delete what a crash left half written; not to be called while somebody writes."""
    for file in (folder / "weights").glob(".*.part"):
        file.unlink(missing_ok=True)
