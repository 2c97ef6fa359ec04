"""The shared trunk: trained once, kept in a file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from routesearch.backbones.base import Backbone, reference_cost
from routesearch.data.base import Data
from routesearch.errors import Refusal
from routesearch.methods.base import Trunk
from routesearch.study.recipe import Recipe
from routesearch.training.trunk import load_trunk, save_trunk, train_trunk

CPU = torch.device("cpu")
RECIPE = Recipe(batch_size=16, trunk_epochs=10, epochs=1, learning_rate=0.01)


@pytest.fixture(scope="module")
def trained(pocket: Backbone, data: Data) -> tuple[Trunk, int]:
    return train_trunk(pocket, data, RECIPE, seed=3, device=CPU)


def test_a_trunk_is_the_trained_plain_network(
    trained: tuple[Trunk, int], pocket: Backbone, data: Data
) -> None:
    trunk, macs = trained
    net = pocket.plain()
    net.load_state_dict(dict(trunk.state))
    net.eval()
    with torch.no_grad():
        right = net(data.inputs(data.validation.pixels)).argmax(1).eq(data.validation.labels)
    assert trunk.accuracy == pytest.approx(float(right.double().mean()), abs=1.5 / 60)
    assert trunk.accuracy > 0.7
    assert macs == 10 * 96 * 3 * reference_cost(pocket)[1]


def test_the_seed_decides(trained: tuple[Trunk, int], pocket: Backbone, data: Data) -> None:
    again, _ = train_trunk(pocket, data, RECIPE, seed=3, device=CPU)
    other, _ = train_trunk(pocket, data, RECIPE, seed=4, device=CPU)
    assert again.accuracy == trained[0].accuracy
    assert all(torch.equal(value, again.state[name]) for name, value in trained[0].state.items())
    assert not torch.equal(other.state["head.1.weight"], again.state["head.1.weight"])


def test_a_trunk_survives_its_file(trained: tuple[Trunk, int], tmp_path: Path) -> None:
    path = tmp_path / "deep" / "nin@0.25-0123.safetensors"
    save_trunk(*trained, path)
    trunk, macs = load_trunk(path)
    assert (trunk.accuracy, macs) == (trained[0].accuracy, trained[1])
    assert trunk.state.keys() == trained[0].state.keys()
    assert all(torch.equal(value, trunk.state[name]) for name, value in trained[0].state.items())
    assert [p.name for p in path.parent.iterdir()] == [path.name], "no temporary file stays"


def test_a_confusion_survives_a_file_of_its_own(tmp_path: Path) -> None:
    path, rows = tmp_path / "t.confusion.safetensors", ((0.75, 0.25), (0.1, 0.9))
    save_trunk(Trunk({}, 0.0, rows), 7, path)
    trunk, macs = load_trunk(path)
    assert (dict(trunk.state), trunk.confusion, macs) == ({}, rows, 7)


def test_a_trunk_begins_with_the_weights_that_are_given(pocket: Backbone, data: Data) -> None:
    """Without an epoch they are the trunk; what is not given begins at random."""
    still = RECIPE.model_copy(update={"trunk_epochs": 0})
    given = {name: t + 1 for name, t in pocket.plain().state_dict().items() if not name.startswith("head")}
    trunk, macs = train_trunk(pocket, data, still, seed=3, device=CPU, weights=given)
    assert macs == 0
    assert all(torch.equal(trunk.state[name], value) for name, value in given.items())
    assert 0 <= trunk.accuracy <= 1
    first, _ = train_trunk(pocket, data, RECIPE, seed=3, device=CPU)
    short = RECIPE.model_copy(update={"trunk_epochs": 1})
    better, _ = train_trunk(pocket, data, short, seed=3, device=CPU, weights=first.state)
    scratch, _ = train_trunk(pocket, data, short, seed=3, device=CPU)
    assert better.accuracy > scratch.accuracy


def test_a_second_save_replaces_the_first(trained: tuple[Trunk, int], tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    save_trunk(*trained, path)
    save_trunk(Trunk(trained[0].state, 0.125), 7, path)
    trunk, macs = load_trunk(path)
    assert (trunk.accuracy, macs) == (0.125, 7)


@pytest.mark.parametrize(
    "damage", ["missing", "empty", "cut", "text", "folder", "no facts", "odd facts", "odd rows"]
)
def test_a_damaged_file_is_refused(damage: str, trained: tuple[Trunk, int], tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "t.safetensors"
    save_trunk(*trained, path)
    whole = path.read_bytes()
    if damage == "folder":
        path.unlink()
        path.mkdir()
    elif damage == "missing":
        path.unlink()
    elif damage == "odd rows":
        facts = {"accuracy": "0.0", "training_macs": "7"}
        save_file({"confusion": torch.ones(2, 3)}, path, metadata=facts)
    elif damage == "no facts":
        save_file(dict(trained[0].state), path)
    elif damage == "odd facts":
        save_file(dict(trained[0].state), path, metadata={"accuracy": "good", "training_macs": "7"})
    else:
        path.write_bytes({"empty": b"", "cut": whole[:-100], "text": b"not a trunk" * 20}[damage])
    with pytest.raises(
        Refusal, match=rf"^a trunk must be a readable safetensors file, got {path}: "
    ) as refused:
        load_trunk(path)
    assert "\n" not in str(refused.value)
