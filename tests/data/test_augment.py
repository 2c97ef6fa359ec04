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


@given(margin=st.integers(1, 5), count=st.integers(1, 5), floats=st.booleans())
def test_a_crop_can_be_filled_with_the_images_own_mean_colour(margin: int, count: int, floats: bool) -> None:
    pixels = images(count).float() / 255 if floats else images(count)
    colour = pixels.double().mean((2, 3), keepdim=True)
    colour = colour.to(pixels.dtype) if floats else colour.round().to(torch.uint8)
    down, right = torch.randint(2 * margin + 1, (2, count), generator=seeded(3)).tolist()
    padded = colour.expand(-1, -1, 6 + 2 * margin, 5 + 2 * margin).clone()
    padded[:, :, margin:-margin, margin:-margin] = pixels
    expected = [padded[i, :, down[i] : down[i] + 6, right[i] : right[i] + 5] for i in range(count)]
    cropped = Augment(crop=margin, fill="mean")(pixels, seeded(3))
    torch.testing.assert_close(cropped.float(), torch.stack(expected).float(), atol=1 - floats, rtol=1e-5)
    assert cropped.dtype == pixels.dtype


@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=30), only=st.sets(st.integers(0, 4), min_size=1)
)
def test_a_flip_can_be_for_some_classes_only(labels: list[int], only: set[int]) -> None:
    pixels = images(len(labels))
    all_flipped = Augment(flip=True)(pixels, seeded(1))
    some = Augment(flip=True, flip_only=tuple(only))(pixels, seeded(1), torch.tensor(labels))
    for image, label in enumerate(labels):
        assert torch.equal(some[image], (all_flipped if label in only else pixels)[image])


def test_a_flip_of_some_classes_needs_the_labels() -> None:
    with pytest.raises(ValueError, match="flip_only needs the labels"):
        Augment(flip=True, flip_only=(1,))(images(2), seeded())


@pytest.mark.parametrize("changes", [{"fill": "white"}, {"flip_only": [-1]}, {"flip_only": "all"}])
def test_other_settings_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(changes))):
        Augment(**changes)


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
