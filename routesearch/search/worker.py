"""What the workers of a search do: an interface, and the real thing behind it.

The modules around it (dispatcher, ray_tasks, driver) never look inside, so it can be run, tested and
timed with work that takes no time.
"""

from __future__ import annotations

import random
import socket
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from routesearch.errors import Refusal, described, full_traceback, origin
from routesearch.results.calibrated import Calibration
from routesearch.results.confirmed import Retraining
from routesearch.results.points import OperatingPoint
from routesearch.results.record import Outcome, TrialRecord
from routesearch.results.timing import Timing
from routesearch.utils import machine
from routesearch.utils.arrays import Arrays, Stored

if TYPE_CHECKING:
    import torch

    from routesearch.data.base import Shape
    from routesearch.methods.base import Trunk
    from routesearch.study.config import StudyConfig
    from routesearch.task.resolve import Task

Knobs = Sequence[Mapping[str, Any]]
"""Settings of a trained network."""

Points = Sequence[OperatingPoint]
"""Points of a trial on the front."""


@dataclass(frozen=True)
class WorkerResources:
    """What Ray gives one trial: cores (its torch threads) and GPUs (fractions share one)."""

    cpu: float
    gpu: float

    @property
    def threads(self) -> int:
        return machine.threads(self.cpu)


class TrialRunner(ABC):
    """What a worker process does; one object in each, made at its first trial.

    Args:
        packed: what :meth:`pack` made; arrays in it lie in shared memory and cannot be written.
        trunk: part -> what :meth:`train_trunk_part` made of it, as it is stored; empty where no method needs
            one, and for :meth:`train_trunk_part` itself.
    """

    missing: Mapping[str, str] = MappingProxyType({})
    """Methods of the study that this process cannot run, each with the reason."""

    @abstractmethod
    def __init__(self, packed: Any, trunk: Mapping[str, Stored]) -> None: ...

    @classmethod
    @abstractmethod
    def pack(cls, task: Task) -> Any:
        """What every worker needs, as plain values and numpy arrays; called in the driver, once."""

    @abstractmethod
    def train(self, trial: TrialRecord, resources: WorkerResources) -> Iterator[tuple[Outcome, Arrays]]:
        """One trial, which waits at each rung until it is asked to go on.

        Yields:
            The outcome and the weights of its network (none for a failure): at each rung those of a trial
            that is stopped there, at last those of the whole training.
        """

    @abstractmethod
    def measure_on_test(
        self, trial: TrialRecord, knobs: Knobs, weights: Arrays, resources: WorkerResources
    ) -> list[OperatingPoint]:
        """Operating points of a trained network at these knobs on test data."""

    @abstractmethod
    def retrain(
        self, trial: TrialRecord, members: Points, rung: int | None, resources: WorkerResources
    ) -> tuple[Retraining, Arrays]:
        """A trial trained with another seed, its points tuned again and measured on test.

        Only a study that confirms its front asks for it.

        Args:
            trial: with that seed.
            members: its points on the front.
            rung: how many rungs it passed before it was stopped; None: it was trained to its end.

        Returns:
            What it gave, and the weights of its network; none for a failure.
        """

    @abstractmethod
    def calibrate(
        self, trial: TrialRecord, knobs: Knobs, weights: Arrays, resources: WorkerResources
    ) -> Calibration:
        """Operating points of a trained network beside the whole network, on images that chose nothing.

        Only a study that sets such images aside asks for it.
        """

    @abstractmethod
    def time(
        self,
        trial: TrialRecord,
        point: OperatingPoint,
        weights: Arrays,
        batches: Sequence[int],
        resources: WorkerResources,
    ) -> list[Timing]:
        """A trained network at an operating point, timed at these batch sizes."""

    @abstractmethod
    def train_trunk_part(self, part: str, seed: int, resources: WorkerResources) -> Stored:
        """A part of what trials share and is trained once, as it is stored.

        Args:
            part: a key of :meth:`Task.trunk_files`; each has a file of its own.
        """

    @classmethod
    @abstractmethod
    def check_trunk(cls, part: str, stored: Stored) -> None:
        """Check in the driver that a file's content is what :meth:`train_trunk_part` makes.

        Raises:
            KeyError, ValueError: it is something else.
        """


class NetworkRunner(TrialRunner):
    """The real thing: networks, by :mod:`routesearch.search.trial_network`."""

    def __init__(self, packed: Any, trunk: Mapping[str, Stored]) -> None:
        from routesearch.data.base import Data

        self.data = Data.from_numpy(packed["data"])
        self.task, self.missing = _resolve(packed["config"], packed["facts"], packed["code"])
        self.weights = packed["weights"]
        self.trunk = _trunk(trunk) if trunk else None

    @classmethod
    def pack(cls, task: Task) -> Any:
        weights = None if task.weights is None else {name: t.numpy() for name, t in task.weights.items()}
        facts = task.shape, task.classes
        data = task.data.to_numpy()
        return {"config": task.config, "facts": facts, "code": task.code(), "data": data, "weights": weights}

    def train(self, trial: TrialRecord, resources: WorkerResources) -> Iterator[tuple[Outcome, Arrays]]:
        from routesearch.search.trial_network import run_trial

        device = _prepare(trial.seed, resources)
        yield from run_trial(trial, self.task, self.data, self.trunk, device, self.task.config.rungs)

    def measure_on_test(
        self, trial: TrialRecord, knobs: Knobs, weights: Arrays, resources: WorkerResources
    ) -> list[OperatingPoint]:
        from routesearch.search.trial_network import measure_on

        device = _prepare(trial.seed, resources)
        return measure_on(trial, knobs, weights, self.task, self.data, self.trunk, device, "test")

    def retrain(
        self, trial: TrialRecord, members: Points, rung: int | None, resources: WorkerResources
    ) -> tuple[Retraining, Arrays]:
        from routesearch.search.trial_network import retrain

        device = _prepare(trial.seed, resources)
        return retrain(trial, members, rung, self.task, self.data, self.trunk, device)

    def calibrate(
        self, trial: TrialRecord, knobs: Knobs, weights: Arrays, resources: WorkerResources
    ) -> Calibration:
        from routesearch.search.trial_network import calibrate

        device = _prepare(trial.seed, resources)
        return calibrate(trial, knobs, weights, self.task, self.data, self.trunk, device)

    def time(
        self,
        trial: TrialRecord,
        point: OperatingPoint,
        weights: Arrays,
        batches: Sequence[int],
        resources: WorkerResources,
    ) -> list[Timing]:
        from routesearch.search.trial_network import time_point

        device = _prepare(trial.seed, resources)
        return time_point(trial, point, weights, self.task, self.trunk, device, batches)

    def train_trunk_part(self, part: str, seed: int, resources: WorkerResources) -> Stored:
        from routesearch.task.resolve import CONFUSION
        from routesearch.training.confusion import measure_confusion
        from routesearch.training.trunk import train_trunk

        device = _prepare(seed, resources)
        backbone, recipe = self.task.backbone, self.task.config.training
        if part == CONFUSION:
            return measure_confusion(backbone, self.data, recipe, seed=seed, device=device).pack()
        trained = train_trunk(backbone, self.data, recipe, seed=seed, device=device, weights=self.weights)
        return trained.pack()

    @classmethod
    def check_trunk(cls, part: str, stored: Stored) -> None:
        from routesearch.task.resolve import CONFUSION
        from routesearch.training.confusion import Confusion
        from routesearch.training.trunk import TrainedTrunk

        (Confusion if part == CONFUSION else TrainedTrunk).unpack(*stored)


def _resolve(
    config: StudyConfig, facts: tuple[Shape, tuple[str, ...]], code: Mapping[str, str]
) -> tuple[Task, Mapping[str, str]]:
    """The study as this process can run it, and the methods that it cannot run, each with the reason.

    Args:
        code: what the parts of the study are known by where the search runs.

    Raises:
        Refusal: it can run none.
        Exception: what plugins raise.
    """
    from routesearch.task.resolve import resolve

    missing: dict[str, str] = {}
    try:
        task = resolve(config, facts)
    except Exception:  # a plugin's own code may raise anything
        missing = _unresolved(config, facts)
        if len(missing) == len(config.methods):
            raise
        task = resolve(_without(config, missing), facts)
    for part, own in task.code().items():
        if own == code[part]:
            continue
        differs = f"the code of {part} must be {code[part]} as where the search runs, got {own}"
        kind, _, name = part.partition(" ")
        if kind != "method":
            raise Refusal(differs)
        missing[name] = differs
    return task, missing


def _unresolved(config: StudyConfig, facts: tuple[Shape, tuple[str, ...]]) -> dict[str, str]:
    """The methods that cannot be used, each looked up by itself, with the reason."""
    from routesearch.task.resolve import resolve

    found: dict[str, str] = {}
    for name in config.methods:
        others = [other for other in config.methods if other != name]
        try:
            resolve(_without(config, others), facts)
        except Refusal as refusal:
            found[name] = str(refusal)
        except Exception as error:
            found[name] = described(error)
    return found


def _without(config: StudyConfig, methods: Collection[str]) -> StudyConfig:
    """A study without some methods, and without the plugins' files that are not here."""
    kept = {name: fields for name, fields in config.methods.items() if name not in methods}
    files = [typed for typed, file in zip(config.plugins, config.plugin_files, strict=True) if file.is_file()]
    return config.model_copy(update={"methods": kept, "plugins": files})


def failure_of(error: BaseException, seconds: float = 0.0) -> Outcome:
    """The failure of a trial that raised ``error``; called where it is handled."""
    story, reason = full_traceback(error), described(error)
    # MemoryError, torch's OutOfMemoryError for a GPU, and what torch raises where the CPU's memory ends
    name = type(error).__name__
    if name in ("MemoryError", "OutOfMemoryError") or "DefaultCPUAllocator: can't allocate" in reason:
        reason = f"out of memory: {reason}"
    elif isinstance(error, SystemExit):
        reason = f"the process was asked to end: SystemExit: {error.code}{origin(error)}"
    elif isinstance(error, KeyboardInterrupt):
        reason = f"KeyboardInterrupt was raised{origin(error)}"
    return Outcome.failure(reason, story, seconds)


def _trunk(stored: Mapping[str, Stored]) -> Trunk:
    """What methods start from, of the parts that the study has."""
    from routesearch.methods.base import Trunk
    from routesearch.task.resolve import CONFUSION, NETWORK
    from routesearch.training.confusion import Confusion
    from routesearch.training.trunk import TrainedTrunk

    rows = Confusion.unpack(*stored[CONFUSION]).rows if CONFUSION in stored else ()
    if NETWORK not in stored:
        return Trunk({}, 0.0, rows)
    return TrainedTrunk.unpack(*stored[NETWORK]).trunk(rows)


def _prepare(seed: int, resources: WorkerResources) -> torch.device:
    """Leave nothing of the process's earlier trials: torch's settings, random states, cached GPU memory.

    A plugin may set them on purpose, or by an oversight; they hold for its own trial. What it patched in
    torch's modules stays.

    Raises:
        RuntimeError: for a GPU that was granted and is not there; never a silent fall back to the CPU.
    """
    import torch

    torch.set_num_threads(resources.threads)
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)
    torch.set_grad_enabled(True)
    torch.autograd.set_detect_anomaly(False)
    torch.use_deterministic_algorithms(False)
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.deterministic = torch.backends.cudnn.benchmark = False
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (a plugin may use the old interface)
    torch.manual_seed(seed)
    device = machine.device(resources.gpu)
    if device is None:
        raise RuntimeError(
            f"a trial with resources.gpu={resources.gpu:g} needs CUDA, and {socket.gethostname()} has none"
        )
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return device
