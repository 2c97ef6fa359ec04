"""Pixels of any image file: transparency, wide pixels, frames, and why a file cannot be read."""

from __future__ import annotations

import copy
import os
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from routesearch.data import decode, read_image
from routesearch.data.decode import BrokenImage, examine_image

SIZE = (8, 8)
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def paint(
    file: Path, colour: tuple[int, ...] = RED, size: tuple[int, int] = (20, 12), mode: str = "RGB"
) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour if len(colour) > 1 else colour[0]).save(file)


def first(file: Path) -> list[int]:
    """Colour of the picture, which has one."""
    pixels = read_image(file, SIZE)
    assert (pixels == pixels[0, 0]).all()
    colour: list[int] = pixels[0, 0].tolist()
    return colour


def wide(value: int, kind: type = np.uint16) -> Image.Image:
    return Image.fromarray(np.full((9, 9), value, kind))


@pytest.mark.parametrize(
    ("mode", "colour", "shown"),
    [
        ("RGBA", (10, 20, 30, 255), [10, 20, 30]),
        ("RGBA", (10, 20, 30, 0), [255, 255, 255]),
        ("RGBA", (0, 0, 0, 51), [204, 204, 204]),
        ("LA", (100, 255), [100, 100, 100]),
        ("LA", (100, 0), [255, 255, 255]),
    ],
)
@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif"])
def test_what_is_transparent_lies_on_white(
    tmp_path: Path, mode: str, colour: tuple[int, ...], shown: list[int], suffix: str
) -> None:
    options = {"lossless": True} if suffix == ".webp" else {}
    Image.new(mode, (9, 9), colour).save(tmp_path / f"a{suffix}", **options)
    assert first(tmp_path / f"a{suffix}") == shown
    grey = read_image(tmp_path / f"a{suffix}", SIZE, "L")
    assert abs(int(grey[0, 0]) - sum(shown) / 3) <= 2


@pytest.mark.parametrize("suffix", [".png", ".gif"])
def test_a_transparent_colour_of_a_palette_is_white(tmp_path: Path, suffix: str) -> None:
    picture = Image.new("P", (9, 9), 1)
    picture.putpalette([0, 0, 0, 10, 20, 30])
    picture.save(tmp_path / f"a{suffix}", transparency=1)
    assert first(tmp_path / f"a{suffix}") == [255, 255, 255]


def test_a_transparent_colour_of_rgb_is_white(tmp_path: Path) -> None:
    Image.new("RGB", (9, 9), (10, 20, 30)).save(tmp_path / "a.png", transparency=(10, 20, 30))
    assert first(tmp_path / "a.png") == [255, 255, 255]


def tiff_of_12_bits(value: int) -> bytes:
    """Eight by eight samples of 12 bits, packed: two in three bytes."""
    bits = format(value, "012b") * 64
    data = int(bits, 2).to_bytes(96, "big")
    tags = [(256, 8), (257, 8), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 8), (279, 96)]
    entries = b"".join(struct.pack("<HHII", tag, 3, 1, number) for tag, number in tags)
    return b"II*\0" + struct.pack("<I", 104) + data + struct.pack("<H", len(tags)) + entries + bytes(4)


def test_12_bits_are_scaled_by_the_bits_of_a_sample(tmp_path: Path) -> None:
    for value, shown in ((0, 0), (2048, 128), (4095, 255)):
        (tmp_path / "a.tif").write_bytes(tiff_of_12_bits(value))
        assert first(tmp_path / "a.tif") == [shown] * 3


@pytest.mark.parametrize(
    ("largest", "value", "shown"),
    [
        (None, 4095, 15),
        (4095, 4095, 255),
        (4095, 2048, 128),
        (1023, 512, 128),
        (1023, 60_000, 255),  # beyond the white that the file declares
        (65535, 32768, 128),
        (4000, 4000, 15),  # the largest in this one picture: what is white is not said
        (255, 200, 0),
    ],
)
def test_12_bits_in_16_are_scaled_by_the_white_that_the_tags_say(
    tmp_path: Path, largest: int | None, value: int, shown: int
) -> None:
    wide(value).save(tmp_path / "a.tif", tiffinfo={} if largest is None else {281: largest})
    assert first(tmp_path / "a.tif") == [shown] * 3


def test_a_negative_of_16_bits_is_turned(tmp_path: Path) -> None:
    wide(0).save(tmp_path / "a.tif", tiffinfo={262: 0})
    assert first(tmp_path / "a.tif") == [255] * 3


@pytest.mark.parametrize(("most", "half"), [(255, 128), (1023, 512), (4095, 2048), (65535, 32768)])
@pytest.mark.parametrize("kind", ["P5", "P6"])
def test_a_portable_map_is_scaled_by_its_maximum(tmp_path: Path, most: int, half: int, kind: str) -> None:
    sample = struct.pack(">B" if most < 256 else ">H", half)
    head = f"{kind} 8 8 {most}\n".encode()
    (tmp_path / "a.ppm").write_bytes(head + sample * (64 if kind == "P5" else 192))
    assert first(tmp_path / "a.ppm") == [128] * 3


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jp2"])
def test_16_bits(tmp_path: Path, suffix: str) -> None:
    wide(40_000).save(tmp_path / f"a{suffix}")
    assert first(tmp_path / f"a{suffix}") == [40_000 >> 8] * 3


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_32_bits_are_refused_with_the_reason(tmp_path: Path, kind: type) -> None:
    wide(1, kind).save(tmp_path / "a.tif")
    with pytest.raises(BrokenImage, match=r"of 32 bits .* nothing says which is white; store 8 or 16 bits"):
        read_image(tmp_path / "a.tif", SIZE)


def test_colours_of_12_bits_in_16_are_refused_not_shown_black(tmp_path: Path) -> None:
    """Pillow keeps the upper byte of each colour only."""
    entries = [(256, 3, 1, 8), (257, 3, 1, 8), (258, 3, 3, 8), (259, 3, 1, 1), (262, 3, 1, 2)]
    entries += [(273, 4, 1, 14), (277, 3, 1, 3), (278, 3, 1, 8), (279, 4, 1, 384), (281, 3, 1, 4095)]
    packed = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    data = struct.pack("<HHH", 16, 16, 16) + struct.pack("<H", 4095) * 192
    head = b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(entries))
    (tmp_path / "a.tif").write_bytes(head + packed + bytes(4))
    with pytest.raises(BrokenImage, match="12 bits in 16 for each colour"):
        read_image(tmp_path / "a.tif", SIZE)


def test_cmyk(tmp_path: Path) -> None:
    Image.new("CMYK", (9, 9), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    red, green, blue = first(tmp_path / "a.jpg")
    assert red > 240
    assert max(green, blue) < 15


@pytest.mark.parametrize("suffix", [".gif", ".tif", ".webp", ".png"])
def test_of_several_frames_the_first_is_read(tmp_path: Path, suffix: str) -> None:
    pictures = [Image.new("RGB", (9, 9), colour) for colour in ("red", "blue")]
    options = {"lossless": True} if suffix == ".webp" else {}
    pictures[0].save(tmp_path / f"a{suffix}", save_all=True, append_images=pictures[1:], **options)
    pictures[0].save(tmp_path / f"b{suffix}", **options)
    for name, expected in (("a", True), ("b", False)):
        pixels, several = examine_image(tmp_path / f"{name}{suffix}", SIZE)
        assert pixels[0, 0].tolist() == [255, 0, 0]
        assert several is expected


def test_a_cameras_second_picture_is_no_frame(tmp_path: Path) -> None:
    picture = Image.new("RGB", (9, 9), (90, 90, 90))
    picture.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[picture])
    assert examine_image(tmp_path / "a.jpg", SIZE)[1] is False


def test_a_broken_second_frame_does_not_matter(tmp_path: Path) -> None:
    pictures = [Image.new("RGB", (9, 9), colour) for colour in ("red", "blue")]
    pictures[0].save(tmp_path / "a.gif", save_all=True, append_images=pictures[1:])
    content = (tmp_path / "a.gif").read_bytes()
    (tmp_path / "a.gif").write_bytes(content[:-8])
    assert first(tmp_path / "a.gif") == [255, 0, 0]


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".gif", ".tif", ".webp", ".bmp", ".ppm"])
@pytest.mark.parametrize("left", [0.1, 0.5, 0.9, 0.98])
def test_a_file_cut_short_is_broken(tmp_path: Path, suffix: str, left: float) -> None:
    file = tmp_path / f"a{suffix}"
    Image.fromarray(np.random.RandomState(0).randint(0, 255, (64, 64, 3)).astype(np.uint8)).save(file)
    file.write_bytes(file.read_bytes()[: int(left * file.stat().st_size)])
    with pytest.raises(BrokenImage):
        read_image(file, SIZE)


def spoil(file: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if how == "empty":
        file.write_bytes(b"")
    elif how == "text":
        file.write_text("hello")
    elif how == "folder":
        file.mkdir()
    elif how == "pipe":
        os.mkfifo(file)
    elif how == "bomb":
        Image.new("L", (40, 40)).save(file)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400)
    elif how == "forbidden":
        Image.new("L", (9, 9)).save(file)

        def refuse(*_: object, **__: object) -> None:
            raise PermissionError(13, "Permission denied", str(file))

        monkeypatch.setattr(Image, "open", refuse)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("missing", "No such file or directory"),
        ("empty", "it is empty"),
        ("text", "it is no image, or of a kind that Pillow does not read"),
        ("folder", "it is a folder"),
        ("pipe", "it is a device, pipe or socket"),  # opening it would wait for ever
        ("bomb", r"Image size \(1600 pixels\) exceeds limit"),
        ("forbidden", "Permission denied"),
    ],
)
def test_why_a_file_is_broken(tmp_path: Path, how: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.png"
    spoil(file, how, monkeypatch)
    with pytest.raises(BrokenImage, match=f"a.png cannot be read as an image: {reason}") as broken:
        read_image(file, SIZE)
    assert str(file) not in broken.value.reason


@pytest.mark.parametrize("error", [MemoryError(), OSError(24, "Too many open files")])
def test_a_system_that_is_short_of_something_breaks_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    Image.new("L", (9, 9)).save(tmp_path / "a.png")

    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(decode, "_pixels", fail)
    with pytest.raises(type(error)) as raised:
        read_image(tmp_path / "a.png", SIZE)
    assert not isinstance(raised.value, BrokenImage)


def test_a_program_is_never_started_for_a_file(tmp_path: Path) -> None:
    """Pillow hands PostScript to Ghostscript, whatever the file is called."""
    (tmp_path / "a.jpg").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    with pytest.raises(BrokenImage, match="it is no image, or of a kind"):
        read_image(tmp_path / "a.jpg", SIZE)


def test_a_name_that_cannot_be_printed_is_escaped(tmp_path: Path) -> None:
    file = tmp_path / os.fsdecode(b"\xff\x1b[31m.png")
    with pytest.raises(BrokenImage) as broken:
        read_image(file, SIZE)
    assert f"{tmp_path}/\\xff\\x1b[31m.png cannot be read" in str(broken.value)


def test_a_worker_can_send_it(tmp_path: Path) -> None:
    again = copy.copy(BrokenImage(tmp_path, "it is empty"))
    assert (str(again), again.reason) == (
        f"{tmp_path} cannot be read as an image: it is empty",
        "it is empty",
    )


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


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0II", b"Exif\0\0"])
@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_a_broken_exif_breaks_no_picture(tmp_path: Path, suffix: str, exif: bytes) -> None:
    Image.new("RGB", (9, 9), (90, 90, 90)).save(tmp_path / f"a{suffix}", exif=exif)
    assert first(tmp_path / f"a{suffix}") == [90, 90, 90]


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
