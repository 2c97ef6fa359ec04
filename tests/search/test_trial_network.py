"""One trial from config to curve, whatever its method does; and its weights on other images."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from routesearch.backbones.base import reference_cost
from routesearch.methods.base import Trunk
from routesearch.results.points import front
from routesearch.results.record import Outcome, State, TrialRecord
from routesearch.search.trial_network import build_net, measure_on
from routesearch.search.trial_network import run_trial as run_to_rungs
from routesearch.study.config import load_study
from routesearch.task.resolve import Task, resolve
from routesearch.training.trunk import train_trunk
from routesearch.utils.arrays import Arrays

CPU = torch.device("cpu")
METHODS = ["static", "skipper", "dgate"]


@pytest.fixture
def task(make_task: Callable[..., Task]) -> Task:
    return make_task(methods=METHODS)


@pytest.fixture
def trunk(task: Task) -> Trunk:
    return train_trunk(task.backbone, task.data, task.config.training, seed=0, device=CPU).trunk()


def run_trial(*arguments: Any) -> tuple[Outcome, Arrays]:
    """The outcome of a whole training, and its weights."""
    *_, last = run_to_rungs(*arguments)
    return last


def record(task: Task, method: str, seed: int = 5, **fields: Any) -> TrialRecord:
    config = task.spaces[method].narrow(fields).default()
    return TrialRecord(3, method, config.model_dump(mode="json"), seed)


@pytest.mark.parametrize("method", METHODS)
def test_a_trial_ends_with_a_curve(method: str, task: Task, trunk: Trunk) -> None:
    one = record(task, method)
    outcome, weights = run_trial(one, task, task.data, trunk, CPU)
    assert (outcome.state, outcome.reason, outcome.traceback) == (State.FINISHED, None, None)
    assert list(outcome.points) == front(outcome.points)
    bounds = task.bounds(method, task.spaces[method].parse(one.config))
    assert all(p.macs in bounds and 0 <= p.accuracy <= 1 for p in outcome.points)
    assert outcome.params == sum(p.numel() for p in build_net(one, task, trunk).parameters())
    assert outcome.seconds > 0
    assert outcome.training_macs > 0
    assert Outcome.loads(outcome.dumps()) == outcome
    assert weights.keys() == build_net(one, task, trunk).state_dict().keys()
    assert {type(a) for a in weights.values()} == {np.ndarray}


def test_training_macs_of_a_static_network(task: Task) -> None:
    outcome, _ = run_trial(record(task, "static"), task, task.data, None, CPU)
    params, macs = reference_cost(task.backbone)
    assert outcome.params == params
    assert outcome.training_macs == 2 * 96 * 3 * macs


@pytest.mark.parametrize("method", METHODS)
def test_the_stored_weights_measure_the_same_again(method: str, task: Task, trunk: Trunk) -> None:
    """Exactly: the same knobs on the same images give the same points."""
    one = record(task, method)
    outcome, weights = run_trial(one, task, task.data, trunk, CPU)
    knobs = [json.loads(json.dumps(p.knob)) for p in outcome.points]
    stored = {name: array.copy() for name, array in weights.items()}
    for array in stored.values():
        array.flags.writeable = False  # as Ray's object store hands them out
    again = measure_on(one, knobs, stored, task, task.data, trunk, CPU, "validation")
    assert again == list(outcome.points)


def test_test_images_are_other_images(task: Task) -> None:
    one = record(task, "skipper")
    outcome, weights = run_trial(one, task, task.data, None, CPU)
    knobs = [p.knob for p in outcome.points]
    tested = measure_on(one, knobs, weights, task, task.data, None, CPU, "test")
    assert [p.knob for p in tested] == knobs
    swapped = task.data.__class__(**{**vars(task.data), "test": task.data.validation})
    assert measure_on(one, knobs, weights, task, swapped, None, CPU, "test") == list(outcome.points)
    assert tested != list(outcome.points)


@pytest.mark.parametrize("method", METHODS)
def test_the_seed_decides_the_weights(method: str, task: Task, trunk: Trunk) -> None:
    def weights(seed: int) -> tuple[Arrays, Outcome]:
        torch.rand(seed + 1)  # what was drawn before must not matter
        outcome, found = run_trial(record(task, method, seed), task, task.data, trunk, CPU)
        return found, outcome

    (one, first), (again, second), (other, _) = weights(5), weights(5), weights(6)
    assert all(np.array_equal(one[name], again[name]) for name in one)
    assert first.points == second.points
    assert any(not np.array_equal(one[name], other[name]) for name in one)


def test_a_method_that_needs_no_trunk_gets_none(task: Task, trunk: Trunk) -> None:
    assert build_net(record(task, "static"), task, trunk).trunk is None
    assert build_net(record(task, "dgate"), task, trunk).trunk is trunk


# ---- failures ----------------------------------------------------------------------------------------

FAILING = """
    import torch
    from routesearch import Backbone, RoutedNet, Space, Stage, hookimpl

    class Failing(RoutedNet):
        name = "failing"

        class Config(Space):
            how: str = "not at all"

        def __init__(self, config, backbone, trunk=None):
            super().__init__(config, backbone, trunk)
            self.plain = backbone.plain()
            if config.how == "at birth" and self.plain.head[1].weight.device.type != "meta":
                raise KeyError("no such layer")

        def stages(self):
            return [Stage(self.loss)]

        def loss(self, batch):
            how = self.config.how
            if how == "raise":
                raise ValueError("first line\\n second line")
            if how == "memory":
                raise MemoryError("no room for 9 GiB")
            if how == "exit":
                raise SystemExit(3)
            if how == "torch memory":
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")
            if how == "recursion":
                return self.loss(batch)
            loss = torch.nn.functional.cross_entropy(self.plain(batch.inputs), batch.labels)
            return loss * float("nan") if how == "nan" else loss

        def route(self, meter, images, knob):
            logits = meter.run(self.plain, images)
            if self.config.how == "nan logits":
                logits = logits * float("nan")
            meter.finish(logits)
            if self.config.how == "twice":
                meter.finish(logits)

        def knobs(self, scores=None, labels=None):
            if self.config.how == "odd knob":
                return [{"threshold": float("inf")}]
            return [{}]

    @hookimpl
    def routesearch_methods():
        return [Failing]
"""

FAILURES = {
    "raise": "ValueError: first line second line",
    "memory": "out of memory: MemoryError: no room for 9 GiB",
    "torch memory": "out of memory: OutOfMemoryError: CUDA out of memory. Tried to allocate 9 GiB",
    "recursion": "RecursionError: maximum recursion depth exceeded",
    "nan": "RunFailed: the loss must stay finite, got NaN or infinity in epoch 1",
    "nan logits": "RunFailed: failing: logits must be finite, got NaN or infinity at knob {}",
    "twice": "ValueError: every image must finish exactly once, got 120 finishes for 60",
    "at birth": "KeyError: 'no such layer'",
    "exit": "the process was asked to end: SystemExit: 3 (failing.py:",
    "odd knob": "Refusal: failing: a knob must be made of JSON values: numbers, texts, lists; got",
}


@pytest.fixture
def failing(write_study: Callable[..., Path], tmp_path: Path) -> Task:
    (tmp_path / "failing.py").write_text(textwrap.dedent(FAILING))
    plugins = [*load_study(write_study()).plugins, "failing.py"]
    return resolve(load_study(write_study(methods=["static", "failing"], plugins=plugins)))


@pytest.mark.parametrize("how", FAILURES)
def test_a_failure_is_an_outcome_with_its_story(how: str, failing: Task) -> None:
    outcome, weights = run_trial(record(failing, "failing", how=how), failing, failing.data, None, CPU)
    assert outcome.state is State.FAILED
    assert (outcome.reason or "").startswith(FAILURES[how])
    assert "\n" not in (outcome.reason or "")
    assert "Traceback (most recent call last)" in (outcome.traceback or "")
    assert (outcome.points, weights) == ((), {})
    assert Outcome.loads(outcome.dumps()) == outcome


def test_the_next_trial_is_none_the_worse(failing: Task) -> None:
    one = record(failing, "static")
    before, _ = run_trial(one, failing, failing.data, None, CPU)
    run_trial(record(failing, "failing", how="nan"), failing, failing.data, None, CPU)
    after, _ = run_trial(one, failing, failing.data, None, CPU)
    assert after.points == before.points
    whole, _ = run_trial(record(failing, "failing"), failing, failing.data, None, CPU)
    assert whole.state is State.FINISHED


def test_a_missing_trunk_is_a_failure_with_the_law(task: Task) -> None:
    outcome, _ = run_trial(record(task, "dgate"), task, task.data, None, CPU)
    assert outcome.reason == "Refusal: dgate: gates are trained on a trained trunk, got none"


def test_a_user_interrupt_is_no_failure(failing: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: Any, **more: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("routesearch.search.trial_network.fit_to_rungs", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_trial(record(failing, "static"), failing, failing.data, None, CPU)


@pytest.mark.parametrize("method", ["static", "skipper", "dgate"])
def test_where_latency_is_the_budget_a_few_points_are_kept_and_timed(
    method: str, make_task: Callable[..., Task], trunk: Trunk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("routesearch.search.trial_network.MAX_TIMED", 3)
    monkeypatch.setattr("routesearch.evaluation.latency.LEAST", 2)
    plain = make_task(methods=METHODS)
    timed = make_task(methods=METHODS, budget={"max_latency": "2ms", "batch": 4})
    assert (timed.budget.max_latency, timed.budget.batch) == (0.002, 4)
    whole = run_trial(record(plain, method), plain, plain.data, trunk, CPU)[0].points
    kept = run_trial(record(timed, method), timed, timed.data, trunk, CPU)[0].points
    assert len(kept) == min(3, len(whole))
    assert all(p.latency is not None and p.latency > 0 for p in kept)
    assert {(p.accuracy, p.macs) for p in kept} <= {(p.accuracy, p.macs) for p in whole}
    assert (kept[0].macs, kept[-1].macs) == (whole[0].macs, whole[-1].macs), "both ends"
    assert all(p.latency is None for p in whole)


@pytest.mark.parametrize("method", METHODS)
def test_a_trial_waits_at_its_rungs_and_ends_as_it_would_without_them(
    make_task: Callable[..., Task], method: str
) -> None:
    task = make_task(methods=METHODS, training={"epochs": 4, "trunk_epochs": 1, "batch_size": 16})
    trunk = train_trunk(task.backbone, task.data, task.config.training, seed=0, device=CPU).trunk()
    one = record(task, method)
    whole, weights = run_trial(one, task, task.data, trunk, CPU)
    found = run_to_rungs(one, task, task.data, trunk, CPU, (1, 3))
    *rungs, (last, others) = [(outcome, deepcopy(arrays)) for outcome, arrays in found]
    assert [outcome.state for outcome, _ in rungs] == [State.STOPPED] * 2
    assert last.points == whole.points
    assert all(np.array_equal(weights[name], others[name]) for name in weights)
    spent = [outcome.training_macs for outcome, _ in rungs]
    assert 0 < spent[0] < spent[1] < last.training_macs == whole.training_macs
    for outcome, kept in rungs:  # what is kept at a rung is what was measured there
        again = measure_on(
            one, [p.knob for p in outcome.points], kept, task, task.data, trunk, CPU, "validation"
        )
        assert tuple(again) == outcome.points


# ---- the trunk as start and as teacher -------------------------------------------------------------------


def taught_trial(make_task: Callable[..., Task], **changes: Any) -> tuple[Outcome, Arrays]:
    training = {"epochs": 2, "trunk_epochs": 2, "batch_size": 16} | changes.pop("training", {})
    task = make_task(methods=["static"], training=training, **changes)
    trunk = train_trunk(task.backbone, task.data, task.config.training, seed=0, device=CPU).trunk()
    return run_trial(record(task, "static"), task, task.data, trunk, CPU)


def test_a_method_that_needs_no_trunk_learns_from_its_logits(make_task: Callable[..., Task]) -> None:
    alone, weights = taught_trial(make_task)
    taught, others = taught_trial(make_task, training={"distill": {"share": 0.5}})
    assert (alone.state, taught.state) == (State.FINISHED, State.FINISHED), taught.traceback
    assert taught.training_macs == alone.training_macs, "kept logits are on the trunk's bill"
    assert any(not np.array_equal(weights[name], others[name]) for name in weights)


def test_a_teacher_of_augmented_images_is_on_the_trials_bill(make_task: Callable[..., Task]) -> None:
    data = {"name": "arrays", "path": "toy.npz", "augment": {"flip": True}}
    alone, _ = taught_trial(make_task, data=data)
    taught, _ = taught_trial(make_task, data=data, training={"distill": {"share": 0.5}})
    macs = reference_cost(make_task().backbone)[1]
    assert taught.training_macs - alone.training_macs == 2 * 96 * macs


def test_a_trial_starts_from_the_trunk_where_its_config_says_so(make_task: Callable[..., Task]) -> None:
    task = make_task(methods={"static": {"start": {"choices": ["trunk", "scratch"]}}})
    trunk = train_trunk(task.backbone, task.data, task.config.training, seed=0, device=CPU).trunk()
    kept = trunk.state["head.1.weight"]
    for start in ("trunk", "scratch"):
        net = build_net(record(task, "static", start=start), task, trunk)
        assert torch.equal(net.state_dict()["plain.head.1.weight"], kept) == (start == "trunk")
        again = build_net(record(task, "static", start=start), task, None)  # a saved model has none
        again.load_state_dict(net.state_dict())
