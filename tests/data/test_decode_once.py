"""One pass over all files: each is decoded once, broken ones are found, progress is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from routesearch.data import Images, StreamedImages, decode_once
from routesearch.data.decode_once import Decoded, on_decoded
from routesearch.data.moments import moments, moments_of
from routesearch.data.streamed import Files

COUNT, SIDE = 11, 8


@pytest.fixture
def names(tmp_path: Path) -> list[str]:
    random = np.random.RandomState(0)
    for number in range(COUNT):
        pixels = random.randint(0, 256, (9, 12, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number:02}.png")
    return [f"{number:02}.png" for number in range(COUNT)]


def streamed(root: Path, names: list[str]) -> StreamedImages:
    return StreamedImages(
        Files.of(root, names, SIDE), torch.arange(len(names)), {"own": torch.arange(len(names))}
    )


def decoded(root: Path, names: list[str], memory: int | None) -> Decoded:
    parts = {"train": streamed(root, names[:6]), "test": streamed(root, names[6:])}
    return decode_once.decode_once(parts, memory)


@pytest.mark.parametrize("memory", [None, 0])
def test_broken_files_are_left_out_with_their_labels(
    tmp_path: Path, names: list[str], memory: int | None
) -> None:
    whole = streamed(tmp_path, names).in_memory().pixels
    (tmp_path / names[9]).write_bytes(b"x")
    (tmp_path / names[2]).write_bytes(b"")
    found = decoded(tmp_path, names, memory)
    assert list(found.broken.items()) == [
        (names[2], "it is empty"),
        (names[9], "it is no image, or of a kind that Pillow does not read"),
    ]
    for split, rows, first in (("train", [0, 1, 3, 4, 5], 0), ("test", [6, 7, 8, 10], 6)):
        images = found.splits[split]
        assert type(images) is (Images if memory is None else StreamedImages)
        assert torch.equal(images.pixels, whole[rows])
        assert images.labels.tolist() == images.aux["own"].tolist() == [row - first for row in rows]


def test_pixels_in_memory_lie_as_always(tmp_path: Path, names: list[str]) -> None:
    found = decoded(tmp_path, names, None).splits["train"]
    assert torch.equal(found.pixels, streamed(tmp_path, names[:6]).in_memory().pixels)
    assert found.pixels.is_contiguous(memory_format=torch.channels_last)


def test_moments_follow_from_the_sums_to_the_last_digit(tmp_path: Path, names: list[str]) -> None:
    (tmp_path / names[2]).write_bytes(b"")
    found = decoded(tmp_path, names, 0).splits["train"]
    assert isinstance(found, StreamedImages)
    assert moments_of(found) == moments(found.pixels)
    part = found.select(torch.tensor([3, 0]))
    assert moments_of(part) == moments(part.pixels)


def test_each_file_is_decoded_once(tmp_path: Path, names: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []
    real = decode_once.examine_image

    def counted(file: Path, size: tuple[int, int]) -> tuple[object, bool]:
        opened.append(file)
        return real(file, size)

    monkeypatch.setattr(decode_once, "examine_image", counted)
    found = decoded(tmp_path, names, 0)
    assert sorted(file.name for file in opened) == names
    again = decode_once.decode_once(found.splits, 0)  # known to be readable
    assert len(opened) == COUNT
    assert again.splits == found.splits
    kept = decode_once.decode_once(found.splits, None)  # fits now
    assert len(opened) == 2 * COUNT
    assert {type(images) for images in kept.splits.values()} == {Images}


def test_progress(tmp_path: Path, names: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_once, "AT_A_TIME", 4)
    told: list[tuple[int, int]] = []
    token = on_decoded.set(lambda done, total: told.append((done, total)))
    try:
        decoded(tmp_path, names, None)
    finally:
        on_decoded.reset(token)
    assert told == [(4, COUNT), (6, COUNT), (10, COUNT), (11, COUNT)]


def test_files_of_several_frames_are_named_in_order(tmp_path: Path, names: list[str]) -> None:
    pictures = [Image.new("RGB", (9, 9), colour) for colour in ("red", "blue")]
    for name in ("z.gif", "a.gif"):
        pictures[0].save(tmp_path / name, save_all=True, append_images=pictures[1:])
    assert decoded(tmp_path, ["z.gif", *names, "a.gif"], None).several == ("a.gif", "z.gif")
