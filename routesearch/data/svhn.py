"""SVHN: 99,289 house numbers' digits of 32x32, and 531,131 easier ones, from the published MATLAB files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field

from routesearch.data.base import Dataset, Images, Shape, Source
from routesearch.data.download import downloading
from routesearch.errors import Refusal, message_of


class SVHN(Dataset):
    """Street View House Numbers, cropped digits (Netzer et al., 2011).

    Validation images are cut from the training images, the extra ones included where they are asked for.
    """

    name: ClassVar[str] = "svhn"
    shape: ClassVar[Shape] = (3, 32, 32)
    class_names: ClassVar[tuple[str, ...]] = tuple("0123456789")
    whereabouts: ClassVar[frozenset[str]] = frozenset({"path", "download"})

    path: Path = Field(
        default=Path("data"), description="folder of train_32x32.mat, test_32x32.mat, extra_32x32.mat"
    )
    download: bool = Field(default=False, description="fetch the files into path where there are none")
    extra: bool = Field(
        default=False,
        description="train on the 531,131 extra images too; they take 1.6 GB, loading twice that",
    )

    def read(self, base: Path) -> Source:
        root = base / self.path
        parts = ["train", "test", *(["extra"] if self.extra else [])]
        missing = [part for part in parts if not _file(root, part).is_file()]
        if missing and self.download:
            _download(root, missing)
            missing = [part for part in parts if not _file(root, part).is_file()]
        if missing:
            names = ", ".join(_file(root, part).name for part in missing)
            how = "set data.download: true, or data.path to where they are"
            raise Refusal(f"svhn: no {names} in {root}: {how}")
        read = {part: _images(_file(root, part)) for part in parts}
        train = [read[part] for part in parts if part != "test"]
        together = Images(torch.cat([i.pixels for i in train]), torch.cat([i.labels for i in train]))
        return Source(self.class_names, together, test=read["test"])


def _file(root: Path, part: str) -> Path:
    return root / f"{part}_32x32.mat"


def _download(root: Path, parts: Sequence[str]) -> None:
    from torchvision import datasets

    for part in parts:
        with downloading("svhn", root):
            datasets.SVHN(str(root), split=part, download=True)


def _images(file: Path) -> Images:
    """A MATLAB 5 file: ``X``, 32 x 32 x 3 x N, and ``y``, N x 1 from 1 to 10, where 10 is the digit 0."""
    from scipy.io import loadmat

    try:
        stored: dict[str, Any] = loadmat(file, variable_names=("X", "y"))
    except Exception as error:  # the reader raises nearly anything on a broken file
        reason = message_of(error)
        raise Refusal(f"{file} cannot be read as a MATLAB file: {reason}") from error
    if lacking := [name for name in ("X", "y") if name not in stored]:
        raise Refusal(f"{file} must hold X and y, got no {' and no '.join(lacking)}")
    pixels, labels = np.asarray(stored["X"]), np.asarray(stored["y"]).reshape(-1)
    if pixels.ndim == 3:  # MATLAB knows no fourth dimension of 1
        pixels = pixels[..., None]
    if pixels.shape[:3] != (32, 32, 3) or pixels.dtype != np.uint8 or pixels.shape[3:] != labels.shape:
        rule = "X must be 32,32,3,N of uint8 and y N numbers"
        raise Refusal(f"{file}: {rule}, got {pixels.shape} of {pixels.dtype} and {labels.shape}")
    if not np.isin(labels, np.arange(1, 11)).all():
        raise Refusal(
            f"{file}: labels must be whole numbers from 1 to 10, got {labels.min()}..{labels.max()}"
        )
    rows = torch.from_numpy(np.ascontiguousarray(pixels.transpose(3, 0, 1, 2)))
    return Images(rows.permute(0, 3, 1, 2), torch.from_numpy(labels.astype(np.int64) % 10))
