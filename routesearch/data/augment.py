"""Random changes to training images, a whole batch at once on the batch's own device."""

from __future__ import annotations

from typing import Annotated, Literal

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
        description="pad each side by so many pixels, then crop at random; 0: off",
    )
    fill: Literal["black", "mean"] = Field(
        default="black", description="what the padding is: black, or the image's own mean colour (mean)"
    )
    flip: bool = Field(default=False, description="mirror left to right, every second image on average")
    flip_only: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        default=(), description="labels of the classes that flip is for; []: all"
    )

    def __bool__(self) -> bool:
        return self.flip or self.crop > 0

    def __call__(self, pixels: Tensor, generator: torch.Generator, labels: Tensor | None = None) -> Tensor:
        """Changed copies of ``pixels`` (N,C,H,W, before normalisation), or themselves if all is off.

        The draws come from ``generator``, which may be on another device: two per image for a crop,
        one for a flip. ``labels`` (N) are needed for ``flip_only`` alone.
        """
        if self.crop:
            pixels = _crop(pixels, self.crop, self.fill == "mean", generator)
        if self.flip:
            allowed = None
            if self.flip_only:
                if labels is None:
                    raise ValueError("flip_only needs the labels of the images")
                allowed = torch.isin(labels, torch.tensor(self.flip_only, device=labels.device))
            pixels = _flip(pixels, allowed, generator)
        return pixels


def _crop(pixels: Tensor, margin: int, mean: bool, generator: torch.Generator) -> Tensor:
    count, channels, height, width = pixels.shape
    draws = torch.randint(2 * margin + 1, (2, count, 1), generator=generator, device=generator.device)
    down, right = draws.to(pixels.device)
    tall, wide = height + 2 * margin, width + 2 * margin
    rows = pixels.permute(0, 2, 3, 1)
    padded = F.pad(rows, (0, 0, margin, margin, margin, margin))
    if mean:
        colour = rows.float().mean((1, 2), keepdim=True)
        colour = colour if pixels.is_floating_point() else colour.round()
        padded = colour.to(pixels.dtype).expand_as(padded).clone(memory_format=torch.contiguous_format)
        padded[:, margin:-margin, margin:-margin] = rows
    padded = padded.reshape(-1)
    # A line of a cropped image is `width` pixels in a row of the padded memory. Seen as overlapping
    # lines that begin at each pixel, all lines of all images are copied by one index_select.
    lines = padded.as_strided((count * tall * wide - width + 1, width * channels), (channels, 1))
    image = torch.arange(count, device=pixels.device).view(-1, 1) * tall
    begin = (image + down + torch.arange(height, device=pixels.device)) * wide + right
    return lines.index_select(0, begin.view(-1)).view(count, height, width, channels).permute(0, 3, 1, 2)


def _flip(pixels: Tensor, allowed: Tensor | None, generator: torch.Generator) -> Tensor:
    coins = torch.rand(len(pixels), generator=generator, device=generator.device) < 0.5
    chosen = coins.nonzero().view(-1).to(pixels.device)
    rows = pixels.permute(0, 2, 3, 1)
    picked = rows.index_select(0, chosen)
    mirrored = picked.flip(2)
    if allowed is not None:  # no look at its values, which may lie on another device
        mirrored = torch.where(allowed.index_select(0, chosen)[:, None, None, None], mirrored, picked)
    return rows.index_copy(0, chosen, mirrored).permute(0, 3, 1, 2)
