"""What a reader gives: labelled images with the names of their classes, and the scale of their pixels."""

from __future__ import annotations

from dataclasses import dataclass

from routesearch.data.images import Images
from routesearch.data.survey import NOTHING_TO_TELL, Survey

PixelRange = tuple[float, float]
"""Least and greatest value of float pixels, on the scale where 0 is black and 1 is white."""

UNIT: PixelRange = (0.0, 1.0)
"""Between black and white: what pixels lie in unless a data set declares another range."""


@dataclass(frozen=True)
class Source:
    """What a data set holds, before the missing splits are cut.

    Attributes:
        classes: names, in the order of the labels: plain text that may also name a file.
        memory: bytes of pixels that may be held. Images that are read lazily (:class:`StreamedImages`)
            are decoded once and kept where all splits fit into it, and batch by batch where they do
            not. None: all are kept.
        pixel_range: what pixels of float32 lie in. A data set whose pixels leave [0, 1], by noise for
            instance, declares it; a saved model then takes such pixels, and refuses those beyond.
        survey: what the user should know of their data; empty where there is nothing to tell.
    """

    classes: tuple[str, ...]
    train: Images
    validation: Images | None = None
    test: Images | None = None
    memory: int | None = None
    pixel_range: PixelRange = UNIT
    survey: Survey = NOTHING_TO_TELL

    def splits(self) -> dict[str, Images]:
        """Those that are given, by name."""
        given = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: images for name, images in given.items() if images is not None}
