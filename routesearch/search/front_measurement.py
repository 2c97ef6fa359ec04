"""What is measured when all trials have ended: the front on test data, each point once, and its time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from routesearch.results.measurements import read_test_results, read_timings
from routesearch.results.points import OperatingPoint, Point, knob_key
from routesearch.search import ray_tasks
from routesearch.search.ray_workers import WorkerFailed, Workers
from routesearch.search.trial_weights import read_weights, weights_path

if TYPE_CHECKING:
    from routesearch.search.dispatcher import Dispatcher
    from routesearch.search.trials import Trials
    from routesearch.task.resolve import Task


def front_is_measured(trials: Trials) -> bool:
    """Whether nothing is left to measure on test data or to time."""
    return not _untested(trials) and not _untimed(trials)


def measure_front_on_test(dispatcher: Dispatcher, workers: Workers) -> None:
    """Measure the points that are shown on test data, each once and for ever."""
    trials = dispatcher.trials
    left = list(_untested(trials).items())
    running: dict[Any, int] = {}
    while left or running:
        while left and len(running) < max(1, workers.capacity()):  # weights wait on disk, not in memory
            number, points = left.pop()
            weights = read_weights(weights_path(trials.journal.dir, number))
            knobs = [dict(p.knob) for p in points]
            handle = workers.send(ray_tasks.measure_on_test, trials.record(number), knobs, weights)
            running[handle] = number
        for handle in workers.finished(running):
            number = running.pop(handle)
            try:
                found = workers.result(handle)
                trials.add_test_results(number, [OperatingPoint(**p) for p in found])
            except WorkerFailed as failure:
                dispatcher.note = f"trial {number} stays without test results: {failure}"
            dispatcher.changed()


def time_front(dispatcher: Dispatcher, workers: Workers) -> None:
    """Time the points that are shown: one at a time, while nothing else of the search runs."""
    trials = dispatcher.trials
    for point, batches in _untimed(trials):
        weights = read_weights(weights_path(trials.journal.dir, point.trial))
        measured = OperatingPoint(point.knob, point.accuracy, point.macs, point.route_share)
        record = trials.record(point.trial)
        try:
            found = workers.result(workers.send(ray_tasks.time_point, record, measured, weights, batches))
        except WorkerFailed as failure:
            dispatcher.note = f"a point of trial {point.trial} stays without timings: {failure}"
        else:
            trials.add_timings(point, _resources(trials.task), found)
        dispatcher.changed()


def _untested(trials: Trials) -> dict[int, list[Point]]:
    """Points that are shown, can be measured on test data and are not yet, by trial."""
    results = read_test_results(trials.journal.facts())
    known = {(number, knob_key(p.knob)) for number, points in results.items() for p in points}
    missing: dict[int, list[Point]] = {}
    for point in shown(trials):
        if point.key not in known and weights_path(trials.journal.dir, point.trial).is_file():
            missing.setdefault(point.trial, []).append(point)
    return missing


def shown(trials: Trials) -> list[Point]:
    """The validation front, and the best within the budget: with a latency budget it may lie off it."""
    best = trials.task.budget.best(trials.candidates)
    members = {point.key for point in trials.front}
    return trials.front if best is None or best.key in members else [*trials.front, best]


def _untimed(trials: Trials) -> list[tuple[Point, list[int]]]:
    """Points that are shown and can be timed, each with the batch sizes that are wanted and missing."""
    wanted = trials.task.config.latency.batch
    if not wanted:
        return []
    known, left = read_timings(trials.journal.facts(), _resources(trials.task)), []
    for point in shown(trials):
        missing = [batch for batch in wanted if batch not in known.get(point.key, {})]
        if missing and weights_path(trials.journal.dir, point.trial).is_file():
            left.append((point, missing))
    return left


def _resources(task: Task) -> dict[str, float]:
    """What timings depend on, of the study's settings: with others they are taken again."""
    return {"cpu": task.config.resources.cpu, "gpu": task.config.resources.gpu}
