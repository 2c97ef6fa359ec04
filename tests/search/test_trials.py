from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pytest
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState

from routesearch.errors import Refusal
from routesearch.results.budget import Budget
from routesearch.results.journal import LOG, Journal
from routesearch.results.measurements import read_test_results, read_timings
from routesearch.results.points import OperatingPoint
from routesearch.results.reader import StudyResults
from routesearch.results.record import Outcome, State, TrialRecord
from routesearch.results.replay import META
from routesearch.results.timing import Timing
from routesearch.search.observations import sampler_params
from routesearch.search.resume import open_trials
from routesearch.search.trials import Trials
from routesearch.space.space import SearchSpace, Space


def records(journal: Journal) -> list[TrialRecord]:
    config: Any = None  # of no matter for what the trials are
    return StudyResults(config, journal).records


def run(
    trials: Trials, count: int, outcome: Callable[..., Outcome], method: str | None = None
) -> list[TrialRecord]:
    """Train ``count`` trials; refused ones come on top."""
    done: list[TrialRecord] = []
    while len(done) < count:
        record = trials.ask(method or str(trials.next_method()))
        if record.state is State.RUNNING:
            macs = 400.0 if record.bounds is None else record.bounds.min + 50
            done.append(trials.finish(record.number, outcome(0.3 + 0.01 * record.number, macs)))
    return done


def optuna_trials(journal: Journal, method: str) -> dict[str, list[Any]]:
    """Optuna study name -> its trials."""
    found = {name: journal.storage.get_all_trials(i) for name, i in journal.names().items() if name != META}
    return {name: each for name, each in found.items() if name.startswith(f"{method}@")}


def test_numbers_are_unique_over_methods_and_refusals_and_go_on(
    make_fake: Any, folder: Path, outcome: Any
) -> None:
    for _ in range(2):
        with Journal.open_for_writing(folder) as journal:
            run(open_trials(journal, make_fake())[0], 12, outcome)
    with Journal.open_for_reading(folder) as journal:
        kept = records(journal)
    assert [r.number for r in kept] == list(range(len(kept)))
    states = Counter(r.state for r in kept)
    assert states[State.FINISHED] == 24
    assert states[State.REFUSED] >= 3
    trained = Counter(r.method for r in kept if r.state is State.FINISHED)
    assert min(trained["wide"], trained["deep"]) >= 2
    assert len({r.seed for r in kept}) == len(kept)
    assert all(0 <= r.seed < 2**31 for r in kept)


def test_the_default_config_comes_first_where_it_meets_the_budget(make_fake: Any, folder: Path) -> None:
    with Journal.open_for_writing(folder) as journal:
        trials = open_trials(journal, make_fake())[0]
        deep = trials.ask("deep")
        wide = trials.ask("wide")  # its default costs 550 of 500
    assert deep.config == {"cuts": [3], "beta": 1.0, "kind": "plain", "gamma": 0.5}
    assert wide.config["width"] != 0.5


def test_a_default_is_asked_once_and_not_again_after_reopening(
    make_fake: Any, folder: Path, outcome: Any
) -> None:
    with Journal.open_for_writing(folder) as journal:
        first = run(open_trials(journal, make_fake())[0], 1, outcome, "deep")
    with Journal.open_for_writing(folder) as journal:
        more = run(open_trials(journal, make_fake(budget=600.0))[0], 3, outcome, "deep")
    assert [r.config for r in more].count(first[0].config) == 0


def test_refusals_are_stored_as_pruned_with_a_violated_constraint(
    make_fake: Any, folder: Path, outcome: Any
) -> None:
    with Journal.open_for_writing(folder) as journal:
        trials = open_trials(journal, make_fake())[0]
        run(trials, 15, outcome, "wide")
        refused = [r for r in records(journal) if r.state is State.REFUSED]
        assert refused
        (stored,) = optuna_trials(journal, "wide").values()
        pruned = [t for t in stored if t.state is TrialState.PRUNED]
        assert len(pruned) == len(refused)
        for record, trial in zip(refused, pruned, strict=True):
            assert record.bounds is not None
            assert trial.constraints == {"macs": pytest.approx(record.bounds.min / 500 - 1)}
            assert trial.constraints["macs"] > 0
        assert "cheapest route <= budget must hold, got" in str(refused[0].as_dict(Budget(500.0))["reason"])
        assert trials.counts[State.REFUSED] == len(refused)
        assert trials.spent == 15


def test_a_broken_constraint_is_a_refusal_with_its_words(make_fake: Any, folder: Path, outcome: Any) -> None:
    with Journal.open_for_writing(folder) as journal:
        task = make_fake(sampler="random", budget=None)
        run(open_trials(journal, task)[0], 60, outcome, "deep")
        broken = [r for r in records(journal) if r.state is State.REFUSED]
        assert broken
        assert all(r.bounds is None for r in broken)
        assert "beta <= 9 must hold" in str(broken[0].outcome.reason if broken[0].outcome else "")
        (stored,) = optuna_trials(journal, "deep").values()
        refused = [t.constraints for t in stored if t.state is TrialState.PRUNED]
        assert refused == [{"constraint": 1.0}] * len(broken)
        assert all(t.constraints == {} for t in stored if t.state is TrialState.COMPLETE)


def test_the_sampler_is_told_the_representative_point_and_the_cheapest_one(
    make_fake: Any, folder: Path, outcome: Any
) -> None:
    with Journal.open_for_writing(folder) as journal:
        trials = open_trials(journal, make_fake())[0]
        record = trials.ask("deep")
        trials.finish(record.number, outcome(0.8, 900.0))
        (stored,) = optuna_trials(journal, "deep").values()
    assert stored[0].state is TrialState.COMPLETE
    assert stored[0].values == [0.4, 450.0]  # the better one is over the budget of 500
    assert stored[0].constraints == {"macs": pytest.approx(-0.1)}


@pytest.mark.parametrize(
    "points", [(), (OperatingPoint({}, math.nan, 1.0),), (OperatingPoint({}, 0.5, math.inf),)]
)
def test_a_curve_that_is_no_curve_is_a_failure(make_fake: Any, folder: Path, points: Any) -> None:
    with Journal.open_for_writing(folder) as journal:
        trials = open_trials(journal, make_fake())[0]
        record = trials.finish(trials.ask("deep").number, Outcome(State.FINISHED, points))
        (stored,) = optuna_trials(journal, "deep").values()
    assert record.state is State.FAILED
    assert stored[0].state is TrialState.FAIL
    assert trials.spent == 1


def test_interrupted_keep_number_config_and_seed_and_are_spent_once(
    make_fake: Any, folder: Path, outcome: Any
) -> None:
    with Journal.open_for_writing(folder) as journal:
        trials = open_trials(journal, make_fake())[0]
        run(trials, 2, outcome)
        cut = [trials.ask("deep"), trials.ask("deep")]
    for _ in range(2):  # a second crash before they are trained changes nothing
        with Journal.open_for_writing(folder) as journal:
            trials = open_trials(journal, make_fake())[0]
            assert trials.interrupted() == cut
            assert trials.spent == 2
    with Journal.open_for_writing(folder) as journal:
        trials = open_trials(journal, make_fake())[0]
        for record in trials.interrupted():
            trials.finish(record.number, outcome())
        assert trials.spent == 4
        assert trials.interrupted() == []
    with Journal.open_for_reading(folder) as journal:
        assert [r.state for r in records(journal) if r.number in (cut[0].number, cut[1].number)] == [
            State.FINISHED,
            State.FINISHED,
        ]


def test_an_interrupted_trial_that_the_new_budget_forbids_is_refused(make_fake: Any, folder: Path) -> None:
    with Journal.open_for_writing(folder) as journal:
        record = open_trials(journal, make_fake(budget=None))[0].ask("wide")
        assert record.bounds is not None
    with Journal.open_for_writing(folder) as journal:
        trials = open_trials(journal, make_fake(budget=record.bounds.min - 1))[0]
        assert trials.interrupted() == []
        assert records(journal)[record.number].state is State.REFUSED


def test_a_cut_trial_of_a_method_that_left_is_not_running_for_ever(make_fake: Any, folder: Path) -> None:
    with Journal.open_for_writing(folder) as journal:
        number = open_trials(journal, make_fake())[0].ask("deep").number
    task = make_fake()
    del task.spaces["deep"]
    with Journal.open_for_writing(folder) as journal:
        open_trials(journal, task)
        record = records(journal)[number]
    assert record.state is State.FAILED
    assert record.outcome is not None
    assert "method deep is no longer in the study" in str(record.outcome.reason)


def test_every_crash_in_the_middle_of_a_search_is_put_right(
    make_fake: Any, folder: Path, outcome: Any
) -> None:
    """The journal cut after each of its lines: the next driver finds a study that it can finish."""
    with Journal.open_for_writing(folder) as journal:
        run(open_trials(journal, make_fake())[0], 3, outcome)
        running = open_trials(journal, make_fake())[0].ask("deep")
    lines = (folder / LOG).read_bytes().splitlines(keepends=True)
    for cut in range(len(lines) + 1):
        (folder / LOG).write_bytes(b"".join(lines[:cut]))
        with Journal.open_for_writing(folder) as journal:
            trials = open_trials(journal, make_fake())[0]
            interrupted = trials.interrupted()
            assert len(interrupted) <= 1
            for cut in interrupted:
                trials.finish(cut.number, outcome())
            run(trials, 4 - trials.spent, outcome)
            kept = records(journal)
            assert [r.number for r in kept] == list(range(len(kept)))
            assert Counter(r.state for r in kept)[State.FINISHED] == 4
            states = [
                t.state for s in ("wide", "deep") for each in optuna_trials(journal, s).values() for t in each
            ]
            assert TrialState.RUNNING not in states
            assert states.count(TrialState.COMPLETE) == 4
    assert running.number == max(r.number for r in kept)


def test_a_crash_between_outcome_and_tell_loses_nothing(make_fake: Any, folder: Path, outcome: Any) -> None:
    with Journal.open_for_writing(folder) as journal:
        run(open_trials(journal, make_fake())[0], 1, outcome, "deep")
    lines = (folder / LOG).read_bytes().splitlines(keepends=True)
    entries = [json.loads(line) for line in lines]
    stored = next(i for i, e in enumerate(entries) if "outcome" in e.get("user_attr", {}))
    (folder / LOG).write_bytes(b"".join(lines[: stored + 1]))
    with Journal.open_for_writing(folder) as journal:
        trials = open_trials(journal, make_fake())[0]
        assert trials.interrupted() == []
        assert trials.spent == 1
        (kept,) = optuna_trials(journal, "deep").values()
        assert kept[0].state is TrialState.COMPLETE
        assert "macs" in kept[0].constraints


def test_a_changed_budget_rebuilds_the_history_from_the_curves(
    make_fake: Any, folder: Path, outcome: Any
) -> None:
    with Journal.open_for_writing(folder) as journal:
        run(open_trials(journal, make_fake())[0], 12, outcome)
        before = records(journal)
    with Journal.open_for_writing(folder) as journal:
        size = journal.path.stat().st_size
        trials = open_trials(journal, make_fake(budget=250.0))[0]
        assert records(journal) == before
        assert trials.spent == 12
        shown = {one.number: one for one in trials.evidence.ended["wide"]}
        assert set(shown) == {r.number for r in before if r.method == "wide"}
        for record in before:
            if record.method == "wide" and record.outcome is not None and record.state is State.FINISHED:
                cheapest = min(p.macs for p in record.outcome.points)
                told = shown[record.number]
                assert told.observation.constraints == {"macs": pytest.approx(cheapest / 250 - 1)}
                assert told.params == {"width": record.config["width"], "depth": record.config["depth"]}
        assert journal.path.stat().st_size == size, "nothing is stored twice"
        run(trials, 1, outcome, "wide")
        named = {name.partition("#")[0]: each for name, each in optuna_trials(journal, "wide").items()}
        assert set(named) == {"wide@500", "wide@250"}


def test_refusals_that_a_larger_budget_allows_are_not_told(
    make_fake: Any, folder: Path, outcome: Any
) -> None:
    def told(trials: Trials) -> int:
        return sum(one.observation.useful for one in trials.evidence.ended["wide"])

    with Journal.open_for_writing(folder) as journal:
        trials = open_trials(journal, make_fake())[0]
        run(trials, 8, outcome, "wide")
        assert told(trials) > 8
        assert told(open_trials(journal, make_fake(budget=2000.0))[0]) == 8


def test_a_narrowed_space_keeps_what_still_lies_in_it(make_fake: Any, folder: Path, outcome: Any) -> None:
    class Kinds(Space):
        kind: Annotated[str, CategoricalDistribution(["a", "b", "c"])] = "a"

    def task(*kinds: str) -> Any:
        made = make_fake()
        made.spaces["wide"] = SearchSpace(Kinds).narrow({"kind": {"choices": list(kinds)}})
        made.bounds = lambda method, config: type(made).bounds(made, "deep", made.spaces["deep"].default())
        return made

    with Journal.open_for_writing(folder) as journal:
        run(open_trials(journal, task("a", "b", "c"))[0], 6, outcome, "wide")
    with Journal.open_for_writing(folder) as journal:
        trials = open_trials(journal, task("a", "b"))[0]
        kept = {r.number for r in records(journal) if r.config["kind"] != "c"}
        assert 0 < len(kept) < 6
        assert {one.number for one in trials.evidence.ended["wide"] if one.params is not None} == kept
        new = run(trials, 3, outcome, "wide")
    assert {r.config["kind"] for r in new} <= {"a", "b"}


def test_repeated_configs_are_declined_and_then_trained_with_a_new_seed(
    make_fake: Any, folder: Path, outcome: Any
) -> None:
    class Two(Space):
        kind: Annotated[str, CategoricalDistribution(["a", "b"])] = "a"

    task = make_fake()
    task.spaces["wide"] = SearchSpace(Two)
    task.bounds = lambda method, config: type(task).bounds(task, "deep", task.spaces["deep"].default())
    with Journal.open_for_writing(folder) as journal:
        trials = open_trials(journal, task)[0]
        done = run(trials, 4, outcome, "wide")
        assert len(records(journal)) == 4
        drawn = 0

        def bounds(method: str, config: Any) -> Any:
            nonlocal drawn
            drawn += 1
            return type(task).bounds(task, "deep", task.spaces["deep"].default())

        task.bounds = bounds
        run(trials, 6, outcome, "wide")
        assert drawn <= 6 + 3, "nothing new is left: it is not looked for at every draw"
        assert len(records(journal)) == 10
    assert [r.number for r in done] == [0, 1, 2, 3]
    assert {r.config["kind"] for r in done} == {"a", "b"}
    assert len({r.seed for r in done}) == 4


def test_a_resumed_study_does_not_repeat_its_first_proposals(
    make_fake: Any, folder: Path, outcome: Any
) -> None:
    drawn = []
    for _ in range(5):
        with Journal.open_for_writing(folder) as journal:
            drawn += [r.config for r in run(open_trials(journal, make_fake())[0], 2, outcome, "wide")]
    assert len({json.dumps(c) for c in drawn}) == 10


def test_the_same_study_proposes_the_same_whether_it_was_killed_or_not(
    make_fake: Any, tmp_path: Path, outcome: Any
) -> None:
    with Journal.open_for_writing(tmp_path / "one") as journal:
        whole = [r.config for r in run(open_trials(journal, make_fake())[0], 16, outcome)]
    parts = []
    for _ in range(4):
        with Journal.open_for_writing(tmp_path / "two") as journal:
            parts += [r.config for r in run(open_trials(journal, make_fake())[0], 4, outcome)]
    assert parts == whole


def test_seeds_of_trials_stay_what_they_are(make_fake: Any, folder: Path) -> None:
    with Journal.open_for_writing(folder) as journal:
        trials = open_trials(journal, make_fake())[0]
        assert [trials.ask("deep").seed for _ in range(3)] == [713683445, 1419524863, 1323506485]


def test_changed_code_is_told_in_one_line_and_goes_on(
    make_fake: Any, folder: Path, outcome: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def begin(**versions: str) -> list[str]:
        caplog.clear()
        with caplog.at_level("WARNING", "routesearch"), Journal.open_for_writing(folder) as journal:
            task = make_fake(versions={f"method {name}": code for name, code in versions.items()})
            run(open_trials(journal, task)[0], 1, outcome)
        return [record.getMessage() for record in caplog.records if record.name == "routesearch"]

    assert begin(wide="w.py 1", deep="d 1.0") == []
    assert begin(wide="w.py 1", deep="d 1.0") == []
    assert begin(wide="w.py 1", deep="d 1.0", late="l 1") == [], "a method that came later is no change"
    [line] = begin(wide="w.py 2", deep="d 1.1", late="l 1")
    assert "method wide (was w.py 1, now w.py 2), method deep (was d 1.0, now d 1.1)" in line
    assert "--fresh" in line
    assert "late" not in line
    assert "\n" not in line
    assert len(begin(late="l 2")) == 1
    assert begin(wide="w.py 1") == []


def test_a_study_without_trials_may_change_its_code(
    make_fake: Any, folder: Path, outcome: Any, caplog: pytest.LogCaptureFixture
) -> None:
    for code, count in (("1", 0), ("2", 1), ("2", 1)):
        with caplog.at_level("WARNING", "routesearch"), Journal.open_for_writing(folder) as journal:
            run(open_trials(journal, make_fake(versions={"method wide": code}))[0], count, outcome)
    assert caplog.records == []


def test_a_changed_seed_is_refused(make_fake: Any, folder: Path, outcome: Any) -> None:
    with Journal.open_for_writing(folder) as journal:
        run(open_trials(journal, make_fake())[0], 1, outcome)
    with (
        Journal.open_for_writing(folder) as journal,
        pytest.raises(Refusal, match=r"^search\.seed must stay"),
    ):
        open_trials(journal, make_fake(facts={"data": "digits", "search.seed": "1"}))[0]


def test_each_method_is_tried_first_of_all(make_fake: Any, folder: Path, outcome: Any) -> None:
    with Journal.open_for_writing(folder) as journal:
        trials = open_trials(journal, make_fake())[0]
        assert trials.next_method() == "wide"
        trials.ask("deep")
        trials.ask("deep")
        assert trials.next_method() == "wide"
        run(trials, 1, outcome, "wide")
        assert trials.next_method(["wide"]) == "deep"
        assert trials.next_method(["wide", "deep"]) is None


def test_the_front_grows_with_the_trials_and_is_found_again(
    make_fake: Any, folder: Path, outcome: Any
) -> None:
    with Journal.open_for_writing(folder) as journal:
        trials = open_trials(journal, make_fake())[0]
        trials.finish(trials.ask("deep").number, outcome(0.5, 400))
        trials.finish(trials.ask("deep").number, outcome(0.9, 800))
        trials.finish(trials.ask("deep").number, outcome(0.4, 450))
        front = [(p.trial, p.accuracy, p.macs, p.feasible) for p in trials.front]
        assert front == [(0, 0.25, 200, True), (0, 0.5, 400, True), (1, 0.9, 800, False)]
    with Journal.open_for_writing(folder) as journal:
        assert open_trials(journal, make_fake())[0].front == trials.front


def test_test_results_are_kept_with_the_origin_of_their_trial(
    make_fake: Any, folder: Path, outcome: Any
) -> None:
    with Journal.open_for_writing(folder) as journal:
        trials = open_trials(journal, make_fake())[0]
        record = trials.finish(trials.ask("deep").number, outcome())
        trials.add_test_results(0, [OperatingPoint({"t": 0}, 0.45, 410.0, (0.5, 0.5))])
        trials.add_test_results(0, [OperatingPoint({"t": 1}, 0.2, 210.0)])
    with Journal.open_for_reading(folder) as journal:
        results = read_test_results(journal.facts())
    points = record.as_points(results[0], Budget(400.0), "test")
    assert [(p.accuracy, p.macs, p.feasible, p.route_share) for p in points] == [
        (0.45, 410.0, False, (0.5, 0.5)),
        (0.2, 210.0, True, ()),
    ]
    assert {(p.split, p.trial, p.params) for p in points} == {("test", 0, 7)}
    assert points[0].config == record.config


def test_place_finds_only_configs_of_the_space(make_fake: Any) -> None:
    space = make_fake().spaces["deep"]
    config = {"cuts": [2, 5], "beta": 2.0, "kind": "plain", "gamma": 0.5}
    placed = sampler_params(space, config)
    assert placed is not None
    params = {"cuts.count": 2, "cuts.cut1": 2, "cuts.cut2": 5, "beta": 2.0, "kind": "plain"}
    assert placed[0] == params
    soft = sampler_params(space, config | {"kind": "soft", "gamma": 0.9})
    assert soft is not None
    assert soft[0] == params | {"kind": "soft", "gamma": 0.9}
    for other in ({"cuts": [2, 9]}, {"beta": 20.0}, {"gamma": 0.9}, {"colour": "red"}):
        assert sampler_params(space, config | other) is None


def timed(accuracy: float, macs: float, latency: float) -> Outcome:
    points = (
        OperatingPoint({"t": 0}, accuracy, macs, latency=latency),
        OperatingPoint({"t": 1}, accuracy / 2, macs / 2, latency=latency / 2),
    )
    return Outcome(State.FINISHED, points, params=7)


def test_a_latency_budget_is_told_to_the_sampler_and_may_change_its_number(
    make_fake: Any, folder: Path
) -> None:
    with Journal.open_for_writing(folder) as journal:
        trials = open_trials(journal, make_fake(budget=Budget(None, 0.003)))[0]
        trials.finish(trials.ask("deep").number, timed(0.8, 900.0, 0.004))
        (stored,) = optuna_trials(journal, "deep").values()
        assert stored[0].values == [0.4, 450.0]  # the better one takes too long
        assert stored[0].constraints == {"latency": pytest.approx(0.002 / 0.003 - 1)}
        trials = open_trials(journal, make_fake(budget=Budget(None, 0.001)))[0]
        (told,) = trials.evidence.ended["deep"]
    assert told.observation.constraints == {"latency": pytest.approx(1.0)}


def test_the_best_within_the_latency_may_lie_off_the_front(make_fake: Any, folder: Path) -> None:
    budget = Budget(None, 0.003)
    with Journal.open_for_writing(folder) as journal:
        trials = open_trials(journal, make_fake(budget=budget))[0]
        trials.finish(trials.ask("deep").number, timed(0.8, 400.0, 0.009))
        trials.finish(trials.ask("wide").number, timed(0.7, 500.0, 0.002))
        for again in (trials, open_trials(journal, make_fake(budget=budget))[0]):
            assert {p.trial for p in again.front} == {0}
            best = budget.best(again.candidates)
            assert best is not None
            assert (best.trial, best.accuracy, best.feasible) == (1, 0.7, True)


def test_of_two_timings_of_a_batch_the_last_counts(make_fake: Any, folder: Path, outcome: Any) -> None:
    one, two = Timing(1, 0.1, 0.2, 0.3, 10.0, 20.0), Timing(8, 0.4, 0.5, 0.6, 10.0, 20.0)
    again = Timing(1, 0.7, 0.8, 0.9, 10.0, 20.0)
    with Journal.open_for_writing(folder) as journal:
        trials = open_trials(journal, make_fake())[0]
        trials.finish(trials.ask("deep").number, outcome())
        point = trials.front[0]
        trials.add_timings(point, {"cpu": 1, "gpu": 0}, [one, two])
        assert read_timings(journal.facts()) == {point.key: {1: one, 8: two}}
        trials.add_timings(point, {"cpu": 2, "gpu": 0}, [again])
    with Journal.open_for_reading(folder) as journal:
        assert read_timings(journal.facts()) == {point.key: {1: again, 8: two}}
        assert read_timings(journal.facts(), {"cpu": 2, "gpu": 0}) == {point.key: {1: again}}


def test_promises_made_under_another_budget_are_not_held_against_a_method(
    make_fake: Any, folder: Path, outcome: Any
) -> None:
    def promises(budget: float, count: int) -> int:
        with Journal.open_for_writing(folder) as journal:
            task = make_fake(sampler="auto", budget=budget, search={"trials": 30})
            trials = open_trials(journal, task)[0]
            run(trials, count, outcome)
            return sum(len(each.promises) for each in trials.evidence.summaries.values())

    made = promises(500.0, 8)
    assert made > 2
    assert promises(500.0, 0) == made
    assert promises(700.0, 0) == 0
    assert promises(500.0, 0) == made
