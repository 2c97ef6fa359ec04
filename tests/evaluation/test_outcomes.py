"""Image by image what a network labels right: as many as its points say, looked up or run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from routesearch.evaluation.measure import measure
from routesearch.evaluation.outcomes import right_at
from routesearch.methods.base import Trunk
from routesearch.results.confirmed import unpack_right
from routesearch.results.points import OperatingPoint
from routesearch.results.record import TrialRecord
from routesearch.search.trial_network import build_net, calibrate, retrain, run_trial
from routesearch.task.resolve import Task
from routesearch.training.trunk import train_trunk

CPU = torch.device("cpu")
METHODS = ["static", "skipper", "dgate"]


@pytest.fixture
def task(make_task: Callable[..., Task]) -> Task:
    return make_task(methods=METHODS)


@pytest.fixture
def trunk(task: Task) -> Trunk:
    return train_trunk(task.backbone, task.data, task.config.training, seed=0, device=CPU).trunk()


def record(task: Task, method: str, seed: int = 5) -> TrialRecord:
    return TrialRecord(3, method, task.spaces[method].default().model_dump(mode="json"), seed)


@pytest.mark.parametrize("method", METHODS)
def test_outcomes_add_up_to_the_accuracy(method: str, task: Task, trunk: Trunk) -> None:
    net, data = build_net(record(task, method), task, trunk), task.data
    points = measure(net, data, data.test, CPU)
    right = right_at(net, data, data.test, CPU, [p.knob for p in points])
    assert right.shape == (len(points), len(data.test))
    assert right.double().mean(1).tolist() == pytest.approx([p.accuracy for p in points])
    assert right_at(net, data, data.test, CPU, []).shape == (0, len(data.test))


@pytest.mark.parametrize("method", METHODS)
def test_a_retraining_is_another_training_of_the_same_config(method: str, task: Task, trunk: Trunk) -> None:
    one, data = record(task, method), task.data
    *_, (outcome, _) = run_trial(one, task, data, trunk, CPU)
    same, weights = retrain(one, outcome.points, None, task, data, trunk, CPU)
    assert same.failed is None
    # With the trial's own seed every point is found again: tuning adds no luck of its own.
    assert [p.validation.macs for p in same.points] == [p.macs for p in outcome.points]
    assert [p.validation.accuracy for p in same.points] == [p.accuracy for p in outcome.points]
    assert same.training_macs == outcome.training_macs
    assert same.images == (len(data.validation), len(data.test))
    right = unpack_right(same.right)
    assert right.mean(1).tolist() == pytest.approx([p.test.accuracy for p in same.points])
    net = build_net(one, task, trunk)
    net.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
    tested = measure(net, data, data.test, CPU, [p.test.knob for p in same.points])
    assert tested == [p.test for p in same.points]

    other, _ = retrain(replace(one, seed=6), outcome.points, None, task, data, trunk, CPU)
    cheapest = min(p.validation.macs for p in other.points)
    for member, again in zip(outcome.points, other.points, strict=True):
        assert again.validation.macs <= max(member.macs, cheapest) * (1 + 1e-9)


def test_a_stopped_trial_is_retrained_as_far_as_it_was(make_task: Callable[..., Task]) -> None:
    training = {"epochs": 9, "trunk_epochs": 1, "batch_size": 16}
    task = make_task(methods=["static"], training=training)
    assert task.config.rungs == (1, 3)
    one = record(task, "static")
    stopped = [outcome for outcome, _ in run_trial(one, task, task.data, None, CPU, task.config.rungs)]
    for rung, outcome in [(0, stopped[0]), (1, stopped[1]), (None, stopped[2])]:
        again, _ = retrain(one, outcome.points, rung, task, task.data, None, CPU)
        assert again.training_macs == outcome.training_macs
        assert [p.validation.accuracy for p in again.points] == [p.accuracy for p in outcome.points]


def test_a_retraining_that_raises_is_a_failure_with_its_reason(task: Task) -> None:
    found, weights = retrain(
        record(task, "static"), [OperatingPoint({}, 0.5, -1.0)], None, task, None, None, CPU
    )  # type: ignore[arg-type]
    assert found.failed
    assert (found.points, weights) == ((), {})


@pytest.mark.parametrize("method", ["skipper", "dgate"])
def test_points_are_compared_with_the_whole_network(
    method: str, make_task: Callable[..., Task], trunk: Trunk
) -> None:
    task = make_task(methods=METHODS, data={"name": "arrays", "path": "toy.npz", "calibration": 0.5})
    one, data = record(task, method), task.data
    *_, (outcome, weights) = run_trial(one, task, data, trunk, CPU)
    found = calibrate(one, [p.knob for p in outcome.points], weights, task, data, trunk, CPU)
    assert found.images == len(data.split("calibration")) == len(data.validation)
    assert found.whole.macs >= max(p.macs for p in outcome.points)
    net = build_net(one, task, trunk)
    net.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
    knobs = [found.whole.knob, *(p.knob for p in outcome.points)]
    whole, *others = (p.accuracy for p in measure(net, data, data.split("calibration"), CPU, knobs))
    drops = [(a - b) / found.images for a, b in zip(found.lost, found.gained, strict=True)]
    assert drops == pytest.approx([whole - accuracy for accuracy in others])
