"""1,797 handwritten digits, part of the package: nothing to download, a network learns them in seconds.

The images are the UCI "Optical Recognition of Handwritten Digits" test set (E. Alpaydin and C. Kaynak,
1998, CC BY 4.0) in the order in which scikit-learn ships it: 8x8 pixels of 17 grey levels.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from routesearch.data.base import Dataset, Images, Shape, Source
from routesearch.data.splits import Index, pick

_LEVELS = 16
_NOISY, _NOISE = 101, 102  # tell the two draws from those that cut splits
_FAR = 7.0
"""Standard deviations that no drawn value goes beyond: one in 10^11 would."""


class Digits(Dataset):
    """Handwritten digits at 16x16; noise on a share of them makes some images harder than others."""

    name: ClassVar[str] = "digits"
    shape: ClassVar[Shape] = (1, 16, 16)
    class_names: ClassVar[tuple[str, ...]] = tuple("0123456789")

    noise: float = Field(
        default=0.0, ge=0.0, le=1.0, description="share of the images (the same in each class) that get noise"
    )
    noise_std: float = Field(
        default=1.5, ge=0.0, le=100.0, description="noise's standard deviation, in units of the pixels' own"
    )

    def read(self, base: Path) -> Source:
        """All digits; which ones are noisy, and how, follows from ``split_seed``.

        Noisy pixels are not clipped: they leave [0, 1], as declared, and the pixels are float32 then.
        """
        with np.load(Path(__file__).with_name("digits.npz"), allow_pickle=False) as file:
            small, labels = torch.from_numpy(file["images"]), torch.from_numpy(file["labels"]).long()
        # sums of sixteenths of whole numbers are exact: the same pixels on every machine
        large = F.interpolate(small[:, None].float(), size=(16, 16), mode="bilinear", align_corners=False)
        pixels = (large * (255 / _LEVELS)).round().to(torch.uint8)
        count = round(self.noise * len(labels))
        if not (count and self.noise_std):
            return Source(self.class_names, Images(pixels, labels))
        clean = pixels.numpy().astype(np.float32) / np.float32(255)
        strength = self.noise_std * float(clean.std())
        noisy = self._with_noise(clean, pick(labels.numpy(), count, self.split_seed, _NOISY)[0], strength)
        most = math.ceil(_FAR * strength)
        return Source(self.class_names, Images(noisy, labels), pixel_range=(-most, 1.0 + most))

    def _with_noise(self, clean: npt.NDArray[np.float32], index: Index, strength: float) -> Tensor:
        random = np.random.RandomState((self.split_seed, _NOISE))
        noise = random.standard_normal((len(index), *clean.shape[1:])) * strength
        clean[index] += noise.astype(np.float32)
        return torch.from_numpy(clean)
