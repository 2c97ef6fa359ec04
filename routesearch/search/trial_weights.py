"""Weights of a study's trials, under its folder."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from routesearch.utils.arrays import Arrays, read_arrays
from routesearch.utils.files import sweep_drafts


def weights_path(folder: Path, number: int) -> Path:
    """Where a trial's weights are kept, under the study's folder."""
    return folder / "weights" / f"{number:06d}.safetensors"


def confirmed_path(folder: Path, number: int, retraining: int) -> Path:
    """Where the weights of a trial's retraining are kept, under the study's folder."""
    return folder / "confirmed" / f"{number:06d}-{retraining:03d}.safetensors"


def delete_confirmed_except(folder: Path, kept: Collection[tuple[int, int]]) -> None:
    """Delete the weights of all retrainings (trial, number) but these."""
    names = {confirmed_path(folder, *each).name for each in kept}
    for file in (folder / "confirmed").glob("[0-9]*.safetensors"):
        if file.name not in names:
            file.unlink(missing_ok=True)


def read_weights(path: Path) -> Arrays:
    """The weights in a file; none where there is no file."""
    return read_arrays(path)[0] if path.is_file() else {}


def delete_weights_except(folder: Path, numbers: Collection[int]) -> None:
    """Delete the weights of all trials but these."""
    kept = set(numbers)
    for file in (folder / "weights").glob("[0-9]*.safetensors"):
        if not file.stem.isdecimal() or int(file.stem) not in kept:
            file.unlink(missing_ok=True)


def sweep_weight_drafts(folder: Path) -> None:
    """Delete what a crash left half written under the study's folder; not while somebody writes."""
    for name in ("weights", "trunks", "confirmed"):
        sweep_drafts(folder / name)
