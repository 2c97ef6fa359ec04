"""Augmentation changes images the way its fields say, whole batches at once."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from routesearch.data import Augment


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(count: int, channels: int = 3, height: int = 6, width: int = 5) -> Tensor:
    """Pixels from 1 up, so that none is as black as the padding."""
    return torch.randint(1, 256, (count, channels, height, width), generator=seeded(7), dtype=torch.uint8)


def test_off_gives_the_images_back() -> None:
    pixels = images(4)
    assert Augment()(pixels, seeded()) is pixels
    assert not Augment()
    assert Augment(flip=True)
    assert Augment(crop=1)


@given(
    margin=st.integers(1, 9),
    count=st.integers(1, 7),
    channels=st.integers(1, 4),
    height=st.integers(1, 7),
    width=st.integers(1, 7),
)
def test_a_crop_is_a_window_of_the_padded_image(
    margin: int, count: int, channels: int, height: int, width: int
) -> None:
    pixels = images(count, channels, height, width)
    down, right = torch.randint(2 * margin + 1, (2, count), generator=seeded(3)).tolist()
    padded = F.pad(pixels, (margin,) * 4)
    expected = [padded[i, :, down[i] : down[i] + height, right[i] : right[i] + width] for i in range(count)]
    assert torch.equal(Augment(crop=margin)(pixels, seeded(3)), torch.stack(expected))


def test_all_crops_are_drawn() -> None:
    cropped = Augment(crop=1)(images(1).expand(300, -1, -1, -1), seeded())
    assert len(torch.unique(cropped, dim=0)) == 9


def test_a_flip_mirrors_about_half_of_the_images_and_leaves_the_rest() -> None:
    pixels = images(400)
    flipped = Augment(flip=True)(pixels, seeded())
    mirrored = [torch.equal(new, old.flip(2)) for new, old in zip(flipped, pixels, strict=True)]
    kept = [torch.equal(new, old) for new, old in zip(flipped, pixels, strict=True)]
    assert all(a != b for a, b in zip(mirrored, kept, strict=True))
    assert 150 < sum(mirrored) < 250


@pytest.mark.parametrize("augment", [Augment(crop=2), Augment(flip=True), Augment(crop=2, flip=True)])
def test_neither_the_layout_in_memory_nor_the_type_of_pixels_matters(augment: Augment) -> None:
    pixels = images(50)
    before = pixels.clone()
    plain = augment(pixels, seeded(5))
    assert torch.equal(augment(pixels.contiguous(memory_format=torch.channels_last), seeded(5)), plain)
    assert torch.equal(augment(pixels.float(), seeded(5)), plain.float())
    assert plain.dtype == torch.uint8
    assert plain.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(pixels, before)


def test_draws_come_from_the_generator_alone() -> None:
    augment, pixels = Augment(crop=2, flip=True), images(50)
    state = torch.get_rng_state()
    first = augment(pixels, seeded(5))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, augment(pixels, seeded(5)))
    assert not torch.equal(first, augment(pixels, seeded(6)))


@pytest.mark.parametrize("fields", [{"crop": -1}, {"flips": True}, {"crop": 1.5}])
def test_fields_are_checked(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Augment(**fields)
