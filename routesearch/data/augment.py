"""Random changes to training images, a whole batch at once on the batch's own device."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor


class Augment(BaseModel):
    """What may happen to an image each time it is trained on. Validation and test images never change."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    crop: int = Field(
        default=0,
        ge=0,
        le=64,
        description="pad each side by so many black pixels, then crop at random; 0: off",
    )
    flip: bool = Field(default=False, description="mirror left to right, every second image on average")

    def __bool__(self) -> bool:
        return self.flip or self.crop > 0

    def __call__(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """Changed copies of ``pixels`` (N,C,H,W, before normalisation), or themselves if all is off.

        The draws come from ``generator``, which may be on another device: two per image for a crop,
        one for a flip.
        """
        if self.crop:
            pixels = _crop(pixels, self.crop, generator)
        if self.flip:
            pixels = _flip(pixels, generator)
        return pixels


def _crop(pixels: Tensor, margin: int, generator: torch.Generator) -> Tensor:
    count, channels, height, width = pixels.shape
    draws = torch.randint(2 * margin + 1, (2, count, 1), generator=generator, device=generator.device)
    down, right = draws.to(pixels.device)
    tall, wide = height + 2 * margin, width + 2 * margin
    padded = F.pad(pixels.permute(0, 2, 3, 1), (0, 0, margin, margin, margin, margin)).reshape(-1)
    # A line of a cropped image is `width` pixels in a row of the padded memory. Seen as overlapping
    # lines that begin at each pixel, all lines of all images are copied by one index_select.
    lines = padded.as_strided((count * tall * wide - width + 1, width * channels), (channels, 1))
    image = torch.arange(count, device=pixels.device).view(-1, 1) * tall
    begin = (image + down + torch.arange(height, device=pixels.device)) * wide + right
    return lines.index_select(0, begin.view(-1)).view(count, height, width, channels).permute(0, 3, 1, 2)


def _flip(pixels: Tensor, generator: torch.Generator) -> Tensor:
    coins = torch.rand(len(pixels), generator=generator, device=generator.device) < 0.5
    chosen = coins.nonzero().view(-1).to(pixels.device)
    rows = pixels.permute(0, 2, 3, 1)
    mirrored = rows.index_select(0, chosen).flip(2)
    return rows.index_copy(0, chosen, mirrored).permute(0, 3, 1, 2)
