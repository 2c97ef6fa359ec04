"""Image files for a saved model, read the way its training images were."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from routesearch.data.decode import read_image
from routesearch.errors import Refusal
from routesearch.saved.card import Card
from routesearch.utils.machine import cores


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
