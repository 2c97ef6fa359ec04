"""The one reader of a study: what it shows, that it stays as it was, and that nothing is decoded twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import pytest

from routesearch import Refusal, Study
from routesearch.results.budget import Budget
from routesearch.results.points import Point, front
from routesearch.results.reader import StudyResults
from routesearch.results.record import Outcome, State, TrialRecord
from routesearch.results.summary import Summary

MakeResults = Callable[..., StudyResults]


@pytest.fixture
def records(make_records: Callable[..., list[TrialRecord]]) -> list[TrialRecord]:
    return make_records(40)


def on_test(points: Sequence[Point]) -> list[Point]:
    return [replace(p, accuracy=p.accuracy - 0.01, split="test") for p in points]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every text that an outcome is decoded from."""
    texts: list[str] = []
    loads = Outcome.loads

    def counted(text: str) -> Outcome:
        texts.append(text)
        return loads(text)

    monkeypatch.setattr(Outcome, "loads", counted)
    return texts


def test_views_agree_with_the_records(records: list[TrialRecord], make_results: MakeResults) -> None:
    results = make_results(list(reversed(records)))
    assert results.records == records
    assert results.budget == Budget(1.6e6)
    assert results.points == [p for record in records for p in record.points(Budget(1.6e6))]
    assert results.front == front(results.points)
    assert results.best == Budget(1.6e6).best(results.points)
    assert results.count(State.REFUSED) == sum(r.state is State.REFUSED for r in records) > 0


def test_no_outcome_is_decoded_twice(
    records: list[TrialRecord], make_results: MakeResults, decoded: list[str]
) -> None:
    results = make_results(records)
    assert decoded == [], "nothing before it is asked for"
    for _ in range(2):
        _ = results.records, results.points, results.front, results.best, results.tested, results.timings
        Summary.of(results, "", "").as_dict()
    assert sorted(decoded) == sorted(r.outcome.dumps() for r in records if r.outcome is not None)


def test_a_search_that_starts_and_ends_decodes_each_outcome_once_a_reading(
    trained_study: Path, decoded: list[str]
) -> None:
    """One reading when it starts, one when it ends: for the driver, the tracker and the summary together."""
    study = Study.load(trained_study, {"search.trials": 2})  # it has them already: no Ray, no training
    summary = study.search()
    assert summary.finished == 2
    _ = summary.results.records, summary.results.front, summary.as_dict()
    assert len(decoded) == 2 * 2


def test_it_is_frozen(records: list[TrialRecord], make_results: MakeResults) -> None:
    results: Any = make_results(records)
    with pytest.raises(FrozenInstanceError):
        results.id = "another"


def test_it_stays_as_it_was_read_while_the_study_goes_on(trained_study: Path, tmp_path: Path) -> None:
    import shutil

    from routesearch.results.journal import Journal
    from routesearch.search.resume import open_trials

    shutil.copytree(trained_study.parent, tmp_path / "copy")
    study = Study.load(tmp_path / "copy" / trained_study.name)
    before, untouched = study.results(), study.results()
    with Journal.open_for_writing(study.config.dir) as journal:
        trials, _ = open_trials(journal, study.task)
        trials.finish(trials.ask("skipper").number, Outcome.failure("cut"))
    assert len(before.records) == len(untouched.records) == 2
    assert [r.state for r in study.results().records][2:] == [State.FAILED]


def test_the_front_on_test_is_whole_or_not_at_all(
    records: list[TrialRecord], make_results: MakeResults
) -> None:
    chosen = make_results(records).front
    whole = make_results(records, on_test(chosen))
    assert whole.front_on("validation") == chosen
    assert [p.key for p in whole.front_on("test")] == [p.key for p in chosen]
    assert {p.split for p in whole.front_on_test} == {"test"}
    partly = make_results(records, on_test(chosen[1:]))
    assert partly.front_on_test == []
    with pytest.raises(Refusal, match=rf"^1 of {len(chosen)} points of the front are not measured on test"):
        partly.front_on("test")
    assert partly.on_test(chosen[0]) is None
    assert partly.on_test(chosen[1]) is not None
    with pytest.raises(Refusal, match=r"^split must be validation or test, got 'train'"):
        partly.front_on("train")


def test_the_best_within_other_bounds(records: list[TrialRecord], make_results: MakeResults) -> None:
    results = make_results(records)
    tight = results.best_within("0.3x")
    assert tight == Budget(0.3 * 3.2e6).best(results.points)
    assert results.best_within() == results.best
    assert results.best_within(tight.macs) == tight
    with pytest.raises(Refusal, match=r"^a stored point must cost at most 10 MACs, the cheapest is [\d,]+ "):
        results.best_within(10)
    with pytest.raises(Refusal, match=r"^max_macs: a budget must be MACs such as 40M.*, got 'much'"):
        results.best_within("much")
    with pytest.raises(Refusal, match="no stored point was timed"):
        results.best_within(max_latency="2ms")
    with pytest.raises(Refusal, match=r"^quickstart: no trial has finished yet"):
        make_results([]).best_within()


def test_a_trial_missing_in_a_journal_without_checksums_is_seen(trained_study: Path, tmp_path: Path) -> None:
    """Numbers follow each other; the lines of a trial may be gone without a trace in Optuna's operations."""
    import json
    import shutil

    from routesearch.results.journal import LOG

    shutil.copytree(trained_study.parent, tmp_path / "copy")
    study = Study.load(tmp_path / "copy" / trained_study.name)
    log = study.config.dir / LOG
    entries = [json.loads(line) for line in log.read_bytes().splitlines()]
    for entry in entries:
        del entry["check"]
        asked = entry.get("user_attrs", {}).get("asked")
        if asked is not None and asked["number"] == 0:
            asked["number"] = 2
    log.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    with pytest.raises(Refusal, match=r"journal\.log is damaged: trial 0 is missing"):
        study.results()
