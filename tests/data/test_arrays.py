"""The user's own npz: every form the contract names, and a clear line for every other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from routesearch.data import Arrays, as_pixels
from routesearch.errors import Refusal

FILE = Path("mine.npz")


def random(*shape: int, dtype: Any = np.uint8) -> np.ndarray:
    values = np.random.RandomState(0).randint(0, 256, shape)
    return values.astype(np.uint8) if dtype == np.uint8 else (values / 255).astype(dtype)


def labels(count: int, classes: int = 3) -> np.ndarray:
    return np.arange(count) % classes


def load(folder: Path, **arrays: Any) -> Any:
    np.savez(folder / FILE, **arrays)
    return Arrays(path=FILE).load(folder)


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 1), (6, 5, 3)])
def test_every_form_of_images(tmp_path: Path, shape: tuple[int, ...], dtype: Any) -> None:
    x = random(30, *shape, dtype=dtype)
    data = load(
        tmp_path, x_train=x, y_train=labels(30), x_val=x[:6], y_val=labels(6), x_test=x, y_test=labels(30)
    )
    channels = shape[2] if len(shape) == 3 else 1
    assert data.shape == (channels, 6, 5)
    assert data.classes == ("0", "1", "2")
    assert (len(data.train), len(data.validation), len(data.test)) == (30, 6, 30)
    assert data.train.pixels.dtype == (torch.uint8 if dtype == np.uint8 else torch.float32)
    expected = x.reshape(30, 6, 5, channels).transpose(0, 3, 1, 2).astype(np.float32)
    assert np.array_equal(data.train.pixels.numpy(), expected)


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int64, np.uint64])
def test_labels_of_any_integer_type(tmp_path: Path, kind: Any) -> None:
    data = load(tmp_path, x_train=random(30, 4, 4), y_train=labels(30).astype(kind))
    assert data.train.labels.dtype == torch.int64
    assert sorted(set(data.train.labels.tolist())) == [0, 1, 2]


def test_missing_splits_are_cut(tmp_path: Path) -> None:
    data = load(tmp_path, x_train=random(30, 4, 4), y_train=labels(30))
    assert (len(data.train), len(data.validation), len(data.test)) == (18, 6, 6)


def test_further_labels_go_with_their_images(tmp_path: Path) -> None:
    x = random(30, 4, 4)
    x[:, 0, 0] = np.arange(30)
    arrays = {"x_train": x, "y_train": labels(30), "aux_superclass_train": np.arange(30, dtype=np.uint8) * 2}
    arrays |= {"x_test": x[:9], "y_test": labels(9)}
    data = load(tmp_path, **arrays, aux_my_own_train=labels(30, 5), aux_my_own_test=labels(9, 5))
    assert (len(data.train), len(data.validation), len(data.test)) == (22, 8, 9)
    for images in (data.train, data.validation):
        assert torch.equal(images.aux["superclass"], images.pixels[:, 0, 0, 0].long() * 2)
        assert torch.equal(images.aux["my_own"], images.pixels[:, 0, 0, 0].long() % 5)
    assert data.test.aux.keys() == {"my_own"}


X, Y = random(30, 4, 4), labels(30)


@pytest.mark.parametrize(
    ("arrays", "rule"),
    [
        ({"x_train": X}, "x_train and y_train must both be there, got no y_train"),
        ({"y_train": Y}, "got no x_train"),
        ({"x_test": X, "y_test": Y}, "got no x_train and no y_train"),
        ({"x_train": X, "y_train": Y, "x_val": X}, "x_val and y_val must both be there, got no y_val"),
        ({"x_train": X, "y_train": Y, "x_valid": X}, "arrays must be named x_train, .* got x_valid"),
        (
            {"x_train": X, "y_train": Y, "aux_a_valid": Y},
            "arrays must be named .*, aux_NAME_train, got aux_a",
        ),
        ({"x_train": X, "y_train": Y, "aux__train": Y}, "arrays must be named .*, got aux__train"),
        (
            {"x_train": X, "y_train": Y, "x_val": X, "y_val": Y, "aux_a_val": Y},
            "aux_a_val needs aux_a_train beside it",
        ),
        (
            {"x_train": X, "y_train": Y, "aux_a_train": Y, "aux_a_test": Y},
            "aux_a_test needs x_test beside it",
        ),
        ({"x_train": X, "y_train": Y, "aux_a_train": Y[:29]}, "got 30 images and 29 a for train"),
        ({"x_train": X, "y_train": Y, "aux_a_train": Y - 1}, "aux_a_train must be labels from 0, got -1"),
        (
            {"x_train": X, "y_train": Y, "aux_a_train": Y / 2},
            r"aux_a_train must be N integers, got shape \(30,\)",
        ),
        ({"x_train": X[0], "y_train": Y}, r"x_train must be N,H,W or N,H,W,C, got shape \(4, 4\)"),
        ({"x_train": random(30, 3, 32, 32), "y_train": Y}, r"channels last.* got shape \(30, 3, 32, 32\)"),
        (
            {"x_train": X.astype(np.int64), "y_train": Y},
            r"x_train must be uint8, or floats in \[0, 1\], got int64",
        ),
        ({"x_train": X.astype(np.float32), "y_train": Y}, r"x_train must lie in \[0, 1\].* got 0 to 25\d"),
        ({"x_train": X / 255 - 0.5, "y_train": Y}, r"must lie in \[0, 1\].* got -0.5 to 0.5"),
        ({"x_train": np.full((30, 4, 4), np.nan), "y_train": Y}, r"must lie in \[0, 1\].* got nan to nan"),
        (
            {"x_train": X, "y_train": Y[:29]},
            "every image must have a label, got 30 images and 29 labels for train",
        ),
        ({"x_train": X, "y_train": Y[:, None]}, r"y_train must be N integers, got shape \(30, 1\)"),
        ({"x_train": X, "y_train": Y / 2}, r"y_train must be N integers, got shape \(30,\) of float64"),
        ({"x_train": X, "y_train": Y - 1}, "y_train must be labels from 0, got -1"),
        (
            {"x_train": X, "y_train": Y + 1},
            "must be 0 to C-1 with none left out, got 3 different ones up to 3",
        ),
        ({"x_train": X, "y_train": Y * 10**15}, "none left out, got 3 different ones up to 2000000000000000"),
        (
            {"x_train": X, "y_train": Y, "x_test": X, "y_test": Y + 1},
            r"test: labels must lie in 0\.\.2, got 1\.\.3",
        ),
        (
            {"x_train": X, "y_train": Y, "x_test": random(30, 5, 4), "y_test": Y},
            "form of the training images",
        ),
        ({"x_train": X, "y_train": Y * 0}, "at least 2 classes must exist, got 1"),
        ({"x_train": X[:0], "y_train": Y[:0]}, "at least"),
        ({"x_train": X, "y_train": np.array([None] * 30)}, "cannot be read as an npz: Object arrays"),
    ],
)
def test_everything_else_is_refused_in_one_line_that_names_the_file(
    tmp_path: Path, arrays: dict[str, Any], rule: str
) -> None:
    with pytest.raises(Refusal, match=rule) as refusal:
        load(tmp_path, **arrays)
    assert "\n" not in str(refusal.value)


def test_a_missing_file_is_refused_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="an npz with x_train, y_train") as refusal:
        Arrays(path=FILE).load(tmp_path)
    assert str(tmp_path / FILE) in str(refusal.value)


def test_files_that_are_no_npz_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "whole.npz", x_train=random(30, 20, 20), y_train=labels(30))
    whole = (tmp_path / "whole.npz").read_bytes()
    np.savez_compressed(tmp_path / "packed.npz", x_train=random(30, 20, 20), y_train=labels(30))
    packed = bytearray((tmp_path / "packed.npz").read_bytes())
    packed[100:120] = b"\xff" * 20
    np.save(tmp_path / "single.npy", random(3))
    damaged = bytearray(whole)
    damaged[2000] ^= 255
    contents = [
        b"",
        b"hello",
        whole[: len(whole) // 2],
        bytes(damaged),
        bytes(packed),
        (tmp_path / "single.npy").read_bytes(),
    ]
    for content in contents:
        (tmp_path / FILE).write_bytes(content)
        with pytest.raises(Refusal, match=r"mine\.npz .*npz"):
            Arrays(path=FILE).load(tmp_path)


def test_the_path_is_relative_to_the_study_and_no_part_of_the_settings(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    one = load(tmp_path, x_train=X, y_train=Y)
    other = load(tmp_path / "below", x_train=X, y_train=Y)
    assert one.fingerprint() == other.fingerprint()
    absolute = Arrays(path=tmp_path / FILE).load(Path("/nowhere"))
    assert absolute.fingerprint() == one.fingerprint()


def test_as_pixels_reports_the_name_it_was_given() -> None:
    assert as_pixels(X, "images").shape == (30, 1, 4, 4)
    with pytest.raises(Refusal, match=r"^images must be N,H,W"):
        as_pixels(X[0], "images")
