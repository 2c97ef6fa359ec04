"""Which classes a backbone confuses: on images that its networks were not trained on, every class alike."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from routesearch.backbones.base import Backbone, reference_cost
from routesearch.data.base import Data, Images
from routesearch.errors import Refusal
from routesearch.study.recipe import Recipe
from routesearch.training import confusion as module
from routesearch.training.confusion import (
    FOLDS,
    Confusion,
    equivalent_epochs,
    folds,
    measure_confusion,
    read_confusion,
)
from routesearch.utils.arrays import write_arrays

CPU = torch.device("cpu")
RECIPE = Recipe(batch_size=8, trunk_epochs=8, learning_rate=0.01)
NAMES = ("a", "b", "c", "d")


@pytest.fixture(scope="module")
def found(pocket: Backbone, data: Data) -> torch.Tensor:
    return torch.tensor(measure_confusion(pocket, data, RECIPE, seed=3, device=CPU).rows)


def test_rows_are_distributions_and_patterns_are_told_apart(found: torch.Tensor) -> None:
    assert found.shape == (3, 3)
    assert (found >= 0).all()
    torch.testing.assert_close(found.sum(1), torch.ones(3, dtype=found.dtype), rtol=0, atol=1e-6)
    assert (found.diagonal() > 0.5).all()
    assert ((found > 0) & (found < 1)).all(), "soft: zeros and ones would tell no two classes apart"


def test_what_is_learnt_by_heart_does_not_show(
    pocket: Backbone, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Noise under labels drawn for each image: only a network that knew the image could be right of it."""
    random = torch.Generator().manual_seed(0)
    noise = torch.rand(60, 1, 8, 8, generator=random)
    labels = (torch.arange(60) % 3)[torch.randperm(60, generator=random)]
    chance = replace(data, train=Images(noise, labels))
    recipe = RECIPE.model_copy(update={"trunk_epochs": 50})
    outside = torch.tensor(measure_confusion(pocket, chance, recipe, seed=0, device=CPU).rows)
    assert float(outside.diagonal().mean()) < 0.45

    monkeypatch.setattr(module, "_all_but", lambda parts, number: np.arange(60))
    inside = torch.tensor(measure_confusion(pocket, chance, recipe, seed=0, device=CPU).rows)
    assert float(inside.diagonal().mean()) > 0.6, "these networks do learn by heart, so the test can fail"


def test_no_network_is_trained_on_what_it_predicts(
    pocket: Backbone, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Image by image: pixels tell which they are."""
    trained: list[set[bytes]] = []
    predicted: list[set[bytes]] = []
    fit, inputs = module.fit, Data.inputs

    def pixels(images: torch.Tensor) -> set[bytes]:
        return {image.contiguous().numpy().tobytes() for image in images}

    def watched_fit(net: object, stages: object, data: Data, *args: object, **more: object) -> object:
        trained.append(pixels(data.train.pixels))
        predicted.append(set())
        found = fit(net, stages, data, *args, **more)  # type: ignore[arg-type]
        predicted[-1] = set()
        return found

    def watched_inputs(self: Data, images: torch.Tensor) -> torch.Tensor:
        predicted[-1] |= pixels(images)
        return inputs(self, images)

    monkeypatch.setattr(module, "fit", watched_fit)
    monkeypatch.setattr(Data, "inputs", watched_inputs)
    measure_confusion(pocket, data, RECIPE.model_copy(update={"trunk_epochs": 1}), seed=0, device=CPU)
    everything = set().union(*predicted)
    assert len(everything) == 90, "of 32 images of each class 30, ten in each fold"
    assert everything <= pixels(data.train.pixels)
    assert len(trained) == len(predicted) == FOLDS
    for seen, asked in zip(trained, predicted, strict=True):
        assert len(asked) == 30
        assert not seen & asked
        assert seen | asked == everything
    assert not everything & (pixels(data.validation.pixels) | pixels(data.test.pixels))


def test_the_seed_decides(found: torch.Tensor, pocket: Backbone, data: Data) -> None:
    torch.rand(7)  # what was drawn before does not matter
    again = torch.tensor(measure_confusion(pocket, data, RECIPE, seed=3, device=CPU).rows)
    other = torch.tensor(measure_confusion(pocket, data, RECIPE, seed=4, device=CPU).rows)
    assert torch.equal(found, again)
    assert not torch.equal(found, other)


def test_what_it_costs(pocket: Backbone, data: Data) -> None:
    """Training at three forward passes an image and epoch, prediction at one; 90 of the 96 images."""
    recipe = RECIPE.model_copy(update={"batch_size": 10})  # whole batches
    macs = measure_confusion(pocket, data, recipe, seed=0, device=CPU).macs
    forward = reference_cost(pocket)[1]
    assert macs == forward * 90 * (3 * recipe.trunk_epochs * (FOLDS - 1) + 1)
    assert equivalent_epochs(data, recipe) * 3 * 96 * forward == pytest.approx(macs)


def test_a_rare_class_shortens_the_others(pocket: Backbone, data: Data) -> None:
    kept = torch.cat([torch.arange(0, 96, 3), torch.arange(1, 96, 3), torch.arange(2, 96, 3)[:8]])
    few = replace(data, train=data.train.take(kept))
    assert equivalent_epochs(few, RECIPE) == pytest.approx(18 / 72 * (8 * (FOLDS - 1) + 1 / 3))
    confusion = measure_confusion(pocket, few, RECIPE, seed=0, device=CPU).rows
    assert np.array(confusion).sum(1) == pytest.approx(1)


def test_a_class_without_an_image_for_each_fold_is_refused(pocket: Backbone, data: Data) -> None:
    kept = torch.cat([torch.arange(0, 96, 3), torch.arange(1, 96, 3), torch.tensor([2])])
    few = replace(data, train=data.train.take(kept))
    rule = f"^every class must have {FOLDS} training images: .* got 1 of class 'pattern 2'$"
    with pytest.raises(Refusal, match=rule):
        measure_confusion(pocket, few, RECIPE, seed=0, device=CPU)


@given(
    labels=st.lists(st.integers(0, 3), min_size=24, max_size=80),
    count=st.integers(2, 4),
    seed=st.integers(0, 9),
)
def test_folds_are_disjoint_and_hold_every_class_alike(labels: list[int], count: int, seed: int) -> None:
    array = np.array([*[0, 1, 2, 3] * count, *labels])
    parts = folds(array, NAMES, count, seed)
    assert len(parts) == count
    together = np.concatenate(parts)
    assert len(set(together.tolist())) == len(together)
    rarest = np.bincount(array, minlength=4).min()
    for part in parts:
        assert np.bincount(array[part], minlength=4).tolist() == [rarest // count] * 4
    again = folds(array, NAMES, count, seed)
    assert all(np.array_equal(one, other) for one, other in zip(parts, again, strict=True))


def test_a_confusion_survives_a_file_of_its_own(tmp_path: Path) -> None:
    path, rows = tmp_path / "t.confusion.safetensors", ((0.75, 0.25), (0.1, 0.9))
    write_arrays(path, *Confusion(rows, 7).pack())
    again = read_confusion(path)
    assert (again.rows, again.macs) == (rows, 7)


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "folder", "odd rows", "no facts", "another"])
def test_a_damaged_file_is_refused(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "t.confusion.safetensors"
    arrays, facts = Confusion(((0.75, 0.25), (0.1, 0.9)), 7).pack()
    if damage == "odd rows":
        arrays = {name: array[:1] for name, array in arrays.items()}
    elif damage == "another":
        arrays = {"weight": np.ones(3)}
    write_arrays(path, arrays, {} if damage == "no facts" else facts)
    whole = path.read_bytes()
    if damage in ("missing", "folder"):
        path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage in ("empty", "cut"):
        path.write_bytes(b"" if damage == "empty" else whole[:-3])
    with pytest.raises(Refusal, match=r"^the confusion must be a readable safetensors file, got .*t\.conf"):
        read_confusion(path)
