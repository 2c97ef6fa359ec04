"""CIFAR-10 and CIFAR-100: 60,000 colour photographs of 32x32 (A. Krizhevsky, 2009).

Both published forms are read: the binary one, and the one for Python, which is torchvision's. That one
consists of pickles, which can run code: they are opened only where their checksum is the published one,
and even then nothing but arrays can come out of them.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from routesearch.data.base import Dataset, Images, Shape, Source
from routesearch.data.download import downloading
from routesearch.errors import Refusal

SHAPE: Shape = (3, 32, 32)
_PIXELS = 3 * 32 * 32

CIFAR10_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
_CIFAR100_CLASSES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup
dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower
leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid
otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray
road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
wardrobe whale willow_tree wolf woman worm
"""
COARSER = {"cifar2": ("horse", "other"), "cifar5": ("cat", "deer", "dog", "horse", "other")}
"""Label maps of McGill and Perona (2017): every class that is not named is ``other``."""


@dataclass(frozen=True)
class Edition:
    """How one CIFAR is published.

    Attributes:
        name: of the data set.
        pickled, binary: folder of each form.
        checksums: split -> file of the pickled form -> its MD5 sum.
        records: split -> files of the binary form.
        labels: names of an image's labels in the pickled form, and how many classes each knows; in the
            order of the bytes that begin a record of the binary form.
    """

    name: str
    pickled: str
    binary: str
    checksums: Mapping[str, Mapping[str, str]]
    records: Mapping[str, tuple[str, ...]]
    labels: Mapping[str, int]

    def read(self, root: Path, download: bool) -> dict[str, Images]:
        """Both splits, each label but the last in ``aux`` by its name.

        Args:
            root: the folder that holds the folder of either form, or the files themselves.
            download: fetch the pickled form where there is neither.

        Raises:
            Refusal: files are missing or broken, or not the published ones; names them.
        """
        if self._found(root) is None and download:
            self._download(root)
        found = self._found(root)
        if found is None:
            places = f"{root / self.pickled}, or the binary form in {root / self.binary}"
            how = "set data.download: true, or data.path to where they are"
            raise Refusal(f"{self.name}: not all its files are there, they belong in {places}: {how}")
        folder, binary = found
        if binary:
            return {split: self._joined(map(folder.joinpath, self.records[split])) for split in self.records}
        return {
            split: self._joined(folder / name for name in self.checksums[split]) for split in self.checksums
        }

    def _found(self, root: Path) -> tuple[Path, bool] | None:
        """The folder that holds all files of a form, and whether that is the binary one."""
        binary = [name for names in self.records.values() for name in names]
        pickled = [name for names in self.checksums.values() for name in names]
        for own, names in ((self.binary, binary), (self.pickled, pickled)):
            for folder in (root / own, root):
                if all((folder / name).is_file() for name in names):
                    return folder, names is binary
        return None

    def _download(self, root: Path) -> None:
        from torchvision import datasets

        with downloading(self.name, root):
            getattr(datasets, self.name.upper())(str(root), download=True)

    def _joined(self, files: Any) -> Images:
        pixels, labels = zip(*map(self._file, files), strict=True)
        together = {name: torch.cat([part[name] for part in labels]) for name in self.labels}
        *_, last = self.labels
        own = together.pop(last)
        return Images(torch.cat(pixels), own, together)

    def _file(self, file: Path) -> tuple[Tensor, dict[str, Tensor]]:
        try:
            content = file.read_bytes()
        except OSError as error:
            raise Refusal(f"{file} cannot be read: {error.strerror}") from error
        if file.suffix == ".bin":
            pixels, labels = self._records(content, file)
        else:
            pixels, labels = self._pickle(content, file)
        for name, classes in self.labels.items():
            wrong = labels[name][(labels[name] < 0) | (labels[name] >= classes)]
            if wrong.size:
                raise Refusal(f"{file}: {name} must lie in 0..{classes - 1}, got {wrong[0]}")
        tensors = {name: torch.from_numpy(values.astype(np.int64)) for name, values in labels.items()}
        return torch.from_numpy(pixels.reshape(-1, *SHAPE)), tensors

    def _records(
        self, content: bytes, file: Path
    ) -> tuple[npt.NDArray[np.uint8], dict[str, npt.NDArray[Any]]]:
        """One image after the other: a byte for each label, then all red, all green, all blue pixels."""
        length = len(self.labels) + _PIXELS
        if not content or len(content) % length:
            rule = f"its size must be a multiple of {length} bytes, one record for each image"
            raise Refusal(f"{file}: {rule}, got {len(content)} bytes")
        rows = np.frombuffer(bytearray(content), np.uint8).reshape(-1, length)
        return rows[:, len(self.labels) :], {name: rows[:, at] for at, name in enumerate(self.labels)}

    def _pickle(
        self, content: bytes, file: Path
    ) -> tuple[npt.NDArray[np.uint8], dict[str, npt.NDArray[Any]]]:
        right = next(sums[file.name] for sums in self.checksums.values() if file.name in sums)
        given = hashlib.md5(content, usedforsecurity=False).hexdigest()
        if given != right:
            how = f"fetch it anew, or put the binary form into {file.parent.with_name(self.binary)}"
            raise Refusal(f"{file}: a pickle must have the published MD5 sum {right}, got {given}: {how}")
        try:
            stored = unpickle_arrays(content)
            pixels = np.array(stored[b"data"]).reshape(-1, _PIXELS)
            labels = {name: np.array(stored[name.encode()]).reshape(len(pixels)) for name in self.labels}
        except (pickle.UnpicklingError, KeyError, TypeError, ValueError) as error:
            raise Refusal(f"{file} must hold data, {', '.join(self.labels)}: {error}") from error
        return pixels, labels


class _ArraysOnly(pickle.Unpickler):
    """Numbers, text, lists, dicts, and numpy arrays of these."""

    def find_class(self, module: str, name: str) -> Any:
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return super().find_class("numpy._core.multiarray", name)
        if module == "numpy" and name in ("ndarray", "dtype"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"only arrays may be in it, got {module}.{name}")


def unpickle_arrays(content: bytes) -> Any:
    """The value of a pickle, by Python 2 or 3, in which nothing but plain values and arrays may be.

    Raises:
        pickle.UnpicklingError: it names anything else. Nothing of that was imported or called.
    """
    return _ArraysOnly(io.BytesIO(content), encoding="bytes").load()


CIFAR10 = Edition(
    name="cifar10",
    pickled="cifar-10-batches-py",
    binary="cifar-10-batches-bin",
    checksums={
        "train": {
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        },
        "test": {"test_batch": "40351d587109b95175f43aff81a1287e"},
    },
    records={
        "train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
        "test": ("test_batch.bin",),
    },
    labels={"labels": 10},
)
CIFAR100 = Edition(
    name="cifar100",
    pickled="cifar-100-python",
    binary="cifar-100-binary",
    checksums={
        "train": {"train": "16019d7e3df5f24257cddd939b257f8d"},
        "test": {"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
    },
    records={"train": ("train.bin",), "test": ("test.bin",)},
    labels={"coarse_labels": 20, "fine_labels": 100},
)


class _Photographs(Dataset):
    """What both have in common."""

    shape: ClassVar[Shape] = SHAPE
    whereabouts: ClassVar[frozenset[str]] = frozenset({"path", "download"})

    path: Path = Field(
        default=Path("data"), description="folder that holds the published folder, or its files"
    )
    download: bool = Field(default=False, description="fetch the files into path where there are none")


class Cifar10(_Photographs):
    """CIFAR-10, or its photographs in fewer classes; validation images are cut from the training images."""

    name: ClassVar[str] = "cifar10"
    class_names: ClassVar[tuple[str, ...]] = CIFAR10_CLASSES

    labels: Literal["cifar2", "cifar5"] | None = Field(
        default=None,
        description="fewer classes: cifar2 (horse, other) or cifar5 (cat, deer, dog, horse, other)",
    )

    @property
    def classes(self) -> tuple[str, ...]:
        return self.class_names if self.labels is None else COARSER[self.labels]

    def facts(self, base: Path) -> tuple[Shape, tuple[str, ...]]:
        return SHAPE, self.classes

    def read(self, base: Path) -> Source:
        names = [name if name in self.classes else "other" for name in self.class_names]
        label = torch.tensor([self.classes.index(name) for name in names])
        splits = CIFAR10.read(base / self.path, self.download)
        train, test = (Images(splits[name].pixels, label[splits[name].labels]) for name in ("train", "test"))
        return Source(self.classes, train, test=test)


class Cifar100(_Photographs):
    """CIFAR-100; every image also has a ``superclass``, 0 to 19, in the order of the published names.

    Validation images are cut from the training images.
    """

    name: ClassVar[str] = "cifar100"
    class_names: ClassVar[tuple[str, ...]] = tuple(_CIFAR100_CLASSES.split())

    def read(self, base: Path) -> Source:
        splits = CIFAR100.read(base / self.path, self.download)
        train, test = (
            Images(images.pixels, images.labels, {"superclass": images.aux["coarse_labels"]})
            for images in (splits["train"], splits["test"])
        )
        return Source(self.class_names, train, test=test)
