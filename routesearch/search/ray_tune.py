"""The bridge to Ray Tune: a searcher and a scheduler that Tune asks, and a callback that watches its trials.

Ray takes a second to import, so the classes are made when they are needed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from routesearch.errors import RunFailed, headline
from routesearch.search.bridge import Abort, Bridge
from routesearch.search.dispatcher import Dispatcher
from routesearch.search.ray_cluster import environment
from routesearch.search.ray_pulse import RayLost
from routesearch.search.ray_tasks import trial_worker, why_it_ended
from routesearch.search.ray_workers import Workers
from routesearch.utils.internals import internal

_TUNE = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no files for each trial
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is ours
    "TUNE_GLOBAL_CHECKPOINT_S": "1e9",  # nothing of Tune's state is needed: the journal has it
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # the old output can be silenced
    "TUNE_MAX_PENDING_TRIALS_PG": "1000",  # our searcher hands out no more than fit
    "TUNE_WARN_SLOW_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "1e9",
}


_WITHOUT = "a worker that runs out of memory, or whose answer cannot be read, ends the whole search"


def make_searcher(bridge: Bridge) -> Any:
    """A ``ray.tune`` searcher; nothing of it is saved, since a search goes on from the journal."""
    from ray.tune.search import Searcher

    class RoutedSearcher(Searcher):  # type: ignore[misc, unused-ignore]
        def suggest(self, trial_id: str) -> Any:
            return bridge.suggest(trial_id)

        def on_trial_complete(
            self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
        ) -> None:
            pass  # the callback hears of results, also of those that do not end a trial of Tune's

        def save(self, checkpoint_path: str) -> None:
            Path(checkpoint_path).touch()

        def restore(self, checkpoint_path: str) -> None:
            raise RuntimeError("a search is continued by a new one on the same journal")

    return RoutedSearcher()


def make_scheduler(bridge: Bridge) -> Any:
    """A ``ray.tune`` scheduler that ends trials at their rungs; others begin in the order of asking."""
    from ray.tune.schedulers import FIFOScheduler

    class RungScheduler(FIFOScheduler):  # type: ignore[misc, unused-ignore]
        def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
            decision: str = self.STOP if bridge.stops(trial.trial_id, result) else self.CONTINUE
            return decision

    return RungScheduler()  # type: ignore[no-untyped-call, unused-ignore]


def make_callback(bridge: Bridge) -> Any:
    """A ``ray.tune`` callback that sees every turn of Tune's loop."""
    from ray.tune import Callback

    class Watcher(Callback):  # type: ignore[misc, unused-ignore]
        def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
            bridge.check()

        def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
            bridge.watch(trials)

        def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            bridge.started(trial.trial_id)

        def on_trial_result(
            self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
        ) -> None:
            bridge.heard(trial.trial_id, result)
            for curve in ("outcome", "rung"):
                result.pop(curve, None)  # Tune keeps its trials for ever

    return Watcher()


@contextlib.contextmanager
def _supervised() -> Iterator[None]:
    """Have Tune take every error of Ray's for the death of a worker, and leave no worker behind.

    Tune's loop ends by an error that it does not expect, with all trials that run: that of Ray's memory
    monitor, or an answer that cannot be unpickled. And where it is ended from outside it leaves its
    workers and what it reserved for them.
    """
    from ray.exceptions import RayActorError, RayTaskError
    from ray.tune.execution import tune_controller

    manager = internal(f"{tune_controller.__name__}:RayActorManager", _WITHOUT)
    failed = internal("ray.air.execution._internal:RayActorManager._actor_task_failed", _WITHOUT)
    if manager is None or failed is None:
        yield
        return
    made: list[Any] = []

    class ActorManager(manager):  # type: ignore[misc, valid-type, unused-ignore]
        def __init__(self, resource_manager: Any) -> None:
            super().__init__(resource_manager)
            made.append(self)

        def _actor_task_failed(self, tracked_actor_task: Any, exception: Exception) -> None:
            if not isinstance(exception, RayActorError | RayTaskError):
                exception = RayActorError(error_msg=f"{type(exception).__name__}: {exception}")
            super()._actor_task_failed(tracked_actor_task, exception)

    vars(tune_controller)["RayActorManager"] = ActorManager
    try:
        yield
    except Abort as abort:
        if not isinstance(abort.reason, RayLost):  # nobody is there to be asked
            _clean_up(made)
        raise
    except BaseException:
        _clean_up(made)
        raise
    finally:
        vars(tune_controller)["RayActorManager"] = manager


def _clean_up(managers: list[Any]) -> None:
    for manager in list(managers):
        with contextlib.suppress(Exception):
            manager.cleanup()


def run_trials(
    dispatcher: Dispatcher, workers: Workers, scratch: Path, trial_time: float | None = None
) -> None:
    """Have Tune run trials until the dispatcher has no more.

    Args:
        scratch: a folder for what Tune writes.
        trial_time: seconds that a trial may take.

    Raises:
        RunFailed: Ray was lost, no worker can be set up, or what a trial left cannot be kept.
    """
    import ray
    from ray import exceptions, tune

    def kill(trial: Any) -> bool:
        actor = trial.temporary_state.ray_actor
        if actor is not None:
            ray.kill(actor)
        return actor is not None

    bridge = Bridge(
        dispatcher,
        workers.capacity,
        workers.check,
        trial_time=trial_time,
        kill=kill,
        ask_why=lambda worker: why_it_ended(worker, workers.job),
    )
    resources = {"cpu": workers.job.resources.cpu, "gpu": workers.job.resources.gpu}
    with environment(_TUNE):
        try:
            # tune.run, not Tuner: a Tuner pickles its searcher and callbacks to resume from, and ours
            # hold the journal.
            with _supervised():
                tune.run(
                    tune.with_resources(tune.with_parameters(trial_worker(), job=workers.job), resources),
                    name="search",
                    search_alg=make_searcher(bridge),
                    scheduler=make_scheduler(bridge),
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
            if abort.reason is None:
                return
            if not isinstance(abort.reason, RayLost):
                with contextlib.suppress(RunFailed):  # a full disk is told once
                    dispatcher.leave()
            raise abort.reason from abort.reason.__cause__
        except KeyboardInterrupt:
            dispatcher.leave()
            raise
        except (tune.TuneError, exceptions.RayError, RuntimeError) as error:
            raise RunFailed(
                f"Ray Tune ended the search: {headline(error)}; run it again to continue"
            ) from error
