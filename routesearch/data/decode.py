"""Image files to pixels of one size."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from routesearch.errors import Refusal

if TYPE_CHECKING:
    from PIL import Image


def read_image(file: Path, size: tuple[int, int], mode: str = "RGB") -> npt.NDArray[np.uint8]:
    """One image file as uint8 pixels.

    Args:
        file: anything that Pillow reads.
        size: height and width; the image is scaled to cover them and its middle is kept.
        mode: ``RGB`` for H,W,3, ``L`` (grey) for H,W.

    Raises:
        Refusal: the file is not an image or cannot be read; names the file.
    """
    from PIL import Image, ImageOps

    height, width = size
    try:
        with Image.open(file) as image:
            # a JPEG is decoded at the smallest scale that is large enough, whichever side is up
            image.draft(mode, (max(size), max(size)))
            ImageOps.exif_transpose(image, in_place=True)
            picture = _eight_bits(image).convert(mode)
            scale = min(picture.width / width, picture.height / height)
            left = max(0.0, (picture.width - scale * width) / 2)
            top = max(0.0, (picture.height - scale * height) / 2)
            box = (left, top, picture.width - left, picture.height - top)
            small = picture.resize((width, height), Image.Resampling.BILINEAR, box, reducing_gap=2.0)
            return np.asarray(small)
    except Exception as error:  # Pillow's readers raise nearly anything on a broken file
        reason = " ".join(str(error).split()) or type(error).__name__
        raise Refusal(f"{file} cannot be read as an image: {reason}") from error


def _eight_bits(image: Image.Image) -> Image.Image:
    """Pillow clips wider pixels when it converts them; they are to be scaled."""
    from PIL import Image

    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels must have 8 or 16 bits, got mode {image.mode}")
    return image.convert("RGBA") if "transparency" in image.info else image
