"""Image files to pixels of one size."""

from __future__ import annotations

import contextlib
import errno
import stat
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from routesearch.data.formats import needed, readable_formats
from routesearch.errors import Refusal, message_of
from routesearch.errors.texts import printable

if TYPE_CHECKING:
    from PIL import Image

Pixels = npt.NDArray[np.uint8]

ALPHA = frozenset({"RGBA", "RGBa", "LA", "La", "PA"})
"""Pillow's modes with a share of transparency for each pixel."""
STRETCHED = frozenset({"PNG", "PPM"})
"""Formats whose wide pixels Pillow brings to the range of 16 bits, though its mode I has room for 32."""
BITS, WHITE_IS_ZERO = 258, 262
"""TIFF's tags: bits of a sample, and whether 0 is white (value 0) or black (1)."""
LARGEST = (281, 341, 50717)
"""TIFF's tags that may say which value is white: MaxSampleValue, SMaxSampleValue, DNG's WhiteLevel."""

SHORT_OF = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""Errors of a system that has no more memory, or files that may be open."""


class BrokenImage(Refusal):
    """A file that cannot be read as an image.

    Attributes:
        file: which.
        reason: why not, without the file's name.
    """

    def __init__(self, file: Path, reason: str) -> None:
        super().__init__(file, reason)  # both, so that a worker can send it
        self.file, self.reason = file, reason

    def __str__(self) -> str:
        return f"{printable(self.file)} cannot be read as an image: {self.reason}"


def read_image(file: Path, size: tuple[int, int], mode: str = "RGB") -> Pixels:
    """One image file as uint8 pixels.

    It is turned as its camera says; what is transparent lies on white; pixels of 9 to 16 bits are scaled to 8
    by the bits that the file says; of several frames or pages the first is read.

    Args:
        file: of a format that the installed Pillow reads.
        size: height and width; the image is scaled to cover them and its middle is kept.
        mode: ``RGB`` for H,W,3, ``L`` (grey) for H,W.

    Raises:
        BrokenImage: the file is not an image or cannot be read whole; names the file.
    """
    return examine_image(file, size, mode)[0]


def examine_image(file: Path, size: tuple[int, int], mode: str = "RGB") -> tuple[Pixels, bool]:
    """The pixels as :func:`read_image` gives them, and whether the file holds more frames or pages than one.

    Raises:
        BrokenImage: as :func:`read_image`.
    """
    from PIL import Image

    try:
        _check_is_file(file)
        with Image.open(file, formats=readable_formats()) as image:
            pixels = _pixels(image, size, mode)
            return pixels, _has_second_frame(image)
    except Exception as error:  # Pillow's readers raise nearly anything on a broken file
        if isinstance(error, MemoryError) or getattr(error, "errno", None) in SHORT_OF:
            raise  # no fault of the file
        raise BrokenImage(file, _reason(file, error)) from error


def _check_is_file(file: Path) -> None:
    """Raise ValueError where opening would wait for ever (a pipe), or there is nothing to read."""
    found = file.stat()
    if stat.S_ISDIR(found.st_mode):
        raise ValueError("it is a folder")
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("it is a device, pipe or socket")
    if found.st_size == 0:
        raise ValueError("it is empty")


def _pixels(image: Image.Image, size: tuple[int, int], mode: str) -> Pixels:
    from PIL import Image

    height, width = size
    # a JPEG is decoded at the smallest scale that is large enough, whichever side is up
    image.draft(mode, (max(size), max(size)))
    image.load()
    _turn(image)
    picture = _on_white(_eight_bits(image)).convert(mode)
    scale = min(picture.width / width, picture.height / height)
    left = max(0.0, (picture.width - scale * width) / 2)
    top = max(0.0, (picture.height - scale * height) / 2)
    box = (left, top, picture.width - left, picture.height - top)
    small = picture.resize((width, height), Image.Resampling.BILINEAR, box, reducing_gap=2.0)
    return np.asarray(small)


def _turn(image: Image.Image) -> None:
    """Turn a decoded image as its camera says; one whose EXIF cannot be read stays as it is."""
    from PIL import ImageOps

    with contextlib.suppress(SyntaxError, ValueError, TypeError, LookupError, struct.error):
        ImageOps.exif_transpose(image, in_place=True)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Pillow clips wider pixels when it converts them; they are to be scaled."""
    from PIL import Image

    tags: Mapping[int, Any] = getattr(image, "tag_v2", {})
    bits = _bits(tags)
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in STRETCHED):
        eight = np.clip(np.asarray(image) >> (bits - 8), 0, 255).astype(np.uint8)
        # Pillow turns negatives of 8 bits, not those of 16
        return Image.fromarray(255 - eight if tags.get(WHITE_IS_ZERO) == 0 else eight)
    if image.mode in ("I", "F"):
        kind = "fractions" if image.mode == "F" else "integers"
        raise ValueError(
            f"its pixels are {kind} of 32 bits or with a sign, and nothing says which is white;"
            " store 8 or 16 bits"
        )
    if bits != 16 and max(tags.get(BITS, (8,))) == 16:  # Pillow has dropped the lower byte of each colour
        raise ValueError(f"it holds {bits} bits in 16 for each colour; store 8 or 16")
    return image


def _bits(tags: Mapping[int, Any]) -> int:
    """Bits of a wide sample: those that a TIFF declares, 16 elsewhere."""
    declared = max(tags.get(BITS, (16,)))
    if 8 < declared < 16:
        return int(declared)
    for tag in LARGEST:
        largest = tags.get(tag)
        most = max(largest) if isinstance(largest, tuple) else largest
        # Another number is the largest in this one picture, which says nothing of white.
        if isinstance(most, int) and (most + 1).bit_count() == 1 and 8 < most.bit_length() < 16:
            return most.bit_length()
    return 16


def _on_white(image: Image.Image) -> Image.Image:
    """The image without transparency; without this the colours below it would appear."""
    from PIL import Image

    if image.mode not in ALPHA and "transparency" not in image.info:
        return image
    colours = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", colours.size, "white"), colours)


def _has_second_frame(image: Image.Image) -> bool:
    if image.format == "MPO":  # a camera's JPEG with a preview or another view behind it
        return False
    with contextlib.suppress(Exception):  # what follows the first frame need not be whole
        image.seek(1)
        return True
    return False


def _reason(file: Path, error: Exception) -> str:
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        package = needed(file.suffix)
        return f"it needs {package}" if package else "it is no image, or of a kind that Pillow does not read"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return message_of(error)
