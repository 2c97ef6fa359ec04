"""What Python users import: a study as an object, and networks without a search."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from routesearch.errors import Refusal, RouteSearchError, RunFailed
from routesearch.results import points
from routesearch.results.points import Budget, Point
from routesearch.results.record import State, TrialRecord
from routesearch.study.config import StudyConfig, load_study, macs_of, parse_latency, parse_macs

if TYPE_CHECKING:
    from routesearch.methods.base import RoutedNet
    from routesearch.results.journal import Journal
    from routesearch.results.timing import Timing
    from routesearch.search.dispatcher import Snapshot
    from routesearch.task.resolve import Task
    from routesearch.tracking import Tracker


@dataclass(frozen=True)
class Summary:
    """Where a study stands: its totals over all runs of the search, its front, its best."""

    study: str
    storage: str
    tracking_uri: str
    experiment: str
    finished: int
    stopped: int
    failed: int
    refused: int
    hypervolume: float
    feasible_hypervolume: float | None
    front: list[Point]
    best: Point | None

    def as_dict(self) -> dict[str, Any]:
        best = None if self.best is None else self.best.as_dict()
        return {**vars(self), "front": [p.as_dict() for p in self.front], "best": best}


class Study:
    """A study file and its stored trials.

    Reading (:meth:`trials`, :meth:`front`, :meth:`best`) works while a search runs elsewhere, and
    imports neither torch nor Ray.
    """

    def __init__(self, config: StudyConfig) -> None:
        self.config = config
        self._experiment = config.name
        self._open: Journal | None = None
        self._read: list[TrialRecord] | None = None

    @classmethod
    def load(cls, path: Path | str, overrides: Mapping[str, Any] | None = None) -> Study:
        """Read and validate a study file.

        Args:
            overrides: dotted path -> value, such as ``{"search.trials": 10}``.

        Raises:
            Refusal: one line with file, key, value and what would be right.
        """
        return cls(load_study(path, overrides))

    @cached_property
    def task(self) -> Task:
        """Everything looked up and ready to run."""
        from routesearch.task.resolve import resolve

        return resolve(self.config)

    def search(
        self,
        *,
        address: str | None = None,
        fresh: bool = False,
        on_progress: Callable[[Snapshot], None] | None = None,
    ) -> Summary:
        """Run or continue the search up to the study's total of trials, then measure the front on test.

        Args:
            address: of a running Ray cluster (``auto`` or HOST:PORT); None starts Ray on this machine.
            fresh: move what is stored aside and start anew.
            on_progress: called after every change.

        Raises:
            Refusal: nothing was started.
            KeyboardInterrupt: interrupted; what is stored can be continued.
        """
        from routesearch.results.journal import move_aside
        from routesearch.search.driver import run_search

        task = self.task
        _ = task.data  # a missing file is told before anything is written
        task.preflight()
        aside = move_aside(task.dir) if fresh else None
        new = not task.dir.exists()
        tracking = _Tracking(self)
        try:
            run_search(task, address=address, observers=[tracking], on_progress=on_progress)
        except Refusal:
            tracking.close()
            if new and not self._has_trials():  # nothing was started: nothing is to be left
                shutil.rmtree(task.dir, ignore_errors=True)
                if aside is not None:
                    aside.rename(task.dir)
            raise
        finally:
            tracking.close()
        return self.summary()

    def publish(self) -> Summary:
        """Refill MLflow from the journal.

        Raises:
            Refusal: no search was run yet.
            RunFailed: MLflow did not take it.
        """
        tracker_log = logging.getLogger("routesearch.tracking")
        before = tracker_log.level
        with self.reading(), self._journal() as journal:
            tracking = _Tracking(self)
            tracker_log.setLevel(logging.ERROR)  # its warning speaks to a search that goes on
            try:
                tracking.search_started(journal)
                tracking.search_ended()
                tracking.close()
            finally:
                tracker_log.setLevel(before)
            if tracking.failure is not None:
                raise RunFailed(f"MLflow at {self.tracking_uri} must take the study: {tracking.failure}")
            return self.summary()

    def charts(self) -> str:
        """Where the study's charts are behind an MLflow server's address; published first if need be."""
        from routesearch.tracking import link_of

        with self._journal() as journal:
            study = journal.id
        try:
            link = link_of(self.tracking_uri, self.config.name, study)
            if link is None:
                self.publish()
                link = link_of(self.tracking_uri, self.config.name, study)
        except RouteSearchError:
            raise
        except Exception as error:  # MLflow's, its database's or the network's
            raise RunFailed(f"MLflow at {self.tracking_uri} must answer: {error}") from error
        if link is None:
            raise RunFailed(f"MLflow at {self.tracking_uri} must show a study that was just published")
        return link

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Answer all questions inside from one reading of the journal: as it stood at the beginning."""
        if self._open is not None:
            yield
            return
        with self._journal() as self._open:
            try:
                yield
            finally:
                self._open = self._read = None

    def trials(self) -> list[TrialRecord]:
        """All trials of the study by number: finished, failed, refused and running ones."""
        with self._journal() as journal:
            return self._records(journal)

    def front(self, split: str = "validation") -> list[Point]:
        """The study's front, chosen on validation data, by rising MACs.

        Args:
            split: ``validation``, or ``test``: the same points as measured at publication.

        Raises:
            Refusal: no search was run yet; or the front was not measured on test yet.
        """
        with self._journal() as journal:
            chosen = self._front(journal)
            if split == "validation":
                return chosen
            if split != "test":
                raise Refusal(f"split must be validation or test, got {split!r}")
            tested = {points.key(p): p for p in self._tested(journal)}
        missing = [p for p in chosen if points.key(p) not in tested]
        if missing:
            raise Refusal(
                f"{len(missing)} of {len(chosen)} points of the front are not measured on test yet; "
                "a search does so when it ends: run `routesearch search` to its end"
            )
        return [tested[points.key(p)] for p in chosen]

    def best(self, max_macs: str | float | None = None, max_latency: str | None = None) -> Point:
        """The most accurate point within bounds: those given, or the study's budget where none is.

        Args:
            max_macs: mean MACs per image: 40M, 0.4x, a number.
            max_latency: 500us, 2ms: of the batch that the study's latency budget is of.

        Raises:
            Refusal: none is within it; names the cheapest stored, or the fastest.
        """
        with self._journal() as journal:
            budget = self._budget(journal)
            if max_macs is not None or max_latency is not None:
                limit = None if max_macs is None else self._macs(str(max_macs), journal)
                budget = Budget(limit, self._seconds(max_latency), budget.batch)
            stored = self._points(journal)
        best = budget.best(stored)
        if best is not None:
            return best
        cheapest = points.cheapest(stored)
        if cheapest is None:
            raise Refusal(f"{self.config.name}: no trial has finished yet")
        if budget.max_macs is not None and cheapest.macs > budget.max_macs:
            raise Refusal(
                f"a stored point must cost at most {budget.max_macs:,.0f} MACs, "
                f"the cheapest is {cheapest.macs:,.0f} (trial {cheapest.trial}, {cheapest.method})"
            )
        affordable = Budget(budget.max_macs).within(stored)
        fastest = min((p for p in affordable if p.latency is not None), key=_latency, default=None)
        if fastest is None:
            raise Refusal(f"{self.config.name}: no stored point was timed: the study has no latency budget")
        raise Refusal(
            f"a stored point must take at most {1e3 * (budget.max_latency or 0):.4g} ms, "
            f"the fastest{'' if budget.max_macs is None else ' within the MACs'} takes"
            f" {1e3 * _latency(fastest):.4g} (trial {fastest.trial}, {fastest.method})"
        )

    def save(
        self, folder: Path | str, max_macs: str | float | None = None, max_latency: str | None = None
    ) -> Point:
        """Write the most accurate point within bounds as a model that :func:`routesearch.load` reads.

        Args:
            folder: a new or an empty one, or an older saved model, which is replaced.
            max_macs, max_latency: as for :meth:`best`.

        Returns:
            The point.

        Raises:
            Refusal: no such point, its weights are gone, or the folder cannot be written.
        """
        from routesearch.saved import save
        from routesearch.search.weights import weights_path

        with self.reading(), self._journal() as journal:
            point = self.best(max_macs, max_latency)
            tested = next((p for p in self._tested(journal) if points.key(p) == points.key(point)), None)
            weights = weights_path(self.config.dir, point.trial)
            save(self.config, journal.facts(), point, tested, weights, Path(folder))
        return point

    def register(self, name: str, folder: Path | str) -> str:
        """Put a saved model of this study into MLflow's model registry, where anyone can serve it.

        Returns:
            The model's URI, ``models:/NAME/VERSION``.

        Raises:
            Refusal: the folder is no saved model, or the name cannot be one.
            RunFailed: MLflow did not take it.
        """
        from routesearch.tracking.registry import register

        with self._journal() as journal:
            return register(self.tracking_uri, self.config.name, journal.id, name, Path(folder))

    def summary(self) -> Summary:
        """Totals, front and best as they are stored now."""
        with self._journal() as journal:
            records = self._records(journal)
            reference, budget = self._reference(journal), self._budget(journal)
            stored = self._points(journal)
            chosen = points.front(stored)
        counts = {state: sum(r.state is state for r in records) for state in State}
        return Summary(
            study=self.config.name,
            storage=str(self.config.dir),
            tracking_uri=self.tracking_uri,
            experiment=self._experiment,
            finished=counts[State.FINISHED],
            stopped=counts[State.STOPPED],
            failed=counts[State.FAILED],
            refused=counts[State.REFUSED],
            hypervolume=points.hypervolume(chosen, reference),
            feasible_hypervolume=budget.volume(stored, reference) if budget else None,
            front=chosen,
            best=budget.best(stored),
        )

    def all_points(self) -> list[Point]:
        """Every stored operating point on validation data, dominated ones too."""
        with self._journal() as journal:
            return self._points(journal)

    def tested(self) -> list[Point]:
        """Every point that was measured on test data: those of the front and the best within the budget."""
        with self._journal() as journal:
            return self._tested(journal)

    def timings(self) -> dict[tuple[int, str], list[Timing]]:
        """Timings of the front at the batch sizes of the study's ``latency``: a point's key -> timings.

        The key is :func:`routesearch.results.points.key`'s; points that are not timed yet are missing.
        """
        from routesearch.search.trials import timings

        wanted = self.config.latency.batch or ()
        with self._journal() as journal:
            known = timings(journal)
        found = {place: [by[batch] for batch in wanted if batch in by] for place, by in known.items()}
        return {place: chosen for place, chosen in found.items() if chosen}

    @property
    def reference(self) -> float:
        """The static backbone's MACs per image, as the search stored it."""
        with self._journal() as journal:
            return self._reference(journal)

    @property
    def budget(self) -> Budget:
        """What a point may cost: MACs per image, seconds of a batch."""
        with self._journal() as journal:
            return self._budget(journal)

    @property
    def tracking_uri(self) -> str:
        from routesearch.tracking import default_uri, resolve_uri

        uri = self.config.tracking.uri
        return default_uri(self.config.dir) if uri is None else resolve_uri(uri, self.config.base)

    # ---- what is stored ------------------------------------------------------------------------

    def _has_trials(self) -> bool:
        try:
            return bool(self.trials())
        except Refusal:  # not even a journal
            return False

    def _journal(self) -> AbstractContextManager[Journal]:
        from routesearch.results.journal import Journal

        return Journal.open_for_reading(self.config.dir) if self._open is None else nullcontext(self._open)

    def _records(self, journal: Journal) -> list[TrialRecord]:
        from routesearch.search.trials import records

        if journal is not self._open:
            return records(journal)
        if self._read is None:
            self._read = records(journal)
        return self._read

    def _tested(self, journal: Journal) -> list[Point]:
        from routesearch.search.trials import test_points

        return test_points(journal, self._budget(journal))

    def _points(self, journal: Journal) -> list[Point]:
        budget = self._budget(journal)
        return [p for r in self._records(journal) for p in r.points(budget)]

    def _front(self, journal: Journal) -> list[Point]:
        return points.front(self._points(journal))

    def _reference(self, journal: Journal) -> float:
        return float(journal.get("reference"))

    def _budget(self, journal: Journal) -> Budget:
        wish = self.config.budget
        macs = None if wish.max_macs is None else self._macs(wish.max_macs, journal)
        return Budget(macs, wish.max_latency, wish.batch)

    def _seconds(self, text: str | None) -> float | None:
        try:
            return parse_latency(text)
        except ValueError as error:
            raise Refusal(f"{error}, got {text!r}") from None

    def _macs(self, text: str, journal: Journal) -> float:
        try:
            return macs_of(parse_macs(text), self._reference(journal))
        except ValueError as error:
            raise Refusal(f"{error}, got {text!r}") from None

    def _connect(self, journal: Journal) -> Tracker:
        from routesearch.tracking import Tracker

        return Tracker(
            self.tracking_uri,
            self.config.name,
            journal.id,
            budget=self._budget(journal),
            reference=self._reference(journal),
            records=self._records(journal),
        )


def _latency(point: Point) -> float:
    return math.inf if point.latency is None else point.latency


class _Tracking:
    """Keeps MLflow in step with a search; what goes wrong there never stops the search."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.journal: Journal | None = None
        self.tracker: Tracker | None = None

    def search_started(self, journal: Journal) -> None:
        self.journal, self.tracker = journal, self.study._connect(journal)

    def trial_ended(self, record: TrialRecord) -> None:
        if self.tracker is not None:
            self.tracker.trial_ended(record)

    def search_ended(self) -> None:
        if self.tracker is not None and self.journal is not None:
            self.tracker.publish(self.study._records(self.journal), self.study._tested(self.journal))

    def close(self) -> None:
        """Wait until MLflow has everything; a second call does nothing."""
        if self.tracker is not None:
            self.tracker.close()
            self.study._experiment = self.tracker.experiment or self.study.config.name

    @property
    def failure(self) -> str | None:
        """What MLflow said when it failed last."""
        return None if self.tracker is None else self.tracker.failure


def build(
    method: str,
    *,
    backbone: str,
    dataset: str | None = None,
    shape: tuple[int, int, int] | None = None,
    classes: int | None = None,
    plugins: Sequence[Path | str] = (),
    **config: Any,
) -> RoutedNet:
    """A method's network for use without a search.

    Args:
        backbone: a name, or NAME@WIDTH.
        dataset: whose image shape and classes it is for; or give ``shape`` (C, H, W) and ``classes``.
        plugins: plain Python files with hooks in them, beside what is installed.
        config: the method's fields; the others take the method's own choice.

    Raises:
        Refusal: unknown names, unknown fields, values outside their range.
    """
    from routesearch.plugin.loader import load_plugins
    from routesearch.task.blueprint import Blueprint

    registry = load_plugins([Path(file) for file in plugins])
    return Blueprint.of(method, backbone, dataset, shape, classes, config, registry).build()
