"""Fashion-MNIST: 70,000 grey 28x28 pictures of clothes, read from the IDX files as they are published.

The files are looked for where torchvision puts them, and where Debian's package puts them.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from routesearch.data import idx
from routesearch.data.base import Dataset, Shape, Source
from routesearch.data.download import downloading
from routesearch.errors import Refusal

DEBIAN = Path("/usr/share/datasets/fashion-mnist")


class FashionMNIST(Dataset):
    """Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017); validation images are cut from the training images."""

    name: ClassVar[str] = "fashion_mnist"
    shape: ClassVar[Shape] = (1, 28, 28)
    class_names: ClassVar[tuple[str, ...]] = (
        "T-shirt or top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    )
    whereabouts: ClassVar[frozenset[str]] = frozenset({"path", "download"})

    path: Path = Field(
        default=Path("data"), description="folder of FashionMNIST/raw (torchvision's layout), or of the files"
    )
    download: bool = Field(default=False, description="fetch the files into path where there are none")

    def read(self, base: Path) -> Source:
        root = base / self.path
        folders = (root / "FashionMNIST" / "raw", root, DEBIAN)
        folder = idx.find(folders)
        if folder is None and self.download:
            _download(root)
            folder = idx.find(folders)
        if folder is None:
            how = "apt-get install dataset-fashion-mnist, or set data.download: true or data.path"
            raise Refusal(f"fashion_mnist: no files in {folders[0]} nor in {DEBIAN}: {how}")
        return Source(self.class_names, idx.read(folder, "train"), test=idx.read(folder, "test"))


def _download(root: Path) -> None:
    from torchvision import datasets

    with downloading("fashion_mnist", root):
        datasets.FashionMNIST(str(root), download=True)
