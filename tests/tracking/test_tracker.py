"""The MLflow view: what a study's runs say, and that writing it again changes nothing."""

from __future__ import annotations

import base64
import json
import logging
import shutil
import signal
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from routesearch.errors import Refusal, RunFailed
from routesearch.results.budget import Budget, representative
from routesearch.results.points import OperatingPoint, Point, front, hypervolume
from routesearch.results.reader import StudyResults
from routesearch.results.record import Outcome, State, TrialRecord
from routesearch.tracking import Tracker, open_ui, view
from routesearch.tracking.addresses import file_of
from routesearch.tracking.client import artifact_folder, connect, default_uri, resolve_uri
from routesearch.tracking.experiment import link_of
from routesearch.tracking.sync import ExperimentSync, StudyInfo
from routesearch.tracking.view import TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

REFERENCE, BUDGET, STUDY = 3.2e6, Budget(1.6e6), "0123456789abcdef"


@pytest.fixture
def folder(tmp_path: Path, empty_database: Path) -> Path:
    """A study's folder, with a name that needs care in addresses."""
    made = tmp_path / "50%41 of #1? é; &"
    made.mkdir()
    shutil.copy(empty_database, made / "mlflow.db")
    return made


@pytest.fixture
def records(make_records: Callable[..., list[TrialRecord]]) -> list[TrialRecord]:
    return make_records(24)


Results = Callable[..., StudyResults]


def sync_in(folder: Path, study: str = STUDY, budget: Budget = BUDGET) -> ExperimentSync:
    return ExperimentSync(default_uri(folder), StudyInfo("quickstart", study, budget, REFERENCE))


@pytest.fixture
def publish(folder: Path, make_results: Results) -> Callable[..., ExperimentSync]:
    """Publishes these trials, and these points of them on test data, to the folder's database."""

    def run(
        records: Sequence[TrialRecord], test: Sequence[Point] = (), *, into: Path = folder, **study: Any
    ) -> ExperimentSync:
        results = make_results(records, test, **study)
        sync = ExperimentSync(default_uri(into), StudyInfo.of(results))
        sync.publish(results)
        return sync

    return run


def front_of(records: Sequence[TrialRecord], budget: Budget = BUDGET) -> list[Point]:
    return front([p for record in records for p in record.points(budget)])


def on_test(points: Sequence[Point]) -> list[Point]:
    return [replace(p, accuracy=p.accuracy - 0.01, split="test") for p in points]


class Seen:
    """What MLflow holds of the study called quickstart, read by a client of its own."""

    def __init__(self, folder: Path, name: str = "quickstart") -> None:
        self.client: MlflowClient = connect(default_uri(folder))
        self.experiment = self.client.get_experiment_by_name(name)
        assert self.experiment is not None
        runs = list(self.client.search_runs([self.experiment.experiment_id], max_results=5000))
        parents = [run for run in runs if "routesearch.trial" not in run.data.tags]
        assert len(parents) == 1
        self.parent: Run = parents[0]
        self.trials = {int(r.data.tags["routesearch.trial"]): r for r in runs if r is not self.parent}
        assert len(self.trials) == len(runs) - 1

    def history(self, key: str) -> dict[int, float]:
        told = self.client.get_metric_history(self.parent.info.run_id, key)
        steps = {metric.step: metric.value for metric in told}
        assert len(steps) == len(told)
        return steps

    def artifact(self, run: Run, name: str) -> str:
        return Path(self.client.download_artifacts(run.info.run_id, name)).read_text()

    def tags(self, key: str) -> dict[int, str]:
        return {number: run.data.tags[key] for number, run in self.trials.items()}

    def everything(self) -> dict[str, Any]:
        runs = [self.parent, *self.trials.values()]
        said = {r.info.run_id: (r.data.tags, r.data.metrics, r.data.params, r.info.status) for r in runs}
        keys = ("front_accuracy", "hypervolume", "feasible_hypervolume", "finished")
        return {"runs": said, "histories": [self.history(key) for key in keys]}


def test_a_run_per_trained_trial(
    records: list[TrialRecord], folder: Path, publish: Callable[..., ExperimentSync]
) -> None:
    publish(records)
    seen = Seen(folder)
    trained = {r.number: r for r in records if r.state.spends}
    assert seen.trials.keys() == trained.keys()
    assert seen.tags("method") == {n: r.method for n, r in trained.items()}
    assert seen.tags("state") == {n: str(r.state) for n, r in trained.items()}
    assert {State.REFUSED, State.FAILED} <= {r.state for r in records}
    members = {p.trial for p in front_of(records)}
    assert {n for n, tag in seen.tags("on_front").items() if tag == "yes"} == members
    for number, record in trained.items():
        run, points = seen.trials[number], record.points(BUDGET)
        assert run.data.tags["mlflow.parentRunId"] == seen.parent.info.run_id
        assert run.data.tags["feasible"] == ("yes" if any(p.macs <= 1.6e6 for p in points) else "no")
        assert run.data.params.keys() == record.config.keys()
        if points:
            one = representative(points, REFERENCE, BUDGET)
            assert record.outcome is not None
            assert run.data.metrics == {
                "accuracy": one.accuracy,
                "macs": one.macs,
                "params": record.outcome.params,
                "training_macs": record.outcome.training_macs,
            }
    listed = next(r for r in trained.values() if r.method == "dgate" and r.state is State.FINISHED)
    assert json.loads(seen.trials[listed.number].data.params["positions"]) == listed.config["positions"]
    assert seen.trials[listed.number].info.status == "FINISHED"


def test_a_curve_is_a_table_that_mlflow_can_load(
    records: list[TrialRecord], folder: Path, publish: Callable[..., ExperimentSync]
) -> None:
    import mlflow

    publish(records)
    seen, record = Seen(folder), records[1]
    run = seen.trials[record.number]
    assert json.loads(run.data.tags["mlflow.loggedArtifacts"]) == [{"path": "curve.json", "type": "table"}]
    mlflow.set_tracking_uri(default_uri(folder))
    try:
        table = seen.client.load_table(run.info.experiment_id, "curve.json", run_ids=[run.info.run_id])
    finally:
        mlflow.set_tracking_uri(None)
    points = record.points(BUDGET)
    assert list(table["accuracy"]) == pytest.approx([p.accuracy for p in points])  # pandas rounds as it reads
    assert list(table["macs"]) == pytest.approx([p.macs for p in points])
    assert [json.loads(knob) for knob in table["knob"]] == [dict(p.knob) for p in points]


def test_a_failed_trial_shows_its_traceback(
    records: list[TrialRecord], folder: Path, publish: Callable[..., ExperimentSync]
) -> None:
    publish(records)
    seen = Seen(folder)
    run = seen.trials[16]
    assert (run.info.status, run.data.tags["mlflow.note.content"]) == ("FAILED", "out of memory")
    assert run.data.metrics == {}
    assert "MemoryError" in seen.artifact(run, "traceback.txt")


def test_the_parent_tells_of_the_front(
    records: list[TrialRecord], folder: Path, publish: Callable[..., ExperimentSync]
) -> None:
    chosen = front_of(records)
    publish(records, on_test(chosen))
    seen = Seen(folder)
    best_of: dict[int, float] = {}
    for p in chosen:
        best_of[round(p.macs / 1000)] = p.accuracy
    assert seen.history("front_accuracy") == best_of
    assert seen.history("front_test_accuracy").keys() == best_of.keys()
    told, spent = seen.parent.data.metrics, sum(r.state.spends for r in records)
    assert told["hypervolume"] == pytest.approx(hypervolume(chosen, REFERENCE))
    assert told["feasible_hypervolume"] == pytest.approx(hypervolume(chosen, REFERENCE, BUDGET.max_macs))
    assert list(seen.history("hypervolume")) == list(range(1, spent + 1))
    assert (told["budget"], told["backbone_macs"]) == (BUDGET.max_macs, REFERENCE)
    assert (told["failed"], told["refused"]) == (1, 1)
    names = {item.path for item in seen.client.list_artifacts(seen.parent.info.run_id)}
    assert names == {"front.csv", "front.html", "front.json", "front.png"}
    table = json.loads(seen.artifact(seen.parent, "front.json"))
    assert [row[0] for row in table["data"]] == [str(p.trial) for p in chosen]
    assert (
        f"trial {max((p for p in chosen if p.feasible), key=lambda p: p.accuracy).trial}**"
        in (seen.parent.data.tags["mlflow.note.content"])
    )


def test_publishing_again_changes_nothing(
    records: list[TrialRecord], folder: Path, publish: Callable[..., ExperimentSync]
) -> None:
    test = on_test(front_of(records))
    publish(records, test)
    before = Seen(folder).everything()
    publish(records, test)
    assert Seen(folder).everything() == before


def test_following_a_search_tags_as_publishing_does(
    records: list[TrialRecord], folder: Path, publish: Callable[..., ExperimentSync]
) -> None:
    live = sync_in(folder)
    for record in records:
        live.add([record])
    seen = Seen(folder)
    volumes, fronts, colours = (
        seen.history("hypervolume"),
        seen.tags("on_front"),
        seen.tags("mlflow.runColor"),
    )
    publish(records)
    seen = Seen(folder)
    assert (seen.history("hypervolume"), seen.tags("on_front")) == (volumes, fronts)
    assert seen.tags("mlflow.runColor") == colours
    assert len(set(colours.values())) == 4  # two methods, strong on the front and pale off it


def test_a_search_that_goes_on_knows_the_front_found_earlier(
    records: list[TrialRecord], folder: Path, publish: Callable[..., ExperimentSync]
) -> None:
    publish(records[:12])
    later = sync_in(folder)
    later.add(records[:12])
    later.add(records[12:])
    assert {n for n, tag in Seen(folder).tags("on_front").items() if tag == "yes"} == {
        p.trial for p in front_of(records)
    }


def test_what_the_user_deleted_comes_back(
    records: list[TrialRecord], folder: Path, publish: Callable[..., ExperimentSync]
) -> None:
    publish(records)
    seen = Seen(folder)
    seen.client.delete_run(seen.trials[3].info.run_id)
    seen.client.delete_run(seen.parent.info.run_id)
    publish(records)
    again = Seen(folder)
    assert again.trials.keys() == seen.trials.keys()
    assert again.trials[4].info.run_id == seen.trials[4].info.run_id
    assert set(again.tags("mlflow.parentRunId").values()) == {again.parent.info.run_id}
    again.client.delete_experiment(again.experiment.experiment_id)
    publish(records)
    restored = Seen(folder)
    assert restored.trials.keys() == seen.trials.keys()
    assert restored.history("front_accuracy") == again.history("front_accuracy")


def test_a_run_that_a_kill_left_half_written_is_finished(
    records: list[TrialRecord], folder: Path, publish: Callable[..., ExperimentSync]
) -> None:
    publish(records[:5])
    seen = Seen(folder)
    for _ in range(2):  # and once more: two processes that published at the same time
        seen.client.create_run(seen.experiment.experiment_id, tags={"routesearch.trial": "5"})
    publish(records[:6])
    run = Seen(folder).trials[5]
    assert (run.info.status, run.data.tags["method"]) == ("FINISHED", "dgate")
    assert "accuracy" in run.data.metrics


def test_a_front_that_moved_replaces_what_was_told_of_it(
    records: list[TrialRecord], folder: Path, publish: Callable[..., ExperimentSync]
) -> None:
    publish(records[:8])
    first = Seen(folder)
    publish(records)
    seen = Seen(folder)
    assert seen.parent.info.run_id != first.parent.info.run_id
    assert set(seen.tags("mlflow.parentRunId").values()) == {seen.parent.info.run_id}
    assert sorted(seen.history("front_accuracy").values()) == sorted(
        {round(p.macs / 1000): p.accuracy for p in front_of(records)}.values()
    )


def test_a_new_budget_changes_what_is_feasible(
    records: list[TrialRecord], folder: Path, publish: Callable[..., ExperimentSync]
) -> None:
    publish(records)
    publish(records, budget=Budget(0.7e6))
    seen = Seen(folder)
    curves = {r.number: r.points(Budget(0.7e6)) for r in records if r.state.spends}
    expected = {n: "yes" if any(p.feasible for p in points) else "no" for n, points in curves.items()}
    assert seen.tags("feasible") == expected
    assert seen.parent.data.metrics["budget"] == 0.7e6
    for number, points in curves.items():
        if points:
            one = representative(points, REFERENCE, Budget(0.7e6))
            assert seen.trials[number].data.metrics["macs"] == one.macs


def test_another_study_of_the_same_name_has_its_own_experiment(
    records: list[TrialRecord], folder: Path, publish: Callable[..., ExperimentSync]
) -> None:
    publish(records[:3])
    other = publish(records[:5], study="fedcba9876543210")
    assert other.experiment == "quickstart (fedcba98)"
    assert (len(Seen(folder).trials), len(Seen(folder, other.experiment).trials)) == (3, 5)
    assert sync_in(folder, study="fedcba9876543210").experiment == other.experiment


def test_a_folder_that_moved_takes_its_artifacts_along(
    records: list[TrialRecord], folder: Path, tmp_path: Path, publish: Callable[..., ExperimentSync]
) -> None:
    publish(records[:3])
    moved = tmp_path / "moved"
    folder.rename(moved)
    publish(records[:3], into=moved)
    seen = Seen(moved)
    assert len(seen.trials) == 3
    assert (moved / "artifacts" / seen.trials[0].info.run_id / "artifacts" / "curve.json").is_file()
    assert not folder.exists()


def test_a_study_where_all_failed_is_shown_too(
    records: list[TrialRecord], folder: Path, publish: Callable[..., ExperimentSync]
) -> None:
    publish([replace(records[16], number=0)], budget=Budget())
    seen = Seen(folder)
    assert seen.history("front_accuracy") == {}
    assert seen.parent.data.metrics["hypervolume"] == 0.0


def test_the_view_asks_for_the_front_first(
    make_records: Callable[..., list[TrialRecord]], folder: Path
) -> None:
    many = make_records(125)
    followed = sync_in(folder)
    followed.add(many)
    seen = Seen(folder)
    packed = seen.experiment.tags[TAG].removeprefix("deflate;")
    state = json.loads(zlib.decompress(base64.b64decode(packed)))
    order = f"{state['orderByKey']} {'ASC' if state['orderByAsc'] else 'DESC'}"
    page = seen.client.search_runs(
        [seen.experiment.experiment_id], state["searchFilter"], max_results=100, order_by=[order]
    )
    shown = {int(run.data.tags["routesearch.trial"]) for run in page}  # hence no parent run
    assert len(shown) == 100
    assert {p.trial for p in front_of(many)} <= shown
    parallel = [c for c in state["compareRunCharts"] if c["type"] == "PARALLEL"]
    fields = {chart["uuid"]: chart["selectedParams"] for chart in parallel}
    assert fields == {"parallel-dgate": ["positions", "gate_loss"], "parallel-static": ["width_fraction"]}
    assert link_of(default_uri(folder), "quickstart", STUDY) == (
        f"#/experiments/{seen.experiment.experiment_id}/runs"
        "?workflowType=machine_learning&compareRunsMode=CHART&viewStateShareKey=front"
    )
    assert link_of(default_uri(folder), "quickstart", "another") is None


def test_the_tracker_follows_and_publishes(
    records: list[TrialRecord], folder: Path, make_results: Results
) -> None:
    tracker = Tracker(default_uri(folder))
    tracker.search_started(make_results(records[:4]))
    for record in records[4:]:
        tracker.trial_ended(record)
    tracker.search_ended(make_results(records, on_test(front_of(records))))
    tracker.close()
    seen = Seen(folder)
    assert (tracker.failure, tracker.experiment) == (None, "quickstart")
    assert link_of(default_uri(folder), "quickstart", STUDY) is not None
    assert len(seen.trials) == sum(r.state.spends for r in records)
    assert seen.history("front_test_accuracy")


def test_a_tracker_without_publication_leaves_the_trials(
    records: list[TrialRecord], folder: Path, make_results: Results
) -> None:
    tracker = Tracker(default_uri(folder))
    tracker.search_started(make_results([]))
    for record in records[:6]:
        tracker.trial_ended(record)
    tracker.close()
    assert sorted(Seen(folder).trials) == list(range(6))


def test_a_server_that_is_away_is_one_warning(
    records: list[TrialRecord],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    make_results: Results,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))  # bound and not listening: nobody else answers there
        address = f"http://127.0.0.1:{probe.getsockname()[1]}"
        with caplog.at_level(logging.WARNING, "routesearch"):
            tracker = Tracker(address)
            tracker.search_started(make_results([]))
            for record in records:
                tracker.trial_ended(record)
            tracker.search_ended(make_results(records))
            tracker.close()
    assert tracker.failure
    assert tracker.experiment is None
    said = [record.getMessage() for record in caplog.records if record.name.startswith("routesearch")]
    assert len(said) == 1
    assert address in said[0]
    assert "\n" not in said[0]


@pytest.mark.parametrize("uri", ["nonsense://somewhere", "sqlite:////proc/no/such/mlflow.db"])
def test_an_address_that_means_nothing_does_not_stop_a_search(
    uri: str, records: list[TrialRecord], caplog: pytest.LogCaptureFixture, make_results: Results
) -> None:
    tracker = Tracker(uri)
    tracker.search_started(make_results([]))
    tracker.search_ended(make_results(records))
    tracker.close()
    assert tracker.failure
    assert len([r for r in caplog.records if r.name.startswith("routesearch")]) == 1


def test_a_database_path_is_relative_to_the_study(tmp_path: Path) -> None:
    assert resolve_uri("sqlite:///runs/mlflow.db", tmp_path) == f"sqlite:///{tmp_path}/runs/mlflow.db"
    assert resolve_uri("sqlite:////var/mlflow.db", tmp_path) == "sqlite:////var/mlflow.db"
    assert resolve_uri("http://there:5000", tmp_path) == "http://there:5000"
    assert default_uri(tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    with_settings = "sqlite:///my runs/a%3Fb.db?timeout=9"
    assert resolve_uri(with_settings, tmp_path) == f"sqlite+pysqlite:///{tmp_path}/my runs/a%3Fb.db?timeout=9"


@pytest.mark.parametrize("name", ["plain", "a b", "100%", "%41", "a?b=c", "#1", "é;&"])
def test_a_database_lies_where_its_folder_is_whatever_that_is_called(name: str, tmp_path: Path) -> None:
    from sqlalchemy.engine import make_url

    uri = default_uri(tmp_path / name)
    assert make_url(uri).database == str(tmp_path / name / "mlflow.db")
    assert (file_of(uri), artifact_folder(uri)) == (
        tmp_path / name / "mlflow.db",
        tmp_path / name / "artifacts",
    )
    assert resolve_uri(uri, tmp_path) == uri


def test_nothing_lies_beside_a_folder_with_an_odd_name(folder: Path, tmp_path: Path) -> None:
    connect(default_uri(tmp_path / "100%25" / "new"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["100%25", folder.name]
    assert (tmp_path / "100%25" / "new").is_dir()


@pytest.mark.parametrize("uri", ["sqlite:///file:x.db?uri=true", "sqlite:///:memory:", "sqlite://"])
def test_addresses_of_sqlites_own_stay(uri: str, tmp_path: Path) -> None:
    assert resolve_uri(uri, tmp_path) == uri
    assert artifact_folder(uri) is None


def test_a_running_server_is_only_pointed_to() -> None:
    told: list[str] = []
    open_ui("http://there:5000/", "#/experiments/7", None, told.append)
    assert told == ["http://there:5000/#/experiments/7"]


def test_a_port_that_is_taken_is_refused(folder: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(Refusal, match=f"^port {port} is in use on 127.0.0.1"):
            open_ui(default_uri(folder), "", port, lambda address: None)


@pytest.mark.parametrize(
    "sign",
    [
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
        signal.SIGKILL,
    ],
)
def test_no_server_outlives_its_starter(sign: signal.Signals, folder: Path) -> None:
    code = "import sys; from routesearch.tracking import open_ui as ui; "
    code += "ui(sys.argv[1], '#/', None, lambda address: print(address, flush=True))"
    command = [sys.executable, "-c", code, default_uri(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        port = urlsplit(starter.stdout.readline()).port
        starter.send_signal(sign)
        assert starter.wait(timeout=60) == (0 if sign is signal.SIGINT else -sign)
    give_up = time.monotonic() + 60
    while answers(port) and time.monotonic() < give_up:
        time.sleep(0.1)
    assert not answers(port)


def answers(port: int | None) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_server_that_cannot_start_says_why() -> None:
    with pytest.raises(RunFailed, match=r"did not start: .*nonsense"):
        open_ui("nonsense://somewhere", "", None, lambda address: None)


def test_a_note_is_as_long_as_mlflow_keeps(make_results: Results) -> None:
    records = []
    for n in range(50):
        config = {f"a_field_with_a_long_name_{i}": [n, i, 0.123] for i in range(12)}
        point = OperatingPoint({"stop_bias": n / 7}, 0.4 + n / 100, 1e6 + n * 1e5)
        records.append(TrialRecord(n, "actor", config, 0, None, Outcome(State.FINISHED, (point,), params=10)))
    text = view.note(make_results(records, budget=Budget(max_macs=5e6), backbone_macs=1e7))
    assert 2000 < len(text) <= view.MAX_TEXT
    assert "of 50 points" in text
    assert text.endswith("|"), "no row is cut"
