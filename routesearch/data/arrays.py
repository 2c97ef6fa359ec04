"""The user's own images as numpy arrays in one npz file."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy.typing as npt
from pydantic import Field

from routesearch.data.base import Dataset, Images, Shape, Source
from routesearch.data.labels import as_classes, as_names, as_numbers
from routesearch.data.npz import Npz
from routesearch.data.pixels import as_pixels, shape_of
from routesearch.data.survey import Survey, some
from routesearch.errors import Refusal

_SPLITS = {"train": "train", "val": "validation", "test": "test"}
_NAMES = {split: (f"x_{split}", f"y_{split}") for split in _SPLITS}
_MEDMNIST = {split: (f"{split}_images", f"{split}_labels") for split in _SPLITS}
_AUX = re.compile(rf"aux_(\w+)_({'|'.join(_SPLITS)})", re.ASCII)
CLASS_NAMES = "class_names"


class Arrays(Dataset):
    """An npz file with ``x_train`` and ``y_train``, optionally ``x_val``, ``y_val``, ``x_test``, ``y_test``.

    MedMNIST's names (``train_images``, ``train_labels``, ``val_images``, ...) are taken as well.

    Images: N,H,W or N,H,W,C; uint8, or floats in [0, 1]. Labels: N or N x 1 whole numbers from 0 to C-1,
    where C is the number of different ones for training, or N texts, or N x C rows of zeros with a one.
    ``class_names``: C texts, the names of the classes; else numbers and texts are their own.

    Further labels of the training images, for methods that want them, are ``aux_NAME_train``
    (``aux_superclass_train``): N integers from 0. ``aux_NAME_val`` and ``aux_NAME_test`` may stand beside it.
    """

    name: ClassVar[str] = "arrays"
    whereabouts: ClassVar[frozenset[str]] = frozenset({"path"})
    later: ClassVar[frozenset[str]] = frozenset({"alpha"})

    path: Path = Field(
        description="npz file with x_train, y_train; x_val, y_val, x_test, y_test if you have them"
    )
    alpha: Literal["white", "channel"] = Field(
        default="white",
        description="of 4 channels the last is: white, alpha, shown over white; channel, one like the others",
    )

    def read(self, base: Path) -> Source:
        with Npz(base / self.path) as stored:
            names = _names(stored)
            classes, labels = _labels(stored, names)
            splits: dict[str, Any] = {}
            for split, (x, y) in names.items():
                what = f"{stored.file}: {x}"
                pixels = as_pixels(stored.array(x), what, alpha=self.alpha == "white")
                further = {
                    found[1]: as_numbers(stored.array(name), f"{stored.file}: {name}")
                    for name in sorted(stored.names)
                    if (found := _AUX.fullmatch(name)) and found[2] == split
                }
                for key, values in {"labels": labels[y], **further}.items():
                    if len(values) != len(pixels):
                        counts = f"{len(pixels)} images and {len(values)} {key}"
                        rule = "every image must have a label"
                        raise Refusal(f"{stored.file}: {rule}, got {counts} for {_SPLITS[split]}")
                splits[_SPLITS[split]] = Images(pixels, labels[y], further)
        return Source(classes, **splits)

    def facts(self, base: Path) -> tuple[Shape, tuple[str, ...]]:
        """The facts that labels and the header of the training images tell; no image is read."""
        with Npz(base / self.path) as stored:
            names = _names(stored)
            x, _ = names["train"]
            channels, height, width = shape_of(stored.shape(x), f"{stored.file}: {x}")
            classes, _ = _labels(stored, names)
        return (3 if channels == 4 and self.alpha == "white" else channels, height, width), classes

    def survey(self, base: Path) -> Survey:
        return self._decoded(self.checked_read(base), None)[1]


def _labels(stored: Npz, names: Mapping[str, tuple[str, str]]) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Class names, and the labels by the name of their array."""
    own = None
    if CLASS_NAMES in stored.names:
        own = as_names(stored.array(CLASS_NAMES), f"{stored.file}: {CLASS_NAMES}")
    given: dict[str, npt.NDArray[Any]] = {y: stored.array(y) for _, y in names.values()}
    return as_classes(given, own, stored.file)


def _names(stored: Npz) -> dict[str, tuple[str, str]]:
    """The splits that are there, training images first, each with the names of its images and labels.

    Raises:
        Refusal: an array has no known name, or lacks the one that belongs to it.
    """
    file, there = stored.file, set(stored.names)
    schemes = [
        scheme for scheme in (_NAMES, _MEDMNIST) if there & {n for pair in scheme.values() for n in pair}
    ]
    if not schemes:
        how = ": numpy.savez(file, x_train=x, y_train=y)" if "arr_0" in there else ""
        med = "or train_images, train_labels, ... as in MedMNIST"
        raise Refusal(f"{file}: {_rule(_NAMES)} ({med}), got {_named(stored.names)}{how}")
    scheme = schemes[0]
    if len(schemes) > 1:
        raise Refusal(f"{file}: {_rule(scheme)}, got MedMNIST's names beside them: {_named(stored.names)}")
    known = [name for pair in scheme.values() for name in pair]
    if unknown := sorted(n for n in there - {*known, CLASS_NAMES} if not _AUX.fullmatch(n)):
        close = difflib.get_close_matches(unknown[0], known, 1)
        hint = f"; did you mean {close[0]}?" if close and close[0] not in there else ""
        raise Refusal(f"{file}: {_rule(scheme)}, got {_named(unknown)}{hint}")
    for split, pair in scheme.items():
        if (split == "train" or there & set(pair)) and (
            lacking := [name for name in pair if name not in there]
        ):
            both = f"{pair[0]} and {pair[1]} must both be there"
            raise Refusal(f"{file}: {both}, got no {' and no '.join(lacking)}")
    names = {split: pair for split, pair in scheme.items() if pair[0] in there}
    for name in sorted(there - {*known, CLASS_NAMES}):
        own, split = name.removeprefix("aux_").rsplit("_", 1)
        if lacking := sorted({f"aux_{own}_train", scheme[split][0]} - there):
            raise Refusal(f"{file}: {name} needs {' and '.join(lacking)} beside it")
    return names


def _rule(scheme: Mapping[str, tuple[str, str]]) -> str:
    known = ", ".join(name for pair in scheme.values() for name in pair)
    return f"arrays must be named {known}, {CLASS_NAMES}, aux_NAME_train"


def _named(names: Iterable[str]) -> str:
    return some(list(names), 8) or "none"
