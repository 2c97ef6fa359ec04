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
from routesearch.training.confusion import measure_confusion

GRANT = Grant(1, 0)


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def travelled(value: Any) -> Any:
    """As it comes out of Ray's object store: a copy whose arrays cannot be written."""
    copy = deepcopy(value)
    for part in copy.values():
        for array in part["state"].values() if isinstance(part, dict) and "state" in part else ():
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
        TrialWork.keep_trunk(travelled({part: worker.train_trunk(part, 5, GRANT)})[part], path)
        stored[part] = TrialWork.read_trunk(path)
    assert stored[CONFUSION]["state"] == {}
    assert stored[CONFUSION]["macs"] > 0

    trunk = TrialWork(packed, travelled(stored)).trunk
    assert trunk is not None
    recipe, device = task.config.training, torch.device("cpu")
    expected, macs = measure_confusion(task.backbone, task.data, recipe, seed=5, device=device)
    assert (trunk.confusion, stored[CONFUSION]["macs"]) == (expected, macs)
    assert trunk.accuracy == stored[NETWORK]["accuracy"]
    assert trunk.state.keys() == task.backbone.plain().state_dict().keys()

    alone = TrialWork(packed, travelled({CONFUSION: stored[CONFUSION]})).trunk
    assert alone is not None
    assert (dict(alone.state), alone.confusion) == ({}, expected)


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
    trunk = TrialWork(packed, {}).train_trunk(NETWORK, 0, GRANT)
    assert trunk["macs"] == 0
    assert all(np.array_equal(trunk["state"][name], t.numpy()) for name, t in plain.state_dict().items())
