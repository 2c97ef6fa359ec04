"""What Python users import: a study as an object, and networks without a search."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from routesearch.errors import Refusal
from routesearch.results.drop import Promise, promised
from routesearch.results.intervals import CONFIDENCE
from routesearch.results.points import Point
from routesearch.results.reader import StudyResults
from routesearch.results.summary import Summary
from routesearch.study.config import StudyConfig, load_study
from routesearch.utils.process_environment import sane_environment

if TYPE_CHECKING:
    from routesearch.methods.base import RoutedNet
    from routesearch.search.dispatcher import Snapshot
    from routesearch.task.resolve import Task


class Study:
    """A study file, its search, and what the search has found.

    Reading (:meth:`results`, :meth:`front`, :meth:`best`) works while a search runs elsewhere, and
    imports neither torch nor Ray.
    """

    def __init__(self, config: StudyConfig) -> None:
        self.config = config

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
        """The study made ready to run: every name looked up."""
        from routesearch.task.resolve import resolve

        return resolve(self.config)

    @sane_environment()
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
        from routesearch.tracking import Tracker, tracking_uri

        task = self.task
        _ = task.data  # a missing file is refused before anything is written
        task.preflight()
        aside = move_aside(task.dir) if fresh else None
        new = not task.dir.exists()
        tracker = Tracker(tracking_uri(self.config))
        try:
            results = run_search(task, address=address, observers=[tracker], on_progress=on_progress)
        except Refusal:
            tracker.close()
            if new and not self._has_trials():  # nothing was started: nothing is to be left
                shutil.rmtree(task.dir, ignore_errors=True)
                if aside is not None:
                    aside.rename(task.dir)
            raise
        finally:
            tracker.close()
        return Summary.of(results, tracking_uri(self.config), tracker.experiment or self.config.name)

    def results(self) -> StudyResults:
        """What is stored now: trials, points, front, test results, timings.

        Raises:
            Refusal: no search was run yet.
        """
        return StudyResults.read(self.config)

    def front(self, split: str = "validation") -> list[Point]:
        """The study's front, chosen on validation data, by rising MACs.

        Args:
            split: ``validation``, or ``test``: the same points as measured when the search ended.

        Raises:
            Refusal: no search was run yet; or the front was not measured on test yet.
        """
        return self.results().front_on(split)

    def best(
        self,
        max_macs: str | float | None = None,
        max_latency: str | None = None,
        *,
        confidence: float | None = None,
        max_drop: str | float | None = None,
    ) -> Point:
        """The most accurate point within bounds: those given, or the study's budget where none is.

        Args:
            max_macs: mean MACs per image: 40M, 0.4x, a number.
            max_latency: 500us, 2ms: of the batch that the study's latency budget is of.
            confidence: such as 0.95: choose by the lower end of the interval of that confidence, for a
                confirmed point that of its mean over seeds, for another one that of its validation images.

            max_drop: such as 1%: the cheapest setting instead that loses no more accuracy against the whole
                network, at this confidence (0.95 where none is given), within ``max_macs`` alone. It needs
                images that chose nothing: ``data.calibration``. :meth:`promise` says more.

        Raises:
            Refusal: none is within it; names the cheapest stored, the fastest, or the smallest drop that can
                be promised.
        """
        return self._choose(self.results(), max_macs, max_latency, confidence, max_drop)

    def promise(
        self, max_drop: str | float, max_macs: str | float | None = None, *, confidence: float = CONFIDENCE
    ) -> Promise:
        """The cheapest setting that loses at most ``max_drop`` of accuracy, and all that belongs to it.

        Raises:
            Refusal: it cannot be promised; names the smallest drop that can.
        """
        return promised(self.results(), max_drop, confidence, max_macs)

    @staticmethod
    def _choose(
        results: StudyResults,
        max_macs: str | float | None,
        max_latency: str | None,
        confidence: float | None,
        max_drop: str | float | None,
    ) -> Point:
        if max_drop is None:
            return results.best_within(max_macs, max_latency, confidence)
        if max_latency is not None:
            raise Refusal("max_drop must be given without max_latency: only MACs bound it")
        return promised(results, max_drop, CONFIDENCE if confidence is None else confidence, max_macs).point

    def save(
        self,
        folder: Path | str,
        max_macs: str | float | None = None,
        max_latency: str | None = None,
        *,
        confidence: float | None = None,
        max_drop: str | float | None = None,
    ) -> Point:
        """Write the most accurate point within bounds as a model that :func:`routesearch.load` reads.

        Args:
            folder: a new or an empty one, or an older saved model, which is replaced.
            max_macs, max_latency, confidence, max_drop: as for :meth:`best`.

        Returns:
            The point.

        Raises:
            Refusal: no such point, its weights are gone, or the folder cannot be written.
        """
        from routesearch.saved import save

        results = self.results()
        point = self._choose(results, max_macs, max_latency, confidence, max_drop)
        save(results, point, Path(folder))
        return point

    @sane_environment()
    def register(self, name: str, folder: Path | str) -> str:
        """Put a saved model of this study into MLflow's model registry, where anyone can serve it.

        Returns:
            The model's URI, ``models:/NAME/VERSION``.

        Raises:
            Refusal: the folder is no saved model, or the name cannot be one.
            RunFailed: MLflow did not take it.
        """
        from routesearch.tracking.registry import register

        return register(self.results(), name, Path(folder))

    @sane_environment()
    def publish(self) -> Summary:
        """Refill MLflow from what is stored.

        Raises:
            Refusal: no search was run yet.
            RunFailed: MLflow did not take it.
        """
        from routesearch.tracking import publish, tracking_uri

        results = self.results()
        return Summary.of(results, tracking_uri(self.config), publish(results))

    def _has_trials(self) -> bool:
        try:
            return bool(self.results().records)
        except Refusal:  # not even a journal
            return False


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
        config: the method's fields; the others take the method's defaults.

    Raises:
        Refusal: unknown names, unknown fields, values outside their range.
    """
    from routesearch.plugin.loader import load_plugins
    from routesearch.task.blueprint import Blueprint

    registry = load_plugins([Path(file) for file in plugins])
    return Blueprint.of(method, backbone, dataset, shape, classes, config, registry).build()
