"""What a study would cost, before anything is trained: MACs by pricing, seconds by a few real steps."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch import nn

from routesearch.data.base import Data, Images
from routesearch.errors import Refusal
from routesearch.evaluation.measure import measure
from routesearch.methods.base import RoutedNet, Stage, Trunk
from routesearch.methods.losses import cross_entropy
from routesearch.space.space import Space
from routesearch.study.recipe import Recipe
from routesearch.task.resolve import Task
from routesearch.task.space_costs import SpaceCosts
from routesearch.training.confusion import equivalent_epochs
from routesearch.training.loop import fit, to_device
from routesearch.training.state_arrays import states
from routesearch.training.teacher import Teacher
from routesearch.utils import machine

log = logging.getLogger(__name__)

SECONDS = 2.0
"""What timing a stage may take, roughly: slow networks get fewer steps, at least one."""

MAX_STEPS = 16
MEASURED = 128
"""Random images that a measurement is timed on."""


@dataclass(frozen=True)
class Forecast:
    """What a search would meet.

    Attributes:
        reach: method -> which MACs its space spans.
        seconds: method -> of one trial, its default config trained and measured; None where that failed or
            no trial will run.
        trunk_seconds: of the shared trunk and its confusion, trained once in the study; None where no
            method needs either.
    """

    reach: Mapping[str, SpaceCosts]
    seconds: Mapping[str, float | None]
    trunk_seconds: float | None

    def search_seconds(self, trials: int, at_once: int) -> float | None:
        """Seconds of a search: trials shared out evenly, ``at_once`` side by side after the trunk."""
        known = [s for s in self.seconds.values() if s is not None]
        if not known:
            return None
        rounds = math.ceil(trials / at_once)
        return (self.trunk_seconds or 0.0) + rounds * sum(known) / len(known)


def forecast(task: Task) -> Forecast:
    """Price the spaces and time a few steps of each method's default config on random images.

    Reads the data, for their number; trains nothing that is kept.
    """
    task.check_weights()
    reach = {name: task.reach(name) for name in task.spaces}
    resources, cores = task.config.resources, machine.cores()
    if resources.cpu > cores:
        log.warning(
            "resources.cpu: a trial asks for %g cores and this machine has %d: none fits",
            resources.cpu,
            cores,
        )
    device = machine.device(resources.gpu)
    if device is None:
        log.warning("resources.gpu: trials ask for a GPU and this machine has none: seconds are not known")
        return Forecast(reach, dict.fromkeys(task.spaces), None)
    if task.unmet(reach) is not None:
        return Forecast(reach, dict.fromkeys(task.spaces), None)
    with machine.torch_threads(min(machine.threads(resources.cpu), cores)):
        seconds = {name: _trial_seconds(task, name, device) for name in task.spaces}
        shared = task.needs_trunk or task.needs_confusion
        return Forecast(reach, seconds, _trunk_seconds(task, device) if shared else None)


def _trial_seconds(task: Task, name: str, device: torch.device) -> float | None:
    config = _buildable(task, name)
    if config is None:
        return None
    method, recipe = task.methods[name], task.config.training
    trunk = None
    if method.uses_trunk(config):
        classes = task.backbone.classes  # a confusion that tells no two classes from others
        even = [[1 / classes] * classes] * classes
        trunk = Trunk(states(task.backbone.plain()), 0.0, even)
    try:
        net = to_device(method(config, task.backbone, trunk), device)
        stages = net.stages()
        shares = sum(stage.share for stage in stages)
        epochs = [recipe.epochs * stage.share / shares for stage in stages]
        teacher = None  # kept logits take no time
        if recipe.distill is not None and task.dataset.augment:
            teacher = Teacher(to_device(task.backbone.plain().eval(), device))
        each = zip(stages, epochs, strict=True)
        spent = sum(_fit_seconds(net, stage, task, count, device, teacher) for stage, count in each)
        return spent + _measure_seconds(net, task, device)
    except Exception as error:  # a plugin's method: its trials would fail the same way
        kind = type(error).__name__
        log.warning("%s: a trial of its default config fails: %s: %s", name, kind, error, exc_info=error)
        return None


def _buildable(task: Task, name: str) -> Space | None:
    """The default config, or where it violates a constraint of the method the first config that does not."""
    space, rng = task.spaces[name], Random(0)
    for config in [*space.extremes(), *(space.draw(rng) for _ in range(8))]:  # the default comes first
        try:
            task.bounds(name, config)
        except Refusal:
            continue
        return config
    return None


def _trunk_seconds(task: Task, device: torch.device) -> float:
    net = to_device(task.backbone.plain(), device)
    recipe = task.config.training
    epochs = float(recipe.trunk_epochs) if task.needs_trunk else 0.0
    epochs += equivalent_epochs(task.data, recipe) if task.needs_confusion else 0.0
    return _fit_seconds(net, Stage(cross_entropy(net)), task, epochs, device) if epochs else 0.0


def _fit_seconds(
    net: nn.Module,
    stage: Stage,
    task: Task,
    epochs: float,
    device: torch.device,
    teacher: Teacher | None = None,
) -> float:
    """Seconds of a stage over the whole training set: preparation (a cached front) and steps."""
    recipe = _gentle(task.config.training)
    size = min(recipe.batch_size, len(task.data.train))
    batches = max(1, len(task.data.train) // size)

    def timed(count: int) -> tuple[float, float]:
        """Seconds before the first epoch, and of an epoch of so many batches, by two epochs."""
        data, marks = _random_data(task, count * size), [time.perf_counter()]
        how: dict[str, Any] = {"device": device, "teacher": teacher, "on_epoch": lambda _: _mark(marks)}
        fit(net, [stage], data, recipe, epochs=2, seed=0, **how)
        begin, first, second = marks[0], marks[1], marks[-1]
        return max(0.0, 2 * first - begin - second), second - first

    _, step = timed(1)  # also warms up: memory, kernels, prices
    count = max(1, min(MAX_STEPS, batches, int(SECONDS / 2 / max(step, 1e-6))))
    ready, epoch = timed(count)
    return (ready if stage.cache else 0.0) * batches / count + epoch / count * max(1, round(epochs * batches))


def _measure_seconds(net: RoutedNet, task: Task, device: torch.device) -> float:
    data = _random_data(task, min(MEASURED, len(task.data.validation)))
    begin = time.perf_counter()
    measure(net, data, data.validation, device)
    return (time.perf_counter() - begin) * len(task.data.validation) / len(data.validation)


def _random_data(task: Task, count: int) -> Data:
    """Noise in the form of the study's images, every class among the labels."""
    random = torch.Generator().manual_seed(0)
    channels, height, width = task.shape
    pixels = torch.randint(256, (count, height, width, channels), generator=random, dtype=torch.uint8)
    images = Images(pixels.permute(0, 3, 1, 2), torch.arange(count) % len(task.classes))
    return Data(
        name="random",
        classes=task.classes,
        shape=task.shape,
        train=images,
        validation=images,
        test=images,
        mean=(0.5,) * channels,
        std=(0.3,) * channels,
        augment=task.dataset.augment,
    )


def _gentle(recipe: Recipe) -> Recipe:
    """The recipe with steps too small to go wrong on noise."""
    return recipe.model_copy(update={"learning_rate": 1e-7})


def _mark(marks: list[float]) -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    marks.append(time.perf_counter())
