"""A trial as the journal keeps it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routesearch.results.budget import Budget
from routesearch.results.points import OperatingPoint
from routesearch.results.record import Outcome, State, TrialRecord

NUMBERS = st.floats(0, 1e15, allow_nan=False)
KNOBS = st.dictionaries(st.text(max_size=5), NUMBERS | st.lists(NUMBERS, max_size=3) | st.text(max_size=3))
POINTS = st.builds(
    OperatingPoint,
    KNOBS,
    st.floats(0, 1),
    st.floats(1e-3, 1e15),
    st.lists(st.floats(0, 1), max_size=4).map(tuple),
)
OUTCOMES = st.builds(
    Outcome,
    st.sampled_from([State.FINISHED, State.STOPPED]),
    st.lists(POINTS, min_size=1, max_size=4).map(tuple),
    st.integers(0, 10**12),
    st.integers(0, 10**18),
    st.floats(0, 1e6),
) | st.builds(Outcome.failure, st.text(), st.none() | st.text(), st.floats(0, 1e6))


@given(OUTCOMES)
def test_an_outcome_survives_its_journey(outcome: Outcome) -> None:
    text = outcome.dumps()
    assert "\n" not in text
    assert Outcome.loads(text) == outcome


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_json_does_not_know_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        Outcome(State.FINISHED, (OperatingPoint({}, bad, 1.0),)).dumps()


def test_a_failure_has_its_reason_on_one_line() -> None:
    failure = Outcome.failure("ValueError: first\n  second", "Traceback\n  ...", 1.5)
    assert failure.reason == "ValueError: first second"
    assert failure.traceback == "Traceback\n  ..."
    assert (failure.state, failure.points, failure.training_macs) == (State.FAILED, (), 0)


def test_which_states_spend_a_trial() -> None:
    assert {s for s in State if s.spends} == {State.FINISHED, State.STOPPED, State.FAILED}


def record(outcome: Outcome | None) -> TrialRecord:
    return TrialRecord(4, "dgate", {"positions": [3]}, seed=11, bounds=(10.0, 90.0), outcome=outcome)


CURVE = Outcome(
    State.FINISHED,
    (OperatingPoint({"t": 1}, 0.5, 20.0, (1.0, 0.0)), OperatingPoint({"t": 2}, 0.9, 80.0, (0.1, 0.9))),
    params=123,
    training_macs=456,
)


@pytest.mark.parametrize(
    ("budget", "feasible"),
    [(Budget(), [True, True]), (Budget(80.0), [True, True]), (Budget(79.9), [True, False])],
)
def test_points_carry_their_origin_and_whether_they_fit(budget: Budget, feasible: list[bool]) -> None:
    points = record(CURVE).points(budget)
    assert [p.feasible for p in points] == feasible
    assert {(p.trial, p.method, p.seed, p.params, p.split) for p in points} == {
        (4, "dgate", 11, 123, "validation")
    }
    assert [(p.knob, p.accuracy, p.macs, p.route_share) for p in points] == [
        (p.knob, p.accuracy, p.macs, p.route_share) for p in CURVE.points
    ]


def test_points_measured_elsewhere_are_marked_so() -> None:
    again = record(CURVE).as_points([OperatingPoint({"t": 1}, 0.4, 21.0)], Budget(20.0), "test")
    assert [(p.split, p.feasible, p.accuracy) for p in again] == [("test", False, 0.4)]


def test_a_row_of_the_trials_table() -> None:
    row = record(CURVE).as_dict(Budget(80.0))
    assert list(row) == ["number", "method", "config", "state", "reason", "seed", "training_macs", "points"]
    assert (row["state"], row["reason"], row["training_macs"], len(row["points"])) == (
        "finished",
        None,
        456,
        2,
    )
    json.dumps(row)


def test_a_running_trial_has_no_points() -> None:
    row = record(None).as_dict(Budget())
    assert (row["state"], row["points"], row["training_macs"], row["reason"]) == ("running", [], 0, None)


def test_a_failed_trial_shows_its_reason() -> None:
    row = record(Outcome.failure("RunFailed: NaN")).as_dict(Budget())
    assert (row["state"], row["reason"], row["points"]) == ("failed", "RunFailed: NaN", [])


def test_latencies_are_kept_and_pass_to_the_same_knob_on_test() -> None:
    timed = Outcome(
        State.FINISHED,
        (OperatingPoint({"t": 1}, 0.5, 20.0, (1.0,), 0.002), OperatingPoint({"t": 2}, 0.6, 30.0)),
    )
    assert Outcome.loads(timed.dumps()) == timed
    budget = Budget(None, 0.003)
    assert [(p.latency, p.feasible) for p in record(timed).points(budget)] == [(0.002, True), (None, False)]
    again = record(timed).as_points(
        [OperatingPoint({"t": 1}, 0.4, 21.0), OperatingPoint({"t": 2}, 0.5, 31.0)], budget, "test"
    )
    assert [(p.split, p.latency, p.feasible) for p in again] == [("test", 0.002, True), ("test", None, False)]
