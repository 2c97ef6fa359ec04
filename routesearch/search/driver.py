"""A search from beginning to end: lock, Ray, trunk, trials, and the front measured on test data and timed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from routesearch.errors import Refusal, RunFailed
from routesearch.results.facts import read_test_results, read_timings
from routesearch.results.journal import Journal
from routesearch.results.points import OperatingPoint, Point, knob_key
from routesearch.results.reader import StudyResults
from routesearch.results.record import Outcome
from routesearch.search import ray_tasks
from routesearch.search.dispatcher import Dispatcher, Observer, Snapshot
from routesearch.search.interrupt import Interrupts
from routesearch.search.opening import open_trials
from routesearch.search.ray_cluster import Capacity, check_fits, connect, environment, first_line
from routesearch.search.ray_tasks import Order
from routesearch.search.ray_tune import Abort, Bridge, make_callback, make_searcher
from routesearch.search.trials import Trials
from routesearch.search.weights import read_weights, weights_path
from routesearch.search.worker import Grant, TrialWork, Work
from routesearch.utils.arrays import Stored, read_arrays, write_arrays

if TYPE_CHECKING:
    from routesearch.task.resolve import Task

_TUNE = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no files for each trial
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is ours
    "TUNE_GLOBAL_CHECKPOINT_S": "1e9",  # nothing of Tune's state is needed: the journal has it
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # the old output can be silenced
    "TUNE_MAX_PENDING_TRIALS_PG": "1000",  # our searcher hands out no more than fit
    "TUNE_WARN_SLOW_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "1e9",
}
_POLL = 0.2  # seconds between looks at a signal while something else is waited for


def run_search(
    task: Task,
    *,
    address: str | None = None,
    observers: Sequence[Observer] = (),
    on_progress: Callable[[Snapshot], None] | None = None,
    work: type[Work] = TrialWork,
) -> StudyResults:
    """Run or continue a study up to its total of trials, then measure its front on test data.

    At the end the front is timed, where the study wants that.

    Args:
        task: the resolved study, its pre-flight done (:meth:`Task.preflight`).
        address: a running Ray cluster (``auto`` or ``HOST:PORT``) that this machine belongs to; None
            starts Ray on this machine alone.
        observers: called at the start, for every trial that ended, and at the end.
        on_progress: called after every change.
        work: what workers do; an importable class.

    Returns:
        What the study has found, over all runs.

    Raises:
        Refusal: the study cannot run as it stands; nothing was started.
        RunFailed: it ended early (a full disk, Ray lost, no trunk); finished trials are kept.
        KeyboardInterrupt: for the first SIGINT or SIGTERM; trials that ran are left for the next run.
    """
    if address is not None and "://" in address:
        raise Refusal(
            f"--address must be auto or HOST:PORT, got {address}: Ray Client would move the search to another"
            " machine; run it on a node of the cluster"
        )
    packed = work.pack(task)  # before anything is made on disk: data may be missing
    with Journal.open_for_writing(task.dir) as journal:
        trials = _open_trials(journal, task, observers)
        interrupts = Interrupts()
        check = interrupts.check
        config, resources = task.config.search, task.config.resources
        dispatcher = Dispatcher(
            trials, config.trials, observers=observers, on_progress=on_progress, check=check
        )
        if not dispatcher.done or _untested(trials) or _untimed(trials):
            # Entered twice: Ray puts a handler of its own in place.
            with interrupts, connect(address, resources.cpu) as scratch, interrupts:
                grant = Grant(resources.cpu, resources.gpu)
                check_fits(grant)
                check()
                order = _with_trunk(task, _order(task, packed, work, grant), check)
                dispatcher.start(config.time_limit)
                if not dispatcher.done:
                    _run_trials(dispatcher, order, check, scratch)
                _measure_front_on_test(dispatcher, order, check)
                _time_front(dispatcher, order, check)
        results = StudyResults(task.config, journal)
        for observer in observers:
            observer.search_ended(results)
        dispatcher.changed()
        return results


def _open_trials(journal: Journal, task: Task, observers: Sequence[Observer]) -> Trials:
    """The study's trials; the curves of earlier runs do not stay in memory."""
    trials, results = open_trials(journal, task)
    for observer in observers:
        observer.search_started(results)
    return trials


def _run_trials(dispatcher: Dispatcher, order: Order, check: Callable[[], None], scratch: Path) -> None:
    from ray import exceptions, tune

    bridge = Bridge(dispatcher, Capacity(order.grant), check)
    resources = {"cpu": order.grant.cpu, "gpu": order.grant.gpu}
    with environment(_TUNE):
        try:
            # tune.run, not Tuner: a Tuner pickles its searcher and callbacks to resume from, and ours
            # hold the journal.
            tune.run(
                tune.with_resources(tune.with_parameters(ray_tasks.trainable, order=order), resources),
                name="search",
                search_alg=make_searcher(bridge),
                num_samples=-1,
                callbacks=[make_callback(bridge)],
                reuse_actors=True,  # a fresh worker costs seconds: it imports torch
                storage_path=str(scratch),
                trial_name_creator=lambda trial: trial.trial_id,
                trial_dirname_creator=lambda trial: trial.trial_id,
                raise_on_failed_trial=False,
                verbose=0,
            )
        except Abort as abort:
            raise abort.reason from abort.reason.__cause__
        except (tune.TuneError, exceptions.RayError) as error:
            raise RunFailed(
                f"Ray Tune ended the search: {first_line(error)}; run it again to continue"
            ) from error


def _measure_front_on_test(dispatcher: Dispatcher, order: Order, check: Callable[[], None]) -> None:
    """Measure the points of the validation front on test data, each once and for ever."""
    import ray

    trials = dispatcher.trials
    measure = ray.remote(ray_tasks.measure_on_test).options(
        num_cpus=order.grant.cpu, num_gpus=order.grant.gpu, max_retries=1
    )
    left = list(_untested(trials).items())
    running: dict[Any, int] = {}
    capacity = Capacity(order.grant)
    while left or running:
        check()
        while left and len(running) < max(1, capacity()):  # weights wait on disk, not in memory
            number, points = left.pop()
            weights = read_weights(weights_path(trials.journal.dir, number))
            knobs = [dict(p.knob) for p in points]
            running[measure.remote(trials.record(number), knobs, weights, order)] = number
        ready, _ = ray.wait(list(running), timeout=_POLL)
        for task in ready:
            number = running.pop(task)
            try:
                trials.add_test_results(number, [OperatingPoint(**p) for p in ray.get(task)])
            except ray.exceptions.RayError as error:
                dispatcher.note = f"trial {number} stays without test results: {first_line(error)}"
            dispatcher.changed()


def _untested(trials: Trials) -> dict[int, list[Point]]:
    """Points that are shown, can be measured on test data and are not yet, by trial."""
    results = read_test_results(trials.journal.facts())
    known = {(number, knob_key(p.knob)) for number, points in results.items() for p in points}
    missing: dict[int, list[Point]] = {}
    for point in _shown(trials):
        if point.key not in known and weights_path(trials.journal.dir, point.trial).is_file():
            missing.setdefault(point.trial, []).append(point)
    return missing


def _shown(trials: Trials) -> list[Point]:
    """The validation front, and the best within the budget: with a latency budget it may lie off it."""
    best = trials.task.budget.best(trials.candidates)
    members = {point.key for point in trials.front}
    return trials.front if best is None or best.key in members else [*trials.front, best]


def _time_front(dispatcher: Dispatcher, order: Order, check: Callable[[], None]) -> None:
    """Time the points that are shown: one at a time, while nothing else of the search runs."""
    import ray

    trials = dispatcher.trials
    time_point = ray.remote(ray_tasks.time_point).options(
        num_cpus=order.grant.cpu, num_gpus=order.grant.gpu, max_retries=1
    )
    for point, batches in _untimed(trials):
        weights = read_weights(weights_path(trials.journal.dir, point.trial))
        measured = OperatingPoint(point.knob, point.accuracy, point.macs, point.route_share)
        try:
            answer = time_point.remote(trials.record(point.trial), measured, weights, batches, order)
            found = _wait(answer, check)
        except RunFailed as failure:
            dispatcher.note = f"a point of trial {point.trial} stays without timings: {failure}"
        else:
            trials.add_timings(point, _resources(trials.task), found)
        dispatcher.changed()


def _untimed(trials: Trials) -> list[tuple[Point, list[int]]]:
    """Points that are shown and can be timed, each with the batch sizes that are wanted and missing."""
    wanted = trials.task.config.latency.batch
    if not wanted:
        return []
    known, left = read_timings(trials.journal.facts(), _resources(trials.task)), []
    for point in _shown(trials):
        missing = [batch for batch in wanted if batch not in known.get(point.key, {})]
        if missing and weights_path(trials.journal.dir, point.trial).is_file():
            left.append((point, missing))
    return left


def _resources(task: Task) -> dict[str, float]:
    """What timings depend on, of the study's settings: with others they are taken again."""
    return {"cpu": task.config.resources.cpu, "gpu": task.config.resources.gpu}


def _order(task: Task, packed: Any, work: type[Work], grant: Grant) -> Order:
    import ray

    node = ray.get_runtime_context().get_node_id()
    return Order(work, ray.put(packed), None, task.dir, node, grant)


def _with_trunk(task: Task, order: Order, check: Callable[[], None]) -> Order:
    """Train the parts of the trunk that methods need and that are not there: each once in a study."""
    import ray

    paths = task.trunk_files()
    if not paths:
        return order
    train = ray.remote(ray_tasks.train_trunk).options(num_cpus=order.grant.cpu, num_gpus=order.grant.gpu)
    seed = task.config.search.seed
    running = {part: train.remote(part, seed, order) for part, path in paths.items() if not path.exists()}
    for part, answer in running.items():
        _keep_trunk(part, _wait(answer, check), paths[part])
    parts = {part: _read_trunk(part, path, order.work) for part, path in paths.items()}
    return replace(order, trunk=ray.put(parts))


def _keep_trunk(part: str, answer: Any, path: Path) -> None:
    if "outcome" in answer:
        failure = Outcome.loads(answer["outcome"])
        raise RunFailed(f"the {part} could not be trained: {failure.reason}") from None
    try:
        write_arrays(path, *answer["trunk"])
    except OSError as error:
        raise RunFailed(f"the {part} cannot be written to {path}: {error.strerror}") from error


def _read_trunk(part: str, path: Path, work: type[Work]) -> Stored:
    try:
        stored = read_arrays(path)
        work.check_trunk(part, stored)
        return stored
    except (OSError, KeyError, ValueError) as error:
        raise Refusal(f"the {part} must be a readable safetensors file, got {path}: {error}") from None


def _wait(task: Any, check: Callable[[], None]) -> Any:
    import ray

    while not ray.wait([task], timeout=_POLL)[0]:
        check()
    try:
        return ray.get(task)
    except ray.exceptions.RayError as error:
        raise RunFailed(f"a worker was lost: {first_line(error)}") from error
