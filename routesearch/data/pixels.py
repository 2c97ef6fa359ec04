"""Images in the forms that users have them as arrays, brought to the one that networks are fed from."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from routesearch.data.images import Shape, as_tensor
from routesearch.data.source import UNIT, PixelRange
from routesearch.errors import Refusal

Array = npt.NDArray[Any]

MOST_CHANNELS = 16
_FEW = (1, 3, 4)
"""Channels of pictures: grey, RGB, and RGB with alpha."""
_WHITES = (255, 1023, 4095, 16383, 65535)
"""What stands for white in 8, 10, 12, 14 and 16 bits."""
_AT_ONCE = 1024
"""Images that are put over white at a time."""


def as_pixels(
    array: Array,
    what: str,
    bounds: PixelRange = UNIT,
    *,
    alpha: bool = False,
    expected: Shape | None = None,
) -> Tensor:
    """Images in the forms that users may give, as N,C,H,W in uint8 or float32.

    Args:
        array: N,H,W or N,H,W,C with at most 16 channels; uint8, or floats in ``bounds``.
        what: how a refusal calls the array.
        alpha: the last of four channels says how opaque a pixel is; where it is not, white shows through.
        expected: C, H, W; what has this shape is not taken for N,C,H,W, however it looks.

    Raises:
        Refusal: another form, with what would turn it into one of these.
    """
    fits = expected is not None and array.shape[1:] == (*expected[1:], expected[0])
    channels = array.shape[3] if fits else shape_of(array.shape, what)[0]
    rows = array[..., None] if array.ndim == 3 else array
    if array.dtype != np.uint8:
        rows = _as_floats(rows, what, bounds)
    if alpha and channels == 4:
        rows = _over_white(rows)
    return as_tensor(np.ascontiguousarray(rows)).permute(0, 3, 1, 2)


def shape_of(sizes: tuple[int, ...], what: str) -> Shape:
    """C, H, W of an array of images by its shape.

    Raises:
        Refusal: its dimensions are not those of N,H,W or N,H,W,C.
    """
    rule, x = f"{what} must be N,H,W or N,H,W,C", last_part(what)
    if len(sizes) == 2:
        side = math.isqrt(sizes[1])
        square = f"{side}, {side}" if side**2 == sizes[1] else "height, width, channels"
        raise Refusal(f"{rule}, got shape {sizes}: {x}.reshape(-1, {square})")
    if len(sizes) not in (3, 4):
        raise Refusal(f"{rule}, got shape {sizes}")
    channels = sizes[3] if len(sizes) == 4 else 1
    if channels > MOST_CHANNELS or (len(sizes) == 4 and _channels_first(sizes)):
        how = f": np.moveaxis({x}, 1, -1)" if sizes[1] <= MOST_CHANNELS else ""
        if sizes[0] == sizes[1] and sizes[2] in _FEW:  # as MATLAB has them, the images last
            how = f": np.moveaxis({x}, -1, 0)"
        rule = f"{what} must have its channels last, at most {MOST_CHANNELS} of them"
        raise Refusal(f"{rule}, got shape {sizes}{how}")
    return channels, sizes[1], sizes[2]


def last_part(what: str) -> str:
    """An array's own name: ``x_train`` of ``mine.npz: x_train``."""
    return what.rpartition(": ")[2]


def _channels_first(sizes: tuple[int, ...]) -> bool:
    """Whether N,C,H,W is meant: the channels of a picture before a square that ends in no such number."""
    _, channels, height, width = sizes
    return channels in _FEW and height == width and width not in _FEW


def _as_floats(rows: Array, what: str, bounds: PixelRange) -> npt.NDArray[np.float32]:
    """Pixels that are no bytes, as float32 within ``bounds``."""
    least, greatest = bounds
    form = f"floats in [{least:g}, {greatest:g}]"
    if rows.dtype.kind in "biu":
        raise Refusal(
            f"{what} must be uint8, or {form}, got {rows.dtype}{_whole_numbers(rows, last_part(what))}"
        )
    if rows.dtype.kind != "f":
        raise Refusal(f"{what} must be uint8, or {form}, got {rows.dtype}")
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite then, and refused
        floats = rows.astype(np.float32)
    low, high = (float(floats.min()), float(floats.max())) if floats.size else (least, greatest)
    if not (low >= least and high <= greatest):  # false for NaN too
        rule = f"{what} must lie in [{least:g}, {greatest:g}] where it is not uint8"
        raise Refusal(f"{rule}, got {low:g} to {high:g}{_cure(floats, low, high, last_part(what))}")
    return floats


def _whole_numbers(rows: Array, x: str) -> str:
    """The range of integers, and how they become pixels."""
    if rows.dtype.kind == "b":
        return f": {x}.astype('float32')"
    if not rows.size:
        return ""
    low, high = int(rows.min()), int(rows.max())
    if low < 0 or high > _WHITES[-1]:
        return f" of {low} to {high}: scale them to floats, black 0 and white 1"
    if high <= _WHITES[0]:
        return f" of {low} to {high}: {x}.astype('uint8')"
    white = next(white for white in _WHITES if white >= high)
    return f" of {low} to {high}: ({x} / {white}).astype('float32'), if {white} is white"


def _cure(floats: npt.NDArray[np.float32], low: float, high: float, x: str) -> str:
    """What brings floats into [0, 1], as far as their range tells."""
    if not (math.isfinite(low) and math.isfinite(high)):
        images = int((~np.isfinite(floats)).any(axis=(1, 2, 3)).sum())
        return (
            f": {images} of {len(floats)} images hold NaN or infinity: leave them out, or np.nan_to_num({x})"
        )
    if low >= -0.05 and high <= 1.05:
        return f": np.clip({x}, 0, 1)"
    if low >= -1 and high <= 1:
        return f": ({x} + 1) / 2"
    if low >= 0 and high <= _WHITES[-1]:
        white = next(white for white in _WHITES if white >= high)
        return f": {x} / {white}, if {white} is white"
    return ": pixels come before any normalisation, black 0 and white 1"


def _over_white(rows: Array) -> Array:
    """N,H,W,4 to N,H,W,3: each pixel as it looks on white, bytes rounded to the nearest."""
    seen = np.empty((*rows.shape[:3], 3), rows.dtype)
    for start in range(0, len(rows), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        colour, alpha = rows[part, ..., :3], rows[part, ..., 3:]
        if rows.dtype == np.uint8:
            mixed = colour.astype(np.uint16) * alpha + 255 * (255 - alpha.astype(np.uint16))
            seen[part] = (mixed + 127) // 255
        else:
            seen[part] = colour * alpha + (1 - alpha)
    return seen
