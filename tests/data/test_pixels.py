"""Arrays of images in the forms that users have them: taken, or refused with what would help."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from routesearch.data.pixels import as_pixels, shape_of
from routesearch.errors import Refusal

BYTES = np.random.RandomState(0).randint(0, 256, (5, 6, 7, 3)).astype(np.uint8)


def refusal(array: Any, **more: Any) -> str:
    with pytest.raises(Refusal) as found:
        as_pixels(np.asarray(array), "mine.npz: x_test", **more)
    text = str(found.value)
    assert text.startswith("mine.npz: x_test must ")
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    "array",
    [
        BYTES,
        np.asfortranarray(BYTES),
        BYTES[::-1, :, ::-1],
        BYTES / 255,
        (BYTES / 255).astype(">f4"),
        (BYTES / 255).astype(np.longdouble),
        np.frombuffer(BYTES.tobytes(), np.uint8).reshape(BYTES.shape),  # read-only
    ],
)
def test_the_same_images_in_many_types(array: Any) -> None:
    pixels = as_pixels(array, "x")
    white = 255 if pixels.dtype == torch.uint8 else 1
    shown = np.asarray(array, np.float64) / (255 if array.dtype == np.uint8 else 1)
    np.testing.assert_allclose(pixels.numpy() / white, shown.transpose(0, 3, 1, 2), atol=1e-7)
    assert pixels.permute(0, 2, 3, 1).is_contiguous()


@pytest.mark.parametrize(
    "shape", [(9, 3, 32, 32), (9, 1, 28, 28), (9, 4, 8, 8), (9, 3, 16, 16), (9, 1, 5, 5)]
)
def test_channels_before_a_square_are_refused_and_the_cure_cures(shape: tuple[int, ...]) -> None:
    array = np.zeros(shape, np.uint8)
    told = refusal(array)
    assert told.endswith(
        f"must have its channels last, at most 16 of them, got shape {shape}: np.moveaxis(x_test, 1, -1)"
    )
    assert as_pixels(np.moveaxis(array, 1, -1), "x").shape == shape


@pytest.mark.parametrize(
    "shape",
    [(9, 3, 3, 3), (9, 4, 4, 4), (9, 3, 4, 4), (9, 1, 1, 1), (9, 1, 50, 12), (9, 32, 32, 3), (9, 5, 5, 5)],
)
def test_channels_last_is_taken_wherever_it_can_be_meant(shape: tuple[int, ...]) -> None:
    channels, height, width = shape_of(shape, "x")
    assert (height, width, channels) == shape[1:]
    assert as_pixels(np.zeros(shape, np.uint8), "x").shape == (9, channels, height, width)


def test_what_is_expected_is_not_questioned() -> None:
    odd = np.zeros((9, 1, 8, 8), np.uint8)
    assert as_pixels(odd, "x", expected=(8, 1, 8)).shape == (9, 8, 1, 8)
    many = np.zeros((9, 4, 4, 200), np.uint8)
    assert as_pixels(many, "x", expected=(200, 4, 4)).shape == (9, 200, 4, 4)
    refusal(odd, expected=(1, 8, 8))


@pytest.mark.parametrize(
    ("array", "told"),
    [
        (np.zeros((5, 784), np.uint8), "got shape (5, 784): x_test.reshape(-1, 28, 28)"),
        (np.zeros((5, 785), np.uint8), "got shape (5, 785): x_test.reshape(-1, height, width, channels)"),
        (np.zeros(5), "got shape (5,)"),
        (np.zeros((1, 2, 3, 4, 5)), "got shape (1, 2, 3, 4, 5)"),
        (np.zeros((9, 40, 30, 20)), "channels last, at most 16 of them, got shape (9, 40, 30, 20)"),
        (np.zeros((32, 32, 3, 50)), "got shape (32, 32, 3, 50): np.moveaxis(x_test, -1, 0)"),
        (np.zeros((5, 4, 4), bool), "got bool: x_test.astype('float32')"),
        (np.full((5, 4, 4), 200), "got int64 of 200 to 200: x_test.astype('uint8')"),
        (
            np.full((5, 4, 4), 60000, np.uint16),
            "of 60000 to 60000: (x_test / 65535).astype('float32'), if 65535 is",
        ),
        (np.full((5, 4, 4), 1000, np.int16), "(x_test / 1023).astype('float32'), if 1023 is white"),
        (np.full((5, 4, 4), 4000, np.uint16), "(x_test / 4095).astype('float32'), if 4095 is white"),
        (np.full((5, 4, 4), -3), "got int64 of -3 to -3: scale them to floats, black 0 and white 1"),
        (np.full((5, 4, 4), 10**6), "of 1000000 to 1000000: scale them to floats"),
        (np.zeros((0, 4, 4), np.int32), "got int32"),
        (np.full((5, 4, 4), 1j), "got complex128"),
        (np.full((5, 4, 4), "a"), "got <U1"),
        (
            BYTES.astype(float),
            "must lie in [0, 1] where it is not uint8, got 0 to 255: x_test / 255, if 255 is white",
        ),
        (BYTES.astype(np.float16), "got 0 to 255: x_test / 255"),
        (BYTES * 256.0, "x_test / 65535, if 65535 is white"),
        (BYTES / 127.5 - 1, "got -1 to 1: (x_test + 1) / 2"),
        (BYTES / 255 * 1.02, "got 0 to 1.02: np.clip(x_test, 0, 1)"),
        (BYTES / 255 * 4 - 2, "got -2 to 2: pixels come before any normalisation"),
        (np.full((5, 4, 4), 1e300), "got inf to inf: 5 of 5 images hold NaN or infinity"),
        (np.full((5, 4, 4), -np.inf), "5 of 5 images hold NaN or infinity"),
    ],
)
def test_other_forms_are_refused_with_their_cure(array: Any, told: str) -> None:
    assert told in refusal(array)


def test_images_that_hold_nan_are_counted() -> None:
    array = BYTES / 255
    array[1, 2, 3, 0] = array[4, 0, 0, 1] = np.nan
    assert "2 of 5 images hold NaN or infinity: leave them out, or np.nan_to_num(x_test)" in refusal(array)


def test_a_declared_range_is_kept() -> None:
    noisy = BYTES / 255 * 4 - 2
    assert as_pixels(noisy, "x", (-2.0, 2.0)).shape == (5, 3, 6, 7)
    assert "must lie in [-1, 2] where it is not uint8, got -2 to 2" in refusal(noisy, bounds=(-1.0, 2.0))


@given(st.integers(0, 255), st.integers(0, 255))
def test_alpha_is_seen_as_on_white(colour: int, alpha: int) -> None:
    """As Pillow shows it, to the nearest number."""
    rows = np.full((1, 2, 2, 4), colour, np.uint8)
    rows[..., 3] = alpha
    seen = as_pixels(rows, "x", alpha=True)
    assert seen.shape == (1, 3, 2, 2)
    white = Image.new("RGBA", (2, 2), "white")
    shown = Image.alpha_composite(white, Image.fromarray(rows[0])).convert("RGB")
    assert np.abs(seen[0].permute(1, 2, 0).numpy().astype(int) - np.asarray(shown)).max() <= 1
    exact = (colour * alpha + 255 * (255 - alpha)) / 255
    assert abs(int(seen[0, 0, 0, 0]) - exact) <= 0.5
    floats = as_pixels(rows / 255, "x", alpha=True)
    assert float(floats[0, 0, 0, 0]) * 255 == pytest.approx(exact, abs=1e-3)
    assert as_pixels(rows, "x").shape == (1, 4, 2, 2)


def test_alpha_of_many_images() -> None:
    rows = np.random.RandomState(1).randint(0, 256, (2500, 3, 3, 4)).astype(np.uint8)
    seen = as_pixels(rows, "x", alpha=True)
    assert torch.equal(seen[1200:1300], as_pixels(rows[1200:1300], "x", alpha=True))
