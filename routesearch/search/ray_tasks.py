"""The functions that Ray runs in worker processes: a trial, a measurement, a timing, the trunk.

A worker process lives as long as the search and runs one trial after another, so what trials share is
set up once in each.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from routesearch.errors import described
from routesearch.results.points import OperatingPoint
from routesearch.results.record import Outcome, TrialRecord
from routesearch.results.timing import Timing
from routesearch.search.trial_weights import weights_path
from routesearch.search.trials import validated_outcome
from routesearch.search.worker import TrialRunner, WorkerResources
from routesearch.utils.arrays import Arrays, write_arrays

_here: tuple[Any, TrialRunner] | None = None
"""This process's runner, and the job that it was made for."""


@dataclass(frozen=True)
class WorkerJob:
    """What all tasks of a search have in common.

    Attributes:
        runner: the class that trains, measures and times.
        packed, trunk: object references to what its constructor takes; ``trunk`` is None before there is one.
        folder: the study's folder, on the driver's machine.
        node: Ray's name for that machine.
    """

    runner: type[TrialRunner]
    packed: Any
    trunk: Any
    folder: Path
    node: str
    resources: WorkerResources


def pack_trial(record: TrialRecord) -> dict[str, Any]:
    """A trial as Tune's config: one text, so that nothing in it is taken for a search space of Tune's."""
    return {"trial": json.dumps(record.proposal())}


def unpack_trial(config: dict[str, Any]) -> TrialRecord:
    """The inverse of :func:`pack_trial`."""
    return TrialRecord.of(json.loads(config["trial"]))


def trainable(config: dict[str, Any], job: WorkerJob) -> dict[str, Any]:
    """What Tune runs: one trial; ``done`` spares Tune a second call that would learn nothing."""
    return train_trial(unpack_trial(config), job) | {"done": True}


def train_trial(trial: TrialRecord, job: WorkerJob) -> dict[str, Any]:
    """Train one trial, put its weights on the driver's disk, and hand back its outcome.

    The weights come first: an outcome that is known has weights that can be measured again.

    Returns:
        ``outcome`` (text); or ``disk``, why the weights could not be kept, which is no fault of the trial.
    """
    try:
        outcome, weights = _runner(job).train(trial, job.resources)
        text = validated_outcome(outcome).dumps()
    except Exception as error:  # a plugin may raise anything, in its module's body as well
        return {"outcome": _failure(error).dumps()}
    try:
        if weights:
            _keep(job, trial.number, weights)
    except OSError as error:
        return {"disk": f"the weights of trial {trial.number} cannot be written: {error.strerror or error}"}
    return {"outcome": text}


def measure_on_test(
    trial: TrialRecord, knobs: Sequence[Mapping[str, Any]], weights: Arrays, job: WorkerJob
) -> list[dict[str, Any]]:
    """Operating points of a trained network on test data."""
    return [asdict(p) for p in _runner(job).measure_on_test(trial, knobs, weights, job.resources)]


def time_point(
    trial: TrialRecord, point: OperatingPoint, weights: Arrays, batches: Sequence[int], job: WorkerJob
) -> list[Timing]:
    """An operating point of a trained network, timed at these batch sizes."""
    return _runner(job).time(trial, point, weights, batches, job.resources)


def train_trunk_part(part: str, seed: int, job: WorkerJob) -> dict[str, Any]:
    """``trunk``, a part of it as arrays and facts; or ``outcome``: why there is none (text)."""
    try:
        return {"trunk": _runner(job).train_trunk_part(part, seed, job.resources)}
    except Exception as error:
        return {"outcome": _failure(error).dumps()}


def _runner(job: WorkerJob) -> TrialRunner:
    import ray

    global _here
    key = (job.runner, job.packed, job.trunk)
    if _here is None or _here[0] != key:
        trunk = {} if job.trunk is None else ray.get(job.trunk)
        _here = key, job.runner(ray.get(job.packed), trunk)
    return _here[1]


def _keep(job: WorkerJob, number: int, weights: Arrays) -> None:
    """Write the weights on the driver's machine: directly, or by a small task there."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    path = weights_path(job.folder, number)
    if ray.get_runtime_context().get_node_id() == job.node:
        write_arrays(path, weights)
        return
    there = NodeAffinitySchedulingStrategy(job.node, soft=False)
    ray.get(ray.remote(write_arrays).options(num_cpus=0, scheduling_strategy=there).remote(path, weights))


def _failure(error: Exception) -> Outcome:
    return Outcome.failure(described(error), traceback.format_exc())
