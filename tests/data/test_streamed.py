"""A folder beyond ``memory``: decoded batch by batch, with the same numbers as from memory, to the digit."""

from __future__ import annotations

import gc
import shutil
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from routesearch.data import (
    SPLITS,
    Augment,
    Data,
    ImageFolder,
    Images,
    StreamedImages,
    decode_once,
    images,
    moments,
    streamed,
)
from routesearch.errors import Refusal
from routesearch.evaluation.measure import measure
from routesearch.methods.base import Batch, Stage
from routesearch.study.recipe import Recipe
from routesearch.training.loop import fit
from routesearch.utils.units import bytes_of

COUNT = 40


def fill(folder: Path) -> Path:
    """Twenty images of each of two classes, told apart by their colour, in PNG, JPEG and BMP."""
    random = np.random.RandomState(0)
    for label, name in enumerate(("dark", "light")):
        (folder / name).mkdir(parents=True)
        for number in range(COUNT // 2):
            pixels = random.randint(70 * label, 170 + 70 * label, (20, 14, 3)).astype(np.uint8)
            suffix = ("png", "jpg", "bmp")[number % 3]
            Image.fromarray(pixels).save(folder / name / f"\xe4{number}.{suffix}")
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("data") / "photos")


def load(photos: Path, memory: str, **settings: Any) -> Data:
    return ImageFolder(path=photos, size=12, memory=memory, **settings).load(Path())


def both(photos: Path, **settings: Any) -> tuple[Data, Data]:
    held, files = load(photos, "4G", **settings), load(photos, "1K", **settings)
    assert {type(held.split(name)) for name in SPLITS} == {Images}
    assert {type(files.split(name)) for name in SPLITS} == {StreamedImages}
    return held, files


def test_streamed_images_are_those_of_memory(photos: Path) -> None:
    held, files = both(photos)
    assert (held.mean, held.std, held.classes, held.shape) == (
        files.mean,
        files.std,
        files.classes,
        files.shape,
    )
    assert held.fingerprint() == files.fingerprint()
    for name in SPLITS:
        one, other = held.split(name), files.split(name)
        assert (len(one), one.shape, one.sizes, one.dtype, one.nbytes) == (
            len(other),
            other.shape,
            other.sizes,
            other.dtype,
            other.nbytes,
        )
        assert torch.equal(one.pixels, other.pixels)
        assert torch.equal(one.labels, other.labels)
        assert torch.equal(other.in_memory().pixels, one.pixels)
        for part, whole in zip(other.chunks(3), one.chunks(3), strict=True):
            assert torch.equal(part.pixels, whole.pixels)
            assert torch.equal(part.labels, whole.labels)


@given(
    rows=st.lists(st.integers(0, 23), max_size=12),
    expected=st.lists(st.lists(st.integers(0, 23), max_size=3), max_size=4),
)
def test_any_rows_are_those_of_memory_whatever_was_expected(
    photos: Path, rows: list[int], expected: list[list[int]]
) -> None:
    held, files = cached_both(photos)
    for each in expected:
        files.train.prefetch(torch.tensor(each, dtype=torch.int64))
    files.train.prefetch(torch.tensor(rows, dtype=torch.int64))
    index = torch.tensor(rows, dtype=torch.int64)
    one, other = held.train.take(index), files.train.take(index)
    assert torch.equal(one.pixels, other.pixels)
    assert torch.equal(one.labels, other.labels)
    assert not rows or other.pixels.is_contiguous(memory_format=torch.channels_last)
    part = files.train.select(index)
    assert isinstance(part, StreamedImages)
    assert torch.equal(part.in_memory().pixels, one.pixels)


_BOTH: dict[Path, tuple[Data, Data]] = {}


def cached_both(photos: Path) -> tuple[Data, Data]:
    return _BOTH.setdefault(photos, both(photos))


def test_memory_decides_by_all_splits_after_subsets_are_cut(photos: Path) -> None:
    one = 12 * 12 * 3
    for most, kind in ((COUNT * one, Images), (COUNT * one - 1, StreamedImages)):
        assert type(load(photos, str(most)).train) is kind
    assert type(load(photos, str(14 * one), train=8, validation=4, test=2).train) is Images
    assert type(load(photos, str(14 * one - 1), train=8, validation=4, test=2).train) is StreamedImages


def test_memory_is_free_to_change_in_a_study_that_goes_on(photos: Path) -> None:
    assert ImageFolder(path=photos, memory="1K").settings() == ImageFolder(path=photos).settings()


@pytest.mark.parametrize(
    ("text", "value"),
    [("4G", 4 << 30), ("512m", 512 << 20), ("1.5K", 1536), (100000, 100000), ("2T", 2 << 40), ("0", 0)],
)
def test_memory_as_it_is_written(text: Any, value: int) -> None:
    assert bytes_of(ImageFolder(path=Path("x"), memory=text).memory) == value


@pytest.mark.parametrize("text", ["four", "-1", "4GG", "", True, None, "1e9"])
def test_other_memory_is_refused(text: Any) -> None:
    with pytest.raises(ValidationError, match="must be bytes such as 4G"):
        ImageFolder(path=Path("x"), memory=text)


def test_a_worker_gets_names_and_not_pixels(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held, files = both(photos)
    packed = files.to_numpy()
    assert not [key for key in packed if key.endswith("pixels")]
    size = sum(value.nbytes for value in packed.values() if isinstance(value, np.ndarray))
    assert size < COUNT * 40
    for value in packed.values():
        if isinstance(value, np.ndarray):
            value.flags.writeable = False  # as Ray's are
    monkeypatch.chdir("/")  # a worker has a working directory of its own
    back = Data.from_numpy(packed)
    assert back.fingerprint() == held.fingerprint()
    assert np.shares_memory(back.train.files.names, packed["train_names"])


def test_a_relative_path_is_read_from_any_working_directory(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos.parent)
    data = ImageFolder(path=Path("photos"), size=12, memory="1K").load(Path())
    other = ImageFolder(path=Path(photos.name), size=12, memory="1K").load(Path("../") / photos.parent.name)
    monkeypatch.chdir("/")
    assert torch.equal(data.train.pixels, other.train.pixels)


def trained(data: Data, own_method: Any, backbone: Any) -> tuple[dict[str, torch.Tensor], list[float]]:
    torch.manual_seed(0)
    net = own_method.Skipper(own_method.Skipper.Config(), backbone)
    fit(
        net,
        net.stages(),
        data,
        Recipe(batch_size=5, epochs=2),
        epochs=2,
        seed=3,
        device=torch.device("cpu"),
    )
    points = measure(net, data, data.validation, torch.device("cpu"))
    return net.state_dict(), [value for point in points for value in (point.accuracy, point.macs)]


def test_training_and_measuring_are_equal_to_the_digit(
    photos: Path, own_method: Any, own_backbone: Any
) -> None:
    backbone = own_backbone.Pocket((3, 12, 12), 2)
    held, files = both(photos, augment=Augment(crop=2, flip=True))
    (weights, numbers), (others, figures) = (trained(data, own_method, backbone) for data in (held, files))
    assert numbers == figures
    assert all(torch.equal(value, others[name]) for name, value in weights.items())


def test_a_cached_front_is_equal_too(photos: Path) -> None:
    front, head = torch.nn.Flatten(), torch.nn.Linear(432, 2)

    def loss(batch: Batch) -> torch.Tensor:
        return F.cross_entropy(head(batch.inputs), batch.labels)

    results = []
    for data in both(photos):
        torch.nn.init.zeros_(head.weight)
        torch.nn.init.zeros_(head.bias)
        net = torch.nn.Sequential(front, head)
        stage = Stage(loss, trains=[head], cache=front)
        fit(net, [stage], data, Recipe(batch_size=6), epochs=2, seed=0, device=torch.device("cpu"))
        results.append(head.weight.detach().clone())
    assert torch.equal(*results)


def test_few_pixels_are_held_at_a_time(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is done with them: batches that are decoded or on their way are counted while they live."""
    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    peak, most = 0, threading.Lock()
    made = streamed._Batch.__init__

    def counted(self: Any, files: Any, rows: Any) -> None:
        nonlocal peak
        made(self, files, rows)
        with most:
            alive.add(self)
            peak = max(peak, sum(len(batch.rows) for batch in alive))

    monkeypatch.setattr(streamed._Batch, "__init__", counted)
    monkeypatch.setattr(images, "PIECE", 4 * 432)
    data = load(photos, "1K")
    data.fingerprint()
    head = torch.nn.Linear(432, 2)

    def loss(batch: Batch) -> torch.Tensor:
        return F.cross_entropy(head(batch.inputs.flatten(1)), batch.labels)

    fit(head, [Stage(loss)], data, Recipe(batch_size=4), epochs=3, seed=0, device=torch.device("cpu"))
    for split in SPLITS:
        for _ in data.split(split).chunks(4):
            pass
    gc.collect()
    assert 4 <= peak <= 3 * 4 * 2  # two splits may each keep what they expected


def test_the_next_batch_is_begun_before_a_step_and_decoded_once(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, begun = load(photos, "1K"), []
    made = streamed._Batch.__init__

    def noted(self: Any, files: Any, rows: Any) -> None:
        made(self, files, rows)
        begun.append(tuple(rows.tolist()))

    monkeypatch.setattr(streamed._Batch, "__init__", noted)
    head, at_step = torch.nn.Linear(432, 2), []

    def loss(batch: Batch) -> torch.Tensor:
        at_step.append(len(begun))
        return F.cross_entropy(head(batch.inputs.flatten(1)), batch.labels)

    fit(head, [Stage(loss)], data, Recipe(batch_size=4), epochs=2, seed=0, device=torch.device("cpu"))
    assert at_step == [2, 3, 4, 5, 6, 6, 8, 9, 10, 11, 12, 12]  # six batches an epoch
    assert len(begun) == 12
    for epoch in (begun[:6], begun[6:]):
        assert sorted(row for rows in epoch for row in rows) == list(range(24))


def test_only_what_is_asked_for_is_decoded(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []

    def counting(module: Any, name: str) -> None:
        real = getattr(module, name)

        def counted(file: Path, size: tuple[int, int]) -> Any:
            opened.append(file)
            return real(file, size)

        monkeypatch.setattr(module, name, counted)

    counting(streamed, "read_image")
    counting(decode_once, "examine_image")
    data = load(photos, "4G", train=6, validation=2, test=2)
    assert len(opened) == 10
    del opened[:]
    files = load(photos, "1").train
    assert len(opened) == len(set(opened)) == COUNT  # each once: the look, mean and deviation
    del opened[:]
    next(files.chunks(5))
    assert len(opened) == 5
    assert len(data.train) == 6


def test_moments_of_very_many_images_are_those_of_an_even_sample(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moments, "MEASURED", 10)
    held, files = both(photos)
    assert (held.mean, held.std) == (files.mean, files.std)
    rows = torch.arange(10) * len(held.train) // 10
    assert (held.mean, held.std) == moments.moments(held.train.pixels[rows])


@pytest.mark.parametrize("damage", ["gone", "torn", "text"])
def test_a_file_that_breaks_in_mid_training_is_named_in_one_line(tmp_path: Path, damage: str) -> None:
    photos = fill(tmp_path / "photos")
    data = load(photos, "1K")
    victim = data.train.files[3]
    if damage == "gone":
        victim.unlink()
    else:
        victim.write_bytes(victim.read_bytes()[:70] if damage == "torn" else b"hello")
    head = torch.nn.Linear(432, 2)

    def loss(batch: Batch) -> torch.Tensor:
        return F.cross_entropy(head(batch.inputs.flatten(1)), batch.labels)

    with pytest.raises(Refusal, match="cannot be read as an image") as refusal:
        fit(head, [Stage(loss)], data, Recipe(batch_size=4), epochs=3, seed=0, device=torch.device("cpu"))
    assert str(victim) in str(refusal.value)
    assert "\n" not in str(refusal.value)
    with pytest.raises(Refusal, match="cannot be read as an image"):
        data.fingerprint()


def test_a_broken_file_is_found_before_a_study_starts(tmp_path: Path) -> None:
    photos = fill(tmp_path / "photos")
    (photos / "dark" / "a.png").write_text("hello")
    with pytest.raises(Refusal, match=r"1 of 41 images cannot be read: dark/a\.png"):
        load(photos, "1K").fingerprint()


def test_the_fingerprint_sees_a_changed_pixel_and_not_a_moved_folder(tmp_path: Path) -> None:
    photos = fill(tmp_path / "photos")
    before = load(photos, "1K").fingerprint()
    shutil.move(photos, tmp_path / "pictures")
    assert load(tmp_path / "pictures", "1K").fingerprint() == before
    victim = next((tmp_path / "pictures" / "dark").glob("*.bmp"))
    content = bytearray(victim.read_bytes())
    content[500] ^= 255  # of the same size
    victim.write_bytes(content)
    after = [load(tmp_path / "pictures", memory).fingerprint() for memory in ("1K", "4G")]
    assert after[0] == after[1] != before


def test_describing_decodes_nothing(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = load(photos, "1K")
    monkeypatch.setattr(streamed, "read_image", None)
    assert repr(data.train) == f"StreamedImages(24 files in {photos})"
    assert len(data.train) == 24
    data.to_numpy()


def test_a_move_to_a_device_moves_labels(photos: Path) -> None:
    moved = load(photos, "1K").to("cpu")
    assert isinstance(moved.train, StreamedImages)
    assert moved.train.labels.device.type == "cpu"
