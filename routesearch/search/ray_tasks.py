"""The functions that Ray runs in worker processes: a trial, a measurement, a timing, the trunk.

A worker process lives as long as the search and runs one trial after another, so what trials share is
set up once in each.
"""

from __future__ import annotations

import json
import platform
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from routesearch.errors import Refusal, described, headline
from routesearch.errors.texts import one_line
from routesearch.results.points import OperatingPoint
from routesearch.results.record import State, TrialRecord
from routesearch.results.timing import Timing
from routesearch.search.last_words import announce, last_words, log_of_this_process
from routesearch.search.trial_weights import weights_path
from routesearch.search.worker import TrialRunner, WorkerResources, failure_of
from routesearch.utils.arrays import Arrays, write_arrays

_here: tuple[Any, TrialRunner] | None = None
"""This process's runner, and the job that it was made for."""


def versions() -> dict[str, str]:
    """Versions that must be the same wherever trials are trained: Python's, torch's and this package's.

    What follows ``+`` is left out: the driver may have a torch without CUDA.
    """
    found = {"Python": ".".join(platform.python_version_tuple()[:2])}
    for package in ("routesearch", "torch"):
        try:
            found[package] = version(package).partition("+")[0]
        except PackageNotFoundError:
            found[package] = "none"
    return found


@dataclass(frozen=True)
class WorkerJob:
    """What all tasks of a search have in common.

    Attributes:
        runner: the class that trains, measures and times.
        packed, trunk: object references to what its constructor takes; ``trunk`` is None before there is one.
        folder: the study's folder, on the driver's machine.
        node: Ray's name for that machine.
        versions: of the driver; a worker's must be the same.
    """

    runner: type[TrialRunner]
    packed: Any
    trunk: Any
    folder: Path
    node: str
    resources: WorkerResources
    versions: Mapping[str, str] = field(default_factory=versions)


def pack_trial(record: TrialRecord) -> dict[str, Any]:
    """A trial as Tune's config: one text, so that nothing in it is taken for a search space of Tune's."""
    return {"trial": json.dumps(record.proposal())}


def unpack_trial(config: dict[str, Any]) -> TrialRecord:
    """The inverse of :func:`pack_trial`."""
    return TrialRecord.of(json.loads(config["trial"]))


def trial_worker() -> Any:
    """The class whose objects Tune runs: a worker process, one trial after another.

    A trial is some steps: whether this process is set up for it, which it says at once when it is, and the
    training from rung to rung. A process that cannot be set up does not go on: it keeps its place on its
    machine, so that no other trial gets there, until the driver ends it. One whose trial failed gets no other
    trial: who knows what it left behind.
    """
    from ray.tune import Trainable

    class TrialWorker(Trainable):  # type: ignore[misc, unused-ignore]
        def setup(self, config: dict[str, Any], job: Any = None) -> None:
            announce()
            self.job, self.found, self.failed = job, "", False
            self.training: Iterator[dict[str, Any]] | None = None

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.config, self.found, self.training = new_config, "", None
            return True

        def step(self) -> dict[str, Any]:
            if self.failed:
                raise RuntimeError("a worker whose trial failed is not used again")
            trial = unpack_trial(self.config)
            if not self.found:
                self.found = json.dumps(set_up(self.job))
                return {"ready": self.found}
            while obstacle(json.loads(self.found), trial.method):
                time.sleep(3600)
            if self.training is None:
                self.training = train_trial(trial, self.job)
            answer = next(self.training)
            self.failed = answer.pop("failed", False)
            return answer | {"done": not self.failed and "rung" not in answer}

    return TrialWorker


def set_up(job: WorkerJob) -> dict[str, Any]:
    """Make this process ready for trials, where it can be, and say where it is.

    Returns:
        ``node``, ``host``, ``log`` of its stderr; ``missing``: method -> why this process cannot run it;
        ``problem``: why it can run none, or None.
    """
    import ray

    node, host = ray.get_runtime_context().get_node_id(), socket.gethostname()
    found = {"node": node, "host": host, "log": log_of_this_process()}
    try:
        return found | {"missing": dict(_runner(job).missing), "problem": None}
    except (Exception, SystemExit, KeyboardInterrupt) as error:  # a plugin's file may raise anything
        said = str(error) if isinstance(error, Refusal) else described(error)
        return found | {"missing": {}, "problem": one_line(said)}


def read_set_up(answer: Any) -> dict[str, Any]:
    """What :func:`set_up` answered; a worker of another version may answer anything."""
    try:
        found: dict[str, Any] = json.loads(answer)
        for key, kind in (("node", str), ("host", str), ("missing", dict)):
            if not isinstance(found[key], kind):
                raise TypeError(f"{key} must be of type {kind.__name__}")
        if not isinstance(found["problem"], str | None):
            raise TypeError("problem must be a text")
    except Exception as error:  # of another version
        problem = f"its answer cannot be read: {described(error)}"
        return {"node": "?", "host": "a worker", "log": None, "missing": {}, "problem": problem}
    return found


def why_it_ended(worker: Mapping[str, Any], job: WorkerJob) -> str | None:
    """What a dead worker wrote of its end, read on its machine; None where that is not known."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    if not isinstance(log := worker.get("log"), str):
        return None
    if worker["node"] == job.node:
        return last_words(log)
    there = NodeAffinitySchedulingStrategy(worker["node"], soft=False)
    try:
        asked = (
            ray.remote(last_words).options(num_cpus=0, scheduling_strategy=there, max_retries=0).remote(log)
        )
        answer: str | None = ray.get(asked, timeout=10)
    except ray.exceptions.RayError:  # GetTimeoutError too: the machine may be gone
        return None
    return answer


def obstacle(found: Mapping[str, Any], method: str) -> str | None:
    """Why a process that is set up so (:func:`set_up`) cannot run trials of a method; None where it can."""
    problem: str | None = found["problem"]
    return problem or found["missing"].get(method)


def train_trial(trial: TrialRecord, job: WorkerJob) -> Iterator[dict[str, Any]]:
    """Train one trial from rung to rung, each time with its weights on the driver's disk.

    The weights come first: an outcome that is known has weights that can be measured again.

    Yields:
        ``rung``, what the outcome is if it is stopped here (text); at last ``outcome``, and ``failed`` where
        it is a failure; or ``disk``, why the weights could not be kept, which is no fault of the trial.
    """
    try:
        for outcome, weights in _runner(job).train(trial, job.resources):
            outcome = outcome.validated()
            text = outcome.dumps()
            try:
                if weights:
                    _keep(job, weights_path(job.folder, trial.number), weights)
            except OSError as error:
                why = error.strerror or headline(error)  # another machine's comes with its traceback
                yield {"disk": f"the weights of trial {trial.number} cannot be written: {why}"}
                return
            if outcome.state is not State.STOPPED:
                yield {"outcome": text, "failed": outcome.state is State.FAILED}
                return
            yield {"rung": text}
    except (Exception, SystemExit, KeyboardInterrupt) as error:  # a plugin may raise anything
        yield {"outcome": failure_of(error).dumps(), "failed": True}


def measure_on_test(
    trial: TrialRecord, knobs: Sequence[Mapping[str, Any]], weights: Arrays, job: WorkerJob
) -> list[dict[str, Any]]:
    """Operating points of a trained network on test data."""
    return [asdict(p) for p in _runner(job).measure_on_test(trial, knobs, weights, job.resources)]


def calibrate(
    trial: TrialRecord, knobs: Sequence[Mapping[str, Any]], weights: Arrays, job: WorkerJob
) -> list[Any]:
    """Operating points beside the whole network, on images that chose nothing, as a fact."""
    return _runner(job).calibrate(trial, knobs, weights, job.resources).as_fact()


def retrain(
    trial: TrialRecord, members: Sequence[OperatingPoint], rung: int | None, path: Path, job: WorkerJob
) -> dict[str, Any]:
    """``retraining``: what a trial with another seed gave, its weights on the driver's disk; or ``disk``.

    Args:
        path: of the weights, which come first.
    """
    found, weights = _runner(job).retrain(trial, members, rung, job.resources)
    try:
        if weights:
            _keep(job, path, weights)
    except OSError as error:
        return {"disk": f"the weights of a retraining cannot be written: {error.strerror or headline(error)}"}
    return {"retraining": found.as_fact()}


def time_point(
    trial: TrialRecord, point: OperatingPoint, weights: Arrays, batches: Sequence[int], job: WorkerJob
) -> list[Timing]:
    """An operating point of a trained network, timed at these batch sizes."""
    return _runner(job).time(trial, point, weights, batches, job.resources)


def train_trunk_part(part: str, seed: int, job: WorkerJob) -> dict[str, Any]:
    """``trunk``, a part of it as arrays and facts; or ``outcome``: why there is none (text)."""
    try:
        return {"trunk": _runner(job).train_trunk_part(part, seed, job.resources)}
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        return {"outcome": failure_of(error).dumps()}


def _runner(job: WorkerJob) -> TrialRunner:
    import ray

    global _here
    key = (job.runner, job.packed, job.trunk)
    if _here is None or _here[0] != key:
        _check_versions(job.versions, versions())
        trunk = {} if job.trunk is None else ray.get(job.trunk)
        _here = key, job.runner(ray.get(job.packed), trunk)
    return _here[1]


def _keep(job: WorkerJob, path: Path, weights: Arrays) -> None:
    """Write the weights on the driver's machine: directly, or by a small task there."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    if ray.get_runtime_context().get_node_id() == job.node:
        write_arrays(path, weights)
        return
    there = NodeAffinitySchedulingStrategy(job.node, soft=False)
    ray.get(ray.remote(write_arrays).options(num_cpus=0, scheduling_strategy=there).remote(path, weights))


def _check_versions(wanted: Mapping[str, str], own: Mapping[str, str]) -> None:
    """Raise Refusal where this process has other versions than the driver."""
    differing = [
        f"{name} {own.get(name)}, not {version}"
        for name, version in wanted.items()
        if own.get(name) != version
    ]
    if differing:
        raise Refusal(f"versions must be the same as where the search runs, got {'; '.join(differing)}")
