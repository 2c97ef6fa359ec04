"""What a trial gets: normalised batches, a form that travels without copies, a fingerprint."""

from __future__ import annotations

import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from routesearch.data import DATASETS, SPLITS, Augment, Data, Dataset, Digits, Images, Source
from routesearch.data.base import moments
from routesearch.errors import Refusal

HERE = Path()


def random_pixels(count: int, dtype: torch.dtype = torch.uint8, channels: int = 3) -> Tensor:
    pixels = torch.randint(0, 256, (count, channels, 4, 5), generator=torch.Generator().manual_seed(count))
    return pixels.to(torch.uint8) if dtype == torch.uint8 else pixels.to(dtype) / 255


def random_images(count: int, dtype: torch.dtype = torch.uint8) -> Images:
    return Images(random_pixels(count, dtype), torch.arange(count) % 2)


def data(dtype: torch.dtype = torch.uint8, **changes: Any) -> Data:
    train, validation, test = (random_images(count, dtype) for count in (12, 6, 8))
    mean, std = moments(train.pixels)
    whole = Data("some", ("a", "b"), (3, 4, 5), train, validation, test, mean, std, settings={"size": 4})
    return replace(whole, **changes)


class Given(Dataset):
    """Whatever source a test hands in."""

    name: ClassVar[str] = "given"
    source: ClassVar[Source]

    def read(self, base: Path) -> Source:
        return self.source


def load(source: Source) -> Data:
    return type("One", (Given,), {"source": source})().load(HERE)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("channels_last", [True, False])
def test_inputs_are_normalised_with_the_training_moments(dtype: torch.dtype, channels_last: bool) -> None:
    whole = data(dtype)
    pixels = whole.train.pixels
    if channels_last:
        pixels = pixels.contiguous(memory_format=torch.channels_last)
    before = pixels.clone()
    inputs = whole.inputs(pixels)
    plain = pixels.double() / (255 if dtype == torch.uint8 else 1)
    mean, std = plain.mean((0, 2, 3), keepdim=True), plain.std((0, 2, 3), keepdim=True, correction=0)
    torch.testing.assert_close(inputs.double(), (plain - mean) / std, atol=1e-5, rtol=1e-5)
    assert inputs.dtype == torch.float32
    assert inputs.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(pixels, before)


def test_inputs_of_bytes_and_of_shares_agree_and_of_one_image_and_many() -> None:
    whole, pixels = data(), random_pixels(12)
    torch.testing.assert_close(whole.inputs(pixels), whole.inputs(pixels.float() / 255))
    assert torch.equal(whole.inputs(pixels)[3:4], whole.inputs(pixels[3:4]))
    assert whole.inputs(pixels[:, :, :2, :2]).shape == (12, 3, 2, 2)


def test_inputs_first_asked_for_without_gradients_can_have_them_later() -> None:
    whole, pixels = data(mean=(0.1, 0.2, 0.3)), random_pixels(2, torch.float32)
    with torch.inference_mode():
        whole.inputs(pixels)
    pixels.requires_grad_()
    whole.inputs(pixels).sum().backward()
    expected = torch.tensor([1 / s for s in whole.std]).view(1, 3, 1, 1).expand_as(pixels)
    torch.testing.assert_close(pixels.grad, expected)


@given(count=st.integers(1, 9), channels=st.integers(1, 4), flat=st.booleans())
def test_moments_are_those_of_numpy(count: int, channels: int, flat: bool) -> None:
    pixels = random_pixels(count, channels=channels)
    if flat:
        pixels[:, 0] = 77
    mean, std = moments(pixels)
    values = pixels.numpy() / 255
    np.testing.assert_allclose(mean, values.mean((0, 2, 3)))
    expected = values.std((0, 2, 3))
    np.testing.assert_allclose(std, np.where(expected < 1e-6, 1.0, expected), rtol=1e-9)


def test_a_batch_is_picked_normalised_and_augmented_only_with_a_generator() -> None:
    whole = data(augment=Augment(flip=True))
    index = torch.tensor([5, 0, 5])
    inputs, labels = whole.batch(whole.train, index)
    assert torch.equal(inputs, whole.inputs(whole.train.pixels[index]))
    assert labels.tolist() == [1, 0, 1]
    drawn, _ = whole.batch(whole.train, index, torch.Generator().manual_seed(1))
    expected = whole.augment(whole.train.pixels[index], torch.Generator().manual_seed(1))
    assert torch.equal(drawn, whole.inputs(expected))
    assert not torch.equal(drawn, inputs)


def test_split_by_name() -> None:
    whole = data()
    assert [whole.split(name) for name in SPLITS] == [whole.train, whole.validation, whole.test]
    with pytest.raises(ValueError, match="split must be one of train, validation, test, got 'val'"):
        whole.split("val")


def test_numpy_and_back_shares_memory() -> None:
    whole = load(Source(("a", "b"), random_images(30)))
    values = whole.to_numpy()
    back = Data.from_numpy(values)
    for name in SPLITS:
        assert back.split(name).pixels.data_ptr() == whole.split(name).pixels.data_ptr()
        assert back.split(name).labels.data_ptr() == whole.split(name).labels.data_ptr()
        assert torch.equal(back.split(name).pixels, whole.split(name).pixels)
        assert back.split(name).pixels.is_contiguous(memory_format=torch.channels_last)
    assert back.fingerprint() == whole.fingerprint()
    assert (back.mean, back.std, back.augment, back.classes) == (
        whole.mean,
        whole.std,
        whole.augment,
        whole.classes,
    )
    assert not any(isinstance(value, Tensor) for value in values.values())


def test_read_only_arrays_are_taken_without_a_copy_or_a_warning() -> None:
    values = data().to_numpy()
    for value in values.values():
        if isinstance(value, np.ndarray):
            value.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        back = Data.from_numpy(values)
    assert back.train.pixels.data_ptr() == values["train_pixels"].ctypes.data
    assert back.batch(back.train, torch.tensor([0, 1]), torch.Generator())[0].shape == (2, 3, 4, 5)


def changed(images: Images, what: str) -> Images:
    pixels, labels = images.pixels.clone(), images.labels.clone()
    at, part = what.split()
    if part == "pixel":
        pixels[{"first": 0, "last": -1}[at], -1, -1, -1] += 1
    else:
        labels[{"first": 0, "last": -1}[at]] += 1
    return Images(pixels, labels)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("what", ["first pixel", "last pixel", "first label", "last label"])
def test_the_fingerprint_changes_with_any_pixel_and_label(split: str, what: str) -> None:
    whole = data()
    assert replace(whole, **{split: changed(whole.split(split), what)}).fingerprint() != whole.fingerprint()


def test_the_fingerprint_changes_with_splits_and_settings_and_with_nothing_else() -> None:
    whole = data()
    variants = [
        whole,
        replace(whole, validation=whole.test, test=whole.validation),
        replace(whole, validation=Images(whole.validation.pixels[:5], whole.validation.labels[:5])),
        replace(whole, name="other"),
        replace(whole, classes=("a", "c")),
        replace(whole, settings={"size": 5}),
        replace(whole, augment=Augment(crop=1)),
        data(torch.float32),
    ]
    assert len({variant.fingerprint() for variant in variants}) == len(variants)
    other_layout = Images(
        whole.train.pixels.contiguous(memory_format=torch.channels_last), whole.train.labels
    )
    assert replace(whole, train=other_layout).fingerprint() == whole.fingerprint()
    assert data().fingerprint() == whole.fingerprint()


def with_aux(images: Images, **aux: Tensor) -> Images:
    return Images(images.pixels, images.labels, aux)


def test_further_labels_go_where_their_images_go() -> None:
    count = torch.arange(50)
    pixels = random_pixels(50)
    pixels[:, 0, 0, 0] = count.to(torch.uint8)
    whole = load(Source(("a", "b"), Images(pixels, count % 2, {"superclass": count * 3})))
    back = Data.from_numpy(whole.to_numpy()).to("cpu")
    for data_ in (whole, back):
        assert sum(len(data_.split(name)) for name in SPLITS) == 50
        for name in SPLITS:
            images = data_.split(name)
            assert torch.equal(images.aux["superclass"], images.pixels[:, 0, 0, 0].long() * 3)
    assert back.fingerprint() == whole.fingerprint()
    assert back.train.aux["superclass"].data_ptr() == whole.train.aux["superclass"].data_ptr()
    smaller = type("One", (Given,), {"source": Source(("a", "b"), whole.train, whole.test, whole.validation)})
    part = smaller(train=10).load(HERE).train
    assert torch.equal(part.aux["superclass"], part.pixels[:, 0, 0, 0].long() * 3)


@pytest.mark.parametrize("split", SPLITS)
def test_the_fingerprint_changes_with_further_labels(split: str) -> None:
    whole = data()
    images, prints = whole.split(split), {whole.fingerprint()}
    zeros = torch.zeros(len(images), dtype=torch.int64)
    for aux in ({"x": zeros}, {"x": zeros + 1}, {"y": zeros}, {"x": zeros, "y": zeros}):
        prints.add(replace(whole, **{split: with_aux(images, **aux)}).fingerprint())
    assert len(prints) == 5
    orders = [with_aux(images, x=zeros, y=zeros), with_aux(images, y=zeros, x=zeros)]
    assert len({replace(whole, **{split: images}).fingerprint() for images in orders}) == 1


def test_classes_that_only_flip_must_exist() -> None:
    one = type("One", (Given,), {"source": Source(("a", "b"), random_images(30))})
    one(augment={"flip": True, "flip_only": [1]}).load(HERE)
    with pytest.raises(Refusal, match=r"given: augment.flip_only must be labels in 0\.\.1, got \[0, 2\]"):
        one(augment={"flip": True, "flip_only": [0, 2]}).load(HERE)


def test_a_batch_flips_only_the_classes_that_may() -> None:
    whole = data(augment=Augment(flip=True, flip_only=(1,)))
    index = torch.arange(12)
    drawn, labels = whole.batch(whole.train, index, torch.Generator().manual_seed(1))
    changed_ = (drawn != whole.inputs(whole.train.pixels)).flatten(1).any(1)
    assert not changed_[labels == 0].any()
    assert changed_[labels == 1].any()


def test_the_fingerprint_of_a_loaded_set_changes_with_each_setting() -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"split_seed": 1},
        {"train": 100},
        {"validation": 50},
        {"test": 50},
        {"augment": {"flip": True}},
        {"augment": {"flip": True, "flip_only": [3]}},
        {"augment": {"fill": "mean"}},
        {"noise": 0.5},
        {"noise": 0.5, "noise_std": 1.0},
    ]
    prints = {Digits(**fields).load(HERE).fingerprint() for fields in changes}
    assert len(prints) == len(changes)
    assert Digits().load(HERE).fingerprint() in prints


@pytest.mark.parametrize(
    ("source", "rule"),
    [
        (Source(("a",), random_images(9)), "at least 2 classes must exist, got 1"),
        (Source(("a", "a"), random_images(9)), "class names must differ, got 'a' twice"),
        (
            Source(("a", "b"), random_images(9, torch.float64)),
            r"given, train: pixels must be N,C,H,W of uint8 or float32, got \(9, 3, 4, 5\) of torch.float64",
        ),
        (
            Source(("a", "b"), Images(random_pixels(9)[0], torch.zeros(3, dtype=torch.int64))),
            r"pixels must be N,C,H,W .* got \(3, 4, 5\)",
        ),
        (
            Source(("a", "b"), Images(random_pixels(9), torch.zeros(8, dtype=torch.int64))),
            r"labels must be one int64 per image, got \(8,\) of torch.int64 for 9 images",
        ),
        (
            Source(("a", "b"), random_images(9), test=Images(random_pixels(2), torch.tensor([0, 2]))),
            r"given, test: labels must lie in 0..1, got 0..2",
        ),
        (
            Source(("a", "b"), random_images(9), validation=random_images(0)),
            r"given, validation: at least one image must exist, got pixels of shape \(0, 3, 4, 5\)",
        ),
        (
            Source(("a", "b"), random_images(9), test=random_images(3, torch.float32)),
            r"test: images must have the form of the training images, got \(3, 4, 5\) of torch.float32",
        ),
        (
            Source(("a", "b"), with_aux(random_images(9), superclass=torch.zeros(8, dtype=torch.int64))),
            r"given, train: superclass must be one int64 of 0 or more per image, got \(8,\) of torch.int64",
        ),
        (
            Source(("a", "b"), with_aux(random_images(9), superclass=torch.zeros(9))),
            r"superclass must be one int64 of 0 or more per image, got \(9,\) of torch.float32 for 9 images",
        ),
        (
            Source(("a", "b"), random_images(9), test=with_aux(random_images(4), x=torch.arange(4) - 1)),
            r"given, test: x must be one int64 of 0 or more per image",
        ),
    ],
)
def test_a_source_that_violates_a_constraint_is_refused_in_one_line(source: Source, rule: str) -> None:
    with pytest.raises(Refusal, match=rule) as refusal:
        load(source)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("bound", [-0.001, 1.001])
@pytest.mark.parametrize("split", SPLITS)
def test_pixels_beyond_black_and_white_are_refused_unless_declared(split: str, bound: float) -> None:
    parts = {name: random_images(40, torch.float32) for name in SPLITS}
    parts[split].pixels[7, 1, 2, 3] = bound
    rule = rf"^given, {split}: pixels of float32 must lie in \[0, 1\], .* declare Source\.pixel_range$"
    with pytest.raises(Refusal, match=rule):
        load(Source(("a", "b"), **parts))
    declared = load(Source(("a", "b"), **parts, pixel_range=(-0.5, 1.5)))
    assert declared.pixel_range == (-0.5, 1.5)
    assert Data.from_numpy(declared.to_numpy()).pixel_range == (-0.5, 1.5)
    assert load(Source(("a", "b"), random_images(40))).pixel_range == (0.0, 1.0)


def test_the_declared_range_is_no_part_of_the_fingerprint() -> None:
    """Studies of earlier versions, which declared nothing, go on."""
    assert replace(data(), pixel_range=(-3.0, 4.0)).fingerprint() == data().fingerprint()


@pytest.mark.parametrize(
    "bounds", [(1.0, 0.0), (0.0, 0.0), (0.0, float("inf")), (float("nan"), 1.0), (0.0,), None, "01", (0, "1")]
)
def test_a_range_is_two_finite_numbers(bounds: Any) -> None:
    with pytest.raises(
        Refusal, match=r"^given: pixel_range must be two finite numbers, the least and the gr"
    ):
        load(Source(("a", "b"), random_images(9), pixel_range=bounds))


SHAPE, NAMES = (3, 4, 5), ("a", "b")


@pytest.mark.parametrize(
    ("declared", "rule"),
    [
        (
            {"shape": (3, 5, 4)},
            r"images must have the declared shape \(C, H, W\), got \(3, 4, 5\) and \(3, 5, 4\) declared",
        ),
        ({"shape": (1, 4, 5), "class_names": NAMES}, r"got \(3, 4, 5\) and \(1, 4, 5\) declared"),
        ({"class_names": ("a", "c")}, "classes must be the declared ones, got 'b' and 'c' declared"),
        ({"class_names": ("b", "a")}, "got 'a' and 'b' declared"),
        ({"shape": SHAPE, "class_names": ("a", "b", "c")}, "got 2 and 3 declared"),
        ({"facts": lambda self, base: ((3, 4, 4), NAMES)}, r"got \(3, 4, 5\) and \(3, 4, 4\) declared"),
        ({"facts": lambda self, base: (SHAPE, ("a", "x"))}, "got 'b' and 'x' declared"),
        ({"facts": lambda self, base: (SHAPE, NAMES, 1)}, "facts must be shape and class names"),
        (
            {"facts": lambda self, base: ((3, 4), NAMES)},
            r"shape must be C, H, W, each 1 or more, got \(3, 4\)",
        ),
        ({"facts": lambda self, base: (SHAPE, ("a/x", "b"))}, "a class name must hold no path"),
        (
            {"facts": lambda self, base: 1 // 0},
            r"its facts cannot be read: ZeroDivisionError: .*test_base\.py",
        ),
        ({"read": lambda self, base: None}, "given: read must give a Source, got None"),
        ({"source": Source(NAMES, None)}, "given, train: a split must be Images, got None"),  # type: ignore[arg-type]
    ],
)
def test_what_is_declared_is_compared_with_what_is_read(declared: dict[str, Any], rule: str) -> None:
    one = type("One", (Given,), {"source": Source(NAMES, random_images(30)), **declared})
    with pytest.raises(Refusal, match=rule) as refusal:
        one().load(HERE)
    assert str(refusal.value).startswith("given")


def test_what_is_declared_truly_is_taken() -> None:
    source = Source(NAMES, random_images(30))
    for declared in ({}, {"shape": SHAPE}, {"class_names": NAMES}, {"shape": SHAPE, "class_names": NAMES}):
        one = type("One", (Given,), {"source": source, **declared})()
        assert one.load(HERE).shape == SHAPE
        assert one.checked_facts(HERE) == (SHAPE, NAMES)


def test_a_later_field_is_told_only_where_it_differs() -> None:
    """A study begun before there was such a field has the same settings."""

    class Grown(Given):
        later: ClassVar[frozenset[str]] = frozenset({"tone"})
        source: ClassVar[Source] = Source(NAMES, random_images(30))
        tone: int = 3

    assert Grown().settings() == Grown(tone=3).settings() == type("Old", (Given,), {})().settings()
    assert Grown(tone=4).settings() == Grown().settings() | {"tone": 4}


def test_facts_are_read_where_they_are_not_static() -> None:
    one = type("One", (Given,), {"source": Source(("a", "b"), random_images(9))})
    assert one().facts(HERE) == ((3, 4, 5), ("a", "b"))
    assert Digits().facts(HERE) == ((1, 16, 16), tuple("0123456789"))


def test_moving_to_a_device_moves_everything_and_keeps_the_rest() -> None:
    whole = data()
    moved = whole.to("meta")
    assert {moved.split(name).pixels.device.type for name in SPLITS} == {"meta"}
    assert {moved.split(name).labels.device.type for name in SPLITS} == {"meta"}
    assert moved.inputs(moved.train.pixels).device.type == "meta"
    assert (moved.mean, moved.classes) == (whole.mean, whole.classes)


@pytest.mark.parametrize("dataset", DATASETS)
def test_every_setting_of_every_data_set_is_described_and_unknown_ones_are_refused(
    dataset: type[Dataset],
) -> None:
    assert [name for name, field in dataset.model_fields.items() if not field.description] == []
    assert dataset.whereabouts <= set(dataset.model_fields)
    with pytest.raises(ValidationError, match="shuffle"):
        dataset(**{"path": "x"} if "path" in dataset.model_fields else {}, shuffle=True)


def test_names_are_unique() -> None:
    names = ["arrays", "cifar10", "cifar100", "digits", "fashion_mnist", "hybrid", "image_folder", "svhn"]
    assert sorted(each.name for each in DATASETS) == names


def test_importing_does_not_import_what_only_some_data_sets_need() -> None:
    code = "import sys, routesearch.data as d; d.Digits().load(d.__path__[0]); print(sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert [name for name in ("torchvision", "PIL", "sklearn", "scipy") if f"'{name}'" in loaded] == []


@pytest.mark.parametrize("size", [7, 60, 100])
def test_chunks_are_the_whole_split_in_order(size: int) -> None:
    from routesearch.testing import toy_data

    data = toy_data()
    chunks = list(data.chunks(data.validation, torch.device("cpu"), size))
    assert [len(labels) for _, labels in chunks[:-1]] == [size] * (len(chunks) - 1)
    assert torch.equal(torch.cat([labels for _, labels in chunks]), data.validation.labels)
    assert torch.equal(torch.cat([inputs for inputs, _ in chunks]), data.inputs(data.validation.pixels))


class Own(Dataset):
    """What a plugin's reader may give."""

    name: ClassVar[str] = "own"

    def read(self, base: Path) -> Source:
        images: Any = GIVEN["images"]
        return Source(("a", "b"), images() if callable(images) else images)


GIVEN: dict[str, Any] = {}


@pytest.mark.parametrize(
    ("images", "told"),
    [
        (
            lambda: 1 / 0,
            r"^own: the images cannot be read: ZeroDivisionError: division by zero \(test_base\.py:\d+\)$",
        ),
        (
            Images(torch.rand(20, 1, 4, 4) * 255, torch.arange(20) % 2),
            r"^own, train: pixels of float32 must lie in \[0, 1\], .* 1 is white, got [\d.e-]+ to 2\d\d",
        ),
        (
            Images(torch.full((20, 1, 4, 4), float("nan")), torch.arange(20) % 2),
            "0 is black and 1 is white, got nan to nan",
        ),
        (
            Images(np.zeros((20, 1, 4, 4), np.float32), torch.arange(20) % 2),  # type: ignore[arg-type]
            "^own, train: pixels must be a torch tensor, got ndarray$",
        ),
        (
            Images(torch.rand(20, 1, 4, 4), np.arange(20) % 2),  # type: ignore[arg-type]
            "^own, train: labels must be a torch tensor, got ndarray$",
        ),
    ],
)
def test_what_a_reader_gives_is_checked(
    images: Any, told: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(GIVEN, "images", images)
    with pytest.raises(Refusal, match=told):
        Own().load(tmp_path)


def test_images_that_choose_nothing_are_cut_from_validation_and_from_nothing_else() -> None:
    one = type("One", (Given,), {"source": Source(NAMES, random_images(200))})
    plain, cut = one().load(HERE), one(calibration=0.25).load(HERE)
    assert plain.calibration is None
    assert plain.splits == SPLITS
    assert cut.calibration is not None
    assert (len(cut.validation), len(cut.calibration)) == (30, 10)
    both = torch.cat([cut.validation.pixels, cut.calibration.pixels]).flatten(1).tolist()
    assert sorted(both) == sorted(plain.validation.pixels.flatten(1).tolist())
    assert torch.equal(torch.bincount(cut.calibration.labels), torch.tensor([5, 5]))  # stratified
    for name in ("train", "test"):
        assert torch.equal(cut.split(name).pixels, plain.split(name).pixels)


def test_images_that_choose_nothing_travel_and_count_in_the_fingerprint() -> None:
    one = type("One", (Given,), {"source": Source(NAMES, random_images(200))})
    plain, cut = one().load(HERE), one(calibration=0.25).load(HERE)
    again = Data.from_numpy(cut.to_numpy())
    assert again.calibration is not None
    assert cut.calibration is not None
    assert torch.equal(again.calibration.pixels, cut.calibration.pixels)
    assert again.fingerprint() == cut.fingerprint() != plain.fingerprint()
    assert Data.from_numpy(plain.to_numpy()).calibration is None
    assert cut.to("cpu").splits == cut.splits
    assert "calibration" not in one().settings()  # studies begun before there was such a field go on
    with pytest.raises(Refusal, match="calibration must leave images on both sides"):
        one(calibration=0.01).load(HERE)
