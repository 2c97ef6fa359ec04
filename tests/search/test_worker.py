"""What a worker makes of the trunk's parts, without Ray in between."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from routesearch.search.worker import Grant, TrialWork
from routesearch.study.config import load_study
from routesearch.task.resolve import CONFUSION, NETWORK, resolve
from routesearch.training.confusion import Confusion, measure_confusion
from routesearch.training.trunk import TrainedTrunk
from routesearch.utils.arrays import Stored, read_arrays, write_arrays

GRANT = Grant(1, 0)


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def travelled(parts: dict[str, Stored]) -> dict[str, Stored]:
    """As they come out of Ray's object store: a copy whose arrays cannot be written."""
    copy = deepcopy(parts)
    for arrays, _ in copy.values():
        for array in arrays.values():
            array.flags.writeable = False
    return copy


def test_the_parts_of_a_trunk_are_made_kept_and_put_together(
    write_study: Callable[..., Path], tmp_path: Path
) -> None:
    task = resolve(load_study(write_study(methods=["static", "dgate"])))
    packed = TrialWork.pack(task)
    worker = TrialWork(packed, {})
    assert worker.trunk is None
    stored = {}
    for part in (NETWORK, CONFUSION):
        path = tmp_path / f"{part}.safetensors"
        write_arrays(path, *travelled({part: worker.train_trunk(part, 5, GRANT)})[part])
        stored[part] = read_arrays(path)
        TrialWork.check_trunk(part, stored[part])

    trunk = TrialWork(packed, travelled(stored)).trunk
    assert trunk is not None
    recipe, device = task.config.training, torch.device("cpu")
    expected = measure_confusion(task.backbone, task.data, recipe, seed=5, device=device)
    kept = Confusion.unpack(*stored[CONFUSION])
    assert (trunk.confusion, kept.macs) == (expected.rows, expected.macs)
    assert trunk.accuracy == TrainedTrunk.unpack(*stored[NETWORK]).accuracy
    assert trunk.state.keys() == task.backbone.plain().state_dict().keys()

    alone = TrialWork(packed, travelled({CONFUSION: stored[CONFUSION]})).trunk
    assert alone is not None
    assert (dict(alone.state), alone.confusion) == ({}, expected.rows)


@pytest.mark.parametrize("part", [NETWORK, CONFUSION])
def test_another_file_is_no_part_of_a_trunk(part: str) -> None:
    for stored in (({"x": np.ones(3)}, {}), ({"confusion": np.ones((2, 3))}, {"accuracy": "?"})):
        with pytest.raises((KeyError, ValueError)):
            TrialWork.check_trunk(part, stored)


def test_the_trunk_begins_with_the_studys_weights(write_study: Callable[..., Path], tmp_path: Path) -> None:
    study = write_study(
        methods=["dgate"],
        backbone={"name": "pocket", "weights": "w.pth"},
        training={"epochs": 1, "trunk_epochs": 0},
    )
    task = resolve(load_study(study))
    plain = task.backbone.plain()
    torch.save(plain.state_dict(), tmp_path / "w.pth")
    packed = TrialWork.pack(task)
    (tmp_path / "w.pth").unlink()  # a worker may be another machine
    trunk = TrainedTrunk.unpack(*TrialWork(packed, {}).train_trunk(NETWORK, 0, GRANT))
    assert trunk.macs == 0
    assert all(np.array_equal(trunk.weights[name], t.numpy()) for name, t in plain.state_dict().items())
