"""Labels in the forms that users have them as arrays, brought to numbers from 0 and names of classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from routesearch.data.class_names import composed
from routesearch.data.pixels import last_part
from routesearch.data.survey import some
from routesearch.errors import Refusal
from routesearch.errors.texts import shown

Array = npt.NDArray[Any]

RANKED = "np.unique({}, return_inverse=True)[1]"
"""What turns any labels into 0 to C-1, in their order."""


def as_classes(
    given: Mapping[str, Array], names: Sequence[str] | None, file: object
) -> tuple[tuple[str, ...], dict[str, Tensor]]:
    """Names of the classes, and int64 labels from 0 to C-1 of each split.

    Args:
        given: N whole numbers (of any type) from 0, N texts, or N x C rows of zeros with a one; N x 1 too.
            By what a refusal calls them; those of the training images come first.
        names: of the classes, in the order of the numbers. None: numbers and texts are their own names.
        file: how a refusal calls the file.

    Raises:
        Refusal: another form, or numbers that are no classes, with what would turn them into some.
    """
    plain = {what: _plain(array, f"{file}: {what}") for what, array in given.items()}
    train, *others = plain
    if not plain[train].size:
        raise Refusal(f"{file}: {train} must hold a label for each image, got none")
    texts = plain[train].dtype.kind == "U"
    for what in others:
        if (plain[what].dtype.kind == "U") != texts:
            kinds = f"{'texts' if not texts else 'numbers'} and {'texts' if texts else 'numbers'}"
            raise Refusal(f"{file}: {what} must be labels of the kind of {train}, got {kinds}")
    values = np.unique(plain[train])
    classes: Sequence[Any] = values.tolist()
    if texts:
        if names is not None and set(names) != set(classes):
            odd = some([shown(name) for name in sorted(set(names) ^ set(classes))], 5)
            raise Refusal(f"{file}: class_names must be the labels in {train}, got {odd} in one alone")
        classes = classes if names is None else names
    else:
        _check_numbers(values, f"{file}: {train}")
        if names is not None and len(names) != len(classes):
            rule = f"class_names must name each of the {len(classes)} classes in {train}"
            raise Refusal(f"{file}: {rule}, got {len(names)}")
    for what in others:
        if absent := np.setdiff1d(plain[what], values).tolist():
            count = int(np.isin(plain[what], absent).sum())
            rule = f"{what} must hold no class that {train} lacks"
            raise Refusal(
                f"{file}: {rule}, got {some([*map(shown, absent)], 5)} ({count} of {len(plain[what])} labels)"
            )
    label = {name: number for number, name in enumerate(classes)}
    numbers = np.array([label[value] for value in values.tolist()], np.int64)
    labels = {what: torch.from_numpy(numbers[np.searchsorted(values, a)]) for what, a in plain.items()}
    return tuple(composed(str(name)) for name in (names or classes)), labels


def as_numbers(array: Array, what: str) -> Tensor:
    """Further labels: N whole numbers from 0, whichever of them there are."""
    plain = _plain(array, what)
    if plain.dtype.kind == "U":
        raise Refusal(f"{what} must be N integers, got texts: {RANKED.format(last_part(what))}")
    if plain.size and int(plain.min()) < 0:
        raise Refusal(f"{what} must be labels from 0, got {int(plain.min())}")
    if plain.size and int(plain.max()) >= 2**62:
        raise Refusal(f"{what} must be labels from 0, got {int(plain.max())}")
    return torch.from_numpy(plain.astype(np.int64))


def as_names(array: Array, what: str) -> tuple[str, ...]:
    """Names of classes: an array of C texts."""
    if array.ndim != 1 or array.dtype.kind not in "US":
        how = "np.array(names, dtype=str)"
        raise Refusal(f"{what} must be C texts, got shape {array.shape} of {array.dtype}: {how}")
    return tuple(composed(name) for name in _texts(array, what).tolist())


def _plain(array: Array, what: str) -> Array:
    """N whole numbers or N texts."""
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    rule, y = f"{what} must be N integers", last_part(what)
    got = f"got shape {array.shape} of {array.dtype}"
    if array.ndim == 2 and array.shape[0] == 1:
        raise Refusal(f"{rule}, {got}: {y}.ravel()")
    if array.ndim == 2 and array.dtype.kind in "biuf":
        return _of_rows(array, rule, got, y)
    if array.ndim != 1 or array.dtype.kind not in "biufUS":
        raise Refusal(f"{rule}, or N texts, {got}")
    if array.dtype.kind in "US":
        return _texts(array, what)
    if array.dtype.kind == "f":
        array = array.astype(np.float64)
        odd = array[array != np.round(array)]  # NaN too
        if len(odd) or not np.isfinite(array).all():
            value = odd[0] if len(odd) else array[~np.isfinite(array)][0]
            raise Refusal(f"{rule}, {got}: {value:g} is no class")
        if np.abs(array).max(initial=0) >= 2**53:
            raise Refusal(f"{rule}, {got}: {np.abs(array).max():g} is no class")
        return array.astype(np.int64)
    return array.astype(np.int64) if array.dtype.kind == "b" else array


def _of_rows(array: Array, rule: str, got: str, y: str) -> Array:
    """The place of the one in each row of zeros."""
    ones = (array != 0).sum(1)
    if array.dtype.kind == "f" and not np.isin(array, (0, 1)).all():
        raise Refusal(f"{rule}, {got}: {y}.argmax(1), where a row holds the classes' shares")
    if not np.isin(array, (0, 1)).all():
        raise Refusal(f"{rule}, or rows of zeros with a one, {got}")
    if (ones != 1).any():
        row = int(np.flatnonzero(ones != 1)[0])
        counts = (
            f"{int((ones != 1).sum())} of {len(ones)} rows have another number (row {row} has {ones[row]})"
        )
        raise Refusal(f"{rule}, or rows of zeros with a one, {got}: {counts}; an image has one class")
    places: Array = array.argmax(1)
    return places


def _texts(array: Array, what: str) -> Array:
    if array.dtype.kind == "U":
        return array
    try:
        decoded: Array = np.char.decode(array, "utf-8")
        return decoded
    except UnicodeDecodeError as error:
        raise Refusal(f"{what} must be valid UTF-8, got {shown(error.object)}") from None


def _check_numbers(values: Array, what: str) -> None:
    """Raise Refusal unless ``values``, sorted and different, are 0 to C-1."""
    if int(values[0]) == 0 and int(values[-1]) == len(values) - 1:
        return
    low, high, y = int(values[0]), int(values[-1]), last_part(what)
    ranked = RANKED.format(y)
    if low < 0:
        how = f"({y} + 1) // 2" if values.tolist() == [-1, 1] else f"leave these images out, or {ranked}"
        raise Refusal(f"{what} must be labels from 0, got {low}: {how}")
    how = f"{y} - 1" if low == 1 and high == len(values) else ranked
    rule = f"{what} must be 0 to C-1 with none left out"
    raise Refusal(f"{rule}, got {len(values)} different ones up to {high}, the least {low}: {how}")
