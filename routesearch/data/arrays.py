"""The user's own images as numpy arrays in one npz file."""

from __future__ import annotations

import re
import zipfile
import zlib
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from routesearch.data.base import Dataset, Images, Source
from routesearch.data.images import as_tensor
from routesearch.errors import Refusal

_SPLITS = {"train": "train", "val": "validation", "test": "test"}
_NAMES = [f"{part}_{split}" for split in _SPLITS for part in "xy"]
_AUX = re.compile(rf"aux_(\w+)_({'|'.join(_SPLITS)})", re.ASCII)


class Arrays(Dataset):
    """An npz file with ``x_train`` and ``y_train``, optionally ``x_val``, ``y_val``, ``x_test``, ``y_test``.

    Images: N,H,W or N,H,W,C; uint8, or floats in [0, 1]. Labels: N integers from 0 to C-1, where C
    is the number of different ones in ``y_train``.

    Further labels of the training images, for methods that want them, are ``aux_NAME_train``
    (``aux_superclass_train``): N integers from 0. ``aux_NAME_val`` and ``aux_NAME_test`` may stand beside it.
    """

    name: ClassVar[str] = "arrays"
    whereabouts: ClassVar[frozenset[str]] = frozenset({"path"})

    path: Path = Field(
        description="npz file with x_train, y_train; x_val, y_val, x_test, y_test if you have them"
    )

    def read(self, base: Path) -> Source:
        file = base / self.path
        arrays = _load(file)
        splits: dict[str, Any] = {}
        for short, split in _SPLITS.items():
            if f"x_{short}" not in arrays:
                continue
            pixels = as_pixels(arrays[f"x_{short}"], f"{file}: x_{short}")
            labels = _as_labels(arrays[f"y_{short}"], f"{file}: y_{short}")
            further = {
                found[1]: _as_labels(array, f"{file}: {name}")
                for name, array in sorted(arrays.items())
                if (found := _AUX.fullmatch(name)) and found[2] == short
            }
            for what, values in {"labels": labels, **further}.items():
                if len(values) != len(pixels):
                    counts = f"{len(pixels)} images and {len(values)} {what}"
                    raise Refusal(f"{file}: every image must have a label, got {counts} for {split}")
            splits[split] = Images(pixels, labels, further)
        present = splits["train"].labels.unique()
        if not torch.equal(present, torch.arange(len(present))):
            got = f"{len(present)} different ones up to {int(present.max())}"
            raise Refusal(f"{file}: labels in y_train must be 0 to C-1 with none left out, got {got}")
        return Source(tuple(str(int(label)) for label in present), **splits)


def as_pixels(array: npt.NDArray[Any], what: str) -> Tensor:
    """Images in the forms that users may give, as N,C,H,W in uint8 or float32.

    Args:
        array: N,H,W or N,H,W,C with at most 16 channels; uint8, or floats in [0, 1].
        what: how a refusal calls the array.
    """
    if array.ndim not in (3, 4):
        raise Refusal(f"{what} must be N,H,W or N,H,W,C, got shape {array.shape}")
    rows = array[..., None] if array.ndim == 3 else array
    if rows.shape[3] > 16:
        raise Refusal(f"{what} must have its channels last, at most 16 of them, got shape {array.shape}")
    if array.dtype != np.uint8:
        if array.dtype.kind != "f":
            raise Refusal(f"{what} must be uint8, or floats in [0, 1], got {array.dtype}")
        rows = rows.astype(np.float32)
        low, high = (float(rows.min()), float(rows.max())) if rows.size else (0.0, 0.0)
        if not (low >= 0.0 and high <= 1.0):  # false for NaN too
            raise Refusal(f"{what} must lie in [0, 1] where it is not uint8, got {low:g} to {high:g}")
    return as_tensor(np.ascontiguousarray(rows)).permute(0, 3, 1, 2)


def _as_labels(array: npt.NDArray[Any], what: str) -> Tensor:
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise Refusal(f"{what} must be N integers, got shape {array.shape} of {array.dtype}")
    if array.size and int(array.min()) < 0:
        raise Refusal(f"{what} must be labels from 0, got {int(array.min())}")
    return torch.from_numpy(array.astype(np.int64))


def _load(file: Path) -> dict[str, npt.NDArray[Any]]:
    if not file.is_file():
        raise Refusal(f"arrays: no file {file}: an npz with x_train, y_train (numpy.savez) belongs there")
    try:
        stored = np.load(file, allow_pickle=False)
        if not isinstance(stored, np.lib.npyio.NpzFile):
            raise Refusal(f"{file} must be an npz of several arrays (numpy.savez), got a single array")
        with stored:
            names = set(stored.files)
            if unknown := sorted(name for name in names - set(_NAMES) if not _AUX.fullmatch(name)):
                rule = f"{', '.join(_NAMES)}, aux_NAME_train"
                raise Refusal(f"{file}: arrays must be named {rule}, got {', '.join(unknown)}")
            for short in _SPLITS:
                pair = {f"x_{short}", f"y_{short}"}
                if (short == "train" or pair & names) and (lacking := sorted(pair - names)):
                    rule = f"x_{short} and y_{short} must both be there"
                    raise Refusal(f"{file}: {rule}, got no {' and no '.join(lacking)}")
            for name in sorted(names - set(_NAMES)):
                own, short = name.removeprefix("aux_").rsplit("_", 1)
                if lacking := sorted({f"aux_{own}_train", f"x_{short}"} - names):
                    raise Refusal(f"{file}: {name} needs {' and '.join(lacking)} beside it")
            return {name: stored[name] for name in names}
    except (
        OSError,
        EOFError,
        ValueError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:  # torn, or pickled objects
        reason = " ".join(str(error).split())
        raise Refusal(f"{file} cannot be read as an npz: {reason}") from error
