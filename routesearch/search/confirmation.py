"""The front confirmed when all trials have ended: its trials trained again with other seeds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from routesearch.errors import Refusal, RunFailed
from routesearch.results.confirmed import (
    Retraining,
    best_of,
    check_retraining,
    confirmed_points,
    fact_name,
    read_retraining,
    read_retrainings,
)
from routesearch.results.points import OperatingPoint, Point, knob_key
from routesearch.results.reader import StudyResults
from routesearch.results.record import State, TrialRecord
from routesearch.search import ray_tasks
from routesearch.search.front_measurement import shown
from routesearch.search.ray_workers import WorkerFailed, Workers
from routesearch.search.sampler import derive
from routesearch.search.trial_weights import confirmed_path, delete_confirmed_except

if TYPE_CHECKING:
    from routesearch.search.dispatcher import Dispatcher
    from routesearch.search.trials import Trials


@dataclass(frozen=True)
class Missing:
    """A retraining that is still to be done.

    Attributes:
        trial: its number.
        number: of the retraining, from 0.
        members: the trial's points of the front that it is to confirm.
    """

    trial: int
    number: int
    members: tuple[Point, ...]


def members(trials: Trials) -> dict[int, list[Point]]:
    """Trial -> its points that are to be confirmed.

    A trial is confirmed where one of its points is within the budget; then all that it has on the front
    are, for that takes no further training, and a budget that is raised needs none either.
    """
    found: dict[int, list[Point]] = {}
    for point in shown(trials):
        found.setdefault(point.trial, []).append(point)
    return {trial: points for trial, points in found.items() if any(p.feasible for p in points)}


def unconfirmed(trials: Trials) -> list[Missing]:
    """What is to be trained, seed by seed: first every trial's first, so that a stop leaves no trial out.

    A retraining that failed is done: with the same seed it would fail again.
    """
    seeds = trials.task.config.confirm.seeds
    if seeds < 2:
        return []
    known, wanted, found = read_retrainings(trials.journal.facts()), members(trials), []
    for number in range(seeds):
        for trial, points in wanted.items():
            done = known.get(trial, {}).get(number)
            if done is not None and done.failed is not None:
                continue
            there = set() if done is None else {knob_key(p.member) for p in done.points}
            left = tuple(p for p in points if knob_key(p.knob) not in there)
            if left:
                found.append(Missing(trial, number, left))
    return found


def confirm_front(dispatcher: Dispatcher, workers: Workers) -> None:
    """Train what is missing, each with its outcome in the journal before anything else happens.

    Raises:
        RunFailed: the weights cannot be written.
    """
    trials = dispatcher.trials
    left = unconfirmed(trials)
    if not left:
        return
    total, done = len(left), 0
    dispatcher.confirming = 0, total
    dispatcher.changed()
    records = StudyResults(trials.task.config, trials.journal).records
    left.reverse()
    running: dict[Any, Missing] = {}
    while left or running:
        while left and len(running) < max(1, workers.capacity()):
            missing = left.pop()
            running[_send(missing, records[missing.trial], trials, workers)] = missing
        for handle in workers.finished(running):
            missing = running.pop(handle)
            try:
                _store(missing, workers.result(handle), dispatcher)
                _prune(trials, running.values())
            except WorkerFailed as failure:
                dispatcher.note = f"trial {missing.trial} stays with one seed less: {failure}"
            done += 1
            dispatcher.confirming = done, total
            dispatcher.changed()
    dispatcher.confirming = None


def seed_of(trials: Trials, trial: int, number: int) -> int:
    """Seed of a retraining: it follows from the search's, and no trial has it."""
    return derive(trials.task.config.search.seed, "confirm", trial, number) >> 1


def _send(missing: Missing, record: TrialRecord, trials: Trials, workers: Workers) -> Any:
    outcome = record.outcome
    assert outcome is not None, "a point of the front is of a trial that has ended"
    # A stopped trial is trained as far as it was: its points are of a short training.
    rung = len(outcome.rungs) if outcome.state is State.STOPPED else None
    again = replace(record.without_outcome(), seed=seed_of(trials, missing.trial, missing.number))
    measured = [OperatingPoint(p.knob, p.accuracy, p.macs, p.route_share) for p in missing.members]
    path = confirmed_path(trials.journal.dir, missing.trial, missing.number)
    return workers.send(ray_tasks.retrain, again, measured, rung, path)


def _store(missing: Missing, answer: dict[str, Any], dispatcher: Dispatcher) -> None:
    """Keep what a retraining gave."""
    if "disk" in answer:
        raise RunFailed(str(answer["disk"]))
    journal, name = dispatcher.trials.journal, fact_name(missing.trial, missing.number)
    found = _read(name, answer["retraining"], seed_of(dispatcher.trials, missing.trial, missing.number))
    if found.failed is not None:
        dispatcher.note = f"a retraining of trial {missing.trial} failed: {found.failed}"
    earlier = journal.get(name)
    whole = found.merged(None if earlier is None else read_retraining(earlier))
    journal.set(name, whole.as_fact())


def _read(name: str, fact: Any, seed: int) -> Retraining:
    """What a worker answered; a failure where numbers in it are out of range."""
    try:
        check_retraining(name, fact)
    except Refusal as refusal:
        return Retraining(seed, failed=str(refusal))
    return read_retraining(fact)


def _prune(trials: Trials, running: Iterable[Missing]) -> None:
    """Keep the weights of the best retraining of each point that is shown, and those about to be stored."""
    known = confirmed_points(trials.journal.facts())
    kept = {(missing.trial, missing.number) for missing in running}
    for point in shown(trials):
        each = known.get(point.key)
        if each:
            measured = {n: retraining.points[place].validation for n, (retraining, place) in each.items()}
            kept.add((point.trial, best_of(measured, point.macs)))
    delete_confirmed_except(trials.journal.dir, kept)
