"""Digits and pictures in one task: the classes, the sizes, the colours, and both sources."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from routesearch.data import Hybrid, Images, cifar, fashion_mnist, hybrid
from routesearch.data.hybrid import colours, enlarge, gamma_decode, of_classes, recolour
from routesearch.errors import Refusal

MNIST = {
    "train": (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949),
    "test": (980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009),
}
"""Images of each digit, as published."""


def idx(values: np.ndarray) -> bytes:
    return struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes()


def write_idx(folder: Path, train: int = 60, test: int = 20) -> None:
    folder.mkdir(parents=True)
    random = np.random.RandomState(0)
    for stem, count in (("train", train), ("t10k", test)):
        pixels = random.randint(0, 256, (count, 28, 28)).astype(np.uint8)
        pixels[:, 0, 0], pixels[:, 27, 27] = 0, 255  # a black corner and a white one
        (folder / f"{stem}-images-idx3-ubyte").write_bytes(idx(pixels))
        (folder / f"{stem}-labels-idx1-ubyte").write_bytes(idx((np.arange(count) % 10).astype(np.uint8)))


def write_cifar(folder: Path, each: int = 20) -> None:
    folder.mkdir(parents=True)
    random = np.random.RandomState(1)
    for name in [name for names in cifar.CIFAR10.records.values() for name in names]:
        pixels = random.randint(0, 256, (each, 3072)).astype(np.uint8)
        rows = (bytes([number % 10]) + row.tobytes() for number, row in enumerate(pixels))
        (folder / name).write_bytes(b"".join(rows))


@pytest.fixture
def files(tmp_path: Path) -> Path:
    write_idx(tmp_path / "data" / "MNIST" / "raw")
    write_cifar(tmp_path / "data" / "cifar-10-batches-bin")
    return tmp_path


@pytest.fixture
def clothes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "not-installed")
    write_idx(tmp_path / "data" / "FashionMNIST" / "raw", train=3000)
    return tmp_path


@pytest.mark.parametrize(("split", "photographs", "size"), [("train", 5000, 55_596), ("test", 1000, 10_139)])
def test_sizes_follow_from_the_published_class_counts(split: str, photographs: int, size: int) -> None:
    def images(counts: tuple[int, ...]) -> Images:
        labels = torch.repeat_interleave(torch.arange(10), torch.tensor(counts))
        return Images(torch.zeros(len(labels), 1, 1, 1, dtype=torch.uint8), labels)

    wanted = [cifar.CIFAR10_CLASSES.index(name) for name in Hybrid.class_names[5:]]
    digits = of_classes(images(MNIST[split]), range(5))
    pictures = of_classes(images((photographs,) * 10), wanted, first=5)
    assert len(digits) + len(pictures) == size
    counts = torch.bincount(torch.cat([digits.labels, pictures.labels])).tolist()
    assert counts == [*MNIST[split][:5], *[photographs] * 5]


def test_the_papers_sources(files: Path) -> None:
    source = Hybrid().read(files)
    assert source.classes == (*"01234", "airplane", "automobile", "deer", "frog", "horse")
    assert source.test is not None
    assert torch.bincount(source.train.labels).tolist() == [6] * 5 + [10] * 5
    assert torch.bincount(source.test.labels).tolist() == [2] * 10
    data = Hybrid().load(files)
    assert (data.shape, data.classes) == ((3, 32, 32), Hybrid.class_names)
    assert len(data.train) + len(data.validation) == 80
    assert data.train.pixels.dtype == torch.float32


def test_photographs_are_gamma_decoded_and_not_recoloured(files: Path) -> None:
    random, chosen = np.random.RandomState(1), []
    for _ in range(5):
        pixels = random.randint(0, 256, (20, 3, 32, 32))
        chosen += [pixels[number] for number in range(20) if number % 10 in (0, 1, 4, 6, 7)]
    train = Hybrid().read(files).train
    expected = (np.stack(chosen) / 255) ** 2.2
    np.testing.assert_allclose(train.pixels[train.labels >= 5].numpy(), expected, atol=1e-6)
    assert train.labels[train.labels >= 5].tolist() == [5, 6, 7, 8, 9] * 10


def test_digits_lie_on_a_line_between_two_colours(files: Path) -> None:
    train = Hybrid().read(files).train
    digits = train.pixels[train.labels < 5]
    grey = enlarge(_mnist(files)).float() / 255
    black, white = digits[:, :, 0, 0], digits[:, :, 31, 31]  # the corners of the made images
    line = black[..., None, None] + (white - black)[..., None, None] * grey
    torch.testing.assert_close(digits, line, atol=1e-5, rtol=0)
    assert ((white - black).norm(dim=1) >= 0.3 - 1e-6).all()
    assert len(torch.unique(black, dim=0)) == len(black)


def _mnist(files: Path) -> torch.Tensor:
    images = of_classes(hybrid.idx.read(files / "data" / "MNIST" / "raw", "train"), range(5))
    return images.pixels


def test_colours_follow_from_their_seed_alone(files: Path) -> None:
    one, same = Hybrid().load(files), Hybrid().load(files)
    assert one.fingerprint() == same.fingerprint()
    assert Hybrid(colour_seed=1).load(files).fingerprint() != one.fingerprint()
    cut, other = Hybrid(split_seed=1).read(files), Hybrid().read(files)
    assert torch.equal(cut.train.pixels, other.train.pixels)


@given(count=st.integers(0, 300), seed=st.integers(0, 2**32 - 1))
def test_two_colours_lie_apart_and_in_the_cube(count: int, seed: int) -> None:
    first, second = colours(count, np.random.RandomState(seed))
    assert first.shape == second.shape == (count, 3)
    distance = np.linalg.norm(first.astype(float) - second, axis=1)
    assert (distance > 0.3 - 1e-6).all()
    for colour in (first, second):
        assert ((colour >= 0) & (colour <= 1)).all()


def test_colours_are_uniform_where_nothing_is_redrawn() -> None:
    first, second = colours(20_000, np.random.RandomState(0))
    assert np.abs(first.mean(0) - 0.5).max() < 0.01
    assert np.abs(first.std(0) - 12**-0.5).max() < 0.01
    assert np.linalg.norm(first - second, axis=1).min() < 0.31  # close ones are kept


@given(value=st.integers(0, 255), seed=st.integers(0, 99))
def test_grey_lies_between_the_colours_in_proportion(value: int, seed: int) -> None:
    light = np.array([0.0, value / 255, 1.0], np.float32).reshape(1, 1, 3)
    black, grey, white = recolour(light, np.random.RandomState(seed))[0, 0]
    np.testing.assert_allclose(grey, black + (white - black) * (value / 255), atol=1e-6)


def test_enlarging_is_bilinear_and_keeps_flat_images() -> None:
    flat = torch.full((1, 1, 28, 28), 77, dtype=torch.uint8)
    assert torch.equal(enlarge(flat), torch.full((1, 1, 32, 32), 77, dtype=torch.uint8))
    ramp = (torch.arange(28) * 9).to(torch.uint8).expand(1, 1, 28, 28)
    at = ((torch.arange(32) + 0.5) * 28 / 32 - 0.5).clamp(0, 27)
    expected = (at * 9).expand(1, 1, 32, 32)
    assert (enlarge(ramp).float() - expected).abs().max() <= 0.5


def test_gamma() -> None:
    pixels = torch.tensor([0, 128, 255], dtype=torch.uint8).view(1, 1, 1, 3)
    np.testing.assert_allclose(gamma_decode(pixels).ravel(), [0, (128 / 255) ** 2.2, 1], rtol=1e-6)


def test_the_same_recipe_on_what_is_at_hand(clothes: Path) -> None:
    dataset = Hybrid(sources="digits+fashion_mnist")
    names = (*"01234", "T-shirt or top", "Trouser", "Pullover", "Dress", "Coat")
    assert dataset.facts(clothes) == ((3, 32, 32), names)
    data = dataset.load(clothes)
    assert data.classes == names
    counts = sum(torch.bincount(images.labels) for images in (data.train, data.validation, data.test))
    assert counts[:5].tolist() == [178, 182, 177, 183, 181]  # of the embedded digits
    assert int(counts[:5].sum()) == int(counts[5:].sum()) == 901
    assert counts[5:].max() - counts[5:].min() <= 1
    low, high = float(data.train.pixels.min()), float(data.train.pixels.max())
    assert 0 <= low < 0.05
    assert 0.95 < high <= 1
    grey = data.train.pixels.std(1).amax((1, 2)) < 1e-3
    assert not grey.any()  # nothing tells the two halves apart by being grey
    assert dataset.load(clothes).fingerprint() == data.fingerprint()


def test_missing_files_are_refused_with_the_ways_to_get_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "not-installed")
    with pytest.raises(Refusal, match=r"no MNIST files in .*raw: set data\.download: true"):
        Hybrid().load(tmp_path)
    write_idx(tmp_path / "data" / "MNIST" / "raw")
    with pytest.raises(Refusal, match=r"cifar10: not all its files are there"):
        Hybrid().load(tmp_path)
    with pytest.raises(Refusal, match="fashion_mnist: no files in"):
        Hybrid(sources="digits+fashion_mnist").load(tmp_path)


def test_labels_out_of_range_are_refused(files: Path) -> None:
    labels = files / "data" / "MNIST" / "raw" / "train-labels-idx1-ubyte"
    labels.write_bytes(idx(np.full(60, 11, np.uint8)))
    with pytest.raises(Refusal, match=r"labels must lie in 0\.\.9, got 11\.\.11 for train"):
        Hybrid().load(files)


def test_a_download_fetches_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import datasets

    monkeypatch.setattr(datasets, "MNIST", lambda root, download: write_idx(Path(root) / "MNIST" / "raw"))
    monkeypatch.setattr(
        datasets, "CIFAR10", lambda root, download: write_cifar(Path(root) / "cifar-10-batches-bin")
    )
    assert len(Hybrid(download=True).read(tmp_path).train) == 80
    assert Hybrid(download=True, path=Path("x")).settings() == Hybrid().settings()
