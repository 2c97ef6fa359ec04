"""Tracking beside a search: a thread writes to MLflow, and the search does not fail by it.

It waits once, at its start, until MLflow is imported and its database is whole.
"""

from __future__ import annotations

import logging
import queue
import threading
import time

from routesearch.errors import headline
from routesearch.results.reader import StudyResults
from routesearch.results.record import TrialRecord
from routesearch.tracking.addresses import file_of
from routesearch.tracking.client import connect
from routesearch.tracking.own_database import check_writable, mend
from routesearch.tracking.sync import ExperimentSync, StudyInfo

log = logging.getLogger("routesearch.tracking")

PAUSE = 30.0
"""Seconds without tries after MLflow failed."""


class Tracker:
    """Keeps an MLflow experiment in step with a search: one of its observers.

    Trials that could not be written while the search ran are missing until it ends, when everything is
    compared.

    Args:
        uri: any MLflow tracking URI.

    Attributes:
        failure: what MLflow said when it failed last; None while all is written.
        experiment: its name; None until MLflow has answered.
    """

    def __init__(self, uri: str) -> None:
        self.failure: str | None = None
        self.experiment: str | None = None
        self._uri = uri
        self._pause_until = 0.0
        self._jobs: queue.SimpleQueue[TrialRecord | StudyResults | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def search_started(self, results: StudyResults) -> None:
        """Start the thread; it begins with the trials of earlier runs, so that their front is known."""
        for record in results.records:
            self._jobs.put(record)
        try:
            mend(results)
            connect(self._uri)
            check_writable(self._uri)
        except Exception as error:
            self._fail(error)
        study = StudyInfo.of(results)
        self._thread = threading.Thread(
            target=self._run, args=(study,), name="routesearch-tracking", daemon=True
        )
        self._thread.start()

    def trial_ended(self, record: TrialRecord) -> None:
        """Take a trial that ended; returns at once."""
        self._jobs.put(record)

    def search_ended(self, results: StudyResults) -> None:
        """Have MLflow show exactly these results; returns at once, :meth:`close` waits."""
        self._jobs.put(results)

    def close(self, timeout: float = 120.0) -> None:
        """Wait until everything is written, ``timeout`` seconds at most; a second call does nothing."""
        if self._thread is None:
            return
        self._jobs.put(None)
        self._thread.join(timeout)
        if self._thread.is_alive():
            self._fail(TimeoutError(f"no answer within {timeout:.0f} s"))
        self._thread = None

    def _run(self, study: StudyInfo) -> None:
        sync: ExperimentSync | None = None
        open_ = True
        while open_:
            jobs = [self._jobs.get()]
            while not self._jobs.empty():
                jobs.append(self._jobs.get())
            open_ = None not in jobs
            whole = [job for job in jobs if isinstance(job, StudyResults)]
            ended = [job for job in jobs if isinstance(job, TrialRecord)]
            del jobs
            if not whole and (not ended or time.monotonic() < self._pause_until):
                continue
            try:
                if self._database_is_gone():
                    sync = None
                sync = sync or ExperimentSync(self._uri, study)
                self.experiment = sync.experiment
                if whole:
                    sync.publish(whole[-1])
                    self.failure = None
                else:
                    sync.add(ended)
            except Exception as error:
                # The records are not kept: a server may be away for a whole search of large curves.
                sync = None
                self._pause_until = time.monotonic() + PAUSE
                self._fail(error)

    def _database_is_gone(self) -> bool:
        """Whether somebody removed it: SQLite would go on writing to a file without a name."""
        file = file_of(self._uri)
        return file is not None and not file.exists()

    def _fail(self, error: BaseException) -> None:
        """Warn once; `routesearch publish` repairs it later."""
        said = self.failure is not None
        self.failure = headline(error)
        if not said:
            log.warning(
                "MLflow at %s failed, the search goes on (routesearch publish fills in what is missing): %s",
                self._uri,
                self.failure,
            )
        log.debug("MLflow failed", exc_info=error)
