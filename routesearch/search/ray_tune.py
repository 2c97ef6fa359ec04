"""The bridge to Ray Tune: a searcher that Tune asks, and a callback that watches Tune's own trials.

Ray takes a second to import, so the classes are made when they are needed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from routesearch.errors import RunFailed, headline
from routesearch.results.record import Outcome
from routesearch.search.dispatcher import Dispatcher
from routesearch.search.ray_cluster import environment
from routesearch.search.ray_tasks import pack_trial, trainable
from routesearch.search.ray_workers import Workers

_TUNE = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no files for each trial
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is ours
    "TUNE_GLOBAL_CHECKPOINT_S": "1e9",  # nothing of Tune's state is needed: the journal has it
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # the old output can be silenced
    "TUNE_MAX_PENDING_TRIALS_PG": "1000",  # our searcher hands out no more than fit
    "TUNE_WARN_SLOW_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "1e9",
}


class Abort(BaseException):
    """Ends Tune's loop at once. Tune swallows every Exception of a searcher, hence a BaseException."""

    def __init__(self, reason: Exception) -> None:
        super().__init__(str(reason))
        self.reason = reason


class Bridge:
    """What Tune's searcher and callback share.

    Args:
        dispatcher: decides.
        capacity: how many trials can run at once, as the cluster stands now.
        check: called in every turn of Tune's loop; may raise to end it.
    """

    def __init__(
        self, dispatcher: Dispatcher, capacity: Callable[[], int], check: Callable[[], None]
    ) -> None:
        self.dispatcher = dispatcher
        self.capacity = capacity
        self.check = check
        self.numbers: dict[str, int] = {}  # Tune's trial id -> our number, while it runs
        self.trials: dict[str, Any] = {}  # Tune's trials that run
        self.seen = 0

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        self.check()
        if self.dispatcher.running >= self.capacity():
            return None
        record = self._guard(self.dispatcher.next)
        if record is None:
            return "FINISHED" if self.dispatcher.done else None
        self.numbers[trial_id] = record.number
        return pack_trial(record)

    def ended(self, trial_id: str, result: dict[str, Any]) -> None:
        """A trial's function returned."""
        if "disk" in result:
            raise Abort(RunFailed(f"{result['disk']}; finished trials are kept, run the search again later"))
        if "outcome" in result and trial_id in self.numbers:
            number, outcome = self.numbers.pop(trial_id), Outcome.loads(result["outcome"])
            self._guard(lambda: self.dispatcher.ended(number, outcome))

    def watch(self, trials: list[Any]) -> None:
        """Find trials that Tune gave up without a result: the worker was killed, or would not start."""
        for trial in trials[self.seen :]:
            self.trials[trial.trial_id] = trial
        self.seen = len(trials)
        for trial_id, trial in list(self.trials.items()):
            if not trial.is_finished():
                continue
            del self.trials[trial_id]
            if (number := self.numbers.pop(trial_id, None)) is not None:
                outcome = Outcome.failure(*_complaint(trial))
                self._guard(lambda n=number, o=outcome: self.dispatcher.ended(n, o))  # type: ignore[misc]

    def _guard(self, act: Callable[[], Any]) -> Any:
        try:
            return act()
        except Exception as error:
            raise Abort(error) from None


def make_searcher(bridge: Bridge) -> Any:
    """A ``ray.tune`` searcher; nothing of it is saved, since a search goes on from the journal."""
    from ray.tune.search import Searcher

    class RoutedSearcher(Searcher):  # type: ignore[misc, unused-ignore]
        def suggest(self, trial_id: str) -> Any:
            return bridge.suggest(trial_id)

        def on_trial_complete(
            self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
        ) -> None:
            bridge.ended(trial_id, result or {})

        def save(self, checkpoint_path: str) -> None:
            Path(checkpoint_path).touch()

        def restore(self, checkpoint_path: str) -> None:
            raise RuntimeError("a search is continued by a new one on the same journal")

    return RoutedSearcher()


def make_callback(bridge: Bridge) -> Any:
    """A ``ray.tune`` callback that sees every turn of Tune's loop."""
    from ray.tune import Callback

    class Watcher(Callback):  # type: ignore[misc, unused-ignore]
        def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
            bridge.check()

        def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
            bridge.watch(trials)

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            trial.run_metadata.last_result = {}  # Tune keeps its trials for ever, and the curve is in here

    return Watcher()


def _complaint(trial: Any) -> tuple[str, str | None]:
    """Why Tune ended a trial: reason and the whole text."""
    try:
        text = re.sub(r"\x1b\[[0-9;]*m", "", Path(trial.error_file).read_text())
    except (OSError, TypeError):
        return "the worker was lost", None
    lines = [line for line in text.splitlines()[1:] if line.strip()] or ["no reason given"]
    died = next((line for line in lines if line.startswith("The actor is dead because ")), None)
    if died is not None:
        reason = died.removeprefix("The actor is dead because ").partition(" Some common causes")[0]
    elif "Traceback" in text or lines[0].startswith("ray::"):  # the error is the last line at the margin
        reason = next(line for line in reversed(lines) if not line[0].isspace())
    else:
        reason = lines[0]
    return f"the worker was lost: {reason.strip()}", text


def run_trials(dispatcher: Dispatcher, workers: Workers, scratch: Path) -> None:
    """Have Tune run trials until the dispatcher has no more.

    Args:
        scratch: a folder for what Tune writes.

    Raises:
        RunFailed: Ray was lost, or what a trial left cannot be kept.
    """
    from ray import exceptions, tune

    bridge = Bridge(dispatcher, workers.capacity, workers.check)
    resources = {"cpu": workers.job.resources.cpu, "gpu": workers.job.resources.gpu}
    with environment(_TUNE):
        try:
            # tune.run, not Tuner: a Tuner pickles its searcher and callbacks to resume from, and ours
            # hold the journal.
            tune.run(
                tune.with_resources(tune.with_parameters(trainable, job=workers.job), resources),
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
                f"Ray Tune ended the search: {headline(error)}; run it again to continue"
            ) from error
