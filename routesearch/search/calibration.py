"""The front's trials beside their whole networks, on images that chose nothing, after the search."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from routesearch.errors import Refusal
from routesearch.results.calibrated import CALIBRATED, check_calibration, read_calibrations
from routesearch.results.reader import StudyResults
from routesearch.search import ray_tasks
from routesearch.search.front_measurement import shown
from routesearch.search.ray_workers import WorkerFailed, Workers
from routesearch.search.trial_weights import read_weights, weights_path

if TYPE_CHECKING:
    from routesearch.search.dispatcher import Dispatcher
    from routesearch.search.trials import Trials


def uncalibrated(trials: Trials) -> list[int]:
    """Trials on the front that can be calibrated and are not yet; none where no images are set aside."""
    inputs = trials.journal.get("inputs") or {}
    if not inputs.get("images", {}).get("calibration"):
        return []
    known = read_calibrations(trials.journal.facts())
    numbers = sorted({p.trial for p in shown(trials)} - known.keys())
    return [number for number in numbers if weights_path(trials.journal.dir, number).is_file()]


def calibrate_front(dispatcher: Dispatcher, workers: Workers) -> None:
    """Compare what is missing, each trial once and for ever."""
    trials = dispatcher.trials
    left = uncalibrated(trials)
    if not left:
        return
    records = StudyResults(trials.task.config, trials.journal).records
    running: dict[Any, int] = {}
    while left or running:
        while left and len(running) < max(1, workers.capacity()):  # weights wait on disk, not in memory
            number = left.pop()
            outcome = records[number].outcome
            knobs = [] if outcome is None else [dict(p.knob) for p in outcome.points]
            weights = read_weights(weights_path(trials.journal.dir, number))
            handle = workers.send(ray_tasks.calibrate, records[number].without_outcome(), knobs, weights)
            running[handle] = number
        for handle in workers.finished(running):
            number = running.pop(handle)
            name = f"{CALIBRATED}{number}"
            try:
                fact = workers.result(handle)
                check_calibration(name, fact)
                trials.journal.set(name, fact)
            except (WorkerFailed, Refusal) as failure:
                dispatcher.note = f"trial {number} stays without calibration: {failure}"
            dispatcher.changed()
