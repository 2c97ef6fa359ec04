"""The shared trunk: trained once, kept as arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from routesearch.backbones.base import Backbone, reference_cost
from routesearch.data.base import Data
from routesearch.study.recipe import Recipe
from routesearch.training.trunk import TrainedTrunk, train_trunk
from routesearch.utils.arrays import read_arrays, write_arrays

CPU = torch.device("cpu")
RECIPE = Recipe(batch_size=16, trunk_epochs=10, epochs=1, learning_rate=0.01)


@pytest.fixture(scope="module")
def trained(pocket: Backbone, data: Data) -> TrainedTrunk:
    return train_trunk(pocket, data, RECIPE, seed=3, device=CPU)


def test_a_trunk_is_the_trained_plain_network(trained: TrainedTrunk, pocket: Backbone, data: Data) -> None:
    net = pocket.plain()
    net.load_state_dict(trained.state())
    net.eval()
    with torch.no_grad():
        right = net(data.inputs(data.validation.pixels)).argmax(1).eq(data.validation.labels)
    assert trained.accuracy == pytest.approx(float(right.double().mean()), abs=1.5 / 60)
    assert trained.accuracy > 0.7
    assert trained.macs == 10 * 96 * 3 * reference_cost(pocket)[1]


def test_the_seed_decides(trained: TrainedTrunk, pocket: Backbone, data: Data) -> None:
    again = train_trunk(pocket, data, RECIPE, seed=3, device=CPU)
    other = train_trunk(pocket, data, RECIPE, seed=4, device=CPU)
    assert again.accuracy == trained.accuracy
    assert all(np.array_equal(array, again.weights[name]) for name, array in trained.weights.items())
    assert not np.array_equal(other.weights["head.1.weight"], again.weights["head.1.weight"])


def test_a_trunk_survives_its_file(trained: TrainedTrunk, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "nin@0.25-0123.safetensors"
    write_arrays(path, *trained.pack())
    again = TrainedTrunk.unpack(*read_arrays(path))
    assert (again.accuracy, again.macs) == (trained.accuracy, trained.macs)
    assert again.weights.keys() == trained.weights.keys()
    assert all(np.array_equal(array, again.weights[name]) for name, array in trained.weights.items())


def test_its_tensors_are_its_own(trained: TrainedTrunk) -> None:
    """Arrays lie in memory that processes share, which cannot be written; a network is trained in place."""
    before = {name: array.copy() for name, array in trained.weights.items()}
    for tensor in trained.state().values():
        tensor.add_(1)
    assert all(np.array_equal(array, before[name]) for name, array in trained.weights.items())


def test_a_trunk_begins_with_the_weights_that_are_given(pocket: Backbone, data: Data) -> None:
    """They are the trunk where no epoch is trained; what is not given begins at random."""
    untrained = RECIPE.model_copy(update={"trunk_epochs": 0})
    plain = pocket.plain().state_dict()
    given = {name: (t + 1).numpy() for name, t in plain.items() if not name.startswith("head")}
    trunk = train_trunk(pocket, data, untrained, seed=3, device=CPU, weights=given)
    assert trunk.macs == 0
    assert all(np.array_equal(trunk.weights[name], array) for name, array in given.items())
    assert 0 <= trunk.accuracy <= 1
    first = train_trunk(pocket, data, RECIPE, seed=3, device=CPU)
    short = RECIPE.model_copy(update={"trunk_epochs": 1})
    better = train_trunk(pocket, data, short, seed=3, device=CPU, weights=first.weights)
    scratch = train_trunk(pocket, data, short, seed=3, device=CPU)
    assert better.accuracy > scratch.accuracy


@pytest.mark.parametrize("facts", [{}, {"accuracy": "0.5"}, {"accuracy": "?", "training_macs": "1"}])
def test_odd_facts_are_no_trunk(facts: dict[str, str], trained: TrainedTrunk) -> None:
    with pytest.raises((KeyError, ValueError)):
        TrainedTrunk.unpack(trained.weights, facts)
