"""A search from beginning to end: lock, Ray, trunk, trials, and the front measured on test data and timed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from routesearch.errors import Refusal
from routesearch.results.journal import Journal
from routesearch.results.reader import StudyResults
from routesearch.search.calibration import calibrate_front, uncalibrated
from routesearch.search.confirmation import confirm_front, unconfirmed
from routesearch.search.dispatcher import Dispatcher, Observer, Snapshot
from routesearch.search.front_measurement import front_is_measured, measure_front_on_test, time_front
from routesearch.search.interrupt import Interrupts
from routesearch.search.ray_cluster import check_fits, connect
from routesearch.search.ray_pulse import Pulse
from routesearch.search.ray_tune import run_trials
from routesearch.search.ray_workers import Workers
from routesearch.search.resume import open_trials
from routesearch.search.sampler import strategy_of
from routesearch.search.shared_trunk import share_trunk
from routesearch.search.trials import Trials
from routesearch.search.warm_start import earlier_trials
from routesearch.search.worker import NetworkRunner, TrialRunner, WorkerResources
from routesearch.utils.process_environment import sane_environment

if TYPE_CHECKING:
    from routesearch.task.resolve import Task


@sane_environment()
def run_search(
    task: Task,
    *,
    address: str | None = None,
    observers: Sequence[Observer] = (),
    on_progress: Callable[[Snapshot], None] | None = None,
    runner: type[TrialRunner] = NetworkRunner,
) -> StudyResults:
    """Run or continue a study up to its total of trials, then measure its front on test data.

    At the end the front is timed, where the study wants that.

    Args:
        task: the resolved study, its pre-flight done (:meth:`Task.preflight`).
        address: a running Ray cluster (``auto`` or ``HOST:PORT``) that this machine belongs to; None
            starts Ray on this machine alone.
        observers: called at the start, for every trial that ended, and at the end.
        on_progress: called after every change.
        runner: what workers do; an importable class.

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
    # Before anything is made on disk: data may be missing, a sampler unknown, an earlier study another one.
    packed = runner.pack(task)
    strategy_of(task.config.search, len(task.spaces))
    earlier_trials(task)
    with Journal.open_for_writing(task.dir) as journal:
        trials = _open_trials(journal, task, observers)
        interrupts = Interrupts()
        config, resources = task.config.search, task.config.resources
        dispatcher = Dispatcher(
            trials,
            config.trials,
            retries=resources.retries,
            observers=observers,
            on_progress=on_progress,
            check=interrupts.check,
        )
        complete = front_is_measured(trials) and not uncalibrated(trials) and not unconfirmed(trials)
        if not dispatcher.done or not complete:
            # Entered twice: Ray puts a handler of its own in place.
            with interrupts, connect(address, resources.cpu) as scratch, interrupts:
                per_trial = WorkerResources(resources.cpu, resources.gpu)
                check_fits(per_trial)
                interrupts.check()
                with (
                    Pulse.of_ray() as pulse,
                    Workers(task, runner, packed, per_trial, [interrupts.check, pulse.check]) as workers,
                ):
                    for method, reason in share_trunk(task, workers, journal).items():
                        dispatcher.exclude(method, reason)
                    dispatcher.start(config.time_limit)
                    if not dispatcher.done:
                        run_trials(dispatcher, workers, scratch, resources.trial_time)
                    measure_front_on_test(dispatcher, workers)
                    calibrate_front(dispatcher, workers)
                    confirm_front(dispatcher, workers)
                    time_front(dispatcher, workers)
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
