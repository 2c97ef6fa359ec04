"""The user's own images as files: one folder per class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import Field

from routesearch.data.base import Dataset, Shape, Source
from routesearch.data.class_folders import LAYOUT, find_class_folders
from routesearch.data.decode_once import decode_once
from routesearch.data.folder_walk import NEEDS, PassedOver, images_below
from routesearch.data.images import Images
from routesearch.data.streamed import Files, Memory, StreamedImages
from routesearch.data.survey import Survey, some
from routesearch.errors import Refusal
from routesearch.errors.texts import printable
from routesearch.utils.units import bytes_of


@dataclass(frozen=True)
class ImageFiles:
    """The image files of each split, by name; nothing of them was opened.

    Attributes:
        root: what names are relative to.
        splits: split -> names and labels.
        survey: what there is to tell so far.
    """

    root: Path
    classes: tuple[str, ...]
    splits: Mapping[str, tuple[list[str], list[int]]]
    survey: Survey


class ImageFolder(Dataset):
    """Photos in one folder per class, or in train, val and test folders of these, in any usual spelling.

    Every image becomes RGB, turned as its camera says, what is transparent white; it is shrunk or enlarged
    until its shorter side is ``size``, and cut to the square in its middle. Images may lie in folders within
    a class's folder. Files that are not images by their suffix, hidden ones and what systems put into folders
    are passed over, which is told.

    Where the pixels of all splits take more than ``memory``, images are decoded batch by batch, in every
    epoch anew, with the same numbers as a result. The workers of a cluster must then all see the folder
    under the same path.
    """

    name: ClassVar[str] = "image_folder"
    whereabouts: ClassVar[frozenset[str]] = frozenset({"path", "memory"})
    later: ClassVar[frozenset[str]] = frozenset({"skip_broken"})
    broken_cure: ClassVar[str] = (
        "repair or remove them, or leave them out by data.skip_broken: true (-v names all)"
    )

    path: Path = Field(description=f"folder, relative to the study file: {LAYOUT}")
    size: int = Field(
        default=64, ge=8, le=1024, description="height and width that every image is brought to, in pixels"
    )
    memory: Memory = Field(
        default="4G",
        description="pixels (height x width x 3 bytes an image) beyond this are decoded batch by batch",
    )
    skip_broken: bool = Field(
        default=False, description="leave files out that cannot be read, before splits are cut"
    )

    def read(self, base: Path) -> Source:
        found = self.files(base)
        memory = bytes_of(self.memory)
        splits: dict[str, Images] = {
            split: StreamedImages(Files.of(found.root, names, self.size), torch.tensor(labels))
            for split, (names, labels) in found.splits.items()
        }
        survey = found.survey
        if self.skip_broken:
            decoded = decode_once(splits, memory)
            splits = decoded.splits
            survey = replace(survey, broken=decoded.broken).with_several(decoded.several)
            _check_left(splits, found)
        parts: dict[str, Any] = splits
        return Source(found.classes, **parts, memory=memory, survey=survey)

    def survey(self, base: Path) -> Survey:
        return self._decoded(self.checked_read(base), 0)[1]

    def files(self, base: Path) -> ImageFiles:
        """The image files of each split that is given, with their labels; nothing is opened."""
        root, passed = self._root(base), PassedOver()
        found = find_class_folders(root, passed)
        splits: dict[str, tuple[list[str], list[int]]] = {}
        remarks, deeper = list(found.remarks), list[str]()
        for split, folders in found.folders.items():
            by_class = [images_below(root, folders[name], passed) for name in found.classes]
            splits[split] = (
                [name for names in by_class for name in names],
                [label for label, names in enumerate(by_class) for _ in names],
            )
            empty = [name for name, names in zip(found.classes, by_class, strict=True) if not names]
            if empty and (split == "train" or len(empty) == len(by_class)):
                where = printable(root / next(iter(folders.values())).rpartition("/")[0])
                told = _no_images(where, empty, len(by_class), passed)
                raise Refusal(f"image_folder: {told}: the layout is {LAYOUT}")
            if empty:
                remarks.append(f"no image in {split} of {some(empty)}")
            for name, names in zip(found.classes, by_class, strict=True):
                deeper += [each for each in names if each.count("/") > folders[name].count("/") + 1]
        if deeper:
            told = some([printable(each) for each in deeper])
            remarks.append(
                f"images in folders within class folders count for their class: {len(deeper):,} ({told})"
            )
        survey = Survey(printable(root.resolve()), {}, {}, passed.by_reason(), tuple(remarks))
        return ImageFiles(root, found.classes, splits, survey)

    def facts(self, base: Path) -> tuple[Shape, tuple[str, ...]]:
        return (3, self.size, self.size), find_class_folders(self._root(base), PassedOver()).classes

    def _root(self, base: Path) -> Path:
        return base / self.path


def _no_images(where: str, empty: list[str], classes: int, passed: PassedOver) -> str:
    """What a refusal says of class folders without images, and what to install where that helps."""
    needs = {what: names for what, names in passed.by_reason().items() if what.startswith(NEEDS)}
    why = "".join(f"; passed over {len(names):,}: {what} ({some(names)})" for what, names in needs.items())
    if len(empty) == classes:
        return f"no images in {where}{why}"
    return f"every class folder in {where} must hold an image, got none in {some(empty)}{why}"


def _check_left(splits: Mapping[str, Images], found: ImageFiles) -> None:
    """Raise Refusal where no image is left once the broken ones are out."""
    for split, images in splits.items():
        counts = torch.bincount(images.labels, minlength=len(found.classes)).tolist()
        gone = [name for name, count in zip(found.classes, counts, strict=True) if not count]
        if gone and (split == "train" or not len(images)):
            rule = f"some image of each class must be readable in {split}"
            raise Refusal(f"image_folder: {rule}, got none of {some(gone)}")
