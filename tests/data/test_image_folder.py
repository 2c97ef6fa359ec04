"""The user's own image files: layouts, formats, geometry, and a clear line for every broken one."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from routesearch.data import SPLITS, Data, ImageFolder, folder_walk
from routesearch.errors import Refusal

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def paint(
    file: Path, colour: tuple[int, ...] = RED, size: tuple[int, int] = (20, 12), mode: str = "RGB"
) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour if len(colour) > 1 else colour[0]).save(file)


def fill(folder: Path, count: int = 5) -> None:
    for name, colour in (("birds", GREEN), ("cats", RED)):
        for number in range(count):
            paint(folder / name / f"{number}.png", colour)


def load(folder: Path, **settings: int) -> ImageFolder:
    return ImageFolder(path=Path(folder.name), size=8, **settings).load(folder.parent)


def test_one_folder_per_class(tmp_path: Path) -> None:
    fill(tmp_path / "photos")
    data = load(tmp_path / "photos")
    assert data.classes == ("birds", "cats")
    assert data.shape == (3, 8, 8)
    assert (len(data.train), len(data.validation), len(data.test)) == (6, 2, 2)
    for images in (data.train, data.validation, data.test):
        for pixels, label in zip(images.pixels, images.labels, strict=True):
            assert pixels[:, 4, 4].tolist() == list((GREEN, RED)[label])
    assert data.train.pixels.dtype == torch.uint8


@pytest.mark.parametrize("val", ["val", "validation"])
def test_split_folders(tmp_path: Path, val: str) -> None:
    for split, count in (("train", 4), (val, 2), ("test", 3)):
        fill(tmp_path / "photos" / split, count)
    data = load(tmp_path / "photos")
    assert (len(data.train), len(data.validation), len(data.test)) == (8, 4, 6)


def test_train_and_test_alone(tmp_path: Path) -> None:
    fill(tmp_path / "photos" / "train", 8)
    fill(tmp_path / "photos" / "test", 3)
    data = load(tmp_path / "photos")
    assert (len(data.train), len(data.validation), len(data.test)) == (12, 4, 6)


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    for name in ("train", "bus"):
        for number in range(3):
            paint(tmp_path / "photos" / name / f"{number}.png")
    assert load(tmp_path / "photos").classes == ("bus", "train")


def test_facts_need_no_image(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / "photos" / "train" / name).mkdir(parents=True)
    assert ImageFolder(path=Path("photos"), size=48).facts(tmp_path) == ((3, 48, 48), ("a", "b"))


def test_what_is_not_an_image_is_passed_over(tmp_path: Path) -> None:
    fill(tmp_path / "photos")
    (tmp_path / "photos" / "README.md").write_text("mine")
    (tmp_path / "photos" / ".git").mkdir()
    (tmp_path / "photos" / "cats" / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "photos" / "cats" / ".hidden.png").write_bytes(b"x")
    paint(tmp_path / "photos" / "cats" / ".checkpoints" / "0.png")
    paint(tmp_path / "photos" / "cats" / "more" / "5.JPG")
    data = load(tmp_path / "photos")
    assert len(data.train) + len(data.validation) + len(data.test) == 11


@pytest.mark.parametrize("damage", ["text", "empty", "torn", "torn jpeg", "float"])
def test_a_broken_image_is_named(tmp_path: Path, damage: str) -> None:
    fill(tmp_path / "photos")
    bad = tmp_path / "photos" / "cats" / ("bad.jpg" if damage == "torn jpeg" else "bad.tif")
    if damage == "float":
        Image.fromarray(np.zeros((9, 9), np.float32)).save(bad)
    elif damage.startswith("torn"):
        Image.fromarray(np.random.RandomState(0).randint(0, 256, (90, 90, 3)).astype(np.uint8)).save(bad)
        bad.write_bytes(bad.read_bytes()[:1500])
    else:
        bad.write_text("hello" if damage == "text" else "")
    with pytest.raises(Refusal, match=rf"1 of 11 images cannot be read: cats/{bad.name} \(") as refusal:
        load(tmp_path / "photos")
    assert "\n" not in str(refusal.value)


def test_a_missing_folder_is_refused_with_the_layout(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match=r"no folder .*photos: the layout is FOLDER/CLASS/image\.jpg"):
        load(tmp_path / "photos")


@pytest.mark.parametrize(
    ("files", "rule"),
    [
        ([], "must hold 2 class folders or more, got none"),
        (["a.png", "b.png"], "must hold 2 class folders or more, got none"),
        (["cats/a.png"], "must hold 2 class folders or more, got cats"),
        (["cats/a.txt", "dogs/a.txt"], "no images in .*photos: the layout is"),
        (
            ["cats/a.png", "dogs/a.txt"],
            "every class folder in .*photos must hold an image, got none in dogs: the layout is",
        ),
        (["train/a/1.png", "train/b/1.png", "holiday/a/1.png"], "only val and test may lie .*, got holiday"),
        (
            ["train/a/1.png", "train/b/1.png", "val/a/1.png", "validation/a/1.png"],
            "must hold one folder for validation, got val, validation",
        ),
        (
            ["train/a/1.png", "train/b/1.png", "test/a/1.png", "test/c/1.png"],
            "same class folders; .*photos/test lacks b and has c, which train has not",
        ),
        (["train/a/1.png", "train/b/1.png", "val/a/1.txt", "val/b/1.txt"], "no images in .*val"),
        (["train/a/1.png", "val/a/1.png", "test/a/1.png"], "at least 2 classes must exist, got 1"),
    ],
)
def test_other_layouts_are_refused(tmp_path: Path, files: list[str], rule: str) -> None:
    (tmp_path / "photos").mkdir()
    for name in files:
        file = tmp_path / "photos" / name
        if file.suffix == ".png":
            paint(file)
        else:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("no image")
    with pytest.raises(Refusal, match=rule) as refusal:
        load(tmp_path / "photos")
    assert "\n" not in str(refusal.value)


def test_images_are_in_the_order_of_their_names(tmp_path: Path) -> None:
    for number in (2, 0, 1, 9):
        paint(tmp_path / "photos" / "a" / f"{number}.png", (number, 0, 0))
        paint(tmp_path / "photos" / "b" / f"{number}.png", (number, 1, 0))
    source = ImageFolder(path=Path("photos"), size=8).read(tmp_path)
    assert source.train.pixels[:, 0, 0, 0].tolist() == [0, 1, 2, 9] * 2
    assert source.train.labels.tolist() == [0] * 4 + [1] * 4


def test_moving_the_folder_changes_nothing_and_size_does(tmp_path: Path) -> None:
    fill(tmp_path / "photos")
    before = load(tmp_path / "photos").fingerprint()
    (tmp_path / "photos").rename(tmp_path / "pictures")
    assert load(tmp_path / "pictures").fingerprint() == before
    assert ImageFolder(path=Path("pictures"), size=9).load(tmp_path).fingerprint() != before


def break_some(photos: Path) -> None:
    (photos / "cats" / "a.jpg").write_bytes(b"")
    (photos / "birds" / "z.png").write_text("hello")


@pytest.mark.parametrize("memory", ["4G", "1"])
def test_all_broken_files_are_counted_in_one_line(tmp_path: Path, memory: str) -> None:
    fill(tmp_path / "photos")
    break_some(tmp_path / "photos")
    for number in range(5):
        (tmp_path / "photos" / "cats" / f"b{number}.jpg").write_bytes(b"")
    dataset = ImageFolder(path=tmp_path / "photos", size=8, memory=memory)
    for look in (dataset.load, dataset.survey):
        with pytest.raises(Refusal) as refusal:
            look(Path())
        assert str(refusal.value) == (
            "image_folder: 7 of 17 images cannot be read: birds/z.png (it is no image, or of a kind that"
            " Pillow does not read), cats/a.jpg (it is empty), cats/b0.jpg (it is empty) and 4 more; repair"
            " or remove them, or leave them out by data.skip_broken: true (-v names all)"
        )


@pytest.mark.parametrize("memory", ["4G", "1"])
def test_without_the_broken_files_all_is_as_if_they_had_never_been_there(tmp_path: Path, memory: str) -> None:
    fill(tmp_path / "photos", 9)
    settings = {"path": tmp_path / "photos", "size": 8, "memory": memory, "train": 7, "skip_broken": True}
    before = ImageFolder(**settings).load(Path())
    break_some(tmp_path / "photos")
    after = ImageFolder(**settings).load(Path())
    assert after.fingerprint() == before.fingerprint()
    assert (after.mean, after.std) == (before.mean, before.std)
    assert after.survey.counts == {"train": {"birds": 9, "cats": 9}}
    assert list(after.survey.broken) == ["birds/z.png", "cats/a.jpg"]
    assert ImageFolder(**settings).survey(Path()) == after.survey


def test_leaving_files_out_decides_numbers_and_is_a_new_study(tmp_path: Path) -> None:
    plain, skipping = (ImageFolder(path=tmp_path, skip_broken=skip).settings() for skip in (False, True))
    assert "skip_broken" not in plain  # as it was before there was the setting
    assert skipping == {**plain, "skip_broken": True}


def test_a_class_of_broken_files_alone_is_refused(tmp_path: Path) -> None:
    fill(tmp_path / "photos", 3)
    for file in (tmp_path / "photos" / "cats").iterdir():
        file.write_bytes(b"")
    with pytest.raises(Refusal, match="some image of each class must be readable in train, got none of cats"):
        load(tmp_path / "photos", skip_broken=True)


def test_only_images_that_are_used_are_looked_at(tmp_path: Path) -> None:
    """A study of few images of very many must not wait for all of them."""
    fill(tmp_path / "photos", 40)
    names = sorted((tmp_path / "photos").rglob("*.png"))
    used = load(tmp_path / "photos", train=6, validation=2, test=2)
    for broken in names:
        content = broken.read_bytes()
        broken.write_bytes(b"")
        try:
            again = load(tmp_path / "photos", train=6, validation=2, test=2)
        except Refusal:
            broken.write_bytes(content)
            continue
        assert again.fingerprint() == used.fingerprint()
    assert sum(file.stat().st_size > 0 for file in names) == 10


def test_the_survey(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for split in ("train", "test"):
        fill(photos / split, 4)
    for file in (photos / "test" / "cats").iterdir():
        file.unlink()
    paint(photos / "train" / "cats" / "more" / "5.png")
    (photos / "train" / "cats" / "notes.txt").write_text("x")
    (photos / "__MACOSX").mkdir()
    pictures = [Image.new("RGB", (9, 9), colour) for colour in ("red", "blue")]
    pictures[0].save(photos / "train" / "birds" / "a.gif", save_all=True, append_images=pictures[1:])
    survey = ImageFolder(path=photos, size=8).survey(Path())
    assert survey.lines() == [
        f"{photos}: 2 classes; images: train 10 (birds 5, cats 5); test 4 (birds 4, cats 0)",
        "passed over 1: made by a system or program (__MACOSX)",
        "passed over 1: no image by its suffix (train/cats/notes.txt)",
        "no image in test of cats",
        "images in folders within class folders count for their class: 1 (train/cats/more/5.png)",
        "of several frames or pages the first is read: 1 (train/birds/a.gif)",
    ]
    assert ImageFolder(path=photos, size=8).load(Path()).survey == survey


def test_a_survey_stays_where_it_was_made(tmp_path: Path) -> None:
    fill(tmp_path / "photos")
    data = load(tmp_path / "photos")
    assert data.survey.counts
    assert Data.from_numpy(data.to_numpy()).survey.counts == {}
    assert data.to("cpu").survey == data.survey


def test_what_to_install_is_said_where_that_is_all_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_walk, "readable_suffixes", lambda: frozenset({".png"}))
    monkeypatch.setattr(
        folder_walk, "needed", lambda suffix: "`pip install x`" if suffix == ".heic" else None
    )
    for name in ("a", "b"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        (tmp_path / "photos" / name / "1.heic").write_bytes(b"x")
    rule = (
        r"no images in .*photos; passed over 2: needs `pip install x` \(a/1.heic, b/1.heic\): the layout is"
    )
    with pytest.raises(Refusal, match=rule):
        load(tmp_path / "photos")


def test_classes_that_are_too_small_are_all_named_with_the_cure(tmp_path: Path) -> None:
    fill(tmp_path / "photos")
    for name, count in (("ants", 1), ("bees", 2)):
        for number in range(count):
            paint(tmp_path / "photos" / name / f"{number}.png")
    with pytest.raises(
        Refusal, match=r"got 1 of 'ants', 2 of 'bees'; add images, leave the class out, or give"
    ):
        load(tmp_path / "photos")


def test_one_image_of_a_class_is_enough_where_the_splits_are_given(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        fill(tmp_path / "photos" / split, 1)
    data = load(tmp_path / "photos")
    assert (len(data.train), len(data.validation), len(data.test)) == (2, 2, 2)


def test_file_names_that_are_no_text(tmp_path: Path) -> None:
    fill(tmp_path / "photos")
    source = tmp_path / "photos" / "cats" / "0.png"
    source.rename(source.with_name(os.fsdecode(b"\xff\xfe.png")))
    for memory in ("4G", "1"):
        dataset = ImageFolder(path=tmp_path / "photos", size=8, memory=memory)
        data = Data.from_numpy(dataset.load(Path()).to_numpy())
        assert sum(len(data.split(name)) for name in SPLITS) == 10
        assert sum(int((data.split(name).pixels[:, 0] == 255).sum()) for name in SPLITS) == 5 * 64
