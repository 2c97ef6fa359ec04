"""Mean and deviation of pixels, and how a network is fed by them."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from routesearch.data.images import Images, to_nhwc
from routesearch.data.streamed import StreamedImages

MEASURED = 65_536
"""Training images at most that mean and deviation are taken from, evenly spaced over all of them."""


def normalised(pixels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Pixels, N,C,H,W in uint8 or floats where 1 is white, as :meth:`Data.inputs` feeds them to a network."""
    white = 255.0 if pixels.dtype == torch.uint8 else 1.0
    scale, shift = _affine(mean, std, white, tuple(pixels.shape[2:]), pixels.device)
    return (pixels.to(torch.float32, memory_format=torch.channels_last) * scale).add_(shift)


def moments(pixels: Tensor | Iterable[Tensor]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of N,C,H,W pixels, on the scale where white is 1.

    A channel that never changes gets a deviation of 1. A few images at a time: needs little memory.

    Args:
        pixels: all of them, or piece after piece, one at least.
    """
    count, white = 0, 1.0
    first, second = np.zeros(1), np.zeros(1)
    for piece in [pixels] if isinstance(pixels, Tensor) else pixels:
        white = 255.0 if piece.dtype == torch.uint8 else 1.0
        for part in piece.split(max(1, 4_000_000 // max(1, piece[0].numel()))):
            flat = to_nhwc(part).cpu().numpy().reshape(-1, part.shape[1]).astype(np.float64)
            first = first + flat.sum(0)
            second = second + np.einsum("nc,nc->c", flat, flat)
            count += len(flat)
    return _mean_and_std(first, second, count, white)


def _mean_and_std(
    first: npt.NDArray[Any], second: npt.NDArray[Any], count: int, white: float
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation from the sums of ``count`` pixels and of their squares, per channel."""
    mean = first / count / white
    std = np.sqrt(np.maximum(second / count / white**2 - mean**2, 0.0))
    return tuple(map(float, mean)), tuple(float(s) if s > 1e-6 else 1.0 for s in std)


def moments_of(images: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of a split; files whose sums of pixels are known are not decoded again."""
    if len(images) > MEASURED:
        images = images.select(torch.arange(MEASURED) * len(images) // MEASURED)
    if isinstance(images, StreamedImages) and images.sums is not None:
        first, second = images.sums.sum(0, dtype=np.int64).astype(np.float64)
        return _mean_and_std(first, second, len(images) * images.shape[1] * images.shape[2], 255.0)
    return moments(chunk.pixels for chunk in images.pieces())


@lru_cache(maxsize=64)
def _affine(
    mean: tuple[float, ...],
    std: tuple[float, ...],
    white: float,
    size: tuple[int, ...],
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Factor and summand that normalise pixels whose white is ``white``.

    Whole images (1,C,H,W), channels_last: with a number per channel (1,C,1,1) instead, the loop over
    three interleaved channels takes several times longer on a CPU.
    """
    with torch.inference_mode(False):  # kept, and used outside of the mode that it was first asked for in
        scale = torch.tensor([1 / (white * s) for s in std], device=device)
        shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=device)
        whole = (part.view(1, -1, 1, 1).expand(1, -1, *size) for part in (scale, shift))
        scale, shift = (part.contiguous(memory_format=torch.channels_last) for part in whole)
    return scale, shift
