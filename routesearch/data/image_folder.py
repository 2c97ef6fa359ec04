"""The user's own images as files: one folder per class."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import Field

from routesearch.data.base import Dataset, Shape, Source
from routesearch.data.class_names import composed
from routesearch.data.streamed import Files, Memory, StreamedImages
from routesearch.errors import Refusal
from routesearch.utils.units import bytes_of

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
_SPLITS = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}
_LAYOUT = "FOLDER/CLASS/image.jpg, or FOLDER/train/CLASS/image.jpg with val and test beside train"


class ImageFolder(Dataset):
    """Photos in one folder per class, or in train, val and test folders of these.

    Every image becomes RGB, turned as its camera says, shrunk or enlarged until its shorter side is
    ``size``, and cut to the square in its middle. Hidden files and files that are not images by their
    suffix are passed over; images may lie in folders within a class's folder.

    Where the pixels of all splits take more than ``memory``, images are decoded batch by batch, in every
    epoch anew, with the same numbers as a result. The workers of a cluster must then all see the folder
    under the same path.
    """

    name: ClassVar[str] = "image_folder"
    whereabouts: ClassVar[frozenset[str]] = frozenset({"path", "memory"})

    path: Path = Field(description=f"folder, relative to the study file: {_LAYOUT}")
    size: int = Field(
        default=64, ge=8, le=1024, description="height and width that every image is brought to, in pixels"
    )
    memory: Memory = Field(
        default="4G",
        description="pixels (height x width x 3 bytes an image) beyond this are decoded batch by batch",
    )

    def read(self, base: Path) -> Source:
        root = base / self.path
        splits: dict[str, Any] = {
            split: StreamedImages(
                Files.of(root, [file for file, _ in files], self.size),
                torch.tensor([label for _, label in files]),
            )
            for split, files in self.files(base).items()
        }
        return Source(self.facts(base)[1], **splits, memory=bytes_of(self.memory))

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
        return (3, self.size, self.size), tuple(map(composed, _subfolders(self._folders(base)["train"])))

    def _folders(self, base: Path) -> dict[str, Path]:
        """Each split that is given, with the folder that holds its classes."""
        root = base / self.path
        if not root.is_dir():
            raise Refusal(f"image_folder: no folder {root}: the layout is {_LAYOUT}")
        names = _subfolders(root)
        if "train" not in names or not _subfolders(root / "train"):
            if len(names) < 2:
                got = ", ".join(names) or "none"
                raise Refusal(f"image_folder: {root} must hold 2 class folders or more, got {got}: {_LAYOUT}")
            return {"train": root}
        if unknown := [name for name in names if name not in _SPLITS]:
            rule = f"beside {root / 'train'} only val and test may lie"
            raise Refusal(f"image_folder: {rule}, got {', '.join(unknown)}")
        if {"val", "validation"} <= set(names):
            raise Refusal(f"image_folder: {root} must hold val or validation, got both")
        folders = {_SPLITS[name]: root / name for name in sorted(names)}
        expected = _subfolders(folders["train"])
        for folder in folders.values():
            if differing := sorted(set(_subfolders(folder)) ^ set(expected)):
                rule = "train, val and test must hold the same class folders"
                raise Refusal(
                    f"image_folder: {rule}, got {', '.join(differing)} in train or {folder}, not both"
                )
        return folders


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
