"""SVHN from small MATLAB files, as scipy writes them and as MATLAB lays them out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from scipy.io import savemat

from routesearch.data import SVHN
from routesearch.errors import Refusal


def content(count: int, seed: int = 0) -> dict[str, Any]:
    """X, height x width x channels x N, and y, N x 1 from 1 to 10."""
    pixels = np.random.RandomState(seed).randint(0, 256, (32, 32, 3, count)).astype(np.uint8)
    return {"X": pixels, "y": (np.arange(count, dtype=np.uint8) % 10 + 1)[:, None]}


def write(folder: Path, *parts: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for seed, part in enumerate(parts):
        counts = {"train": 80, "test": 20, "extra": 120}
        savemat(folder / f"{part}_32x32.mat", content(counts[part], seed), do_compression=True)


def test_train_and_test(tmp_path: Path) -> None:
    write(tmp_path / "data", "train", "test")
    data = SVHN().load(tmp_path)
    assert (len(data.train), len(data.validation), len(data.test)) == (60, 20, 20)
    assert (data.shape, data.classes) == ((3, 32, 32), tuple("0123456789"))
    assert data.test.labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0] * 2  # 10 is the digit 0
    expected = content(20, seed=1)["X"].transpose(3, 2, 0, 1)
    assert np.array_equal(data.test.pixels.numpy(), expected)
    assert data.test.pixels.dtype == torch.uint8


def test_extra_images_are_trained_on_where_they_are_asked_for(tmp_path: Path) -> None:
    write(tmp_path / "data", "train", "test", "extra")
    assert len(SVHN().read(tmp_path).train) == 80
    source = SVHN(extra=True).read(tmp_path)
    assert len(source.train) == 200
    assert np.array_equal(source.train.pixels[80:].numpy(), content(120, 2)["X"].transpose(3, 2, 0, 1))
    assert SVHN(extra=True).settings() != SVHN().settings()
    assert SVHN(path=Path("a"), download=True).settings() == SVHN().settings()


def test_one_image_has_no_fourth_dimension(tmp_path: Path) -> None:
    write(tmp_path / "data", "train")
    one = content(1)
    savemat(tmp_path / "data" / "test_32x32.mat", {"X": one["X"][..., 0], "y": one["y"]})
    assert len(SVHN().load(tmp_path).test) == 1


@pytest.mark.parametrize(
    ("there", "extra", "missing"),
    [((), False, "train_32x32.mat, test_32x32.mat"), (("train", "test"), True, "extra_32x32.mat")],
)
def test_missing_files_are_refused_with_the_ways_to_get_them(
    tmp_path: Path, there: tuple[str, ...], extra: bool, missing: str
) -> None:
    write(tmp_path / "data", *there)
    with pytest.raises(Refusal, match=f"svhn: no {missing} in .*data.download: true") as refusal:
        SVHN(extra=extra).load(tmp_path)
    assert str(tmp_path / "data") in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("damage", ["text", "empty", "torn", "start lost", "newer format"])
def test_a_damaged_file_is_named(tmp_path: Path, damage: str) -> None:
    write(tmp_path / "data", "train", "test")
    file = tmp_path / "data" / "test_32x32.mat"
    whole = file.read_bytes()
    changed = {
        "text": b"hello\n" * 50,
        "empty": b"",
        "torn": whole[: len(whole) // 2],
        "start lost": whole[9:],
        "newer format": whole[:124] + b"\x00\x02IM" + whole[128:],  # MATLAB 7.3 is HDF5
    }
    file.write_bytes(changed[damage])
    with pytest.raises(Refusal, match="cannot be read as a MATLAB file") as refusal:
        SVHN().load(tmp_path)
    assert str(file) in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"X": None}, "must hold X and y, got no X"),
        ({"X": None, "y": None}, "must hold X and y, got no X and no y"),
        (
            {"X": np.zeros((28, 28, 3, 20), np.uint8)},
            r"X must be 32,32,3,N .* got \(28, 28, 3, 20\) of uint8",
        ),
        ({"X": np.zeros((32, 32, 3, 20))}, r"X must be .* got \(32, 32, 3, 20\) of float64"),
        ({"X": np.zeros((32, 32, 3, 19), np.uint8)}, r"got \(32, 32, 3, 19\) of uint8 and \(20,\)"),
        ({"y": np.zeros((20, 1), np.uint8)}, r"from 1 to 10, got 0\.\.0"),
        ({"y": np.full((20, 1), 11, np.uint8)}, r"from 1 to 10, got 11\.\.11"),
        ({"y": np.full((20, 1), 1.5)}, r"whole numbers from 1 to 10, got 1\.5\.\.1\.5"),
    ],
)
def test_other_contents_are_refused(tmp_path: Path, changes: dict[str, Any], rule: str) -> None:
    write(tmp_path / "data", "train")
    arrays = {name: value for name, value in (content(20) | changes).items() if value is not None}
    savemat(tmp_path / "data" / "test_32x32.mat", arrays | {"other": 1})
    with pytest.raises(Refusal, match=rule) as refusal:
        SVHN().load(tmp_path)
    assert "test_32x32.mat" in str(refusal.value)


def test_a_download_fetches_what_lacks_and_keeps_stdout_clean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from torchvision import datasets

    fetched = []

    def fetch(root: str, split: str, download: bool) -> None:
        assert download
        sys.stdout.write("progress")
        fetched.append(split)
        write(Path(root), split)

    monkeypatch.setattr(datasets, "SVHN", fetch)
    write(tmp_path / "data", "train")
    assert len(SVHN(download=True).load(tmp_path).test) == 20
    assert fetched == ["test"]
    assert len(SVHN(download=True, extra=True).read(tmp_path).train) == 200
    assert fetched == ["test", "extra"]
    assert capsys.readouterr().out == ""


def test_a_download_that_fails_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import datasets

    def fail(root: str, split: str, download: bool) -> None:
        raise URLError("no route\nto host")

    monkeypatch.setattr(datasets, "SVHN", fail)
    with pytest.raises(Refusal, match=r"svhn: download into .* failed: .*no route to host"):
        SVHN(download=True).load(tmp_path)
