"""One trial: its network built, trained and measured."""

from __future__ import annotations

import time
from collections.abc import Collection, Generator, Iterator, Sequence
from typing import Any

import torch

from routesearch.data.base import Data
from routesearch.evaluation.latency import MAX_TIMED, time_network, time_points
from routesearch.evaluation.measure import measure
from routesearch.evaluation.outcomes import right_at
from routesearch.methods.base import Knob, RoutedNet, Trunk
from routesearch.results.calibrated import Calibration
from routesearch.results.confirmed import Retraining, Retuned, kept_images, pack_right, retuned
from routesearch.results.points import OperatingPoint, thin
from routesearch.results.record import Outcome, State, TrialRecord
from routesearch.results.timing import Timing
from routesearch.search.worker import failure_of
from routesearch.task.resolve import Task
from routesearch.training.loop import Fitted, fit_to_rungs, to_device
from routesearch.training.state_arrays import as_tensors, to_arrays
from routesearch.training.teacher import Teacher
from routesearch.utils.arrays import Arrays

FRONT_SECONDS = 0.5
"""What one point of the front may take at one batch size, with the static backbone beside it."""


def run_trial(
    record: TrialRecord,
    task: Task,
    data: Data,
    trunk: Trunk | None,
    device: torch.device,
    rungs: Collection[int] = (),
) -> Iterator[tuple[Outcome, Arrays]]:
    """Build, fit and measure one config on validation data.

    Whatever the method raises, running out of memory included, becomes a failure with its traceback;
    the weights are then empty.

    Args:
        rungs: epochs, from 1, after which it is measured and waits until it is asked to go on.

    Yields:
        The outcome and the weights that were measured (they change when training goes on): at each rung those
        of a trial that is stopped there, then those of the whole training.
    """
    started = time.monotonic()
    try:
        for net, fitted in _trained(record, task, data, trunk, device, rungs):
            points = _timed(net, thin(measure(net, data, data.validation, device)), task, device)
            outcome = Outcome(
                State.FINISHED if fitted.done else State.STOPPED,
                points=tuple(points),
                params=sum(p.numel() for p in net.parameters()),
                training_macs=fitted.macs,
                seconds=time.monotonic() - started,
            )
            outcome.dumps()  # a knob that is no JSON value fails its trial here, not its worker
            yield outcome, to_arrays(net)
    except (Exception, SystemExit) as error:  # a plugin may raise anything
        yield failure_of(error, time.monotonic() - started), {}


def _trained(
    record: TrialRecord,
    task: Task,
    data: Data,
    trunk: Trunk | None,
    device: torch.device,
    rungs: Collection[int],
) -> Generator[tuple[RoutedNet, Fitted], None, None]:
    """A trial's network at each rung, and when it is trained; it goes on when it is asked to."""
    recipe = task.config.training
    teacher = None
    if recipe.distill is not None and trunk is not None:
        teacher = Teacher.of(trunk, task.backbone, data, device)
    torch.manual_seed(record.seed)
    net = to_device(build_net(record, task, trunk), device)
    how: dict[str, Any] = {
        "epochs": recipe.epochs,
        "seed": record.seed,
        "device": device,
        "teacher": teacher,
    }
    for fitted in fit_to_rungs(net, net.stages(), data, recipe, rungs=rungs, **how):
        yield net, fitted


def retrain(
    record: TrialRecord,
    members: Sequence[OperatingPoint],
    rung: int | None,
    task: Task,
    data: Data,
    trunk: Trunk | None,
    device: torch.device,
) -> tuple[Retraining, Arrays]:
    """Train a config with another seed, tune its knob again to each point's MACs, and measure that on test.

    Args:
        record: the trial, with the other seed.
        members: its points on the front, as measured on validation.
        rung: how many rungs the trial passed before it was stopped; None: it was trained to its end.

    Returns:
        What it gave, and its weights; none where it failed.
    """
    started = time.monotonic()
    try:
        training = _trained(record, task, data, trunk, device, () if rung is None else task.config.rungs)
        for place, (net, fitted) in enumerate(training):  # noqa: B007 (the last is wanted)
            if place == rung:
                break
        curve = measure(net, data, data.validation, device)
        tuned = [retuned(curve, member.macs) for member in members]
        knobs = [p.knob for p in tuned]
        tested = measure(net, data, data.test, device, knobs)
        right = right_at(net, data, data.test, device, knobs)[:, kept_images(len(data.test))]
        points = (Retuned(m.knob, v, t) for m, v, t in zip(members, tuned, tested, strict=True))
        found = Retraining(
            seed=record.seed,
            params=sum(p.numel() for p in net.parameters()),
            training_macs=fitted.macs,
            seconds=time.monotonic() - started,
            images=(len(data.validation), len(data.test)),
            points=tuple(points),
            right=pack_right(right.numpy()),
        )
        weights = to_arrays(net)
        training.close()
        return found, weights
    except (Exception, SystemExit) as error:  # a plugin may raise anything
        seconds = time.monotonic() - started
        reason = failure_of(error, seconds).reason
        return Retraining(record.seed, seconds=seconds, failed=reason), {}


def measure_on(
    record: TrialRecord,
    knobs: Sequence[Knob],
    weights: Arrays,
    task: Task,
    data: Data,
    trunk: Trunk | None,
    device: torch.device,
    split: str,
) -> list[OperatingPoint]:
    """Operating points of stored weights at these knobs on a split."""
    net = _load_net(record, weights, task, trunk)
    return measure(to_device(net, device), data, data.split(split), device, knobs)


def calibrate(
    record: TrialRecord,
    knobs: Sequence[Knob],
    weights: Arrays,
    task: Task,
    data: Data,
    trunk: Trunk | None,
    device: torch.device,
) -> Calibration:
    """Stored weights at these knobs beside the whole network, image by image on the calibration images.

    The whole network is the setting that the method proposes at which most runs. Validation says which that
    is, so that the calibration images choose nothing.
    """
    net = to_device(_load_net(record, weights, task, trunk), device)
    proposed = measure(net, data, data.validation, device)
    whole = max(proposed, key=lambda p: (p.macs, p.accuracy))
    images = data.split("calibration")
    right = right_at(net, data, images, device, [whole.knob, *knobs])
    reference, others = right[0], right[1:]
    return Calibration(
        whole=whole,
        images=len(images),
        lost=tuple((reference & ~others).sum(1).tolist()),
        gained=tuple((~reference & others).sum(1).tolist()),
    )


def time_point(
    record: TrialRecord,
    point: OperatingPoint,
    weights: Arrays,
    task: Task,
    trunk: Trunk | None,
    device: torch.device,
    batches: Sequence[int],
) -> list[Timing]:
    """Timings of stored weights at one operating point, beside the static backbone."""
    net = _load_net(record, weights, task, trunk)
    return time_network(net, point.knob, point.route_share, device, batches, FRONT_SECONDS)


def _timed(
    net: RoutedNet, points: list[OperatingPoint], task: Task, device: torch.device
) -> list[OperatingPoint]:
    """Some points, spread along the curve, with their latency where it is a budget; only these are kept."""
    if task.budget.max_latency is None:
        return points
    return time_points(net, thin(points, MAX_TIMED), device, task.budget.batch)


def _load_net(record: TrialRecord, weights: Arrays, task: Task, trunk: Trunk | None) -> RoutedNet:
    net = build_net(record, task, trunk)
    net.load_state_dict(as_tensors(weights))
    return net


def build_net(record: TrialRecord, task: Task, trunk: Trunk | None) -> RoutedNet:
    """The network of a trial, untrained (or on its trunk)."""
    method = task.methods[record.method]
    config = task.spaces[record.method].parse(record.config)
    return method(config, task.backbone, trunk if method.uses_trunk(config) else None)
