"""The user's own npz: every form the contract names, and a clear line for every other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from routesearch.data import SPLITS, Arrays
from routesearch.data.npz import Npz
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
        (
            {"x_train": X, "y_train": Y[None]},
            r"y_train must be N integers, got shape \(1, 30\) .*y_train.ravel",
        ),
        ({"x_train": X, "y_train": Y / 2}, r"y_train must be N integers, got shape \(30,\) of float64"),
        ({"x_train": X, "y_train": Y - 1}, "y_train must be labels from 0, got -1"),
        (
            {"x_train": X, "y_train": Y + 1},
            "must be 0 to C-1 with none left out, got 3 different ones up to 3",
        ),
        ({"x_train": X, "y_train": Y * 10**15}, "none left out, got 3 different ones up to 2000000000000000"),
        (
            {"x_train": X, "y_train": Y, "x_test": X, "y_test": Y + 1},
            r"y_test must hold no class that y_train lacks, got 3 \(10 of 30 labels\)",
        ),
        (
            {"x_train": X, "y_train": Y, "x_test": random(30, 5, 4), "y_test": Y},
            "form of the training images",
        ),
        ({"x_train": X, "y_train": Y * 0}, "at least 2 classes must exist, got 1"),
        ({"x_train": X[:0], "y_train": Y[:0]}, "y_train must hold a label for each image, got none"),
        (
            {"x_train": X, "y_train": np.array([None] * 30)},
            "y_train holds Python objects, which are not read: np.stack",
        ),
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
        with pytest.raises(Refusal, match=r"mine\.npz(: x_train)? (cannot be read as|must be) an npz"):
            Arrays(path=FILE).load(tmp_path)


def test_the_path_is_relative_to_the_study_and_no_part_of_the_settings(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    one = load(tmp_path, x_train=X, y_train=Y)
    other = load(tmp_path / "below", x_train=X, y_train=Y)
    assert one.fingerprint() == other.fingerprint()
    absolute = Arrays(path=tmp_path / FILE).load(Path("/nowhere"))
    assert absolute.fingerprint() == one.fingerprint()


# ---- names ---------------------------------------------------------------------------------------------


def test_medmnists_names_and_labels(tmp_path: Path) -> None:
    parts = {"train": 30, "val": 9, "test": 12}
    arrays = {f"{part}_images": random(count, 7, 7, 3) for part, count in parts.items()}
    arrays |= {f"{part}_labels": labels(count)[:, None].astype(np.uint8) for part, count in parts.items()}
    data = load(tmp_path, **arrays)
    assert [len(data.split(split)) for split in SPLITS] == [30, 9, 12]
    assert torch.equal(data.test.labels, torch.arange(12) % 3)
    own = {"x_train": arrays["train_images"], "y_train": labels(30), "x_val": arrays["val_images"]}
    own |= {"y_val": labels(9), "x_test": arrays["test_images"], "y_test": labels(12)}
    assert load(tmp_path, **own).fingerprint() == data.fingerprint()


@pytest.mark.parametrize(
    ("arrays", "rule"),
    [
        ({"arr_0": X, "arr_1": Y}, r"got arr_0, arr_1: numpy.savez\(file, x_train=x, y_train=y\)$"),
        ({"pictures": X, "classes": Y}, r"named x_train, .* as in MedMNIST\), got pictures, classes$"),
        ({f"k{i}": Y for i in range(30)}, r"got k0, k1, k2, k3, k4, k5, k6, k7 and 22 more$"),
        ({}, "got none$"),
        ({"X_train": X, "Y_train": Y}, "got X_train, Y_train"),
        ({"x_train": X, "y_train": Y, "y_vall": Y}, r"got y_vall; did you mean y_val\?$"),
        ({"train_images": X, "train_labels": Y, "x_val": X, "y_val": Y}, "got MedMNIST's names beside them"),
        ({"train_images": X}, "train_images and train_labels must both be there, got no train_labels"),
        (
            {"train_images": X, "train_labels": Y, "vall_images": X},
            "named train_images, .*did you mean val_images",
        ),
    ],
)
def test_names_that_say_nothing_are_told_with_those_that_would(
    tmp_path: Path, arrays: dict[str, Any], rule: str
) -> None:
    with pytest.raises(Refusal, match=rule):
        load(tmp_path, **arrays)


def test_class_names_beside_the_labels(tmp_path: Path) -> None:
    arrays = {"x_train": X, "y_train": Y}
    assert load(tmp_path, **arrays, class_names=np.array(["cat", "dog", "été"])).classes == (
        "cat",
        "dog",
        "été",
    )
    as_bytes = np.array([name.encode() for name in ("cat", "dog", "e\u0301te\u0301")])
    assert load(tmp_path, **arrays, class_names=as_bytes).classes == ("cat", "dog", "été")


@pytest.mark.parametrize(
    ("names", "rule"),
    [
        (np.array(["a", "b"]), "class_names must name each of the 3 classes in y_train, got 2$"),
        (np.array(["a", "b", "c", "d"]), "class_names must name each of the 3 classes in y_train, got 4$"),
        (np.array(["a", "b", "a"]), "class names must differ, got 'a' twice"),
        (np.array(["a", "b", "../c"]), "a class name must hold no path"),
        (
            np.array([0, 1, 2]),
            r"class_names must be C texts, got shape \(3,\) of int64: np.array\(names, dtype=str",
        ),
        (np.array([["a", "b", "c"]]), r"class_names must be C texts, got shape \(1, 3\)"),
        (np.array(["a", "b", None]), "class_names holds Python objects, which are not read"),
        (np.array([b"a", b"b", b"\xff"]), "class_names must be valid UTF-8"),
        (np.array(["a", "b", "x" * 300]), "at most 200 characters"),
    ],
)
def test_class_names_of_another_kind_are_refused(tmp_path: Path, names: Any, rule: str) -> None:
    with pytest.raises(Refusal, match=rule) as refusal:
        load(tmp_path, x_train=X, y_train=Y, class_names=names)
    assert "\n" not in str(refusal.value)


def test_text_labels_name_their_classes(tmp_path: Path) -> None:
    texts = np.array(["cat", "dog", "ant"])[Y]
    arrays = {"x_train": X, "y_train": texts, "x_test": X[:6], "y_test": texts[3:9]}
    data = load(tmp_path, **arrays)
    assert data.classes == ("ant", "cat", "dog")
    assert [data.classes[label] for label in data.test.labels] == texts[3:9].tolist()
    ordered = load(tmp_path, **arrays, class_names=np.array(["dog", "cat", "ant"]))
    assert ordered.classes == ("dog", "cat", "ant")
    assert [ordered.classes[label] for label in ordered.test.labels] == texts[3:9].tolist()


# ---- forms of images -----------------------------------------------------------------------------------


def test_alpha_shows_white_unless_it_is_a_channel(tmp_path: Path) -> None:
    x = random(30, 4, 4, 4)
    x[0, 0, 0], x[0, 0, 1] = (10, 20, 30, 0), (10, 20, 30, 255)
    np.savez(tmp_path / FILE, x_train=x, y_train=Y)
    source = Arrays(path=FILE).read(tmp_path)
    assert source.train.shape == (3, 4, 4) == Arrays(path=FILE).facts(tmp_path)[0]
    assert source.train.pixels[0, :, 0, 0].tolist() == [255, 255, 255]
    assert source.train.pixels[0, :, 0, 1].tolist() == [10, 20, 30]
    whole = Arrays(path=FILE, alpha="channel").load(tmp_path)
    assert whole.shape == (4, 4, 4) == Arrays(path=FILE, alpha="channel").facts(tmp_path)[0]
    assert "alpha" not in Arrays(path=FILE).settings()
    assert whole.settings["alpha"] == "channel"


def test_splits_of_different_sizes_or_types_are_refused(tmp_path: Path) -> None:
    for other in (random(30, 4, 5), random(30, 4, 4, 3), X / 255):
        with pytest.raises(
            Refusal, match="arrays, test: images must have the form of the training images, got"
        ):
            load(tmp_path, x_train=X, y_train=Y, x_test=other, y_test=Y)


def test_facts_are_those_of_the_images_without_reading_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    whole = Npz.array

    def noted(stored: Npz, name: str) -> Any:
        read.append(name)
        return whole(stored, name)

    monkeypatch.setattr(Npz, "array", noted)
    for name, save in (("plain", np.savez), ("packed", np.savez_compressed)):
        for form in ((6, 5), (6, 5, 3), (6, 5, 1), (6, 5, 4)):
            save(tmp_path / FILE, x_train=random(30, *form), y_train=Y, class_names=np.array([*"abc"]))
            data = Arrays(path=FILE).load(tmp_path)
            read.clear()
            facts = Arrays(path=FILE).facts(tmp_path)
            assert facts == (data.shape, data.classes), name
            assert sorted(read) == ["class_names", "y_train"]


def test_a_file_that_is_larger_than_the_memory_is_told(tmp_path: Path) -> None:
    import zipfile

    header = (
        b"\x93NUMPY\x01\x00v\x00{'descr': '|u1', 'fortran_order': False, 'shape': (9000000, 9000, 9000), }"
    )
    with zipfile.ZipFile(tmp_path / FILE, "w") as file:
        file.writestr("x_train.npy", header.ljust(127) + b"\n" + bytes(64))
    np.save(tmp_path / "y.npy", Y)
    with zipfile.ZipFile(tmp_path / FILE, "a") as file:
        file.write(tmp_path / "y.npy", "y_train.npy")
    with pytest.raises(
        Refusal, match=r"mine\.npz: x_train (is larger than the memory|cannot be read as an npz)"
    ):
        Arrays(path=FILE).load(tmp_path)


@given(position=st.integers(0, 10**6), value=st.integers(0, 255), packed=st.booleans())
@settings(max_examples=200)
def test_one_damaged_byte_gives_the_data_or_one_line(position: int, value: int, packed: bool) -> None:
    with TemporaryDirectory() as folder:
        file = Path(folder, FILE)
        (np.savez_compressed if packed else np.savez)(
            file, x_train=X, y_train=Y, class_names=np.array([*"abc"])
        )
        content = bytearray(file.read_bytes())
        content[position % len(content)] = value
        file.write_bytes(content)
        for ask in (Arrays(path=FILE).load, Arrays(path=FILE).checked_facts):
            told = _refusal(ask, Path(folder))
            assert "\n" not in told
            assert not told or str(file) in told


def _refusal(ask: Callable[[Path], Any], folder: Path) -> str:
    """Empty where there is none."""
    try:
        ask(folder)
    except Refusal as refusal:
        return str(refusal)
    return ""


def test_a_survey_refuses_what_a_search_would_and_has_nothing_to_tell_else(tmp_path: Path) -> None:
    dataset = Arrays(path=tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", x_train=X, y_train=Y)
    assert dataset.survey(Path()).lines() == []
    np.savez(tmp_path / "a.npz", x_train=X[:2], y_train=Y[:2])
    with pytest.raises(Refusal, match="a class needs 3 images or more"):
        dataset.survey(Path())
