"""A search from beginning to end: lock, Ray, trunk, trials, and the front measured on test data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from routesearch.errors import Refusal, RunFailed
from routesearch.results.journal import Journal
from routesearch.results.points import OperatingPoint, Point, key
from routesearch.results.record import Outcome
from routesearch.search import ray_tasks as remote
from routesearch.search.dispatcher import Dispatcher, Observer, Snapshot
from routesearch.search.interrupt import Interrupts
from routesearch.search.ray_cluster import Capacity, check_fits, connect, environment, first_line
from routesearch.search.ray_tune import Abort, Bridge, make_callback, make_searcher
from routesearch.search.trials import Ledger, test_results, timings
from routesearch.search.weights import read_weights, weights_path
from routesearch.search.worker import Grant, TrialWork, Work

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
) -> None:
    """Run or continue a study up to its total of trials, then measure its front on test data.

    At the end the front is timed, where the study wants that.

    What came of it is read back from the journal (:mod:`routesearch.search.trials`).

    Args:
        task: the resolved study, its pre-flight done (:meth:`Task.preflight`).
        address: a running Ray cluster (``auto`` or ``HOST:PORT``) that this machine belongs to; None
            starts Ray on this machine alone.
        observers: told of every trial that ended, and of the end.
        on_progress: told of every change.
        work: what workers do; an importable class.

    Raises:
        Refusal: the study cannot run as it stands; nothing was started.
        RunFailed: it ended early (a full disk, Ray lost, no trunk); finished trials are kept.
        KeyboardInterrupt: for the first SIGINT or SIGTERM; what ran is left for the next run.
    """
    if address is not None and "://" in address:
        raise Refusal(
            f"--address must be auto or HOST:PORT, got {address}: Ray Client would move the search to another"
            " machine; run it on a node of the cluster"
        )
    packed = work.pack(task)  # before anything is made on disk: data may be missing
    with Journal.open_for_writing(task.dir) as journal:
        ledger = Ledger(journal, task)
        for observer in observers:
            observer.search_started(journal)
        interrupts = Interrupts()
        check = interrupts.check
        config, resources = task.config.search, task.config.resources
        dispatcher = Dispatcher(
            ledger, config.trials, observers=observers, on_progress=on_progress, check=check
        )
        if not dispatcher.done or _unmeasured(ledger) or _untimed(ledger):
            # Entered twice: Ray puts a handler of its own in place.
            with interrupts, connect(address, resources.cpu) as scratch, interrupts:
                grant = Grant(resources.cpu, resources.gpu)
                check_fits(grant)
                check()
                order = _with_trunk(task, _order(task, packed, work, grant), check)
                dispatcher.start(config.time_limit)
                if not dispatcher.done:
                    _run_trials(dispatcher, order, check, scratch)
                _publish(ledger, order, dispatcher, check)
                _time_front(ledger, order, dispatcher, check)
        for observer in observers:
            observer.search_ended()
        dispatcher.changed()


def _run_trials(
    dispatcher: Dispatcher, order: remote.Order, check: Callable[[], None], scratch: Path
) -> None:
    from ray import exceptions, tune

    bridge = Bridge(dispatcher, Capacity(order.grant), check)
    resources = {"cpu": order.grant.cpu, "gpu": order.grant.gpu}
    with environment(_TUNE):
        try:
            # tune.run, not Tuner: a Tuner pickles its searcher and callbacks to resume from, and ours
            # hold the journal.
            tune.run(
                tune.with_resources(tune.with_parameters(remote.trainable, order=order), resources),
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


def _publish(ledger: Ledger, order: remote.Order, dispatcher: Dispatcher, check: Callable[[], None]) -> None:
    """Measure the points of the validation front on test data, each once and for ever."""
    import ray

    measure = ray.remote(remote.measure).options(
        num_cpus=order.grant.cpu, num_gpus=order.grant.gpu, max_retries=1
    )
    left = list(_unmeasured(ledger).items())
    running: dict[Any, int] = {}
    capacity = Capacity(order.grant)
    while left or running:
        check()
        while left and len(running) < max(1, capacity()):  # weights wait on disk, not in memory
            number, points = left.pop()
            weights = read_weights(weights_path(ledger.journal.dir, number))
            knobs = [dict(p.knob) for p in points]
            running[measure.remote(ledger.record(number), knobs, weights, order)] = number
        ready, _ = ray.wait(list(running), timeout=_POLL)
        for task in ready:
            number = running.pop(task)
            try:
                ledger.publish(number, [OperatingPoint(**p) for p in ray.get(task)])
            except ray.exceptions.RayError as error:
                dispatcher.note = f"trial {number} stays without test results: {first_line(error)}"
            dispatcher.changed()


def _unmeasured(ledger: Ledger) -> dict[int, list[Point]]:
    """Points of the validation front that can be measured on test data and are not yet, by trial."""
    known = {n: [p.knob for p in points] for n, points in test_results(ledger.journal).items()}
    missing: dict[int, list[Point]] = {}
    for point in _shown(ledger):
        kept = weights_path(ledger.journal.dir, point.trial).is_file()
        if kept and point.knob not in known.get(point.trial, []):
            missing.setdefault(point.trial, []).append(point)
    return missing


def _shown(ledger: Ledger) -> list[Point]:
    """The validation front, and the best within the budget: with a latency budget it may lie off it."""
    best = ledger.task.budget.best(ledger.candidates)
    members = {key(p) for p in ledger.front}
    return ledger.front if best is None or key(best) in members else [*ledger.front, best]


def _time_front(
    ledger: Ledger, order: remote.Order, dispatcher: Dispatcher, check: Callable[[], None]
) -> None:
    """Time the points that people see: one at a time, while nothing else of the search runs."""
    import ray

    time_point = ray.remote(remote.time_point).options(
        num_cpus=order.grant.cpu, num_gpus=order.grant.gpu, max_retries=1
    )
    for point, batches in _untimed(ledger):
        record = ledger.record(point.trial)
        weights = read_weights(weights_path(ledger.journal.dir, point.trial))
        measured = OperatingPoint(point.knob, point.accuracy, point.macs, point.route_share)
        try:
            found = _wait(time_point.remote(record, measured, weights, batches, order), check)
        except RunFailed as failure:
            dispatcher.note = f"a point of trial {point.trial} stays without timings: {failure}"
        else:
            ledger.keep_timing(point, _measured_with(ledger.task), found)
        dispatcher.changed()


def _untimed(ledger: Ledger) -> list[tuple[Point, list[int]]]:
    """Points that are shown and can be timed, each with the batch sizes that are wanted and missing."""
    wanted = ledger.task.config.latency.batch
    if not wanted:
        return []
    known, left = timings(ledger.journal, _measured_with(ledger.task)), []
    for point in _shown(ledger):
        missing = [batch for batch in wanted if batch not in known.get(key(point), {})]
        if missing and weights_path(ledger.journal.dir, point.trial).is_file():
            left.append((point, missing))
    return left


def _measured_with(task: Task) -> dict[str, float]:
    """What timings depend on, of the study's settings: with others they are taken again."""
    return {"cpu": task.config.resources.cpu, "gpu": task.config.resources.gpu}


def _order(task: Task, packed: Any, work: type[Work], grant: Grant) -> remote.Order:
    import ray

    node = ray.get_runtime_context().get_node_id()
    return remote.Order(work, ray.put(packed), None, task.dir, node, grant)


def _with_trunk(task: Task, order: remote.Order, check: Callable[[], None]) -> remote.Order:
    """Train the parts of the trunk that methods need and that are not there: each once in a study."""
    import ray

    paths = task.trunk_files()
    if not paths:
        return order
    train = ray.remote(remote.train_trunk).options(num_cpus=order.grant.cpu, num_gpus=order.grant.gpu)
    seed = task.config.search.seed
    running = {part: train.remote(part, seed, order) for part, path in paths.items() if not path.exists()}
    for part, answer in running.items():
        _keep_trunk(part, _wait(answer, check), paths[part], order.work)
    return replace(order, trunk=ray.put({part: order.work.read_trunk(path) for part, path in paths.items()}))


def _keep_trunk(part: str, answer: Any, path: Path, work: type[Work]) -> None:
    if "outcome" in answer:
        failure = Outcome.loads(answer["outcome"])
        raise RunFailed(f"the {part} could not be trained: {failure.reason}") from None
    try:
        work.keep_trunk(answer["trunk"], path)
    except OSError as error:
        raise RunFailed(f"the {part} cannot be written to {path}: {error.strerror}") from error


def _wait(task: Any, check: Callable[[], None]) -> Any:
    import ray

    while not ray.wait([task], timeout=_POLL)[0]:
        check()
    try:
        return ray.get(task)
    except ray.exceptions.RayError as error:
        raise RunFailed(f"a worker was lost: {first_line(error)}") from error
