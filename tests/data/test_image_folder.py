"""The user's own image files: layouts, formats, geometry, and a clear line for every broken one."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from routesearch.data import ImageFolder, read_image
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


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".webp", ".tiff", ".gif", ".ppm"])
def test_formats(tmp_path: Path, suffix: str) -> None:
    paint(tmp_path / f"a{suffix}", (200, 100, 50), size=(64, 40))
    pixels = read_image(tmp_path / f"a{suffix}", (8, 8))
    assert pixels.shape == (8, 8, 3)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - [200, 100, 50]).max() <= 4


@pytest.mark.parametrize(
    ("mode", "colour"),
    [("L", (120,)), ("RGBA", (120, 120, 120, 255)), ("LA", (120, 255)), ("P", (7,)), ("1", (1,))],
)
def test_modes_become_rgb(tmp_path: Path, mode: str, colour: tuple[int, ...]) -> None:
    paint(tmp_path / "a.png", colour, mode=mode)
    pixels = read_image(tmp_path / "a.png", (8, 8))
    expected = {"P": 7, "1": 255}.get(mode, 120)
    if mode == "P":  # a palette without entries of its own is grey
        expected = int(np.asarray(Image.open(tmp_path / "a.png").convert("RGB"))[0, 0, 0])
    assert (pixels == expected).all()


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    Image.fromarray(np.full((9, 9), 40_000, np.uint16)).save(tmp_path / "a.png")
    assert (read_image(tmp_path / "a.png", (8, 8)) == 40_000 >> 8).all()


def test_the_middle_is_kept_and_nothing_is_squeezed(tmp_path: Path) -> None:
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, :10], wide[:, 10:20], wide[:, 20:] = RED, GREEN, BLUE
    Image.fromarray(wide).save(tmp_path / "wide.png")
    assert (read_image(tmp_path / "wide.png", (10, 10)) == GREEN).all()
    Image.fromarray(wide.transpose(1, 0, 2)).save(tmp_path / "tall.png")
    assert (read_image(tmp_path / "tall.png", (10, 10)) == GREEN).all()
    assert np.array_equal(read_image(tmp_path / "wide.png", (10, 30)), wide)


def test_the_cameras_orientation_is_followed(tmp_path: Path) -> None:
    half = np.zeros((16, 16, 3), np.uint8)
    half[:8], half[8:] = RED, BLUE
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
    Image.fromarray(half).save(tmp_path / "a.png", exif=exif)
    pixels = read_image(tmp_path / "a.png", (16, 16))
    assert np.array_equal(pixels, np.rot90(half, -1))


@pytest.mark.parametrize("width", [1, 7, 37, 333, 1001])
@pytest.mark.parametrize("height", [1, 5, 41, 127])
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_any_size_fits(tmp_path: Path, width: int, height: int, suffix: str) -> None:
    paint(tmp_path / f"a{suffix}", (90, 90, 90), size=(width, height))
    pixels = read_image(tmp_path / f"a{suffix}", (23, 11))
    assert pixels.shape == (23, 11, 3)
    assert np.abs(pixels.astype(int) - 90).max() <= 2


@pytest.mark.parametrize("size", [(27, 60), (60, 27), (27, 27)])
def test_sizes_whose_quotient_rounds_up_fit(tmp_path: Path, size: tuple[int, int]) -> None:
    assert 27 / 23 * 23 > 27
    paint(tmp_path / "a.png", size=size)
    assert (read_image(tmp_path / "a.png", (23, 23)) == RED).all()


def test_a_large_jpeg_is_read_as_exactly_as_its_full_size_shows_it(tmp_path: Path) -> None:
    """Decoding at a smaller scale is quicker, and must not shift or blur the picture."""
    ramp = np.linspace(0, 255, 640).astype(np.uint8)
    Image.fromarray(np.stack([np.tile(ramp, (480, 1))] * 3, 2)).save(tmp_path / "a.jpg", quality=95)
    with Image.open(tmp_path / "a.jpg") as image:
        full = image.resize((32, 32), Image.Resampling.BOX, (80, 0, 560, 480))
    small = read_image(tmp_path / "a.jpg", (32, 32))
    assert np.abs(small.astype(int) - np.asarray(full).astype(int))[:, 1:-1].max() <= 2


def test_a_large_jpeg_keeps_its_detail(tmp_path: Path) -> None:
    stripes = np.zeros((480, 640, 3), np.uint8)
    stripes[:, np.arange(640) // 8 % 2 == 1] = 255
    Image.fromarray(stripes).save(tmp_path / "a.jpg", quality=95)
    assert read_image(tmp_path / "a.jpg", (240, 240)).std() > 100


def test_a_transparent_palette_gives_no_warning(tmp_path: Path) -> None:
    picture = Image.new("P", (9, 9), 1)
    picture.putpalette([0, 0, 0, 10, 20, 30])
    picture.save(tmp_path / "a.png", transparency=b"\x00\x80")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = read_image(tmp_path / "a.png", (8, 8))
    assert (pixels == [132, 137, 142]).all()  # half of it, half white


def test_grey_on_demand(tmp_path: Path) -> None:
    paint(tmp_path / "a.jpg", (90, 90, 90))
    assert read_image(tmp_path / "a.jpg", (8, 6), "L").shape == (8, 6)


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
        (["train/a/1.png", "train/b/1.png", "holiday/a/1.png"], "only val and test may lie, got holiday"),
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
