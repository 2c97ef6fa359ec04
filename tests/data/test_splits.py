"""Splits are disjoint, complete, stratified, and decided by ``split_seed`` alone."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from routesearch.data import SPLITS, Data, Dataset, Images, Source
from routesearch.data.splits import pick
from routesearch.errors import Refusal

HERE = Path()


class Numbered(Dataset):
    """Images of 1x1 whose two channels spell the image's number, so that each can be told from all others."""

    name: ClassVar[str] = "numbered"

    sizes: tuple[int, ...]
    """Images of each class among the training images."""
    given: tuple[str, ...] = ()
    """Splits that are there already, with 7 images of each class."""

    def read(self, base: Path) -> Source:
        classes = tuple(f"class {label}" for label in range(len(self.sizes)))
        parts, start = {}, 0
        for name in ("train", *self.given):
            counts = self.sizes if name == "train" else [7] * len(self.sizes)
            labels = np.random.RandomState(1).permutation(np.repeat(np.arange(len(counts)), counts))
            numbers = start + np.arange(len(labels))
            start += len(labels)
            pixels = np.stack([numbers // 256, numbers % 256], 1).astype(np.uint8)
            parts[name] = Images(torch.from_numpy(pixels)[:, :, None, None], torch.from_numpy(labels))
        return Source(classes, **parts)


def numbers(images: Images) -> list[int]:
    return (images.pixels[:, 0, 0, 0].long() * 256 + images.pixels[:, 1, 0, 0].long()).tolist()


def members(data: Data) -> dict[str, list[int]]:
    return {name: numbers(data.split(name)) for name in SPLITS}


def counts(images: Images, classes: int) -> list[int]:
    return torch.bincount(images.labels, minlength=classes).tolist()


sizes = st.lists(st.integers(3, 40), min_size=2, max_size=8).map(tuple)
given_splits = st.sampled_from([(), ("test",), ("validation",), ("validation", "test")])
seeds = st.integers(0, 2**32 - 1)


@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=8), share=st.floats(0, 1), seed=seeds)
def test_pick_takes_exactly_so_many_and_from_each_class_its_share(
    sizes: list[int], share: float, seed: int
) -> None:
    labels = np.random.RandomState(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    count = round(share * len(labels))
    chosen, others = pick(labels, count, seed)
    assert len(chosen) == count
    assert sorted([*chosen, *others]) == list(range(len(labels)))
    for label, size in enumerate(sizes):
        assert abs((labels[chosen] == label).sum() - size * count / len(labels)) < 1


def test_small_classes_take_turns() -> None:
    """A hundred classes of three images: a fifth of them has 60 images, not 0 or 100."""
    labels = np.repeat(np.arange(100), 3)
    assert np.bincount(np.bincount(labels[pick(labels, 60, 0)[0]], minlength=100)).tolist() == [40, 60]


@given(sizes=sizes, given=given_splits, seed=seeds)
def test_splits_are_disjoint_and_complete(sizes: tuple[int, ...], given: tuple[str, ...], seed: int) -> None:
    dataset = Numbered(sizes=sizes, given=given, split_seed=seed)
    cut = members(dataset.load(HERE))
    everything = sum(sizes) + 7 * len(sizes) * len(given)
    assert sorted(number for part in cut.values() for number in part) == list(range(everything))


@given(sizes=sizes, given=given_splits, seed=seeds)
def test_splits_are_stratified(sizes: tuple[int, ...], given: tuple[str, ...], seed: int) -> None:
    data = Numbered(sizes=sizes, given=given, split_seed=seed).load(HERE)
    whole = 100 - 20 * len(given)
    for name in SPLITS:
        images = data.split(name)
        if name in given:
            assert counts(images, len(sizes)) == [7] * len(sizes)
            continue
        share = (60 if name == "train" else 20) / whole
        assert abs(len(images) - share * sum(sizes)) <= 1
        for label, size in enumerate(sizes):
            assert abs(counts(images, len(sizes))[label] - share * size) < 2  # two cuts, each within one
    assert min(counts(data.train, len(sizes))) >= 1


@given(sizes=sizes, given=given_splits, seed=seeds)
def test_labels_stay_with_their_images(sizes: tuple[int, ...], given: tuple[str, ...], seed: int) -> None:
    dataset = Numbered(sizes=sizes, given=given, split_seed=seed, train=sum(sizes) // 2 + len(sizes))
    source, label_of = dataset.read(HERE), {}
    for part in (source.train, source.validation, source.test):
        if part is not None:
            label_of.update(zip(numbers(part), part.labels.tolist(), strict=True))
    data = dataset.load(HERE)
    for name in SPLITS:
        images = data.split(name)
        assert images.labels.tolist() == [label_of[number] for number in numbers(images)]


@given(sizes=sizes, seed=seeds, other=st.integers(0, 2**31))
def test_the_split_seed_alone_decides(sizes: tuple[int, ...], seed: int, other: int) -> None:
    dataset = Numbered(sizes=sizes, split_seed=seed)
    first = members(dataset.load(HERE))
    torch.manual_seed(other)  # what a search does with its own seed
    np.random.seed(other)  # noqa: NPY002
    states = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    assert members(dataset.load(HERE)) == first
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]  # noqa: NPY002


def test_another_split_seed_cuts_otherwise() -> None:
    cuts = [members(Numbered(sizes=(40, 40), split_seed=seed).load(HERE)) for seed in range(5)]
    for name in SPLITS:
        assert len({tuple(cut[name]) for cut in cuts}) == 5


def test_a_split_seed_means_the_same_for_good() -> None:
    """Frozen: a study that goes on with a newer version of this package finds its splits again."""
    cut = members(Numbered(sizes=(5, 6), split_seed=3).load(HERE))
    assert cut == {"train": [0, 2, 3, 4, 5, 8, 9], "validation": [6, 7], "test": [1, 10]}


@settings(max_examples=40)
@given(sizes=sizes, given=given_splits, seed=seeds, data=st.data())
def test_subset_sizes_thin_a_split_and_leave_the_others(
    sizes: tuple[int, ...], given: tuple[str, ...], seed: int, data: st.DataObject
) -> None:
    whole = Numbered(sizes=sizes, given=given, split_seed=seed).load(HERE)
    name = data.draw(st.sampled_from(["validation", "test"]))
    most = data.draw(st.integers(1, len(whole.split(name)) + 3))
    thinned = Numbered(sizes=sizes, given=given, split_seed=seed, **{name: most}).load(HERE)
    for other in SPLITS:
        if other != name:
            assert members(thinned)[other] == members(whole)[other]
    assert len(thinned.split(name)) == min(most, len(whole.split(name)))
    assert set(members(thinned)[name]) <= set(members(whole)[name])
    fair = [
        len(thinned.split(name)) * n / len(whole.split(name)) for n in counts(whole.split(name), len(sizes))
    ]
    for have, want in zip(counts(thinned.split(name), len(sizes)), fair, strict=True):
        assert abs(have - want) < 1


def test_given_train_and_test_lose_a_quarter_of_train_to_validation() -> None:
    data = Numbered(sizes=(40, 40), given=("test",)).load(HERE)
    assert (len(data.train), len(data.validation), len(data.test)) == (60, 20, 14)


@pytest.mark.parametrize(
    ("given", "sizes", "needed"), [((), (2, 9), 3), (("test",), (9, 1), 2), ((), (9, 0, 9), 3)]
)
def test_a_class_too_small_to_be_cut_is_refused(
    given: tuple[str, ...], sizes: tuple[int, ...], needed: int
) -> None:
    with pytest.raises(Refusal, match=f"{needed} images or more .* got {min(sizes)} of 'class"):
        Numbered(sizes=sizes, given=given).load(HERE)


def test_a_subset_that_leaves_a_class_without_images_is_refused() -> None:
    with pytest.raises(
        Refusal, match="every class must have a training image, got none of 'class 1' among 20"
    ):
        Numbered(sizes=(400, 4), train=20).load(HERE)
