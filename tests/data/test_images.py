"""Labelled images in memory: picking, cutting in chunks and packing keep pixels and all labels together."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from routesearch.data import Images


def images(count: int, seed: int = 0) -> Images:
    """Every label of an image can be told from its pixels."""
    pixels = torch.randint(256, (count, 3, 4, 5), generator=torch.Generator().manual_seed(seed))
    pixels[:, 0, 0, 0] = torch.arange(count)
    aux = {"superclass": torch.arange(count) // 5, "twice": torch.arange(count) * 2}
    return Images(pixels.to(torch.uint8), torch.arange(count) % 3, aux)


def together(part: Images) -> bool:
    """Whether labels and further labels are those of the pixels."""
    number = part.pixels[:, 0, 0, 0].long()
    return (
        torch.equal(part.labels, number % 3)
        and torch.equal(part.aux["superclass"], number // 5)
        and torch.equal(part.aux["twice"], number * 2)
    )


@given(count=st.integers(1, 40), picks=st.lists(st.integers(0, 39), max_size=9), kept=st.booleans())
def test_picked_images_keep_all_their_labels(count: int, picks: list[int], kept: bool) -> None:
    whole, index = images(count), torch.tensor([p % count for p in picks], dtype=torch.int64)
    part = whole.select(index) if kept else whole.take(index)
    assert torch.equal(part.pixels, whole.pixels[index])
    assert together(part)
    assert not picks or part.pixels.is_contiguous(memory_format=torch.channels_last)
    assert len(part) == len(index)


@given(count=st.integers(0, 40), size=st.integers(1, 50))
def test_chunks_are_all_images_in_order_without_a_copy(count: int, size: int) -> None:
    whole = images(count)
    parts = list(whole.chunks(size))
    assert [len(part) for part in parts] == [size] * (count // size) + [count % size] * (count % size > 0)
    assert all(together(part) for part in parts)
    assert [number for part in parts for number in part.pixels[:, 0, 0, 0].tolist()] == list(range(count))
    step = 3 * 4 * 5
    starts = [part.pixels.data_ptr() - whole.pixels.data_ptr() for part in parts]
    assert starts == [number * size * step for number in range(len(parts))]


def test_packing_and_back_keeps_everything_and_shares_memory() -> None:
    whole = images(7).in_memory()
    back = Images.unpack(whole.pack())
    assert together(back)
    assert torch.equal(back.pixels, whole.pixels)
    for one, two in ((back.pixels, whole.pixels), (back.aux["twice"], whole.aux["twice"])):
        assert one.data_ptr() == two.data_ptr()


def test_what_is_known_without_a_look_at_pixels() -> None:
    whole = images(7)
    assert (whole.sizes, whole.shape, whole.dtype, whole.nbytes) == (
        (7, 3, 4, 5),
        (3, 4, 5),
        torch.uint8,
        7 * 60,
    )
    assert Images(whole.pixels.float(), whole.labels).nbytes == 7 * 60 * 4


def test_moving_moves_further_labels_too() -> None:
    moved = images(3).to("meta")
    devices = {moved.pixels.device.type, moved.labels.device.type, moved.aux["twice"].device.type}
    assert devices == {"meta"}


def test_held_images_lie_channels_last_and_are_not_copied_twice() -> None:
    held = images(3).in_memory()
    assert held.pixels.is_contiguous(memory_format=torch.channels_last)
    assert held.in_memory().pixels.data_ptr() == held.pixels.data_ptr()


def test_an_index_out_of_range_is_an_error() -> None:
    with pytest.raises((IndexError, RuntimeError), match="out of range"):
        images(3).take(torch.tensor([3]))
