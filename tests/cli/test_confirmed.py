"""What the commands show of a front that was confirmed, and what is chosen by a lower bound."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from routesearch import Refusal, Study
from routesearch.results.confirmed import Retraining, Retuned, fact_name, pack_right
from routesearch.results.intervals import binomial_lower, mean_interval
from routesearch.results.journal import Journal
from routesearch.results.points import OperatingPoint, Point

IMAGES = (50, 40)


def confirm(file: Path, means: dict[float, float], seeds: int = 3, spread: float = 0.01) -> None:
    """Confirm points of the front: share of the backbone's MACs -> mean accuracy on validation."""
    study = Study.load(file)
    front = study.front()
    with Journal.open_for_writing(study.config.dir) as journal:
        for number in range(seeds):
            for point in front:
                share = round(point.macs / study.results().backbone_macs, 2)
                if share in means:
                    found = means[share] + spread * (number - (seeds - 1) / 2)
                    journal.set(fact_name(point.trial, number), retraining(point, found, number, journal))


def retraining(point: Point, accuracy: float, number: int, journal: Journal) -> dict[str, Any]:
    """One more point of a trial's retraining, tested 0.03 below validation."""
    tuned = OperatingPoint({"threshold": 0.1 * number}, accuracy, point.macs - 1, (0.5, 0.5))
    test = OperatingPoint(tuned.knob, accuracy - 0.03, point.macs + 5, (0.5, 0.5))
    right = pack_right(np.arange(IMAGES[1])[None] < round(IMAGES[1] * test.accuracy))
    new = Retraining(number, 9, 500, 0.1, None, IMAGES, (Retuned(point.knob, tuned, test),), right)
    earlier = journal.get(fact_name(point.trial, number))
    from routesearch.results.confirmed import read_retraining

    return new.merged(None if earlier is None else read_retraining(earlier)).as_fact()


@pytest.fixture
def confirmed(stored: Path) -> Path:
    """Points at 0.2x and 0.4x of the backbone's MACs, of which the cheaper holds and the other does not."""
    confirm(stored, {0.2: 0.52, 0.4: 0.50})
    return stored


def test_a_confirmed_front_as_json(run: Any, confirmed: Path) -> None:
    before = {"trial", "method", "config", "knob", "accuracy", "macs", "feasible", "split", "seed", "params"}
    more = {"accuracy_mean", "accuracy_std", "interval", "macs_mean", "seeds", "shrinkage"}
    for split, lost in (("validation", 0.0), ("test", 0.03)):
        document = run("front", confirmed, "--split", split, "--json").json
        rows = {round(p["macs"] / document["reference"], 2): p for p in document["front"]}
        assert before | more <= set(rows[0.2])
        assert not more & set(rows[0.8])
        assert rows[0.2]["accuracy_mean"] == pytest.approx(0.52 - lost)
        assert rows[0.2]["accuracy_std"] == pytest.approx(0.01)
        assert rows[0.2]["seeds"] == 3
        images = IMAGES[split == "test"]
        wanted = mean_interval([0.51 - lost, 0.52 - lost, 0.53 - lost], images)
        assert rows[0.2]["interval"] == pytest.approx(list(wanted))
        assert rows[0.2]["shrinkage"] == pytest.approx(0.03)
        assert document["shrinkage"] == pytest.approx(0.03)


def test_a_confirmed_front_for_people(run: Any, confirmed: Path) -> None:
    out = run("front", confirmed, "--split", "test").out
    assert "95 % interval" in out
    assert "49.00 %" in out
    assert "+3.00 points" in out
    assert "+3.00 in the mean of the confirmed points of the front" in out
    best = run("best", confirmed).out
    assert "mean 50.00 % (" in best
    assert "3 seeds" in best


def test_a_front_that_was_not_confirmed_has_no_column_of_it(run: Any, stored: Path) -> None:
    out = run("front", stored).out
    assert "interval" not in out
    assert "shrinkage" not in run("front", stored, "--json").json


def test_best_by_the_lower_bound(run: Any, confirmed: Path) -> None:
    plain = run("best", confirmed, "--json").json
    sure = run("best", confirmed, "--confidence", "0.95", "--json").json
    assert plain["macs"] > sure["macs"]  # retraining showed that the dearer one was luck
    assert sure["confidence"] == 0.95
    assert sure["lower_bound"] == pytest.approx(mean_interval([0.51, 0.52, 0.53], 50)[0])
    assert Study.load(confirmed).best(confidence=0.95).macs == sure["macs"]
    assert "lower bound" in run("best", confirmed, "--confidence", "0.95").out


def test_a_point_without_seeds_has_the_binomial_bound(run: Any, stored: Path) -> None:
    found = run("best", stored, "--confidence", "0.9", "--json").json
    images = len(Study.load(stored).task.data.validation)
    assert found["lower_bound"] == pytest.approx(binomial_lower(found["accuracy"], images, 0.9))
    assert found["trial"] == run("best", stored, "--json").json["trial"]


def test_a_bound_that_cannot_be_had_is_one_line(run: Any, stored: Path) -> None:
    done = run("best", stored, "--confidence", "1.5")
    assert (done.status, done.out, len(done.lines)) == (2, "", 1)
    assert "confidence must be from 0.5 to below 1, got 1.5" in done.err
    done = run("best", stored, "--confidence", "0.9", "--max-macs", "0.001x")
    assert done.status == 2
    assert "the cheapest is" in done.err
    with Journal.open_for_writing(Study.load(stored).config.dir) as journal:
        inputs = dict(journal.get("inputs"))
        del inputs["images"]
        journal.set("inputs", inputs)
    with pytest.raises(Refusal, match="must know how many images it has"):
        Study.load(stored).best(confidence=0.9)


def test_the_end_of_a_search_counts_what_confirming_took(
    run: Any, confirmed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from routesearch.results.summary import Summary

    monkeypatch.setattr(Study, "search", lambda self, **_: Summary.of(self.results(), "sqlite://", "toy"))
    document = run("search", confirmed, "--json").json
    assert document["confirmations"]["failed"] == 0
    assert document["confirmations"]["training_macs"] == 500 * 2 * 3
    assert document["shrinkage"] == pytest.approx(0.03)
    out = run("search", confirmed).out
    assert "training MACs beside those of the trials" in out
    assert "over seeds on test: mean 47.00 %" in out


def test_a_loss_that_is_promised(run: Any, stored: Path, tmp_path: Path) -> None:
    done = run("best", stored, "--max-drop", "1%")
    assert (done.status, done.out, len(done.lines)) == (2, "", 1)
    assert "set data.calibration to a share of the validation images" in done.err
    study = Study.load(stored)
    with Journal.open_for_writing(study.config.dir) as journal:
        journal.set("inputs", journal.get("inputs") | {"images": {"validation": 60, "calibration": 1000}})
        for record in study.results().records:
            curve = [] if record.outcome is None else record.outcome.points
            if curve:
                whole = [{"threshold": 9}, 0.9, curve[-1].macs * 2, []]
                counts = [300, 100, 4, 0], [0, 0, 4, 0]
                journal.set(f"calibrated:{record.number}", [whole, 1000, *counts])
    document = run("best", stored, "--max-drop", "2%", "--json").json
    assert set(study.best().as_dict()) < set(document)
    assert (document["max_drop"], document["confidence"], document["calibration_drop"]) == (0.02, 0.95, 0.0)
    assert document["whole"]["knob"] == {"threshold": 9}
    assert document["knob"] == {"threshold": 0.5} == dict(study.best(max_drop="2%").knob)
    assert study.promise(0.02).as_dict().items() <= document.items()
    assert (
        "loses at most 2 % of the accuracy of the whole network"
        in run("best", stored, "--max-drop", "2%").out
    )
    refused = run("best", stored, "--max-drop", "0.1%")
    assert refused.status == 2
    assert "max_drop must be at least 0." in refused.err
    assert len(refused.lines) == 1
    for wrong in (["--max-drop", "1"], ["--max-drop", "1%", "--max-latency", "2ms"]):
        done = run("best", stored, *wrong)
        assert (done.status, len(done.lines)) == (2, 1)


def test_pictures_and_mlflow_show_what_was_confirmed(run: Any, confirmed: Path, tmp_path: Path) -> None:
    import sqlite3

    page, picture = tmp_path / "f.html", tmp_path / "f.png"
    assert run("front", confirmed, "--html", page, "--png", picture).status == 0
    text = page.read_text()
    assert "mean over seeds (95 %)" in text
    assert '"arrayminus"' in text
    assert "Accuracy of confirmed points on validation less that on test: +3.00 percentage points" in text
    assert picture.stat().st_size > 10_000

    assert run("publish", confirmed).status == 0
    with sqlite3.connect(Study.load(confirmed).config.dir / "mlflow.db") as database:
        rows = dict(database.execute("select key, value from metrics where key like '%mean' or key in"
                                     " ('shrinkage', 'confirmation_macs')").fetchall())  # fmt: skip
    assert set(rows) == {"front_accuracy_mean", "front_test_accuracy_mean", "shrinkage", "confirmation_macs"}
    assert rows["shrinkage"] == pytest.approx(0.03)
    assert rows["confirmation_macs"] == 3000


def test_the_best_is_compared_with_the_best_static_point_image_by_image(
    run: Any, write_study: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from routesearch.results import comparison

    file = write_study(budget={"max_macs": "0.5x"})
    from routesearch.results.record import Outcome, State
    from routesearch.search.resume import open_trials

    task = Study.load(file).task
    with Journal.open_for_writing(task.dir) as journal:
        trials = open_trials(journal, task)[0]
        for method, accuracy, share in (("static", 0.6, 0.3), ("skipper", 0.8, 0.4)):
            one = OperatingPoint({}, accuracy, task.backbone_macs * share, (1.0,))
            while (record := trials.ask(method)).state is not State.RUNNING:
                continue
            trials.finish(record.number, Outcome(State.FINISHED, (one,), 9, 9, 1.0))
            trials.add_test_results(record.number, [one])
    assert "comparison" not in run("front", file, "--json").json
    confirm(file, {0.3: 0.60, 0.4: 0.80}, spread=0.0)
    document = run("front", file, "--split", "test", "--json").json["comparison"]
    assert (document["point"]["method"], document["other"]["method"]) == ("skipper", "static")
    assert document["difference"] == pytest.approx(31 / 40 - 23 / 40)
    assert 0 < document["interval"][0] < 0.2 < document["interval"][1] < 0.4
    assert "On test, skipper (trial " in run("front", file).out
    monkeypatch.setattr(comparison, "STATIC", "skipper")  # the best is itself what others are compared with
    assert "comparison" not in run("front", file, "--json").json
