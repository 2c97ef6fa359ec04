"""The trunk as a teacher: logits kept or computed, and their bill."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from routesearch.backbones.base import Backbone, reference_cost
from routesearch.data.augment import Augment
from routesearch.data.base import Data
from routesearch.methods.base import Batch, Stage
from routesearch.methods.losses import classification_loss
from routesearch.study.recipe import Distill, Recipe
from routesearch.training import teacher as teacher_module
from routesearch.training.loop import fit
from routesearch.training.teacher import Teacher
from routesearch.training.trunk import TrainedTrunk, train_trunk
from routesearch.utils.arrays import read_arrays, write_arrays

CPU = torch.device("cpu")
RECIPE = Recipe(batch_size=16, trunk_epochs=2, learning_rate=0.01, distill=Distill())


@pytest.fixture(scope="module")
def trained(pocket: Backbone, data: Data) -> TrainedTrunk:
    return train_trunk(pocket, data, RECIPE, seed=3, device=CPU)


def plain_logits(trained: TrainedTrunk, backbone: Backbone, data: Data) -> Tensor:
    net = backbone.plain()
    net.load_state_dict(trained.state())
    net.eval()
    with torch.no_grad():
        return net(data.inputs(data.train.pixels))


def test_logits_are_kept_in_the_order_of_the_images_and_billed(
    trained: TrainedTrunk, pocket: Backbone, data: Data
) -> None:
    assert trained.logits is not None
    assert torch.allclose(torch.from_numpy(trained.logits), plain_logits(trained, pocket, data), atol=1e-5)
    assert trained.macs == 96 * (2 * 3 + 1) * reference_cost(pocket)[1]


def test_logits_survive_the_trunks_file(trained: TrainedTrunk, tmp_path: Path) -> None:
    write_arrays(tmp_path / "t.safetensors", *trained.pack())
    again = TrainedTrunk.unpack(*read_arrays(tmp_path / "t.safetensors"))
    assert again.weights.keys() == trained.weights.keys()
    kept, before = again.trunk().logits, trained.trunk().logits
    assert kept is not None
    assert before is not None
    assert torch.equal(kept, before)


def test_a_trunk_without_logits_teaches_batch_by_batch(
    trained: TrainedTrunk, pocket: Backbone, data: Data
) -> None:
    """As one from an earlier version's file does."""
    arrays, facts = trained.pack()
    older = TrainedTrunk.unpack({n: a for n, a in arrays.items() if n != "logits"}, facts)
    assert older.trunk().logits is None
    teacher, rows = Teacher.of(older.trunk(), pocket, data, CPU), torch.tensor([5, 2, 7])
    found, macs = teacher.logits(rows, lambda: data.batch(data.train, rows)[0])
    assert torch.allclose(found, plain_logits(trained, pocket, data)[rows], atol=1e-5)
    assert macs == 3 * reference_cost(pocket)[1]


@pytest.mark.parametrize("why", ["augmented", "too many", "not distilled"])
def test_logits_are_not_kept(why: str, pocket: Backbone, data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = RECIPE
    if why == "augmented":
        data = replace(data, augment=Augment(flip=True))
    elif why == "too many":
        monkeypatch.setattr(teacher_module, "MAX_KEPT", 4 * 96 * 3 - 1)
    else:
        recipe = RECIPE.model_copy(update={"distill": None})
    trained = train_trunk(pocket, data, recipe, seed=3, device=CPU)
    assert trained.logits is None
    assert trained.macs == 96 * 2 * 3 * reference_cost(pocket)[1]


def seen_by(
    trained: TrainedTrunk, backbone: Backbone, data: Data, cached: bool, recipe: Recipe = RECIPE
) -> tuple[list[Batch], int]:
    """Batches of an epoch, and the MACs of training beyond the student's own."""
    torch.manual_seed(0)
    net, batches = backbone.plain(), []
    front = net.units[0]

    def loss(batch: Batch) -> Tensor:
        batches.append(batch)
        x = batch.inputs if cached else front(batch.inputs)
        for unit in net.units[1:]:
            x = unit(x)
        return classification_loss(net.head(x), batch)

    trains = [*net.units[1:], net.head]
    stage = Stage(loss, trains=trains, cache=front if cached else None)
    teacher = Teacher.of(trained.trunk(), backbone, data, CPU)
    how = {"epochs": 1, "seed": 0, "device": CPU}
    taught = fit(net, [stage], data, recipe, teacher=teacher, **how)  # type: ignore[arg-type]
    seen = list(batches)
    alone = fit(net, [stage], data, recipe, **how)  # type: ignore[arg-type]
    return seen, taught.macs - alone.macs


@pytest.mark.parametrize("cached", [False, True])
def test_kept_logits_are_those_of_the_batchs_images_and_cost_a_trial_nothing(
    cached: bool, trained: TrainedTrunk, pocket: Backbone, data: Data
) -> None:
    batches, macs = seen_by(trained, pocket, data, cached)
    assert macs == 0
    assert trained.logits is not None
    rows = zip(trained.logits.tolist(), data.train.labels.tolist(), strict=True)
    known = {(tuple(row), label) for row, label in rows}
    for batch in batches:
        assert batch.teacher is not None
        pairs = zip(batch.teacher.tolist(), batch.labels.tolist(), strict=True)
        assert {(tuple(row), label) for row, label in pairs} <= known
        assert (batch.targets.share, batch.targets.temperature) == (0.5, 2.0)


@pytest.mark.parametrize("cached", [False, True])
def test_a_teacher_that_runs_is_on_the_trials_bill(
    cached: bool, trained: TrainedTrunk, pocket: Backbone, data: Data
) -> None:
    data = replace(data, augment=Augment(flip=True))
    batches, macs = seen_by(trained, pocket, data, cached)
    assert macs == 96 * reference_cost(pocket)[1]
    net = pocket.plain()
    net.load_state_dict(trained.state())
    net.eval()
    for batch in batches:
        assert batch.teacher is not None
        assert not batch.teacher.requires_grad
        if not cached:  # what the student sees, mirrored or not
            with torch.no_grad():
                assert torch.allclose(batch.teacher, net(batch.inputs), atol=1e-5)


def test_a_student_of_the_logits_alone_becomes_its_teacher(
    trained: TrainedTrunk, pocket: Backbone, data: Data
) -> None:
    torch.manual_seed(1)
    net = pocket.plain()
    recipe = RECIPE.model_copy(update={"distill": Distill(share=1.0, temperature=1.0)})
    stage = Stage(lambda batch: classification_loss(net(batch.inputs), batch))
    teacher = Teacher.of(trained.trunk(), pocket, data, CPU)
    fit(net, [stage], data, recipe, epochs=40, seed=0, device=CPU, teacher=teacher)
    net.eval()
    with torch.no_grad():
        said = net(data.inputs(data.train.pixels)).softmax(1)
    wanted = plain_logits(trained, pocket, data).softmax(1)
    assert float((said - wanted).abs().mean()) < 0.05
