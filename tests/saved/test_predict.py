"""Predictions on images as users have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from routesearch import Refusal, load, run
from routesearch.data import as_pixels, read_image
from routesearch.data.base import Data, normalised
from routesearch.saved import SavedModel, read_files
from routesearch.saved.model import _pixels


@pytest.fixture(scope="module")
def images(data: Data) -> np.ndarray:
    """Test images, N,8,8, uint8."""
    return (data.test.pixels[:, 0] * 255).round().to(torch.uint8).numpy()


@pytest.fixture(scope="module")
def model(trained_model: Path, images: np.ndarray) -> SavedModel:
    """The saved model at a threshold in the middle of what its first gate says of the images: they part.

    How far a gate of so short a training opens is chance; that images differ in it is not.
    """
    saved = load(trained_model, plugins=sorted((trained_model / "plugins").iterdir()))
    net: Any = saved.net
    first, gate = next(iter(net.gates.items()))
    x = normalised(torch.from_numpy(images)[:, None], saved.card.mean, saved.card.std)
    with torch.inference_mode():
        for unit in net.plain.units[: int(first) - 1]:
            x = unit(x)
        said = gate(x).sigmoid().squeeze(1).sort().values
    middle = said[len(said) // 4 : -len(said) // 4]
    widest = int(middle.diff().argmax())  # far from each image, so that rounding turns none
    knob = {"threshold": float(middle[widest : widest + 2].mean())}
    return SavedModel(saved.card.model_copy(update={"knob": knob}), saved.net, saved.device)


def test_every_form_of_images_gives_the_same(model: SavedModel, images: np.ndarray) -> None:
    expected = model.predict(images)
    assert len(expected) == len(images)
    assert expected.labels.dtype == expected.macs.dtype == expected.route.dtype == np.int64
    assert expected.confidence.dtype == np.float32
    assert expected.ran.shape == (len(images), 2)
    floats = images.astype(np.float64) / 255
    readonly = images.copy()
    readonly.flags.writeable = False
    forms: list[Any] = [
        images[..., None],
        floats,
        floats.astype(np.float32)[..., None],
        list(images),
        readonly,
    ]
    forms += [torch.from_numpy(images), torch.from_numpy(floats), images[:, ::-1][:, ::-1]]
    for form in forms:
        found = model.predict(form)
        assert np.array_equal(found.labels, expected.labels)
        assert np.allclose(found.confidence, expected.confidence, atol=1e-5)
        assert np.array_equal(found.macs, expected.macs)
    rough = model.predict(torch.from_numpy(floats).to(torch.bfloat16))
    assert (rough.labels == expected.labels).mean() > 0.9


def test_it_is_what_run_gives(model: SavedModel, images: np.ndarray) -> None:
    pixels = torch.from_numpy(images)[:, None]
    routed = run(model.net, normalised(pixels, model.card.mean, model.card.std), model.card.knob)
    found = model.predict(images)
    sure, labels = routed.logits.softmax(1).max(1)
    assert np.array_equal(found.labels, labels.numpy())
    assert np.allclose(found.confidence, sure.numpy(), atol=1e-6)
    assert np.array_equal(found.macs, routed.macs.numpy())
    assert np.array_equal(found.ran, routed.ran.numpy())
    assert len(set(found.macs.tolist())) > 1, "all images take one way: the test shows little"


@given(size=st.integers(1, 70))
def test_the_batch_does_not_matter(model: SavedModel, images: np.ndarray, size: int) -> None:
    whole, cut = model.predict(images), model.predict(images, batch_size=size)
    assert np.array_equal(whole.labels, cut.labels)
    assert np.array_equal(whole.macs, cut.macs)
    assert np.allclose(whole.confidence, cut.confidence, atol=1e-5)
    assert np.array_equal(whole.ran, cut.ran)


def test_no_images_give_no_predictions(model: SavedModel) -> None:
    for none in (np.zeros((0, 8, 8), np.uint8), np.zeros((0, 8, 8, 1)), torch.zeros(0, 8, 8)):
        found = model.predict(none)
        assert [len(v) for v in (found.labels, found.confidence, found.macs, found.route, found.ran)] == [
            0
        ] * 5


def test_images_are_not_changed(model: SavedModel) -> None:
    ours = np.random.default_rng(0).random((3, 8, 8, 1), np.float32)
    before = ours.copy()
    model.predict(ours)
    assert np.array_equal(ours, before)


@pytest.mark.parametrize(
    ("wrong", "rule"),
    [
        (
            np.zeros((2, 9, 8), np.uint8),
            "must be N,8,8,1 or N,8,8, as the model was trained on, got shape (2, 9, 8)",
        ),
        (np.zeros((0, 9, 8), np.uint8), "got shape (0, 9, 8)"),
        (np.zeros((2, 8, 8, 3), np.uint8), "got shape (2, 8, 8, 3)"),
        (np.zeros((2, 1, 8, 8), np.uint8), "got shape (2, 1, 8, 8)"),
        (np.zeros((2, 3, 32, 32), np.uint8), "channels last"),
        (np.zeros((8, 8), np.uint8), "got one image of shape (8, 8): give image[None]"),
        (np.zeros((8, 8, 1), np.uint8), "got one image of shape (8, 8, 1): give image[None]"),
        (np.zeros(64, np.uint8), "must be N,H,W or N,H,W,C, got shape (64,)"),
        (np.zeros((2, 8, 8), np.int64), "must be uint8, or floats in [0, 1], got int64"),
        (np.zeros((2, 8, 8), bool), "got bool"),
        (np.zeros((2, 8, 8), complex), "got complex128"),
        (np.array([["a"]]), "must be N,H,W"),
        (np.full((2, 8, 8), 255.0), "must lie in [0, 1] where it is not uint8, got 255 to 255"),
        (np.full((2, 8, 8), -0.1), "got -0.1 to -0.1"),
        (np.full((2, 8, 8), np.nan), "got nan to nan"),
        (torch.full((2, 8, 8), 2, dtype=torch.int32), "got int32"),
        ([np.zeros((8, 8)), np.zeros((9, 8))], "must be of one size"),
        (None, "must be N,H,W"),
        ("cat.png", "must be N,H,W"),
    ],
)
def test_images_of_another_form_are_refused(model: SavedModel, wrong: Any, rule: str) -> None:
    with pytest.raises(Refusal) as refusal:
        model.predict(wrong)
    assert rule in str(refusal.value)
    assert str(refusal.value).startswith("images must")
    assert "\n" not in str(refusal.value)


def of_range(model: SavedModel, *bounds: float) -> SavedModel:
    """The same model, of data that declared such pixels."""
    return SavedModel(model.card.model_copy(update={"pixel_range": bounds}), model.net, model.device)


def test_pixels_are_taken_as_far_as_the_data_declared_them(model: SavedModel, images: np.ndarray) -> None:
    noise = np.random.default_rng(0).normal(size=images.shape)
    noisy = np.clip(images / 255 + noise, -4, 5)
    with pytest.raises(Refusal, match=r"images must lie in \[0, 1\] where"):
        model.predict(noisy)
    wider = of_range(model, -4.0, 5.0)
    assert len(wider.predict(noisy)) == len(images)
    for plain in (images, images / 255):
        assert np.array_equal(wider.predict(plain).labels, model.predict(images).labels)
    with pytest.raises(
        Refusal, match=r"lie in \[-4, 5\] where it is not uint8, got 0 to 2\d\d: images / 255"
    ):
        wider.predict(images.astype(float))
    with pytest.raises(Refusal, match=r"got nan to nan"):
        wider.predict(np.full((2, 8, 8), np.nan))


def test_the_studys_own_noisy_images_are_taken() -> None:
    from routesearch.data import Digits

    data = Digits(noise=0.5).load(Path())
    pixels = data.test.pixels.permute(0, 2, 3, 1).numpy()
    taken = as_pixels(pixels, "images", data.pixel_range)
    assert torch.equal(taken, data.test.pixels)
    with pytest.raises(Refusal, match=r"must lie in \[-4, 5\] .* got -\d+(\.\d+)? to 7\d\d"):
        as_pixels(pixels * 255, "images", data.pixel_range)


def test_alpha_is_shown_over_white_where_the_model_knows_three_channels(model: SavedModel) -> None:
    rgba = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 4), np.uint8)
    coloured = model.card.model_copy(update={"shape": (3, 8, 8)})
    assert torch.equal(_pixels(rgba, coloured), as_pixels(rgba, "images", alpha=True))
    banded = model.card.model_copy(update={"shape": (4, 8, 8)})
    assert torch.equal(_pixels(rgba, banded), torch.from_numpy(rgba).permute(0, 3, 1, 2))


@pytest.mark.parametrize("tensor", [False, True])
def test_channels_first_is_refused_with_its_cure(model: SavedModel, images: np.ndarray, tensor: bool) -> None:
    first = images[:, None]
    with pytest.raises(Refusal, match=r"must be N,8,8,1 or N,8,8, channels last, got") as refusal:
        model.predict(torch.from_numpy(first) if tensor else first)
    cure = str(refusal.value).rpartition(": ")[2]
    assert cure == ("images.movedim(1, -1)" if tensor else "np.moveaxis(images, 1, -1)")
    cured = torch.from_numpy(first).movedim(1, -1) if tensor else np.moveaxis(first, 1, -1)
    assert np.array_equal(model.predict(cured).labels, model.predict(images).labels)


def test_a_batch_has_an_image(model: SavedModel, images: np.ndarray) -> None:
    with pytest.raises(Refusal, match="batch_size >= 1 must hold, got 0"):
        model.predict(images, batch_size=0)


def test_files_are_read_as_training_images_were(
    model: SavedModel, images: np.ndarray, tmp_path: Path
) -> None:
    from PIL import Image

    paths = [tmp_path / f"{i}.png" for i in range(5)]
    for path, pixels in zip(paths, images, strict=False):
        Image.fromarray(pixels).save(path)
    Image.fromarray(np.kron(images[2], np.ones((3, 4), np.uint8))).convert("RGB").save(paths[2])
    paths[3].write_bytes(b"no image")
    paths.append(tmp_path / "missing.png")
    pixels, bad = read_files(model.card, paths)
    assert sorted(bad) == [3, 5]
    assert "3.png cannot be read as an image" in bad[3]
    assert pixels.shape == (4, 8, 8)
    assert np.array_equal(pixels[[0, 1, 3]], images[[0, 1, 4]])
    assert np.array_equal(pixels[2], read_image(paths[2], (8, 8), "L"))
    none, bad = read_files(model.card, paths[3:4])
    assert (none.shape, list(bad)) == ((0, 8, 8), [0])


def test_files_for_colours(model: SavedModel, tmp_path: Path) -> None:
    """As an image_folder's model reads them: RGB, whatever they were; two channels cannot come from files."""
    from PIL import Image

    from routesearch.saved.card import Files

    colour = model.card.model_copy(update={"files": Files(size=(6, 4), mode="RGB")})
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 30), np.uint8)).save(tmp_path / "grey.png")
    pixels, bad = read_files(colour, [tmp_path / "grey.png"])
    assert (pixels.shape, bad) == ((1, 6, 4, 3), {})
    assert np.array_equal(pixels[0], read_image(tmp_path / "grey.png", (6, 4)))
    with pytest.raises(Refusal, match="the model's images 1: give arrays"):
        read_files(model.card.model_copy(update={"files": None}), [])
