"""Trial records as MLflow runs, written so that doing it again changes nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from routesearch.report import front_figure_png, front_html, front_table, write_csv
from routesearch.results.budget import Budget, representative
from routesearch.results.points import Point, hypervolume
from routesearch.results.reader import StudyResults
from routesearch.results.record import State, TrialRecord
from routesearch.tracking import view
from routesearch.tracking.client import artifact_folder, connect
from routesearch.tracking.curves import confirmations, curves, stairs
from routesearch.tracking.experiment import STUDY, TRIAL, open_experiment
from routesearch.tracking.totals import Totals, as_text

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

PARENT, NOTE, TABLES = "mlflow.parentRunId", "mlflow.note.content", "mlflow.loggedArtifacts"
MAX_AT_ONCE = 900
"""Metrics in one request; MLflow takes 1,000 entities."""


@dataclass
class _Stored:
    """What MLflow has of one trial."""

    id: str
    tags: Mapping[str, str]
    metrics: Mapping[str, float]
    complete: bool


@dataclass(frozen=True)
class StudyInfo:
    """What an experiment must know of its study beside the trials.

    Attributes:
        name: the study's; the experiment is called ``NAME (id)`` where another study has the name.
        id: tells the study from others of its name.
    """

    name: str
    id: str
    budget: Budget
    backbone_macs: float

    @classmethod
    def of(cls, results: StudyResults) -> StudyInfo:
        return cls(results.config.name, results.id, results.budget, results.backbone_macs)


class ExperimentSync:
    """One study's experiment in MLflow. Every method may raise whatever MLflow raises.

    Args:
        uri: any MLflow tracking URI.
    """

    def __init__(self, uri: str, study: StudyInfo) -> None:
        self._client: MlflowClient = connect(uri)
        self._study_id, self._budget, self._backbone_macs = study.id, study.budget, study.backbone_macs
        found = open_experiment(self._client, study.name, study.id, artifact_folder(uri))
        self.experiment: str = found.name
        self.experiment_id: str = found.experiment_id
        self._view = found.tags.get(view.TAG)
        self._totals = Totals()
        self._runs: dict[int, _Stored] = {}
        self._parent = ""
        self._index()

    # ---- while a search runs --------------------------------------------------------------------

    def add(self, records: Sequence[TrialRecord]) -> None:
        """Write trials that ended, and update the tags of trials that they displace from the front."""
        before = self._totals.members
        for record in records:
            self._totals.add(record, record.points(self._budget))
        trained = [record for record in records if record.state.spends]
        if not trained:
            return
        for record in trained:
            self._write(record)
        after, written = self._totals.members, {record.number for record in trained}
        for number in (before ^ after) - written:
            if number in self._runs:
                stored = self._runs[number]
                self._log(stored.id, [], self._place(number, stored.tags["method"]))
        volumes = self._volumes(self._totals)
        self._log(
            self._parent,
            [(key, value, self._totals.spent) for key, value in volumes.items()]
            + [(key, value, 0) for key, value in self._counts().items()],
        )
        self._show()

    # ---- the whole study ------------------------------------------------------------------------

    def publish(self, results: StudyResults) -> None:
        """Make MLflow show exactly these results: missing runs come back, changed ones are corrected."""
        self._index()
        self._totals = Totals()
        history: list[dict[str, float]] = []
        for record in results.records:
            self._totals.add(record, record.points(self._budget))
            if record.state.spends:
                history.append(self._volumes(self._totals))
        old = self._renew_parent(results)
        for record in results.records:
            if record.state.spends:
                self._write(record)
        self._publish_front(results, history)
        if old:
            self._client.delete_run(old)
        self._show()

    def _renew_parent(self, results: StudyResults) -> str | None:
        """Another parent run where this one tells of another front or budget: what is logged stays logged.

        Returns:
            The old parent, to be deleted once no trial points at it.
        """
        told_before = self._client.get_run(self._parent).data.metrics
        outdated = any(told_before.get(key) != bound for key, bound in self._bounds().items())
        for key, points in curves(results):
            logged = {m.step: m.value for m in self._client.get_metric_history(self._parent, key)}
            outdated |= bool(logged) and logged != stairs(points)
        if not outdated:
            return None
        old, self._parent = self._parent, self._new_parent()
        return old

    def _publish_front(self, results: StudyResults, history: Sequence[Mapping[str, float]]) -> None:
        client, parent = self._client, self._parent
        metrics: list[tuple[str, float, int]] = []
        for key, points in curves(results):
            if not client.get_metric_history(parent, key):
                metrics += [(key, value, step) for step, value in stairs(points).items()]
        for key in self._volumes(Totals()):
            logged = {m.step for m in client.get_metric_history(parent, key)}
            metrics += [(key, h[key], step) for step, h in enumerate(history, 1) if step not in logged]
        now = client.get_run(parent).data.metrics
        settled = self._counts() | confirmations(results)
        metrics += [(key, value, 0) for key, value in settled.items() if now.get(key) != value]
        self._log(parent, metrics)
        with TemporaryDirectory() as scratch:
            folder = Path(scratch)
            front_figure_png(results, folder / "front.png", title=self.experiment)
            front_html(results, folder / "front.html", title=self.experiment)
            write_csv(results.front, folder / "front.csv")
            tested = list(results.tested.values())
            table = front_table(results.front, results.backbone_macs, tested, shrinkage=results.shrinkage)
            (folder / "front.json").write_text(_table(table.columns, table.rows))
            client.log_artifacts(parent, scratch)
        client.set_tag(parent, TABLES, _tables("front.json"))
        client.set_tag(parent, NOTE, view.note(results))
        client.set_terminated(parent)
        client.set_experiment_tag(self.experiment_id, NOTE, view.pointer(self.experiment_id, parent))

    # ---- pieces ---------------------------------------------------------------------------------

    def _index(self) -> None:
        """Read what is there; make the parent run if it is missing; delete doubles."""
        self._runs, self._parent, doubles = {}, "", []
        for run in self._all_runs():
            number = run.data.tags.get(TRIAL)
            if number is None and run.data.tags.get(STUDY) == self._study_id and not self._parent:
                self._parent = run.info.run_id
            elif number is not None and int(number) not in self._runs:
                complete = run.info.status in ("FINISHED", "FAILED")
                tags = {k: v for k, v in run.data.tags.items() if k != NOTE}
                self._runs[int(number)] = _Stored(run.info.run_id, tags, run.data.metrics, complete)
            elif number is not None or STUDY in run.data.tags:
                doubles.append(run.info.run_id)
        for run_id in doubles:  # two processes published at once, or one was killed between two parents
            self._client.delete_run(run_id)
        self._parent = self._parent or self._new_parent()

    def _all_runs(self) -> Iterator[Run]:
        token: str | None = None
        while True:
            page = self._client.search_runs(
                [self.experiment_id],
                max_results=1000,
                order_by=["attributes.start_time ASC"],
                page_token=token,
            )
            yield from page
            token = page.token
            if not token:
                return

    def _new_parent(self) -> str:
        tags = {STUDY: self._study_id, "mlflow.source.name": "routesearch", "mlflow.source.type": "LOCAL"}
        run = self._client.create_run(self.experiment_id, tags=tags, run_name=f"{self.experiment}: front")
        settled = {"backbone_macs": self._backbone_macs}
        settled |= {key: bound for key, bound in self._bounds().items() if bound is not None}
        self._log(run.info.run_id, [(key, value, 0) for key, value in settled.items()])
        return str(run.info.run_id)

    def _write(self, record: TrialRecord) -> None:
        """Create or correct one trial's run."""
        outcome = record.outcome
        assert outcome is not None, "only a trial that ended is written"
        points = record.points(self._budget)
        tags = self._tags(record, points)
        metrics: dict[str, float] = {}
        if points:
            one = representative(points, self._backbone_macs, self._budget)
            metrics = {"accuracy": one.accuracy, "macs": one.macs}
            metrics |= {"params": outcome.params, "training_macs": outcome.training_macs}
        stored = self._runs.get(record.number)
        if stored is None or not stored.complete:
            self._create(record, points, tags, metrics)
            return
        changed = {k: v for k, v in tags.items() if stored.tags.get(k) != v}
        moved = [(k, v, 0) for k, v in metrics.items() if stored.metrics.get(k) != v]
        if changed or moved:
            self._log(stored.id, moved, tags=changed)
            stored.tags, stored.metrics = tags, metrics

    def _create(
        self,
        record: TrialRecord,
        points: Sequence[Point],
        tags: dict[str, str],
        metrics: dict[str, float],
    ) -> None:
        """Write a whole run; one that was begun and not ended is finished instead."""
        outcome, now, stored = record.outcome, _now(), self._runs.get(record.number)
        assert outcome is not None, "only a trial that ended is written"
        extra = {TABLES: _tables("curve.json")} if points else {NOTE: outcome.reason or "failed"}
        if stored is None:
            run = self._client.create_run(
                self.experiment_id,
                start_time=now - int(1000 * outcome.seconds),
                tags=tags | extra,  # a request for tags alone would cost as much again
                run_name=f"{record.method} {record.number}",
            )
            stored = self._runs[record.number] = _Stored(run.info.run_id, tags, metrics, complete=False)
            extra = {}
        else:
            extra |= tags
        if points:
            columns = ("accuracy", "macs", "x_backbone", "knob", "route_share")
            rows = [
                (p.accuracy, p.macs, p.macs / self._backbone_macs, as_text(p.knob), as_text(p.route_share))
                for p in points
            ]
            self._client.log_text(stored.id, _table(columns, rows), "curve.json")
        else:
            self._client.log_text(stored.id, outcome.traceback or outcome.reason or "", "traceback.txt")
        self._log(stored.id, [(k, v, 0) for k, v in metrics.items()], extra, record.config)
        status = "FAILED" if record.state is State.FAILED else "FINISHED"
        self._client.set_terminated(stored.id, status, end_time=now)
        stored.tags, stored.metrics, stored.complete = tags, metrics, True

    def _tags(self, record: TrialRecord, points: Sequence[Point]) -> dict[str, str]:
        return {
            "method": record.method,
            "state": str(record.state),
            **self._place(record.number, record.method),
            "feasible": "yes" if any(p.feasible for p in points) else "no",
            "seed": str(record.seed),
            TRIAL: str(record.number),
            PARENT: self._parent,
            "mlflow.source.name": "routesearch",
            "mlflow.source.type": "LOCAL",
        }

    def _place(self, number: int, method: str) -> dict[str, str]:
        """The tags that change when a trial enters or leaves the front."""
        member = number in self._totals.members
        return {"on_front": "yes" if member else "no", "mlflow.runColor": self._totals.colour(method, member)}

    def _bounds(self) -> dict[str, float | None]:
        return {"budget": self._budget.max_macs, "budget_latency": self._budget.max_latency}

    def _volumes(self, totals: Totals) -> dict[str, float]:
        volumes = {"hypervolume": hypervolume(totals.front, self._backbone_macs)}
        if self._budget:
            volumes["feasible_hypervolume"] = self._budget.feasible_hypervolume(
                totals.candidates, self._backbone_macs
            )
        return volumes

    def _counts(self) -> dict[str, float]:
        states = list(self._totals.states.values())
        counted = (State.FINISHED, State.STOPPED, State.FAILED, State.REFUSED)
        return {str(state): float(states.count(state)) for state in counted}

    def _show(self) -> None:
        """Store the view again where it would look different."""
        wanted = view.shared_view(self._totals.varied)
        if wanted != self._view:
            self._client.set_experiment_tag(self.experiment_id, view.TAG, wanted)
            self._view = wanted

    def _log(
        self,
        run_id: str,
        metrics: Sequence[tuple[str, float, int]],
        tags: Mapping[str, str] | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> None:
        from mlflow.entities import Metric, Param, RunTag

        now = _now()
        rows: list[Metric] = [Metric(key, float(value), now, step) for key, value, step in metrics]
        self._client.log_batch(
            run_id,
            rows[:MAX_AT_ONCE],
            [Param(key, as_text(value)) for key, value in (params or {}).items()],
            [RunTag(key, value) for key, value in (tags or {}).items()],
        )
        for start in range(MAX_AT_ONCE, len(rows), MAX_AT_ONCE):
            self._client.log_batch(run_id, rows[start : start + MAX_AT_ONCE])


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """The format of ``mlflow.log_table``, without pandas."""
    return json.dumps({"columns": columns, "data": rows})


def _tables(name: str) -> str:
    """The tag that makes MLflow's pages show an artifact as a table."""
    return json.dumps([{"path": name, "type": "table"}])


def _now() -> int:
    return int(1000 * time.time())
