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
import numpy.typing as npt

from routesearch.results.points import OperatingPoint
from routesearch.results.record import Outcome, TrialRecord
from routesearch.results.timing import Timing
from routesearch.utils import machine

if TYPE_CHECKING:
    import torch

    from routesearch.methods.base import Trunk
    from routesearch.search.trial import TrialSpec, Weights
    from routesearch.task.resolve import Task


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
        trunk: part -> what :meth:`read_trunk` gave; empty where no method needs one, and for
            :meth:`train_trunk`.
    """

    @abstractmethod
    def __init__(self, packed: Any, trunk: Mapping[str, Any]) -> None: ...

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
    def time(
        self,
        trial: TrialRecord,
        point: OperatingPoint,
        weights: Weights,
        batches: Sequence[int],
        grant: Grant,
    ) -> list[Timing]:
        """A trained network at an operating point, timed at these batch sizes."""

    @abstractmethod
    def train_trunk(self, part: str, seed: int, grant: Grant) -> Any:
        """A part of what trials share and is trained once: plain values and numpy arrays.

        Args:
            part: a key of :meth:`Task.trunk_files`; each has a file of its own.
        """

    @classmethod
    @abstractmethod
    def keep_trunk(cls, trunk: Any, path: Path) -> None:
        """In the driver: write what :meth:`train_trunk` made."""

    @classmethod
    @abstractmethod
    def read_trunk(cls, path: Path) -> Any:
        """In the driver: read it back."""


class TrialWork(Work):
    """The real thing: networks, by :mod:`routesearch.search.trial`."""

    def __init__(self, packed: Any, trunk: Mapping[str, Any]) -> None:
        from routesearch.data.base import Data
        from routesearch.methods.base import Trunk
        from routesearch.task.resolve import CONFUSION, NETWORK, resolve

        self.data = Data.from_numpy(packed["data"])
        self.task = resolve(packed["config"], packed["facts"])
        self.weights = packed["weights"]
        self.trunk: Trunk | None = None
        if trunk:
            network, confusion = trunk.get(NETWORK, {}), trunk.get(CONFUSION, {})
            self.trunk = Trunk(
                _copied(network.get("state", {})),
                network.get("accuracy", 0.0),
                confusion.get("confusion", ()),
            )

    @classmethod
    def pack(cls, task: Task) -> Any:
        weights = None if task.weights is None else {name: t.numpy() for name, t in task.weights.items()}
        facts = task.shape, task.classes
        return {"config": task.config, "facts": facts, "data": task.data.to_numpy(), "weights": weights}

    def train(self, trial: TrialRecord, grant: Grant) -> tuple[Outcome, Weights]:
        from routesearch.search.trial import run_trial

        device = _prepare(trial.seed, grant)
        return run_trial(_spec(trial), self.task, self.data, self.trunk, device)

    def measure(
        self, trial: TrialRecord, knobs: Sequence[Mapping[str, Any]], weights: Weights, grant: Grant
    ) -> list[OperatingPoint]:
        from routesearch.search.trial import measure_again

        device = _prepare(trial.seed, grant)
        return measure_again(_spec(trial), knobs, weights, self.task, self.data, self.trunk, device)

    def time(
        self,
        trial: TrialRecord,
        point: OperatingPoint,
        weights: Weights,
        batches: Sequence[int],
        grant: Grant,
    ) -> list[Timing]:
        from routesearch.search.trial import time_again

        device = _prepare(trial.seed, grant)
        return time_again(_spec(trial), point, weights, self.task, self.trunk, device, batches)

    def train_trunk(self, part: str, seed: int, grant: Grant) -> Any:
        from routesearch.methods.base import Trunk
        from routesearch.task.resolve import CONFUSION
        from routesearch.training.confusion import measure_confusion
        from routesearch.training.trunk import train_trunk

        device = _prepare(seed, grant)
        backbone, recipe = self.task.backbone, self.task.config.training
        if part == CONFUSION:
            confusion, macs = measure_confusion(backbone, self.data, recipe, seed=seed, device=device)
            return _packed(Trunk({}, 0.0, confusion), macs)
        weights = None if self.weights is None else _copied(self.weights)
        return _packed(*train_trunk(backbone, self.data, recipe, seed=seed, device=device, weights=weights))

    @classmethod
    def keep_trunk(cls, trunk: Any, path: Path) -> None:
        from routesearch.methods.base import Trunk
        from routesearch.training.trunk import save_trunk

        whole = Trunk(_copied(trunk["state"]), trunk["accuracy"], trunk["confusion"])
        save_trunk(whole, trunk["macs"], path)

    @classmethod
    def read_trunk(cls, path: Path) -> Any:
        from routesearch.training.trunk import load_trunk

        return _packed(*load_trunk(path))


def _packed(trunk: Trunk, macs: int) -> dict[str, Any]:
    """As plain values and numpy arrays."""
    state = {name: tensor.numpy() for name, tensor in trunk.state.items()}
    return {"state": state, "accuracy": trunk.accuracy, "confusion": trunk.confusion, "macs": macs}


def _copied(arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, torch.Tensor]:
    """As tensors; copied, because shared memory cannot be written, and torch warns of it."""
    import torch

    return {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}


def _spec(trial: TrialRecord) -> TrialSpec:
    from routesearch.search.trial import TrialSpec

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
