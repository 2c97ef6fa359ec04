"""How a folder is laid out: classes, or splits of these in any usual spelling; what is neither is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routesearch.data import folder_walk
from routesearch.data.class_folders import ClassFolders, find_class_folders, split_of
from routesearch.data.folder_walk import PassedOver
from routesearch.errors import Refusal


def laid_out(root: Path, *files: str) -> tuple[ClassFolders, PassedOver]:
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    passed = PassedOver()
    return find_class_folders(root, passed), passed


def splits(*names: str) -> list[str]:
    return [f"{name}/{label}/1.png" for name in names for label in "ab"]


@pytest.mark.parametrize(
    ("split", "names"),
    [
        ("train", "train TRAIN Training trn seg_train train_set trainset Train-Images train2017 train_data"),
        ("validation", "val Valid VALIDATION validate dev eval evaluation seg_val val2017 validation_set"),
        ("test", "test Test TESTING tst seg_test test-set testset test1 test_images"),
        (None, "cat trains trainer valley invalid testament teststrip devil seg pred data images set 2017"),
    ],
)
def test_common_spellings(split: str | None, names: str) -> None:
    assert {name: split_of(name) for name in names.split()} == dict.fromkeys(names.split(), split)


@given(
    st.sampled_from([("training", "train"), ("valid", "validation"), ("testing", "test")]),
    st.sampled_from(["", "_", "-", " ", "."]),
    st.sampled_from(["", "set", "data", "images"]),
    st.lists(st.booleans(), min_size=20, max_size=20),
)
@settings(derandomize=True, max_examples=60)
def test_case_and_separators_do_not_matter(
    word: tuple[str, str], separator: str, ending: str, upper: list[bool]
) -> None:
    name = f"{word[0]}{separator}{ending}"
    spelled = "".join(c.upper() if up else c for c, up in zip(name, upper, strict=False))
    assert split_of(spelled) == word[1]


@pytest.mark.parametrize(
    "names",
    [
        ("train", "val", "test"),
        ("Training", "dev", "TEST"),
        ("seg_train", "seg_val", "seg_test"),
        ("train", "test"),
    ],
)
def test_split_folders(tmp_path: Path, names: tuple[str, ...]) -> None:
    found, passed = laid_out(tmp_path, *splits(*names))
    assert found.classes == ("a", "b")
    order = ("train", "validation", "test") if len(names) == 3 else ("train", "test")
    expected = {s: {c: f"{name}/{c}" for c in "ab"} for s, name in zip(order, names, strict=True)}
    assert found.folders == expected
    assert passed.by_reason() == {}


def test_split_folders_in_themselves(tmp_path: Path) -> None:
    found, passed = laid_out(
        tmp_path,
        *splits("seg_train/seg_train", "seg_test/seg_test"),
        "seg_pred/seg_pred/1.png",
    )
    assert found.folders["train"] == {"a": "seg_train/seg_train/a", "b": "seg_train/seg_train/b"}
    assert list(found.folders) == ["train", "test"]
    assert passed.by_reason() == {folder_walk.UNLABELLED: ["seg_pred"]}


def test_a_test_folder_without_labels_is_passed_over(tmp_path: Path) -> None:
    found, passed = laid_out(tmp_path, *splits("train"), "test/1.png", "unlabeled/2.png")
    assert list(found.folders) == ["train"]
    assert passed.by_reason() == {folder_walk.UNLABELLED: ["test", "unlabeled"]}


def test_a_class_may_be_called_like_a_split_and_that_is_said(tmp_path: Path) -> None:
    found, _ = laid_out(tmp_path, "train/1.png", "bus/1.png")
    assert found.folders == {"train": {"bus": "bus", "train": "train"}}
    assert found.remarks == ("train is taken as a class: it holds no class folders and lies beside classes",)


@pytest.mark.parametrize(
    ("files", "rule"),
    [
        (splits("train", "val", "valid"), "must hold one folder for validation, got val, valid"),
        (splits("train", "Training"), "must hold one folder for train, got Training, train"),
        ([*splits("train"), "cats/1.png"], r"only val and test may lie \(.*\), got cats"),
        (splits("val", "test"), "must hold a folder train, .* beside test, val, got test, val"),
        ([*splits("test"), "cats/1.png", "dogs/1.png"], "must hold a folder train, .* got cats, dogs, test"),
        (["train/1.png", "test/1.png"], "like splits must be train, .*, got test, train without any"),
        (["train/1.png"], "like splits must be train, .*, got train without any"),
        (["train_a/1.png", "train_b/1.png"], "got train_a, train_b without any"),
        (["train/1.png", "test/1.png", "cats/1.png"], "got both: test, train beside cats"),
        ([*splits("train"), "val/1.png"], "val: must hold a folder for each class, as train does, got none"),
        (
            [*splits("train", "test"), "test/c/1.png", "train/d/1.png"],
            r"same class folders; .*/test lacks d and has c, which train has not",
        ),
        (
            ["photos/a/1.png", "photos/b/1.png"],
            "2 class folders or more, got photos; did you mean .*/photos?",
        ),
        (["V\xe9lo/1.png", "Ve\u0301lo/1.png"], "how an accent is stored, got two folders V\xe9lo in"),
        (["a/1.png", os.fsdecode(b"\xff/1.png")], r"must be valid UTF-8, got the folder .*/\\xff"),
        (["a/1.png", "b\nc/1.png"], r"must be printable, got the folder .*/b\\nc"),
        (["@eaDir/1.png", "a/1.png"], "2 class folders or more, got a"),
    ],
)
def test_what_is_refused(tmp_path: Path, files: list[str], rule: str) -> None:
    with pytest.raises(Refusal, match=rule) as refusal:
        laid_out(tmp_path, *files)
    assert "\n" not in str(refusal.value)
    str(refusal.value).encode()


def test_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "photos").write_text("x")
    with pytest.raises(Refusal, match=r"path must be a folder, got .*/photos: the layout is"):
        laid_out(tmp_path / "photos")


def test_names_are_the_same_from_every_system(tmp_path: Path) -> None:
    """A Mac may store an accent as a sign of its own; classes and their order are those of other systems."""
    found, _ = laid_out(
        tmp_path, "train/Ve\u0301lo/1.png", "train/Vz/1.png", "test/V\xe9lo/1.png", "test/Vz/1.png"
    )
    assert found.classes == ("Vz", "V\xe9lo")
    assert found.folders["train"]["V\xe9lo"] == "train/Ve\u0301lo"
    assert found.folders["test"]["V\xe9lo"] == "test/V\xe9lo"


def test_two_classes_in_one_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "c").symlink_to("a")
    with pytest.raises(Refusal, match="class folders must be apart, got a and c, links to one folder"):
        laid_out(tmp_path, "a/1.png", "b/1.png")


def test_splits_in_one_folder_are_said(tmp_path: Path) -> None:
    (tmp_path / "test").symlink_to("val")
    found, _ = laid_out(tmp_path, *splits("train", "val"))
    assert found.remarks == ("validation and test have images in common: val/a and test/a are one folder",)
