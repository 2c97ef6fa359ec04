"""A trial as the journal keeps it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routesearch.errors import Refusal
from routesearch.results.budget import Budget
from routesearch.results.checks import check_curve
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


GOOD: dict[str, Any] = {
    "state": "finished",
    "params": 5,
    "training_macs": 9,
    "seconds": 1.5,
    "points": [[{"t": 1}, 0.5, 20.0, [1.0]], [{"t": 2}, 0.9, 80.0, [0.5, 0.5]]],
}


def placed(key: str, value: Any) -> str:
    """The good outcome with one value changed: ``points.1.2`` is the MACs of the second point."""
    data = json.loads(json.dumps(GOOD))
    *above, last = key.split(".")
    inside: Any = data
    for part in above:
        inside = inside[int(part) if part.isdecimal() else part]
    inside[int(last) if last.isdecimal() else last] = value
    return json.dumps(data)


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("points.0.1", 17, "point 0: accuracy must be a number in [0, 1], got 17"),
        ("points.1.1", -0.1, "point 1: accuracy must be a number in [0, 1], got -0.1"),
        ("points.1.1", True, "point 1: accuracy must be a number in [0, 1], got True"),
        ("points.1.1", "0.5", "point 1: accuracy must be a number in [0, 1], got '0.5'"),
        ("points.1.2", 0, "point 1: macs must be a number above 0, at most 1e+18, got 0"),
        (
            "points.1.2",
            10**400,
            "point 1: macs must be a number above 0, at most 1e+18, got an integer of 1,329",
        ),
        ("points.1.0", [], "point 1: knob must be a mapping, got []"),
        ("points.1.3", 1, "point 1: route_share must be a list, got 1"),
        ("points.1.3", [2], "point 1: route_share must be numbers in [0, 1], got 2"),
        (
            "points.1",
            [1, 2],
            "point 1: it must be knob, accuracy, MACs, shares and perhaps a latency, got [1, 2]",
        ),
        ("points.1", 7, "point 1: it must be knob, accuracy, MACs, shares and perhaps a latency, got 7"),
        ("points", {}, "points must be a list, got {}"),
        ("points", [], "a trained network must have at least one operating point, got none"),
        ("state", "lost", "state must be one of finished, stopped, failed, refused, got 'lost'"),
        ("state", "running", "state must be one of finished, stopped, failed, refused, got 'running'"),
        ("state", [], "state must be one of finished, stopped, failed, refused, got []"),
        ("params", -1, "params must be a whole number from 0, got -1"),
        ("params", 1.5, "params must be a whole number from 0, got 1.5"),
        ("training_macs", None, "training_macs must be a whole number from 0, got None"),
        ("seconds", "1", "seconds must be a number from 0, got '1'"),
        ("reason", 3, "reason must be text or null, got 3"),
        ("more", 3, "unknown key 'more'"),
    ],
)
def test_an_outcome_that_is_none_names_its_key(key: str, value: Any, told: str) -> None:
    assert Outcome.loads(json.dumps(GOOD)).points[1].macs == 80.0
    with pytest.raises(Refusal) as caught:
        Outcome.loads(placed(key, value))
    assert str(caught.value).startswith(told)


@pytest.mark.parametrize("text", ["", "{", "NaN", "[]", "7", '{"a": NaN}', "[" * 100_000, "\ud800"])
def test_what_is_no_json_is_no_outcome(text: str) -> None:
    with pytest.raises(Refusal):
        Outcome.loads(text)


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("number", -1, "number must be a whole number from 0, got -1"),
        ("number", "4", "number must be a whole number from 0, got '4'"),
        ("method", None, "method must be text, got None"),
        ("config", [], "config must be a mapping, got []"),
        ("seed", 0.5, "seed must be a whole number from 0, got 0.5"),
        ("bounds", [2, 1], "bounds must be null, or the MACs of the cheapest and of the most expensive"),
        ("bounds", [float("nan"), 1], "bounds must be null, or the MACs of the cheapest"),
        ("bounds", "ab", "bounds must be null, or the MACs of the cheapest"),
    ],
)
def test_a_proposal_that_is_none_names_its_key(key: str, value: Any, told: str) -> None:
    good = TrialRecord(4, "dgate", {"positions": [3]}, seed=11).proposal()
    assert TrialRecord.of(good).number == 4
    with pytest.raises(Refusal) as caught:
        TrialRecord.of(good | {key: value})
    assert str(caught.value).startswith(told)
    with pytest.raises(Refusal, match=rf"^{key} must be there, and is missing$"):
        TrialRecord.of({name: each for name, each in good.items() if name != key})


@given(st.sampled_from(["points.0.1", "points.1.2", "points.0.3", "points.1.3.0"]), st.data())
@settings(derandomize=True, database=None)
def test_a_curve_looked_at_as_a_whole_is_one_looked_at_point_by_point(key: str, data: st.DataObject) -> None:
    scalar = st.floats(allow_nan=False, allow_infinity=False) | st.integers() | st.booleans() | st.none()
    rows = json.loads(placed(key, data.draw(scalar | st.lists(st.floats(-1, 2), max_size=3))))["points"]
    try:
        check_curve(rows)
    except Refusal as refusal:
        whole = str(refusal)
    else:
        whole = ""
    single = ""
    for row in rows:
        try:
            check_curve([row, [*row, 1.0]])  # of two lengths, which are looked at one by one
        except Refusal as refusal:
            single = single or str(refusal)
    assert bool(whole) == bool(single)


@pytest.mark.parametrize(
    ("outcome", "told"),
    [
        (Outcome(State.FINISHED), "a trained network must have at least one operating point, got none"),
        (
            Outcome(State.FINISHED, (OperatingPoint({}, float("nan"), 1.0),)),
            "point 0: accuracy must be a number in [0, 1], got nan",
        ),
        (
            Outcome(State.FINISHED, (OperatingPoint({}, 0.5, float("inf")),)),
            "point 0: macs must be a number above 0, at most 1e+18, got inf",
        ),
        (
            Outcome(State.FINISHED, (OperatingPoint({"t": "x" * 10_001}, 0.5, 1.0),)),
            "a knob must be at most 10,000 characters of JSON, got 10010",
        ),
        (
            Outcome(State.FINISHED, (OperatingPoint({"a\nb": 1}, 0.5, 1.0),)),
            r"a knob's name must be letters, digits and '_', no digit first, 100 at most, got 'a\nb'",
        ),
        (
            Outcome(State.FINISHED, (OperatingPoint({"t": object()}, 0.5, 1.0),)),
            "TypeError: Object of type object is not JSON serializable",
        ),
        (Outcome(State.RUNNING), "state must be one of finished, stopped, failed, refused, got 'running'"),
    ],
)
def test_what_a_worker_hands_back_is_checked_as_what_is_read(outcome: Outcome, told: str) -> None:
    failure = outcome.validated()
    assert failure.state is State.FAILED
    assert failure.reason is not None
    assert failure.reason.startswith(told)
    assert CURVE.validated() is CURVE


def test_texts_of_a_failure_are_bounded_where_they_enter() -> None:
    failure = Outcome.failure("\x1b[2J\ud800" + "x" * 30_000_000, "a\n\x1b]0;b\x07\n" + "y" * 120_000_000)
    assert failure.reason is not None
    assert failure.traceback is not None
    assert failure.reason.startswith(r"\x1b[2J\ud800xxx")
    assert " characters left out … " in failure.reason
    assert failure.traceback.startswith("a\n\\x1b]0;b\\x07\nyyy")
    assert len(failure.dumps()) < 25_000
    failure.dumps().encode()
    assert Outcome.loads(failure.dumps()) == failure
