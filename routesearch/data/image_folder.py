"""The user's own images as files: one folder per class."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field

from routesearch.data.base import Dataset, Images, Shape, Source
from routesearch.errors import Refusal
from routesearch.machine import cores

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
_SPLITS = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}
_LAYOUT = "FOLDER/CLASS/image.jpg, or FOLDER/train/CLASS/image.jpg with val and test beside train"


class ImageFolder(Dataset):
    """Photos in one folder per class, or in train, val and test folders of these.

    Every image becomes RGB, turned as its camera says, shrunk or enlarged until its shorter side is
    ``size``, and cut to the square in its middle. Hidden files and files that are not images by their
    suffix are passed over; images may lie in folders within a class's folder.
    """

    name: ClassVar[str] = "image_folder"
    whereabouts: ClassVar[frozenset[str]] = frozenset({"path"})

    path: Path = Field(description=f"folder, relative to the study file: {_LAYOUT}")
    size: int = Field(
        default=64, ge=8, le=1024, description="height and width that every image is brought to, in pixels"
    )

    def read(self, base: Path) -> Source:
        splits = {
            split: Images(
                _pixels([file for file, _ in files], self.size), torch.tensor([label for _, label in files])
            )
            for split, files in self.files(base).items()
        }
        return Source(self.facts(base)[1], **splits)

    def files(self, base: Path) -> dict[str, list[tuple[Path, int]]]:
        """The image files of each split that is given, with their labels; nothing is opened."""
        folders = self._folders(base)
        classes = _subfolders(folders["train"])
        found: dict[str, list[tuple[Path, int]]] = {}
        for split, folder in folders.items():
            found[split] = [(f, label) for label, name in enumerate(classes) for f in _files(folder / name)]
            if not found[split]:
                raise Refusal(f"image_folder: no images in {folder}: the layout is {_LAYOUT}")
        return found

    def facts(self, base: Path) -> tuple[Shape, tuple[str, ...]]:
        return (3, self.size, self.size), tuple(_subfolders(self._folders(base)["train"]))

    def _folders(self, base: Path) -> dict[str, Path]:
        """Each split that is given, with the folder that holds its classes."""
        root = base / self.path.expanduser()
        if not root.is_dir():
            raise Refusal(f"image_folder: no folder {root}: the layout is {_LAYOUT}")
        names = _subfolders(root)
        if "train" not in names or not _subfolders(root / "train"):
            if len(names) < 2:
                got = ", ".join(names) or "none"
                raise Refusal(f"image_folder: {root} must hold 2 class folders or more, got {got}: {_LAYOUT}")
            return {"train": root}
        if unknown := [name for name in names if name not in _SPLITS]:
            law = f"beside {root / 'train'} only val and test may lie"
            raise Refusal(f"image_folder: {law}, got {', '.join(unknown)}")
        if {"val", "validation"} <= set(names):
            raise Refusal(f"image_folder: {root} must hold val or validation, got both")
        folders = {_SPLITS[name]: root / name for name in sorted(names)}
        expected = _subfolders(folders["train"])
        for folder in folders.values():
            if differing := sorted(set(_subfolders(folder)) ^ set(expected)):
                law = "train, val and test must hold the same class folders"
                raise Refusal(
                    f"image_folder: {law}, got {', '.join(differing)} in train or {folder}, not both"
                )
        return folders


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


def _pixels(files: Sequence[Path], size: int) -> torch.Tensor:
    """All files, N,3,size,size in uint8. Pillow decodes outside Python's lock, so threads share the work."""
    rows = np.empty((len(files), size, size, 3), np.uint8)

    def place(number: int) -> None:
        rows[number] = read_image(files[number], (size, size))

    pool = ThreadPoolExecutor(cores())
    try:
        for _ in pool.map(place, range(len(files))):
            pass
    finally:
        pool.shutdown(cancel_futures=True)
    return torch.from_numpy(rows).permute(0, 3, 1, 2)


def _subfolders(folder: Path) -> list[str]:
    try:
        found = [each.name for each in folder.iterdir() if each.is_dir()]
    except OSError as error:
        raise Refusal(f"{folder} cannot be read: {error.strerror}") from error
    return sorted(name for name in found if not name.startswith("."))


def _files(folder: Path) -> list[Path]:
    """Images below ``folder``, in an order that depends on their names only."""
    found = [file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file()]
    return sorted(file for file in found if not _hidden(file.relative_to(folder)))


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
