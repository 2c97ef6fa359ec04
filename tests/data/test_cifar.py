"""CIFAR-10 and CIFAR-100 from small files in both published forms, and what is said of any others."""

from __future__ import annotations

import hashlib
import pickle
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from routesearch.data import Cifar10, Cifar100, Dataset, cifar
from routesearch.data.cifar import unpickle_arrays
from routesearch.errors import Refusal
from routesearch.utils.validation import explain

TRAIN10 = [f"data_batch_{number}.bin" for number in range(1, 6)]


def records(labels: Sequence[Sequence[int]], seed: int) -> bytes:
    """The binary form: the labels of an image, then its red, green and blue pixels."""
    pixels = np.random.RandomState(seed).randint(0, 256, (len(labels), 3072)).astype(np.uint8)
    return b"".join(bytes(own) + row.tobytes() for own, row in zip(labels, pixels, strict=True))


def write10(folder: Path) -> None:
    folder.mkdir(parents=True)
    for seed, name in enumerate([*TRAIN10, "test_batch.bin"]):
        (folder / name).write_bytes(records([[number % 10] for number in range(20)], seed))


def write100(folder: Path) -> None:
    folder.mkdir(parents=True)
    for seed, (name, count) in enumerate((("train.bin", 400), ("test.bin", 100))):
        (folder / name).write_bytes(records([[n % 100 // 5, n % 100] for n in range(count)], seed))


def python2_pickle(pixels: np.ndarray, **labels: list[int]) -> bytes:
    """What Python 2's cPickle (protocol 2) wrote: byte strings, and an array by numpy.core.multiarray."""

    def text(value: bytes) -> bytes:
        return b"T" + struct.pack("<i", len(value)) + value

    def number(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    dtype = b"cnumpy\ndtype\n(" + text(b"u1") + number(0) + number(1) + b"tR("
    dtype += number(3) + text(b"|") + b"NNN" + number(-1) + number(-1) + number(0) + b"tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(" + number(0) + b"t" + text(b"b")
    array += b"tR(" + number(1) + b"(" + b"".join(map(number, pixels.shape)) + b"t" + dtype
    array += b"\x89" + text(pixels.tobytes()) + b"tb"
    items = text(b"data") + array + text(b"batch_label") + text(b"training batch 1 of 5")
    for name, values in labels.items():
        items += text(name.encode()) + b"(" + b"".join(map(number, values)) + b"l"
    return b"\x80\x02}(" + items + b"u."


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def write_pickles(folder: Path, edition: cifar.Edition, content: bytes) -> None:
    folder.mkdir(parents=True)
    for names in edition.checksums.values():
        for name in names:
            (folder / name).write_bytes(content)


@pytest.mark.parametrize("place", ["data/cifar-10-batches-bin", "data"])
def test_cifar10_in_its_binary_form(tmp_path: Path, place: str) -> None:
    write10(tmp_path / place)
    source = Cifar10().read(tmp_path)
    assert (len(source.train), source.test and len(source.test)) == (100, 20)
    assert source.train.labels.tolist() == [*range(10)] * 10
    pixels = np.random.RandomState(1).randint(0, 256, (20, 3, 32, 32))  # of the second file
    assert np.array_equal(source.train.pixels[20:40].numpy(), pixels)
    data = Cifar10().load(tmp_path)
    assert (len(data.train), len(data.validation), len(data.test)) == (75, 25, 20)
    assert (data.shape, data.classes, data.train.pixels.dtype) == (
        (3, 32, 32),
        Cifar10.class_names,
        torch.uint8,
    )


@pytest.mark.parametrize("place", ["data/cifar-100-binary", "data"])
def test_cifar100_has_superclasses(tmp_path: Path, place: str) -> None:
    write100(tmp_path / place)
    data = Cifar100().load(tmp_path)
    assert (len(data.train), len(data.validation), len(data.test)) == (300, 100, 100)
    for images in (data.train, data.validation, data.test):
        assert torch.equal(images.aux["superclass"], images.labels // 5)
        assert images.aux["superclass"].dtype == torch.int64
    assert data.test.labels.tolist() == list(range(100))
    pixels = np.random.RandomState(1).randint(0, 256, (100, 3, 32, 32))
    assert np.array_equal(data.test.pixels.numpy(), pixels)


def test_class_names_are_the_published_ones() -> None:
    assert len(Cifar100.class_names) == 100
    assert list(Cifar100.class_names) == sorted(set(Cifar100.class_names))
    assert Cifar10.class_names[3:6] == ("cat", "deer", "dog")


def test_checksums_are_the_published_ones() -> None:
    from torchvision import datasets

    for edition, other in ((cifar.CIFAR10, datasets.CIFAR10), (cifar.CIFAR100, datasets.CIFAR100)):
        assert [*edition.checksums["train"].items()] == [tuple(pair) for pair in other.train_list]
        assert [*edition.checksums["test"].items()] == [tuple(pair) for pair in other.test_list]
        assert edition.pickled == other.base_folder


@pytest.mark.parametrize(
    ("labels", "classes", "expected"),
    [
        (None, Cifar10.class_names, [*range(10)]),
        ("cifar2", ("horse", "other"), [1, 1, 1, 1, 1, 1, 1, 0, 1, 1]),
        ("cifar5", ("cat", "deer", "dog", "horse", "other"), [4, 4, 4, 0, 1, 2, 4, 3, 4, 4]),
    ],
)
def test_label_maps(tmp_path: Path, labels: Any, classes: tuple[str, ...], expected: list[int]) -> None:
    assert Cifar10(labels=labels).facts(tmp_path) == ((3, 32, 32), classes)  # before there are files
    write10(tmp_path / "data")
    data = Cifar10(labels=labels).load(tmp_path)
    assert data.classes == classes
    assert data.test.labels.tolist() == expected * 2
    assert data.settings["labels"] == labels


def test_an_unknown_label_map_is_refused_in_one_line() -> None:
    with pytest.raises(ValidationError) as error:
        Cifar10(labels="cifar3")
    line = explain(error.value, Cifar10, "data")
    assert line.startswith("data.labels: ")
    assert "cifar2" in line
    assert "cifar3" in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("dataset", "content"),
    [
        (
            Cifar10,
            python2_pickle(np.arange(61440, dtype=np.uint8).reshape(20, 3072), labels=[*range(10)] * 2),
        ),
        (
            Cifar100,
            python2_pickle(
                np.arange(307200, dtype=np.uint8).reshape(100, 3072),
                fine_labels=[*range(100)],
                coarse_labels=[number // 5 for number in range(100)],
            ),
        ),
    ],
)
def test_pickles_are_read_by_their_checksum_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dataset: type[Dataset], content: bytes
) -> None:
    edition = cifar.CIFAR10 if dataset is Cifar10 else cifar.CIFAR100
    folder = tmp_path / "data" / edition.pickled
    write_pickles(folder, edition, content)
    with pytest.raises(Refusal, match=f"published MD5 sum [0-9a-f]{{32}}, got {md5(content)}") as refusal:
        dataset().read(tmp_path)
    assert str(folder) in str(refusal.value)
    assert "\n" not in str(refusal.value)
    for names in edition.checksums.values():
        for name in names:
            monkeypatch.setitem(names, name, md5(content))
    source = dataset().read(tmp_path)
    files, count = len(edition.checksums["train"]), len(content) // 3072
    assert len(source.train) == files * len(source.test) == files * count
    array = unpickle_arrays(content)[b"data"].reshape(-1, 3, 32, 32)
    assert np.array_equal(source.test.pixels.numpy(), array)
    assert source.test.labels.tolist() == [number % len(source.classes) for number in range(count)]
    if dataset is Cifar100:
        assert torch.equal(source.test.aux["superclass"], source.test.labels // 5)


class Evil:
    def __reduce__(self) -> Any:
        return (print, ("pwned",))


@pytest.mark.parametrize(
    "content",
    [
        b"cos\nsystem\n(S'echo pwned'\ntR.",
        b"\x80\x02cbuiltins\neval\n(U\x051 + 1tR.",
        b"cnumpy\nload\n(S'x'\ntR.",
        b"\x80\x04\x8c\x05numpy\x8c\x0cndarray.dump\x93.",
        pickle.dumps(Evil()),
        pickle.dumps({b"data": np.array([Evil()], dtype=object)}),
        pickle.dumps(Path("x")),
    ],
)
def test_nothing_but_arrays_comes_out_of_a_pickle(content: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(pickle.UnpicklingError, match="only arrays may be in it, got "):
        unpickle_arrays(content)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("protocol", [3, 4])
def test_arrays_of_python_3_are_read(protocol: int) -> None:
    array = np.arange(6, dtype=np.uint8).reshape(2, 3)
    value = unpickle_arrays(pickle.dumps({b"data": array, b"labels": [1, 2]}, protocol))
    assert np.array_equal(value[b"data"], array)
    assert value[b"labels"] == [1, 2]


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (python2_pickle(np.zeros((2, 3072), np.uint8)), "must hold data, labels: "),
        (
            python2_pickle(np.zeros((2, 3000), np.uint8), labels=[0, 1]),
            "must hold data, labels: cannot reshape",
        ),
        (python2_pickle(np.zeros((2, 3072), np.uint8), labels=[0]), "must hold data, labels: cannot reshape"),
        (python2_pickle(np.zeros((2, 3072), np.uint8), labels=[0, 10]), r"labels must lie in 0\.\.9, got 10"),
        (python2_pickle(np.zeros((2, 3072), np.uint8), labels=[0, -1]), r"labels must lie in 0\.\.9, got -1"),
        (pickle.dumps(Evil()), "only arrays may be in it, got builtins.print"),
    ],
)
def test_a_pickle_of_another_content_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, rule: str
) -> None:
    write_pickles(tmp_path / "data" / "cifar-10-batches-py", cifar.CIFAR10, content)
    for names in cifar.CIFAR10.checksums.values():
        for name in names:
            monkeypatch.setitem(names, name, md5(content))
    with pytest.raises(Refusal, match=rule) as refusal:
        Cifar10().read(tmp_path)
    assert "data_batch_1" in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (records([[1]] * 3, 0)[:-1], r"multiple of 3073 bytes, one record for each image, got 9218 bytes"),
        (b"", "multiple of 3073 bytes, .* got 0 bytes"),
        (records([[1], [10]], 0), r"labels must lie in 0\.\.9, got 10"),
        (records([[1, 1]] * 2, 0), "multiple of 3073 bytes, .* got 6148 bytes"),  # CIFAR-100's
    ],
)
def test_a_broken_binary_file_is_refused(tmp_path: Path, content: bytes, rule: str) -> None:
    write10(tmp_path / "data")
    (tmp_path / "data" / "data_batch_3.bin").write_bytes(content)
    with pytest.raises(Refusal, match=rule) as refusal:
        Cifar10().load(tmp_path)
    assert "data_batch_3.bin" in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("label", "rule"),
    [
        ([20, 0], "coarse_labels must lie in 0..19, got 20"),
        ([0, 100], "fine_labels must lie in 0..99, got 100"),
    ],
)
def test_labels_beyond_cifar100_are_refused(tmp_path: Path, label: list[int], rule: str) -> None:
    write100(tmp_path / "data")
    (tmp_path / "data" / "test.bin").write_bytes(records([[0, 0], label], 0))
    with pytest.raises(Refusal, match=rule):
        Cifar100().load(tmp_path)


@pytest.mark.parametrize(("dataset", "write"), [(Cifar10, write10), (Cifar100, write100)])
@pytest.mark.parametrize("some", [False, True])
def test_missing_files_are_refused_with_the_ways_to_get_them(
    tmp_path: Path, dataset: type[Dataset], write: Any, some: bool
) -> None:
    if some:
        write(tmp_path / "data")
        next((tmp_path / "data").glob("test*.bin")).unlink()
    with pytest.raises(Refusal, match=r"not all its files are there, .*data\.download: true") as refusal:
        dataset().load(tmp_path)
    assert str(tmp_path / "data" / "cifar-10") in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_download_is_torchvisions_and_keeps_stdout_clean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from torchvision import datasets

    def fetch(root: str, download: bool) -> None:
        assert download
        sys.stdout.write("progress")
        write100(Path(root) / "cifar-100-binary")

    monkeypatch.setattr(datasets, "CIFAR100", fetch)
    assert len(Cifar100(download=True).load(tmp_path).test) == 100
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(datasets, "CIFAR100", None)  # there now: not fetched again
    assert len(Cifar100(download=True).load(tmp_path).test) == 100


def test_a_download_that_fails_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import datasets

    def fail(root: str, download: bool) -> None:
        raise URLError("no route\nto host")

    monkeypatch.setattr(datasets, "CIFAR10", fail)
    with pytest.raises(Refusal, match=r"cifar10: download into .* failed: .*no route to host"):
        Cifar10(download=True).load(tmp_path)


def test_where_the_files_lie_is_no_part_of_the_settings() -> None:
    assert Cifar10(path=Path("a"), download=True).settings() == Cifar10().settings()
    assert Cifar100(path=Path("a"), download=True).settings() == Cifar100().settings()
