"""What the workers of a search do: an interface, and the real thing behind it.

The machinery around it (dispatcher, remote, driver) never looks inside, so it can be run, tested and
timed with work that takes no time.
"""

from __future__ import annotations

import random
import socket
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from routesearch import machine
from routesearch.points import OperatingPoint
from routesearch.record import Outcome, TrialRecord

if TYPE_CHECKING:
    import torch

    from routesearch.task import Task
    from routesearch.trial import TrialSpec, Weights


@dataclass(frozen=True)
class Grant:
    """What Ray gives one trial: cores (its torch threads) and GPUs (fractions share one)."""

    cpu: float
    gpu: float

    @property
    def threads(self) -> int:
        return machine.threads(self.cpu)


class Work(ABC):
    """What a worker process does; one object in each, made at its first trial.

    Args:
        packed: what :meth:`pack` made; arrays in it lie in shared memory and cannot be written.
        trunk: what :meth:`train_trunk` or :meth:`read_trunk` made; None where no method needs one.
    """

    @abstractmethod
    def __init__(self, packed: Any, trunk: Any) -> None: ...

    @classmethod
    @abstractmethod
    def pack(cls, task: Task) -> Any:
        """In the driver, once: what every worker needs, plain values and numpy arrays."""

    @abstractmethod
    def train(self, trial: TrialRecord, grant: Grant) -> tuple[Outcome, Weights]:
        """One trial, and the weights of its network (none for a failure)."""

    @abstractmethod
    def measure(
        self, trial: TrialRecord, knobs: Sequence[Mapping[str, Any]], weights: Weights, grant: Grant
    ) -> list[OperatingPoint]:
        """A trained network at these knobs on test data."""

    @abstractmethod
    def train_trunk(self, seed: int, grant: Grant) -> Any:
        """What trials share and is trained once: plain values and numpy arrays."""

    @classmethod
    @abstractmethod
    def keep_trunk(cls, trunk: Any, path: Path) -> None:
        """In the driver: write what :meth:`train_trunk` made."""

    @classmethod
    @abstractmethod
    def read_trunk(cls, path: Path) -> Any:
        """In the driver: read it back."""


class TrialWork(Work):
    """The real thing: networks, by :mod:`routesearch.trial`."""

    def __init__(self, packed: Any, trunk: Any) -> None:
        import torch

        from routesearch.data.base import Data
        from routesearch.method import Trunk
        from routesearch.task import resolve

        self.data = Data.from_numpy(packed["data"])
        self.task = resolve(packed["config"], packed["facts"])
        self.trunk: Trunk | None = None
        if trunk is not None:  # copied: shared memory cannot be written, and torch warns of it
            state = {name: torch.from_numpy(array.copy()) for name, array in trunk["state"].items()}
            self.trunk = Trunk(state, trunk["accuracy"])

    @classmethod
    def pack(cls, task: Task) -> Any:
        return {"config": task.config, "facts": (task.shape, task.classes), "data": task.data.to_numpy()}

    def train(self, trial: TrialRecord, grant: Grant) -> tuple[Outcome, Weights]:
        from routesearch.trial import run_trial

        device = _prepare(trial.seed, grant)
        return run_trial(_spec(trial), self.task, self.data, self.trunk, device)

    def measure(
        self, trial: TrialRecord, knobs: Sequence[Mapping[str, Any]], weights: Weights, grant: Grant
    ) -> list[OperatingPoint]:
        from routesearch.trial import measure_again

        device = _prepare(trial.seed, grant)
        return measure_again(_spec(trial), knobs, weights, self.task, self.data, self.trunk, device)

    def train_trunk(self, seed: int, grant: Grant) -> Any:
        from routesearch.trunk import train_trunk

        device = _prepare(seed, grant)
        recipe = self.task.config.training
        trunk, macs = train_trunk(self.task.backbone, self.data, recipe, seed=seed, device=device)
        state = {name: tensor.cpu().numpy() for name, tensor in trunk.state.items()}
        return {"state": state, "accuracy": trunk.accuracy, "macs": macs}

    @classmethod
    def keep_trunk(cls, trunk: Any, path: Path) -> None:
        import torch

        from routesearch.method import Trunk
        from routesearch.trunk import save_trunk

        state = {name: torch.from_numpy(np.array(array)) for name, array in trunk["state"].items()}
        save_trunk(Trunk(state, trunk["accuracy"]), trunk["macs"], path)

    @classmethod
    def read_trunk(cls, path: Path) -> Any:
        from routesearch.trunk import load_trunk

        trunk, macs = load_trunk(path)
        state = {name: tensor.numpy() for name, tensor in trunk.state.items()}
        return {"state": state, "accuracy": trunk.accuracy, "macs": macs}


def _spec(trial: TrialRecord) -> TrialSpec:
    from routesearch.trial import TrialSpec

    return TrialSpec(trial.number, trial.method, trial.config, trial.seed)


def _prepare(seed: int, grant: Grant) -> torch.device:
    """Leave nothing of the process's earlier trials: threads, random states, cached GPU memory.

    Raises:
        RuntimeError: for a GPU that was granted and is not there; never a silent fall back to the CPU.
    """
    import torch

    torch.set_num_threads(grant.threads)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (a plugin may use the old interface)
    torch.manual_seed(seed)
    device = machine.device(grant.gpu)
    if device is None:
        raise RuntimeError(
            f"a trial with resources.gpu={grant.gpu:g} needs CUDA, and {socket.gethostname()} has none"
        )
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return device
