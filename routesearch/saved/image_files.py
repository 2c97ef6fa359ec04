"""Image files for a saved model, read the way its training images were."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from routesearch.data.decode import read_image
from routesearch.data.folder_walk import PassedOver, images_below
from routesearch.data.survey import Survey
from routesearch.errors import Refusal
from routesearch.saved.card import Card
from routesearch.utils.machine import cores


class FilesIn(NamedTuple):
    """What paths of files and folders mean.

    Attributes:
        files: those named, and for a folder all images below it, in order.
        surveys: of each folder, what was passed over in it.
        empty: folders without images.
    """

    files: list[Path]
    surveys: dict[Path, Survey]
    empty: list[Path]


def files_in(paths: Sequence[Path]) -> FilesIn:
    """The image files that are meant; a folder is walked as ``image_folder`` walks a class's.

    Raises:
        Refusal: a folder cannot be read.
    """
    found = FilesIn([], {}, [])
    for path in paths:
        if not _is_folder(path):
            found.files.append(path)
            continue
        passed = PassedOver()
        names = images_below(path, "", passed)
        found.files.extend(path / name for name in names)
        found.surveys[path] = Survey(passed_over=passed.by_reason())
        if not names:
            found.empty.append(path)
    return found


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name that is too long: reading it will say so
        return False


def read_files(card: Card, paths: Sequence[Path]) -> tuple[npt.NDArray[np.uint8], dict[int, str]]:
    """Read image files for :meth:`SavedModel.predict`.

    A file of another size is scaled to cover the model's and cut to its middle, its colours become grey or
    RGB: what ``image_folder`` does with training images.

    Returns:
        The images, N,H,W or N,H,W,3, those that can be read in their order; and, for each of the others,
        its position in ``paths`` and why not.

    Raises:
        Refusal: the model's images have neither one channel nor three, so no file can be read for it.
    """
    if card.files is None:
        rule = "image files have 1 channel (grey) or 3 (RGB)"
        raise Refusal(f"{rule}, the model's images {card.shape[0]}: give arrays to predict() in Python")
    size, mode = card.files.size, card.files.mode

    def one(path: Path) -> npt.NDArray[np.uint8] | str:
        try:
            return read_image(path, size, mode)
        except Refusal as refusal:
            return str(refusal)

    with ThreadPoolExecutor(cores()) as pool:  # Pillow decodes outside Python's lock
        found: list[Any] = list(pool.map(one, paths))
    bad = {i: each for i, each in enumerate(found) if isinstance(each, str)}
    good = [each for i, each in enumerate(found) if i not in bad]
    form = (*size, 3) if mode == "RGB" else size
    return np.stack(good) if good else np.zeros((0, *form), np.uint8), bad
