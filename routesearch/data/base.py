"""What a trial gets to see (:class:`Data`), and where it comes from (:class:`Dataset`)."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, TypeVar, final

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from routesearch.data.augment import Augment
from routesearch.data.checks import check_declared, check_facts, check_source, complete, enough
from routesearch.data.class_names import FORMER
from routesearch.data.decode_once import decode_once
from routesearch.data.images import Images, Shape, count_images, to_nhwc
from routesearch.data.moments import moments, moments_of, normalised
from routesearch.data.source import UNIT, PixelRange, Source
from routesearch.data.splits import Index, pick
from routesearch.data.streamed import StreamedImages
from routesearch.data.survey import NOTHING_TO_TELL, Survey, refuse_broken
from routesearch.errors import Refusal, described

__all__ = ["SPLITS", "Data", "Dataset", "Images", "PixelRange", "Shape", "Source", "moments", "normalised"]

T = TypeVar("T")

SPLITS = ("train", "validation", "test")
CALIBRATION = "calibration"
"""The part of the validation images that chooses nothing, where a study sets one aside."""
AT_ONCE = 256
"""Images that go through a network at a time where none of them is trained on."""


@dataclass(frozen=True, eq=False)
class Data:
    """Everything a trial needs to know about its images.

    Attributes:
        name: of the data set.
        classes: names, in the order of the labels.
        shape: channels, height, width.
        mean, std: of the training pixels, per channel, on the scale where white is 1.
        pixel_range: what pixels of float32 lie in, as the data set declares it.
        augment: what happens to training images.
        settings: of the data set, as far as they decide numbers.
        survey: what was found when the user's data were read; it stays where that was done.
        calibration: images that no search sees, to promise a loss of accuracy by; None: none are set aside.
    """

    name: str
    classes: tuple[str, ...]
    shape: Shape
    train: Images
    validation: Images
    test: Images
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: Augment = Augment()
    settings: Mapping[str, Any] = field(default_factory=dict)
    pixel_range: PixelRange = UNIT
    survey: Survey = NOTHING_TO_TELL
    calibration: Images | None = None

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of those that there are."""
        return SPLITS if self.calibration is None else (*SPLITS, CALIBRATION)

    def split(self, name: str) -> Images:
        """``train``, ``validation``, ``test`` or, where there is one, ``calibration`` by its name."""
        if name not in self.splits:
            raise ValueError(f"split must be one of {', '.join(self.splits)}, got {name!r}")
        images: Images = getattr(self, name)
        return images

    def inputs(self, pixels: Tensor) -> Tensor:
        """What a network is fed: float32, channels_last, normalised by ``mean`` and ``std``, on their device.

        Args:
            pixels: N,C,H,W; uint8 in [0, 255] or floats where 1 is white. They are not changed.
        """
        return normalised(pixels, self.mean, self.std)

    def batch(
        self, images: Images, index: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Inputs and labels of the images at ``index``; augmented where a ``generator`` is given."""
        chosen = images.take(index)
        pixels = chosen.pixels if generator is None else self.augment(chosen.pixels, generator, chosen.labels)
        return self.inputs(pixels), chosen.labels

    def chunks(
        self, images: Images, device: torch.device, size: int = AT_ONCE
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and labels of all images of a split in order, ``size`` at a time, on a device."""
        for chunk in images.chunks(size):
            yield self.inputs(chunk.pixels.to(device)), chunk.labels.to(device)

    def to(self, device: torch.device | str) -> Data:
        """The same data with all pixels and labels on ``device``."""
        moved: dict[str, Any] = {name: self.split(name).to(device) for name in self.splits}
        return replace(self, **moved)

    def to_numpy(self) -> dict[str, Any]:
        """Plain values and numpy arrays that share memory with the tensors: for Ray's object store.

        Of images that are not in memory only the names of their files travel.
        """
        parts = {
            f"{name}_{key}": value for name in self.splits for key, value in self.split(name).pack().items()
        }
        return parts | {
            "name": self.name,
            "classes": self.classes,
            "shape": self.shape,
            "mean": self.mean,
            "std": self.std,
            "augment": self.augment.model_dump(),
            "settings": dict(self.settings),
            "pixel_range": self.pixel_range,
        }

    @classmethod
    def from_numpy(cls, values: Mapping[str, Any]) -> Data:
        """The inverse of :meth:`to_numpy`, without a copy; read-only arrays (Ray's) are welcome."""
        plain = dict(values)
        for name in (*SPLITS, CALIBRATION):
            keys = [key for key in plain if key.startswith(f"{name}_")]
            part = {key.removeprefix(f"{name}_"): plain.pop(key) for key in keys}
            if keys:
                plain[name] = (StreamedImages if "files" in part else Images).unpack(part)
        return cls(**{**plain, "augment": Augment(**plain["augment"])})

    def fingerprint(self) -> str:
        """32 hexadecimal digits that change with any pixel, label, split, class name or setting.

        The same whether pixels are in memory or decoded for it, which happens once.
        """
        return self._digest

    @cached_property
    def _digest(self) -> str:
        classes = [FORMER.get(name, name) for name in self.classes]
        facts = [self.name, classes, self.shape, self.augment.model_dump(), dict(self.settings)]
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
        for name in self.splits:
            images = self.split(name)
            digest.update(f"{name} {len(images)} {images.dtype}".encode())
            for chunk in images.pieces():
                digest.update(to_nhwc(chunk.pixels).cpu().numpy().data)
            digest.update(images.labels.cpu().numpy().data)
            for key, values in sorted(images.aux.items()):
                digest.update(f" {key} ".encode())
                digest.update(values.cpu().numpy().data)
        return digest.hexdigest()[:32]


class Dataset(BaseModel, ABC):
    """A data set's settings, and how to read it: what the hook ``routesearch_datasets`` offers.

    A subclass declares its own settings as fields with a description, and :meth:`read`. Paths in
    settings are relative to ``base``, the folder of the study file; in a study file, ``~`` and ``$VARIABLES``
    are put into every setting of type Path before that. Facts that are the same for all
    settings stand in ``shape`` and ``class_names``, so that costs are known without the data.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ClassVar[str]
    shape: ClassVar[Shape | None] = None
    class_names: ClassVar[tuple[str, ...] | None] = None
    whereabouts: ClassVar[frozenset[str]] = frozenset()
    """Fields that say where the data are or how they are held, not what they are: free to change in a
    study that goes on."""
    contract: ClassVar[Mapping[str, Any]] = {}
    """What the conformance tests have to know: declarations of ``routesearch.testing.DatasetContract``."""
    later: ClassVar[frozenset[str]] = frozenset()
    """Fields that an earlier version had not. At their default they are no part of the settings, so that
    studies begun without them go on."""
    broken_cure: ClassVar[str] = "repair or remove them"
    """How to go on where files cannot be read."""

    split_seed: int = Field(
        default=0, ge=0, lt=2**32, description="decides how missing splits and subsets are cut"
    )
    train: int | None = Field(default=None, ge=1, description="at most so many training images, stratified")
    validation: int | None = Field(
        default=None, ge=1, description="at most so many validation images, stratified"
    )
    test: int | None = Field(default=None, ge=1, description="at most so many test images, stratified")
    calibration: float = Field(
        default=0.0,
        ge=0,
        le=0.9,
        description="share of the validation images that choose nothing: `best --max-drop` promises by them",
    )
    augment: Augment = Field(default=Augment(), description="random changes to training images")

    @abstractmethod
    def read(self, base: Path) -> Source:
        """All images there are. Raises Refusal, saying how to get them, when they are missing or broken."""

    def facts(self, base: Path) -> tuple[Shape, tuple[str, ...]]:
        """Image shape and class names, read as cheaply as possible (not at all where they are static)."""
        if self.shape is not None and self.class_names is not None:
            return self.shape, self.class_names
        source = self.checked_read(base)
        return source.train.shape, source.classes

    @final
    def checked_facts(self, base: Path) -> tuple[Shape, tuple[str, ...]]:
        """The :meth:`facts`, checked: they come from a plugin's code.

        Raises:
            Refusal: as :meth:`read`, and for what is no shape or no class names.
        """
        facts = self._guarded(lambda: self.facts(base), "its facts cannot be read")
        check_facts(self.name, facts)
        (channels, height, width), classes = facts
        return (channels, height, width), tuple(classes)

    def _declared(self, base: Path) -> tuple[Shape | None, tuple[str, ...] | None]:
        """Shape and class names, as far as they are known without the images."""
        own = type(self).facts is not Dataset.facts
        return self.checked_facts(base) if own else (self.shape, self.class_names)

    @final
    def checked_read(self, base: Path) -> Source:
        """What :meth:`read` gives, checked: it is a plugin's code.

        Raises:
            Refusal: as :meth:`read`, and for labels, shapes, class names or pixels that no study can use.
        """
        source = self._guarded(lambda: self.read(base), "the images cannot be read")
        check_source(self.name, source)
        return source

    def _guarded(self, ask: Callable[[], T], failed: str) -> T:
        """What a plugin's code gives, which may raise anything."""
        try:
            return ask()
        except Refusal:
            raise
        except Exception as error:
            raise Refusal(f"{self.name}: {failed}: {described(error)}") from error

    @final
    def load(self, base: Path) -> Data:
        """Read, cut the splits that are missing (stratified, 60/20/20 of the whole), apply the subset sizes.

        Raises:
            Refusal: as :meth:`read`; where what was read is not what the data set declares; and where
                labels, shapes, class names, pixels or sizes cannot make three splits.
        """
        source = self.checked_read(base)
        check_declared(self.name, source, *self._declared(base))
        splits, survey = self._decoded(source, source.memory)
        mean, std = moments_of(splits["train"])
        return Data(
            name=self.name,
            classes=tuple(source.classes),
            shape=source.train.shape,
            mean=mean,
            std=std,
            augment=self.augment,
            settings=self.settings(),
            pixel_range=source.pixel_range,
            survey=survey,
            **splits,
        )

    def survey(self, base: Path) -> Survey:
        """What a user should know of their data, found by one complete look at them; empty: nothing to tell.

        Raises:
            Refusal: as :meth:`load`.
        """
        return NOTHING_TO_TELL

    def _decoded(self, source: Source, memory: int | None) -> tuple[dict[str, Images], Survey]:
        """The three splits, each file of them decoded once, and what there is to tell."""
        splits = self.splits_of(source)
        decoded = decode_once(splits, memory)
        images = sum(len(each) for each in splits.values())
        refuse_broken(self.name, decoded.broken, images, self.broken_cure)
        splits = {
            name: each.in_memory() if type(each) is Images else each for name, each in decoded.splits.items()
        }
        return splits, self._told(source).with_several(decoded.several)

    @staticmethod
    def _told(source: Source) -> Survey:
        """The source's survey, with the images counted that are given."""
        if not source.survey.where:
            return source.survey
        return replace(source.survey, counts=count_images(source.classes, source.splits()))

    @final
    def splits_of(self, source: Source) -> dict[str, Images]:
        """The three splits, cut where they are missing, in the sizes that are wished.

        Raises:
            Refusal: there are too few images of a class.
        """
        if any(label >= len(source.classes) for label in self.augment.flip_only):
            rule = f"augment.flip_only must be labels in 0..{len(source.classes) - 1}"
            raise Refusal(f"{self.name}: {rule}, got {list(self.augment.flip_only)}")
        splits = self._cut(source)
        for position, name in enumerate(SPLITS):
            most: int | None = getattr(self, name)
            if most is not None and most < len(splits[name]):
                kept, _ = pick(_labels(splits[name]), most, self.split_seed, len(SPLITS) + position)
                splits[name] = _take(splits[name], kept)
        complete(self.name, splits["train"], source.classes)
        if self.calibration:
            whole = splits["validation"]
            count = round(self.calibration * len(whole))
            if not 0 < count < len(whole):
                rule = "calibration must leave images on both sides"
                raise Refusal(f"{self.name}: {rule}, got {self.calibration:g} of {len(whole)}")
            cut, kept = pick(_labels(whole), count, self.split_seed, 2 * len(SPLITS))
            splits |= {"validation": _take(whole, kept), CALIBRATION: _take(whole, cut)}
        return splits

    def settings(self) -> dict[str, Any]:
        """The settings that decide numbers, as JSON values."""
        values = self.model_dump(mode="json", exclude=set(self.whereabouts))
        plain = type(self).model_construct().model_dump(mode="json", include={*self.later, CALIBRATION})
        return {name: value for name, value in values.items() if name not in plain or plain[name] != value}

    def _cut(self, source: Source) -> dict[str, Images]:
        """The given splits, and the missing ones cut from the training images, in the ratio 60/20/20."""
        given = {"test": source.test, "validation": source.validation}
        missing = [name for name, images in given.items() if images is None]
        if missing:
            enough(self.name, source, 1 + len(missing))
        splits = {name: images for name, images in given.items() if images is not None}
        rest, parts = source.train, 60 + 20 * len(missing)
        for number, name in enumerate(missing):
            cut, kept = pick(_labels(rest), round(len(rest) * 20 / parts), self.split_seed, number)
            splits[name], rest, parts = _take(rest, cut), _take(rest, kept), parts - 20
        return {"train": rest, **splits}


def _labels(images: Images) -> Index:
    return images.labels.numpy()


def _take(images: Images, index: Index) -> Images:
    return images.select(torch.from_numpy(index))
