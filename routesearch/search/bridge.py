"""What Ray Tune asks and tells, as the dispatcher understands it; without Ray.

Tune runs trials of its own in worker processes (:class:`routesearch.search.ray_tasks`); each is one trial
that the dispatcher handed out, or what is left of a worker that runs no trial.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from routesearch.errors import RunFailed
from routesearch.results.record import Outcome, State, TrialRecord
from routesearch.search.dispatcher import Dispatcher
from routesearch.search.last_words import complaint
from routesearch.search.ray_tasks import obstacle, pack_trial, read_set_up
from routesearch.search.trials import read_outcome

MAX_SET_UPS = 3
"""Workers in a row that may die while they are set up before the search ends."""


class Abort(BaseException):
    """Ends Tune's loop at once. Tune swallows every Exception of a searcher, hence a BaseException.

    Args:
        reason: what went wrong; None: nothing, but Tune would wait for workers that never answer.
    """

    def __init__(self, reason: Exception | None) -> None:
        super().__init__(str(reason or ""))
        self.reason = reason


class FreePlaces(Protocol):
    """How many trials fit on the cluster at once, and the machines that they fit on."""

    def __call__(self) -> int: ...

    def nodes(self) -> set[str]: ...


@dataclass
class _Run:
    """A trial that was handed out.

    Attributes:
        since: when its worker began with it; None before.
        ready: whether the worker was set up for it.
        worker: where that is, and its log, as it says (:func:`routesearch.search.ray_tasks.set_up`).
        verdict: why it was ended from here, where it was.
    """

    record: TrialRecord
    since: float | None = None
    ready: bool = False
    worker: Mapping[str, Any] = field(default_factory=dict)
    verdict: str | None = None


class Bridge:
    """What Tune's searcher and callback share.

    Args:
        dispatcher: decides.
        capacity: how many trials can run at once, as the cluster stands now.
        check: called in every turn of Tune's loop; may raise to end it.
        trial_time: seconds that a trial may take.
        kill: ends the worker of a trial of Tune's; whether it has one.
        ask_why: what a dead worker wrote of its end; None where that is not known.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        capacity: FreePlaces,
        check: Callable[[], None],
        *,
        trial_time: float | None = None,
        kill: Callable[[Any], bool] = lambda trial: True,
        ask_why: Callable[[Mapping[str, Any]], str | None] = lambda worker: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.dispatcher = dispatcher
        self.capacity = capacity
        self.trial_time = trial_time
        self.runs: dict[str, _Run] = {}  # by Tune's trial id
        self.trials: dict[str, Any] = {}  # Tune's trials that have not finished
        self.seen = 0
        self._check = check
        self._kill = kill
        self._ask_why = ask_why
        self._clock = clock
        self._parked: dict[str, str | None] = {}  # Tune's trial id -> the method that its worker lacks
        self._broken: dict[str | None, dict[str, str]] = {}  # method, None: all -> machine -> why
        self._set_ups_lost = 0
        self._released: set[str] = set()  # those whose worker was ended from here

    def check(self) -> None:
        self._guard(self._check)

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        self.check()
        if self.dispatcher.running >= self.capacity() - len(self._parked):
            return None
        record = self._guard(self.dispatcher.next)
        if record is None:
            # FINISHED is for good, and a trial that runs may come again.
            return "FINISHED" if self.dispatcher.done and not self.runs else None
        self.runs[trial_id] = _Run(record)
        return pack_trial(record)

    def started(self, trial_id: str) -> None:
        """Note that a worker begins with a trial."""
        if trial_id in self.runs:
            self.runs[trial_id].since = self._clock()

    def heard(self, trial_id: str, result: dict[str, Any]) -> None:
        """Take in a worker's answer: it is set up, or cannot be; the disk is full; or a trial's outcome."""
        if trial_id not in self.runs:
            return
        if "disk" in result:
            raise Abort(RunFailed(f"{result['disk']}; finished trials are kept, run the search again later"))
        if "ready" in result:
            self._heard_ready(trial_id, read_set_up(result["ready"]))
            return
        if "rung" not in result:
            self._ended(trial_id, read_outcome(result.get("outcome")))

    def stops(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Whether a trial that is at a rung ends there."""
        if "rung" not in result or trial_id not in self.runs:
            return False
        number, outcome = self.runs[trial_id].record.number, read_outcome(result["rung"])
        if outcome.state is State.STOPPED:
            if not self._guard(lambda: self.dispatcher.reported(number, outcome)):
                return False
            del self.runs[trial_id]
            return True
        self._ended(trial_id, outcome)
        return True

    def watch(self, trials: list[Any]) -> None:
        """Find trials that Tune gave up without a result, and those that take too long."""
        for trial in trials[self.seen :]:
            self.trials[trial.trial_id] = trial
        self.seen = len(trials)
        for trial_id, trial in list(self.trials.items()):
            if trial.is_finished():
                del self.trials[trial_id]
                self._parked.pop(trial_id, None)
                self._released.discard(trial_id)
                if trial_id in self.runs:
                    self._gave_up(trial_id, *complaint(trial.error_file))
        self._end_what_hangs()
        if self._parked and self.dispatcher.done and not self.runs:
            raise Abort(None)
        # what lacks a method that is excluded by now is as good as any
        self._release([each for each, lacks in self._parked.items() if not self._usable(lacks)])
        stuck = sum(self._usable(lacks) for lacks in self._parked.values())
        if stuck and not self.runs and stuck >= self.capacity():
            raise Abort(_no_worker(next(why for by in self._broken.values() for why in by.values())))

    # ---- what a worker said ------------------------------------------------------------------------

    def _heard_ready(self, trial_id: str, found: dict[str, Any]) -> None:
        run, self._set_ups_lost = self.runs[trial_id], 0
        method, node = run.record.method, found["node"]
        if found["problem"] is not None:
            self._note_broken(None, node, f"{found['host']}: {found['problem']}")
        for name, why in found["missing"].items():
            self._note_broken(name, node, f"{found['host']}: {why}")
        if obstacle(found, method) is None:
            run.ready, run.since, run.worker = True, self._clock(), found
            return
        self._return(trial_id)
        self._parked[trial_id] = None if found["problem"] is not None else method

    def _note_broken(self, method: str | None, node: str, why: str) -> None:
        """Note that a machine cannot run a method, or any; where no other can either, give up."""
        self._broken.setdefault(method, {})[node] = why
        there = self.capacity.nodes()  # none where Ray was asked at a bad moment: that decides nothing
        if not there or not there <= self._broken[method].keys() | self._broken.get(None, {}).keys():
            return
        if method is None:
            raise Abort(_no_worker(why))
        if self._usable(method):
            self._guard(lambda: self.dispatcher.exclude(method, why))

    def _usable(self, method: str | None) -> bool:
        return method is None or self.dispatcher.usable(method)

    # ---- what became of a trial --------------------------------------------------------------------

    def _ended(self, trial_id: str, outcome: Outcome) -> None:
        number = self.runs.pop(trial_id).record.number
        self._guard(lambda: self.dispatcher.ended(number, outcome))

    def _return(self, trial_id: str) -> None:
        number = self.runs.pop(trial_id).record.number
        self._guard(lambda: self.dispatcher.returned(number))

    def _gave_up(self, trial_id: str, reason: str, story: str | None) -> None:
        """Take back a trial that Tune gave up: its worker died, by itself or by :meth:`_end_what_hangs`."""
        run = self.runs[trial_id]
        if not run.ready:
            self._set_ups_lost += 1
            self._return(trial_id)
            if self._set_ups_lost >= MAX_SET_UPS:
                raise Abort(_no_worker(f"{MAX_SET_UPS} in a row died at that: {run.verdict or reason}"))
        elif run.verdict is not None:
            self._ended(trial_id, Outcome.failure(run.verdict))
        elif reason.startswith("out of memory: "):
            self._ended(trial_id, Outcome.failure(reason, story))
        else:
            del self.runs[trial_id]
            if story is not None and "its worker process has died" in reason:
                why = self._ask_why(run.worker)
                reason = f"the worker was lost: {why}" if why else reason
            self._guard(lambda: self.dispatcher.lost(run.record.number, reason, story))

    def _end_what_hangs(self) -> None:
        limit, now = self.trial_time, self._clock()
        if self.runs and self.dispatcher.overdue:
            while self.runs:
                trial_id = next(iter(self.runs))
                if not self.runs[trial_id].ready:  # it waits for a worker: no fault of its own
                    self._return(trial_id)
                    continue
                number = self.runs.pop(trial_id).record.number
                self._guard(lambda n=number: self.dispatcher.cut(n))  # type: ignore[misc]
            raise Abort(None)
        for trial_id, run in self.runs.items():
            if limit is not None and run.since is not None and now - run.since > limit:
                run.verdict = f"took longer than resources.trial_time = {limit:g}s"
                self._release([trial_id])

    def _release(self, trial_ids: list[str]) -> None:
        """End the workers of trials of Tune's; the places that they hold become free."""
        for trial_id in trial_ids:
            if trial_id not in self.trials or trial_id in self._released:
                continue
            if self._kill(self.trials[trial_id]):
                self._released.add(trial_id)

    def _guard(self, act: Callable[[], Any]) -> Any:
        try:
            return act()
        except Exception as error:
            raise Abort(error) from None


def _no_worker(why: str) -> RunFailed:
    return RunFailed(f"no worker can be set up: {why}; nothing was spent, run the search again after a fix")
