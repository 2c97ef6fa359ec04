"""Tracking beside a search: a thread writes, the search never waits for it and never fails by it."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from routesearch.results.points import Budget, Point
from routesearch.results.record import TrialRecord
from routesearch.tracking.client import connect
from routesearch.tracking.sync import Mirror
from routesearch.tracking.view import link

log = logging.getLogger("routesearch.tracking")

PAUSE = 30.0
"""Seconds without tries after MLflow failed."""


@dataclass(frozen=True)
class _Publication:
    records: Sequence[TrialRecord]
    test: Sequence[Point]


class Tracker:
    """Keeps an MLflow experiment in step with a study.

    Trials that could not be written while the search ran are missing until :meth:`publish`, which
    compares everything.

    Attributes:
        failure: what MLflow said when it failed last; None while all is written.
        experiment: its name; None until MLflow has answered.
    """

    def __init__(
        self,
        uri: str,
        experiment: str,
        study_id: str,
        *,
        budget: Budget,
        reference: float,
        records: Sequence[TrialRecord] = (),
    ) -> None:
        """Start the thread.

        Args:
            uri: any MLflow tracking URI.
            experiment: the study's name; ``NAME (id)`` is taken where another study has it.
            study_id: tells the study from others of its name.
            budget: what a point may cost.
            reference: the backbone's MACs.
            records: the trials that are stored already, so that a front found earlier is known.
        """
        self.failure: str | None = None
        self.experiment: str | None = None
        self._uri, self._name, self._study_id = uri, experiment, study_id
        self._budget, self._reference = budget, reference
        self._link: str | None = None
        self._pause_until = 0.0
        self._jobs: queue.SimpleQueue[TrialRecord | _Publication | None] = queue.SimpleQueue()
        for record in records:
            self._jobs.put(record)
        try:
            connect(uri)
        except Exception as error:
            self._fail(error)
        self._thread = threading.Thread(target=self._run, name="routesearch-tracking", daemon=True)
        self._thread.start()

    def trial_ended(self, record: TrialRecord) -> None:
        """Take a trial that ended; returns at once."""
        self._jobs.put(record)

    def publish(self, records: Sequence[TrialRecord], test: Sequence[Point]) -> None:
        """Have MLflow show exactly these records and their front; returns at once, :meth:`close` waits.

        Args:
            records: all of the study.
            test: the front measured on test; empty where it is not yet.
        """
        self._jobs.put(_Publication(records, test))

    def close(self, timeout: float = 120.0) -> None:
        """Wait until everything is written, ``timeout`` seconds at most."""
        self._jobs.put(None)
        self._thread.join(timeout)
        if self._thread.is_alive():
            self._fail(TimeoutError(f"no answer within {timeout:.0f} s"))

    def link(self) -> str | None:
        """Where the charts are, behind the server's address; None until MLflow has answered."""
        return self._link

    def _run(self) -> None:
        mirror: Mirror | None = None
        open_ = True
        while open_:
            jobs = [self._jobs.get()]
            while not self._jobs.empty():
                jobs.append(self._jobs.get())
            open_ = None not in jobs
            publications = [job for job in jobs if isinstance(job, _Publication)]
            fresh = [job for job in jobs if isinstance(job, TrialRecord)]
            if not publications and (not fresh or time.monotonic() < self._pause_until):
                continue
            try:
                mirror = mirror or self._connect()
                if publications:
                    mirror.publish(publications[-1].records, publications[-1].test)
                    self.failure = None
                else:
                    mirror.add(fresh)
            except Exception as error:
                # The records are not kept: a server may be away for a whole search of large curves.
                mirror = None
                self._pause_until = time.monotonic() + PAUSE
                self._fail(error)

    def _connect(self) -> Mirror:
        mirror = Mirror(self._uri, self._name, self._study_id, budget=self._budget, reference=self._reference)
        self.experiment, self._link = mirror.experiment, link(mirror.experiment_id)
        return mirror

    def _fail(self, error: BaseException) -> None:
        """Say so once; `routesearch publish` repairs it later."""
        said = self.failure is not None
        lines = str(error).strip().splitlines() or [type(error).__name__]
        self.failure = lines[0]
        if not said:
            log.warning(
                "MLflow at %s failed, the search goes on (routesearch publish fills in what is missing): %s",
                self._uri,
                self.failure,
            )
        log.debug("MLflow failed", exc_info=error)
