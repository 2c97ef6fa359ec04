"""Time on the command line: of a saved model, of a study's front, as the budget."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from routesearch import Study, load
from routesearch.results.journal import Journal
from routesearch.results.points import OperatingPoint, Point
from routesearch.results.record import Outcome, State
from routesearch.results.summary import Summary
from routesearch.results.timing import Timing
from routesearch.search.resume import open_trials
from routesearch.tracking import tracking_uri


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, count in (("LEAST", 2), ("MOST", 2), ("WARM_UP", 1)):
        monkeypatch.setattr(f"routesearch.evaluation.latency.{name}", count)


@pytest.fixture
def allowed(trained_model: Path) -> list[Any]:
    """The options that let the model's plain files run."""
    return [word for file in sorted((trained_model / "plugins").iterdir()) for word in ("--plugin", file)]


def test_a_saved_model_as_json(run: Any, trained_model: Path, allowed: list[Any]) -> None:
    before = torch.get_num_threads()
    done = run("latency", trained_model, *allowed, "--batch", "4, 1,4", "--threads", "1", "--json")
    assert (done.status, done.err) == (0, "")
    assert torch.get_num_threads() == before
    assert set(done.json) == {"device", "threads", "torch", "timings"}
    assert (done.json["device"], done.json["threads"]) == ("cpu", 1)
    assert done.json["torch"] == torch.__version__
    timings = done.json["timings"]
    assert [t["batch"] for t in timings] == [4, 1]
    model = load(trained_model, plugins=[word for word in allowed if word != "--plugin"])
    for timing in timings:
        assert 0 < timing["p50_ms"] <= timing["p95_ms"]
        assert timing["time_saving"] == pytest.approx(1 - timing["p50_ms"] / timing["static_p50_ms"])
        assert timing["mac_saving"] == pytest.approx(1 - timing["macs"] / model.card.backbone_macs)
        assert timing["images_per_second"] == pytest.approx(1e3 * timing["batch"] / timing["p50_ms"])


def test_a_saved_model_for_people(run: Any, trained_model: Path, allowed: list[Any]) -> None:
    done = run("latency", trained_model, *allowed, "--batch", "1,2")
    assert (done.status, done.err) == (0, "")
    title, head, *rows = done.out.splitlines()
    assert re.fullmatch(r"skipper on pocket: cpu, \d+ threads?, torch \S+", title)
    assert re.split(" {2,}", head) == [
        *("batch", "p50 ms", "p95 ms", "images/s", "static p50 ms", "MAC saving", "time saving")
    ]
    assert [row.split()[0] for row in rows] == ["1", "2"]
    assert all(row.count("%") == 2 for row in rows)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--batch", "1,many"), "--batch must be sizes of 1 to 65536 such as 1,8,64,256, got '1,many'"),
        (("--batch", "0"), "--batch must be sizes of 1 to 65536 such as 1,8,64,256, got '0'"),
        (("--batch", ""), "--batch must be sizes of 1 to 65536 such as 1,8,64,256, got ''"),
        (("--batch", "70000"), "--batch must be sizes of 1 to 65536"),
        (("--device", "cuda:99"), "device must be there, got 'cuda:99'"),
        (("--device", "abacus"), "device must be cpu, cuda or cuda:N, got 'abacus'"),
        (("--threads", "0"), "'--threads'"),
    ],
)
def test_what_cannot_be_timed(
    run: Any, trained_model: Path, allowed: list[Any], words: tuple[str, ...], told: str
) -> None:
    done = run("latency", trained_model, *allowed, *words, "--json")
    assert (done.status, done.out, len(done.lines)) == (2, "", 1)
    assert told in done.err


def test_no_model_to_time(run: Any, tmp_path: Path) -> None:
    done = run("latency", tmp_path)
    assert (done.status, done.out, len(done.lines)) == (2, "", 1)
    assert "a saved model is a folder with model.json" in done.err


def timing(batch: int, point: Point) -> Timing:
    return Timing(batch, point.macs * batch * 1e-9, point.macs * batch * 2e-9, batch * 1e-2, point.macs, 2e7)


def test_the_front_shows_its_timings(
    run: Any, write_study: Callable[..., Path], fill: Callable[..., None]
) -> None:
    file = write_study(latency={"batch": [1, 64]})
    fill(file)
    study = Study.load(file)
    front = study.front()
    with Journal.open_for_writing(study.config.dir) as journal:
        trials = open_trials(journal, study.task)[0]
        for point in front[:-1]:
            trials.add_timings(point, {"cpu": 1, "gpu": 0}, [timing(n, point) for n in (1, 64)])
        trials.add_timings(front[-1], {"cpu": 1, "gpu": 0}, [timing(1, front[-1]), timing(8, front[-1])])
    assert study.results().timings[front[0].key] == [timing(1, front[0]), timing(64, front[0])]
    found = run("front", file, "--json").json
    batches = [[t["batch"] for t in p["timings"]] for p in found["front"]]
    assert batches == [[1, 64]] * (len(front) - 1) + [[1]], "8 is not what the study asks for"
    ranks = {(r["method"], r["batch"]): r for r in found["rank_correlation"]}
    for method in {p.method for p in front}:
        for batch in (1, 64):
            count = sum(p.method == method for p in (front if batch == 1 else front[:-1]))
            assert ranks[method, batch]["points"] == count
            expected = pytest.approx(1.0) if count > 2 else None
            assert ranks[method, batch]["spearman"] == expected
    out = run("front", file).out.splitlines()
    for name in ("MAC saving", "ms at 1", "time saving at 1", "ms at 64", "time saving at 64"):
        assert name in out[1]
    assert any(re.match(r"MACs and time by rank, \S+ at batch 64: (1.00|unknown)", line) for line in out)
    bare = run("front", file, "--set", "latency.batch=null", "--json").json
    assert set(bare) == {"split", "reference", "front"}
    assert not any("timings" in p for p in bare["front"])


@pytest.fixture
def timed(write_study: Callable[..., Path]) -> Path:
    """A study with a latency budget and two trials: the more accurate one costs less and takes longer."""
    file = write_study(methods=["static"], budget={"max_latency": "3ms", "batch": 8})
    task = Study.load(file).task
    with Journal.open_for_writing(task.dir) as journal:
        trials = open_trials(journal, task)[0]
        for accuracy, share, latency in ((0.9, 0.5, 0.009), (0.8, 0.6, 0.002)):
            point = OperatingPoint({}, accuracy, share * task.backbone_macs, (1.0,), latency)
            trials.finish(trials.ask("static").number, Outcome(State.FINISHED, (point,), params=5))
    return file


def test_the_best_within_a_latency(run: Any, timed: Path) -> None:
    best = run("best", timed, "--json").json
    assert (best["accuracy"], best["latency"], best["feasible"]) == (0.8, 0.002, True)
    assert re.search("time per batch +2 ms\n", run("best", timed).out)
    assert run("best", timed, "--max-latency", "10ms", "--json").json["accuracy"] == 0.9
    assert run("best", timed, "--max-macs", "0.55x", "--json").json["accuracy"] == 0.9
    (ahead,) = run("front", timed, "--json").json["front"]
    assert (ahead["accuracy"], ahead["feasible"]) == (0.9, False), "accuracy against MACs"
    out = run("front", timed).out
    assert "; budget 3 ms for a batch of 8" in out
    summary = Summary.of(Study.load(timed).results(), "", "")
    assert summary.best is not None
    assert summary.best.accuracy == 0.8
    assert summary.feasible_hypervolume == pytest.approx(0.8 * 0.4)
    assert summary.hypervolume == pytest.approx(0.9 * 0.5)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--max-latency", "1us"), "must take at most 0.001 ms, the fastest takes 2 (trial 1, static)"),
        (
            ("--max-latency", "5ms", "--max-macs", "0.55x"),
            "must take at most 5 ms, the fastest within the MACs takes 9 (trial 0, static)",
        ),
        (("--max-latency", "5ms", "--max-macs", "0.1x"), "a stored point must cost at most"),
        (("--max-latency", "5"), "a latency must be more than 0 with its unit, such as 500us, 2ms or 0.1s"),
    ],
)
def test_no_best_within_a_latency(run: Any, timed: Path, words: tuple[str, ...], told: str) -> None:
    done = run("best", timed, *words)
    assert (done.status, done.out, len(done.lines)) == (2, "", 1)
    assert told in done.err


def test_a_study_without_latencies_has_no_best_within_one(run: Any, stored: Path) -> None:
    done = run("best", stored, "--max-latency", "5ms")
    assert (done.status, done.out, len(done.lines)) == (2, "", 1)
    assert "no stored point was timed: the study has no latency budget" in done.err


def test_a_latency_budget_cannot_be_put_on_stored_curves(run: Any, stored: Path) -> None:
    done = run("search", stored, "--set", "budget.max_latency=2ms")
    assert (done.status, done.out, len(done.lines)) == (2, "", 1)
    assert "budget.max_latency must stay as it was while a study is continued" in done.err


def test_mlflow_knows_the_latency_budget(run: Any, timed: Path) -> None:
    from mlflow import MlflowClient

    assert run("publish", timed).status == 0
    study = Study.load(timed)
    client = MlflowClient(tracking_uri(study.config))
    experiment = client.get_experiment_by_name("toy")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = (r for r in runs if "budget_latency" in r.data.metrics)
    assert parent.data.metrics["budget_latency"] == 0.003
    assert parent.data.metrics["feasible_hypervolume"] == pytest.approx(0.8 * 0.4)
    assert (
        "Best within the budget of 3 ms for a batch of 8: **80.00 %"
        in parent.data.tags["mlflow.note.content"]
    )
    told = {r.data.tags["feasible"] for r in runs if "method" in r.data.tags}
    assert told == {"yes", "no"}
