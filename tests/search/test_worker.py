"""What a worker does: trials, measurements, timings and the trunk's parts, without Ray in between."""

from __future__ import annotations

import pickle
import random
import re
import socket
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from routesearch.errors import Refusal
from routesearch.results.points import OperatingPoint, front
from routesearch.results.record import Outcome, State, TrialRecord
from routesearch.search.worker import NetworkRunner, WorkerResources
from routesearch.study.config import load_study
from routesearch.task.resolve import CONFUSION, NETWORK, resolve
from routesearch.training.confusion import Confusion, measure_confusion
from routesearch.training.trunk import TrainedTrunk
from routesearch.utils.arrays import Arrays, Stored, read_arrays, write_arrays

RESOURCES = WorkerResources(1, 0)


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    yield
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)
    torch.set_grad_enabled(True)
    torch.use_deterministic_algorithms(False)
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.benchmark = False
    torch.set_num_threads(before)


def train(work: NetworkRunner, record: TrialRecord, resources: WorkerResources) -> tuple[Outcome, Arrays]:
    """The outcome of a whole training, and its weights."""
    *_, last = work.train(record, resources)
    return last


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
    packed = NetworkRunner.pack(task)
    worker = NetworkRunner(packed, {})
    assert worker.trunk is None
    stored = {}
    for part in (NETWORK, CONFUSION):
        path = tmp_path / f"{part}.safetensors"
        write_arrays(path, *travelled({part: worker.train_trunk_part(part, 5, RESOURCES)})[part])
        stored[part] = read_arrays(path)
        NetworkRunner.check_trunk(part, stored[part])

    trunk = NetworkRunner(packed, travelled(stored)).trunk
    assert trunk is not None
    recipe, device = task.config.training, torch.device("cpu")
    expected = measure_confusion(task.backbone, task.data, recipe, seed=5, device=device)
    kept = Confusion.unpack(*stored[CONFUSION])
    assert (trunk.confusion, kept.macs) == (expected.rows, expected.macs)
    assert trunk.accuracy == TrainedTrunk.unpack(*stored[NETWORK]).accuracy
    assert trunk.state.keys() == task.backbone.plain().state_dict().keys()

    alone = NetworkRunner(packed, travelled({CONFUSION: stored[CONFUSION]})).trunk
    assert alone is not None
    assert (dict(alone.state), alone.confusion) == ({}, expected.rows)


@pytest.mark.parametrize("part", [NETWORK, CONFUSION])
def test_another_file_is_no_part_of_a_trunk(part: str) -> None:
    for stored in (({"x": np.ones(3)}, {}), ({"confusion": np.ones((2, 3))}, {"accuracy": "?"})):
        with pytest.raises((KeyError, ValueError)):
            NetworkRunner.check_trunk(part, stored)


def test_the_trunk_begins_with_the_studys_weights(write_study: Callable[..., Path], tmp_path: Path) -> None:
    study = write_study(
        methods=["dgate"],
        backbone={"name": "pocket", "weights": "w.pth"},
        training={"epochs": 1, "trunk_epochs": 0},
    )
    task = resolve(load_study(study))
    plain = task.backbone.plain()
    torch.save(plain.state_dict(), tmp_path / "w.pth")
    packed = NetworkRunner.pack(task)
    (tmp_path / "w.pth").unlink()  # a worker may be another machine
    trunk = TrainedTrunk.unpack(*NetworkRunner(packed, {}).train_trunk_part(NETWORK, 0, RESOURCES))
    assert trunk.macs == 0
    assert all(np.array_equal(trunk.weights[name], t.numpy()) for name, t in plain.state_dict().items())


# ---- trials --------------------------------------------------------------------------------------------


@pytest.fixture
def packed(write_study: Callable[..., Path]) -> Any:
    """What the driver packs for a study whose methods need no trunk."""
    return NetworkRunner.pack(resolve(load_study(write_study())))


def made(packed: Any) -> NetworkRunner:
    """A worker in another process: it gets a copy, of which nothing is shared."""
    return NetworkRunner(pickle.loads(pickle.dumps(packed)), {})  # noqa: S301 (its own)


def trial(work: NetworkRunner, method: str = "skipper", seed: int = 5) -> TrialRecord:
    return TrialRecord(3, method, work.task.spaces[method].default().model_dump(mode="json"), seed)


def unwritable(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return dict(travelled({"": (arrays, {})})[""][0])


def test_a_worker_needs_neither_the_study_file_nor_its_data(write_study: Callable[..., Path]) -> None:
    """What is packed is enough: another machine has the plugins' files, but not what the driver read."""
    file = write_study()
    packed = NetworkRunner.pack(resolve(load_study(file)))
    file.unlink()
    (file.parent / "toy.npz").unlink()
    work = made(packed)
    assert train(work, trial(work), RESOURCES)[0].state is State.FINISHED


def test_a_trial_is_trained_measured_and_timed(packed: Any) -> None:
    work = made(packed)
    record = trial(work)
    outcome, weights = train(work, record, RESOURCES)
    assert (outcome.state, outcome.reason) == (State.FINISHED, None)
    assert list(outcome.points) == front(outcome.points)
    assert len(outcome.points) > 1

    other = made(packed)  # a front is measured by whichever worker is free
    knobs = [p.knob for p in outcome.points]
    tested = other.measure_on_test(record, knobs, unwritable(dict(weights)), RESOURCES)
    assert [p.knob for p in tested] == knobs
    assert tested != list(outcome.points), "test images, not those of validation"
    other.data = other.data.__class__(**{**vars(other.data), "test": other.data.validation})
    again = other.measure_on_test(record, knobs, unwritable(dict(weights)), RESOURCES)
    assert again == list(outcome.points)

    timings = other.time(record, outcome.points[-1], unwritable(dict(weights)), [1, 3], RESOURCES)
    assert [t.batch for t in timings] == [1, 3]
    bounds = work.task.bounds("skipper", work.task.spaces["skipper"].default())
    assert all(0 < t.p50 <= t.p95 for t in timings)
    assert all(t.macs in bounds and t.static_macs == work.task.backbone_macs for t in timings)


def test_weights_of_another_config_are_neither_measured_nor_timed(packed: Any) -> None:
    work = made(packed)
    _, weights = train(work, trial(work, "static"), RESOURCES)
    record, point = trial(work), OperatingPoint({"threshold": 0.5}, 0.5, 1.0, (1.0,))
    with pytest.raises(RuntimeError, match="state_dict"):
        work.measure_on_test(record, [point.knob], weights, RESOURCES)
    with pytest.raises(RuntimeError, match="state_dict"):
        work.time(record, point, weights, [1], RESOURCES)


def test_a_methods_trunk_is_the_one_that_was_stored(write_study: Callable[..., Path]) -> None:
    packed = NetworkRunner.pack(resolve(load_study(write_study(methods=["dgate"]))))
    without = made(packed)
    outcome, weights = train(without, trial(without, "dgate"), RESOURCES)
    assert outcome.reason == "Refusal: dgate: gates are trained on a trained trunk, got none"
    assert weights == {}

    stored = {NETWORK: without.train_trunk_part(NETWORK, 5, RESOURCES)}
    work = NetworkRunner(packed, travelled(stored))
    outcome, weights = train(work, trial(work, "dgate"), RESOURCES)
    assert outcome.state is State.FINISHED
    kept = {array.tobytes() for array in weights.values()}
    convolutions = [array for array in stored[NETWORK][0].values() if array.ndim == 4]
    assert len(convolutions) == 4
    assert all(array.tobytes() in kept for array in convolutions), "gates are trained, the trunk is not"


# ---- what a worker cannot run --------------------------------------------------------------------------

EXTRA = """\
from routesearch import hookimpl
from routesearch.methods.static import Static


class Extra(Static):
    name = "extra"


@hookimpl
def routesearch_methods():
    return [Extra]
"""

BROKEN = {
    "raises": ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
    "exits": ("import sys; sys.exit('not here')", "SystemExit: not here"),
    "is another": (EXTRA + "# edited", "the code of method extra must be extra.py "),
    "offers nothing": ("", "no method 'extra'"),
    "is gone": (None, "no method 'extra'"),
}


@pytest.fixture
def with_extra(write_study: Callable[..., Path], tmp_path: Path) -> Any:
    """What the driver packs for a study with a plain file's method beside one that is installed."""
    (tmp_path / "extra.py").write_text(EXTRA)
    plugins = [*load_study(write_study()).plugins, "extra.py"]
    return NetworkRunner.pack(resolve(load_study(write_study(methods=["static", "extra"], plugins=plugins))))


@pytest.mark.parametrize("how", BROKEN)
def test_a_plugin_that_a_worker_cannot_use_concerns_its_own_methods_only(
    how: str, with_extra: Any, tmp_path: Path
) -> None:
    text, told = BROKEN[how]
    assert made(with_extra).missing == {}
    if text is None:
        (tmp_path / "extra.py").unlink()
    else:
        (tmp_path / "extra.py").write_text(text)
    work = made(with_extra)
    assert list(work.missing) == ["extra"]
    assert told in work.missing["extra"]
    assert train(work, trial(work, "static"), RESOURCES)[0].state is State.FINISHED


def test_a_worker_that_can_run_no_method_says_why(write_study: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "extra.py").write_text(EXTRA)
    plugins = [*load_study(write_study()).plugins, "extra.py"]
    packed = NetworkRunner.pack(resolve(load_study(write_study(methods=["extra"], plugins=plugins))))
    (tmp_path / "extra.py").write_text("import no_such_module")
    with pytest.raises(Refusal, match="No module named 'no_such_module'"):
        made(packed)


# ---- what earlier trials leave behind ------------------------------------------------------------------


def spoil() -> None:
    """What a trial may do to its process."""
    torch.set_num_threads(2)
    torch.set_grad_enabled(False)
    torch.use_deterministic_algorithms(True)
    torch.set_float32_matmul_precision("medium")
    torch.backends.cudnn.benchmark = True
    torch.rand(7)
    np.random.rand(7)  # noqa: NPY002
    random.random()
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")


def test_a_trial_is_the_same_whatever_ran_before_it(packed: Any) -> None:
    fresh, used = made(packed), made(packed)
    first, weights = train(fresh, trial(fresh), RESOURCES)
    train(used, trial(used, "static", seed=9), RESOURCES)
    spoil()
    second, others = train(used, trial(used), RESOURCES)
    assert second.points == first.points
    assert all(np.array_equal(weights[name], others[name]) for name in weights)
    other, _ = train(used, trial(used, seed=6), RESOURCES)
    assert other.points != first.points


@pytest.mark.parametrize("act", ["train", "measure", "time", "trunk"])
@pytest.mark.parametrize(("cpu", "threads"), [(0.5, 1), (1, 1), (2.9, 2)])
def test_every_task_begins_with_its_threads_and_seeds(
    act: str, cpu: float, threads: int, packed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plugin may draw from any of the three sources of randomness."""

    class Began(Exception):
        pass

    def begun(*_: Any, **__: Any) -> Any:
        raise Began(torch.get_num_threads(), float(torch.rand(1)), np.random.rand(), random.random())  # noqa: NPY002

    work = made(packed)
    record, point = trial(work), OperatingPoint({"threshold": 0.5}, 0.5, 1.0, (1.0,))
    resources = WorkerResources(cpu, 0)
    for name in (
        "search.trial_network.run_trial",
        "search.trial_network.measure_on",
        "search.trial_network.time_point",
    ):
        monkeypatch.setattr(f"routesearch.{name}", begun)
    monkeypatch.setattr("routesearch.training.trunk.train_trunk", begun)
    acts: dict[str, Callable[[], Any]] = {
        "train": lambda: train(work, record, resources),
        "measure": lambda: work.measure_on_test(record, [point.knob], {}, resources),
        "time": lambda: work.time(record, point, {}, [1], resources),
        "trunk": lambda: work.train_trunk_part(NETWORK, record.seed, resources),
    }
    seen = []
    for _ in range(2):
        spoil()
        with pytest.raises(Began) as began:
            acts[act]()
        seen.append(began.value.args)
    torch.manual_seed(record.seed)
    expected = float(torch.rand(1)), np.random.RandomState(5).rand(), random.Random(5).random()
    assert seen == [(threads, *expected)] * 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("gpu", [1, 0.5])
def test_a_gpu_that_is_not_there_is_an_error_and_no_slow_trial(packed: Any, gpu: float) -> None:
    work = made(packed)
    record, point = trial(work), OperatingPoint({"threshold": 0.5}, 0.5, 1.0, (1.0,))
    resources = WorkerResources(1, gpu)
    told = re.escape(f"a trial with resources.gpu={gpu:g} needs CUDA, and {socket.gethostname()} has none")
    for act in (
        lambda: train(work, record, resources),
        lambda: work.measure_on_test(record, [point.knob], {}, resources),
        lambda: work.time(record, point, {}, [1], resources),
        lambda: work.train_trunk_part(NETWORK, 0, resources),
        lambda: work.train_trunk_part(CONFUSION, 0, resources),
    ):
        with pytest.raises(RuntimeError, match=f"^{told}$"):
            act()
