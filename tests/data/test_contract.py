"""The invariants of the conformance kit, for the package's own data sets whose files are at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from routesearch.data import DATASETS, Arrays, Digits, FashionMNIST, Hybrid, ImageFolder, fashion_mnist
from routesearch.testing import DatasetContract

installed = pytest.mark.skipif(
    not fashion_mnist.DEBIAN.is_dir(), reason="needs Debian's package dataset-fashion-mnist"
)
DOWNLOADED = {"cifar10", "cifar100", "svhn"}
"""Tried in their own tests, on files that are made there."""


class TestDigits(DatasetContract):
    dataset = Digits
    settings = ({}, {"noise": 0.5}, {"noise": 1.0, "noise_std": 20.0}, {"train": 100, "split_seed": 3})


@installed
@pytest.mark.slow
class TestFashionMNIST(DatasetContract):
    dataset = FashionMNIST


@installed
@pytest.mark.slow
class TestHybrid(DatasetContract):
    dataset = Hybrid
    settings = ({"sources": "digits+fashion_mnist"},)


@pytest.fixture(scope="class", autouse=True)
def files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> None:
    """An npz and a folder of images, in ``base`` of the classes that read them."""
    own: Any = request.cls
    if own in (TestArrays, TestImageFolder):
        own.base = tmp_path_factory.mktemp("data")
        _write(own.base)


def _write(folder: Path) -> None:
    from PIL import Image

    drawn = np.random.default_rng(0).integers(0, 256, (40, 12, 10, 4), np.uint8)
    labels = np.arange(40) % 2
    np.savez(folder / "plain.npz", x_train=drawn[..., 0], y_train=labels, class_names=np.array(["a", "b"]))
    np.savez(folder / "alpha.npz", x_train=drawn, y_train=np.array(["cat", "dog"])[labels])
    tests = {"test_images": drawn[30:, ..., :3], "test_labels": labels[30:, None]}
    np.savez(
        folder / "medical.npz", train_images=drawn[:30, ..., :3], train_labels=labels[:30, None], **tests
    )
    for number, (pixels, label) in enumerate(zip(drawn, labels, strict=True)):
        place = folder / "photos" / f"class {label}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[..., :3]).save(place / f"{number}.png")


class TestArrays(DatasetContract):
    dataset = Arrays
    settings = (
        {"path": "plain.npz"},
        {"path": "alpha.npz"},
        {"path": "alpha.npz", "alpha": "channel"},
        {"path": "medical.npz"},
    )


class TestImageFolder(DatasetContract):
    dataset = ImageFolder
    settings = ({"path": "photos", "size": 8}, {"path": "photos", "size": 16, "memory": "1"})


def test_no_data_set_is_missing() -> None:
    tried = {
        value.dataset.name
        for value in globals().values()
        if isinstance(value, type) and issubclass(value, DatasetContract) and value is not DatasetContract
    }
    assert tried | DOWNLOADED == {kind.name for kind in DATASETS}
