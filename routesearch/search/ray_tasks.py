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

from routesearch.results.points import OperatingPoint
from routesearch.results.record import Outcome, TrialRecord
from routesearch.results.timing import Timing
from routesearch.search.trials import sound
from routesearch.search.weights import weights_path
from routesearch.search.worker import Grant, Work
from routesearch.utils.arrays import Arrays, write_arrays

_here: tuple[Any, Work] | None = None
"""This process's work, and the order that it was made for."""


@dataclass(frozen=True)
class Order:
    """What all tasks of a search have in common.

    Attributes:
        work: the class that does the work.
        packed, trunk: object references to what its constructor takes; ``trunk`` is None before there is one.
        folder: the study's folder, on the driver's machine.
        node: Ray's name for that machine.
    """

    work: type[Work]
    packed: Any
    trunk: Any
    folder: Path
    node: str
    grant: Grant


def pack_trial(record: TrialRecord) -> dict[str, Any]:
    """A trial as Tune's config: one text, so that nothing in it is taken for a search space of Tune's."""
    return {"trial": json.dumps(record.proposal())}


def unpack_trial(config: dict[str, Any]) -> TrialRecord:
    """The inverse of :func:`pack_trial`."""
    return TrialRecord.of(json.loads(config["trial"]))


def trainable(config: dict[str, Any], order: Order) -> dict[str, Any]:
    """What Tune runs: one trial; ``done`` spares Tune a second call that would learn nothing."""
    return train_trial(unpack_trial(config), order) | {"done": True}


def train_trial(trial: TrialRecord, order: Order) -> dict[str, Any]:
    """Train one trial, put its weights on the driver's disk, and hand back its outcome.

    The weights come first: an outcome that is known has weights that can be measured again.

    Returns:
        ``outcome`` (text); or ``disk``, why the weights could not be kept, which is no fault of the trial.
    """
    try:
        outcome, weights = _work(order).train(trial, order.grant)
        text = sound(outcome).dumps()
    except Exception as error:  # a plugin may raise anything, in its module's body as well
        return {"outcome": _failure(error).dumps()}
    try:
        if weights:
            _keep(order, trial.number, weights)
    except OSError as error:
        return {"disk": f"the weights of trial {trial.number} cannot be written: {error.strerror or error}"}
    return {"outcome": text}


def measure_on_test(
    trial: TrialRecord, knobs: Sequence[Mapping[str, Any]], weights: Arrays, order: Order
) -> list[dict[str, Any]]:
    """Operating points of a trained network on test data."""
    return [asdict(p) for p in _work(order).measure_on_test(trial, knobs, weights, order.grant)]


def time_point(
    trial: TrialRecord, point: OperatingPoint, weights: Arrays, batches: Sequence[int], order: Order
) -> list[Timing]:
    """An operating point of a trained network, timed at these batch sizes."""
    return _work(order).time(trial, point, weights, batches, order.grant)


def train_trunk(part: str, seed: int, order: Order) -> dict[str, Any]:
    """``trunk``, a part of it as arrays and facts; or ``outcome``: why there is none (text)."""
    try:
        return {"trunk": _work(order).train_trunk(part, seed, order.grant)}
    except Exception as error:
        return {"outcome": _failure(error).dumps()}


def _work(order: Order) -> Work:
    import ray

    global _here
    key = (order.work, order.packed, order.trunk)
    if _here is None or _here[0] != key:
        trunk = {} if order.trunk is None else ray.get(order.trunk)
        _here = key, order.work(ray.get(order.packed), trunk)
    return _here[1]


def _keep(order: Order, number: int, weights: Arrays) -> None:
    """Write the weights on the driver's machine: directly, or by a small task there."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    path = weights_path(order.folder, number)
    if ray.get_runtime_context().get_node_id() == order.node:
        write_arrays(path, weights)
        return
    there = NodeAffinitySchedulingStrategy(order.node, soft=False)
    ray.get(ray.remote(write_arrays).options(num_cpus=0, scheduling_strategy=there).remote(path, weights))


def _failure(error: Exception) -> Outcome:
    return Outcome.failure(f"{type(error).__name__}: {error}", traceback.format_exc())
