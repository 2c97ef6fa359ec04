"""Fashion-MNIST from files where torchvision or Debian put them, and what is said when there are none."""

from __future__ import annotations

import gzip
import struct
import sys
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch

from routesearch.data import FashionMNIST, fashion_mnist
from routesearch.errors import Refusal

RAW = Path("data/FashionMNIST/raw")
installed = pytest.mark.skipif(
    not fashion_mnist.DEBIAN.is_dir(), reason="needs Debian's package dataset-fashion-mnist"
)


def idx(values: np.ndarray) -> bytes:
    return struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes()


def write(folder: Path, packed: bool = False, seed: int = 0) -> None:
    """100 training and 20 test images in the published format."""
    folder.mkdir(parents=True)
    random = np.random.RandomState(seed)
    for stem, count in (("train", 100), ("t10k", 20)):
        pixels = random.randint(0, 256, (count, 28, 28)).astype(np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        for name, values in ((f"{stem}-images-idx3-ubyte", pixels), (f"{stem}-labels-idx1-ubyte", labels)):
            if packed:
                (folder / f"{name}.gz").write_bytes(gzip.compress(idx(values)))
            else:
                (folder / name).write_bytes(idx(values))


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Debian's package is not installed."""
    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "not-installed")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("place", [str(RAW), "data"])
def test_files_are_found_in_either_layout(nowhere: None, tmp_path: Path, place: str, packed: bool) -> None:
    write(tmp_path / place, packed)
    data = FashionMNIST().load(tmp_path)
    assert (len(data.train), len(data.validation), len(data.test)) == (75, 25, 20)
    random = np.random.RandomState(0)
    random.randint(0, 256, (100, 28, 28))
    assert np.array_equal(data.test.pixels[:, 0].numpy(), random.randint(0, 256, (20, 28, 28)))
    assert data.test.labels.tolist() == [*range(10)] * 2
    assert data.train.pixels.dtype == torch.uint8
    assert data.shape == (1, 28, 28)


def test_a_study_of_an_earlier_version_goes_on(nowhere: None, tmp_path: Path) -> None:
    """Its first class was called T-shirt/top, and no name may look like a path now."""
    write(tmp_path / RAW)
    data = FashionMNIST().load(tmp_path)
    assert data.classes[0] == "T-shirt or top"
    before = replace(data, classes=("T-shirt/top", *data.classes[1:]))
    assert before.fingerprint() == data.fingerprint() == "dd4f2de30b732a58ec864bf893dcc388"


def test_the_users_own_files_go_before_debians(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write(tmp_path / "debian", packed=True, seed=1)
    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "debian")
    debian = FashionMNIST().load(tmp_path)
    write(tmp_path / RAW, seed=2)
    assert FashionMNIST().load(tmp_path).fingerprint() != debian.fingerprint()
    assert FashionMNIST(path=Path("debian")).load(tmp_path).fingerprint() == debian.fingerprint()


def test_missing_files_are_refused_with_the_ways_to_get_them(nowhere: None, tmp_path: Path) -> None:
    with pytest.raises(
        Refusal, match=r"apt-get install dataset-fashion-mnist.*data\.download: true"
    ) as refusal:
        FashionMNIST().load(tmp_path)
    assert str(tmp_path / RAW) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_an_incomplete_folder_is_not_taken(nowhere: None, tmp_path: Path) -> None:
    write(tmp_path / RAW)
    (tmp_path / RAW / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(Refusal, match="no files in"):
        FashionMNIST().load(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "rule"),
    [
        ("train-images-idx3-ubyte", b"not an IDX file at all", "must start with 00000803, got 6e6f7420"),
        ("train-images-idx3-ubyte", b"\0\0", "must start with 00000803, got 0000 and 2 bytes"),
        ("train-labels-idx1-ubyte", idx(np.zeros(100, np.uint8))[:-1], "must unpack to 108 bytes, got 107"),
        ("train-labels-idx1-ubyte", idx(np.zeros(99, np.uint8)), r"N images of 28x28 and N labels"),
        ("train-images-idx3-ubyte", idx(np.zeros((100, 32, 32), np.uint8)), r"got \(100, 32, 32\)"),
        (
            "t10k-labels-idx1-ubyte",
            idx(np.full(20, 10, np.uint8)),
            r"labels must lie in 0\.\.9, got 10\.\.10",
        ),
    ],
)
def test_broken_files_refused(nowhere: None, tmp_path: Path, name: str, content: bytes, rule: str) -> None:
    write(tmp_path / RAW)
    (tmp_path / RAW / name).write_bytes(content)
    with pytest.raises(Refusal, match=rule):
        FashionMNIST().load(tmp_path)


@pytest.mark.parametrize("damage", ["end lost", "start lost", "stream broken", "sum wrong"])
def test_a_damaged_archive_is_refused_by_name(nowhere: None, tmp_path: Path, damage: str) -> None:
    write(tmp_path / RAW, packed=True)
    file = tmp_path / RAW / "t10k-images-idx3-ubyte.gz"
    whole = file.read_bytes()
    contents = {
        "end lost": whole[:40],
        "start lost": whole[5:],
        "stream broken": whole[:10] + b"\xff" * 20 + whole[30:],
        "sum wrong": whole[:-8] + bytes(8),
    }
    file.write_bytes(contents[damage])
    with pytest.raises(Refusal, match=r"t10k-images-idx3-ubyte\.gz cannot be read"):
        FashionMNIST().load(tmp_path)


def test_a_download_fills_the_folder_and_keeps_stdout_clean(
    nowhere: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from torchvision import datasets

    def fetch(root: str, download: bool) -> None:
        assert download
        sys.stdout.write("progress")
        write(Path(root) / "FashionMNIST" / "raw")

    monkeypatch.setattr(datasets, "FashionMNIST", fetch)
    assert len(FashionMNIST(download=True).load(tmp_path).test) == 20
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(datasets, "FashionMNIST", None)  # there now: not fetched again
    assert len(FashionMNIST(download=True).load(tmp_path).test) == 20


def test_a_download_that_fails_is_refused(
    nowhere: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision import datasets

    def fail(root: str, download: bool) -> None:
        raise URLError("no route\nto host")

    monkeypatch.setattr(datasets, "FashionMNIST", fail)
    with pytest.raises(Refusal, match=r"download into .* failed: .*no route to host"):
        FashionMNIST(download=True).load(tmp_path)


def test_where_the_files_lie_is_no_part_of_the_settings() -> None:
    assert FashionMNIST(path=Path("a"), download=True).settings() == FashionMNIST().settings()


@installed
def test_the_real_files(tmp_path: Path) -> None:
    data = FashionMNIST(train=500, validation=100).load(tmp_path)
    assert (len(data.train), len(data.validation), len(data.test)) == (500, 100, 10_000)
    assert torch.bincount(data.train.labels).tolist() == [50] * 10
    whole = FashionMNIST().load(tmp_path)
    assert (len(whole.train), len(whole.validation)) == (45_000, 15_000)
    assert whole.mean[0] == pytest.approx(0.2860, abs=1e-3)  # published for all 60,000 training images
    assert whole.std[0] == pytest.approx(0.3530, abs=1e-3)
