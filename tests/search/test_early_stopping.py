"""Which trials go on at a rung."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from routesearch.results.points import OperatingPoint
from routesearch.results.record import Outcome, State, TrialRecord
from routesearch.search.early_stopping import Halving, within
from routesearch.search.evidence import Evidence, Measured
from routesearch.study.search_settings import LAG, StopConfig


def curve(shows: Sequence[float]) -> tuple[int, tuple[OperatingPoint, ...]]:
    """From training MACs that are spent and an accuracy; the point costs 300 of the backbone's 1000 MACs."""
    macs, accuracy, *cost = shows
    return int(macs), (OperatingPoint({}, accuracy, cost[0] if cost else 300.0),)


class Rungs:
    """Trials with what they showed at their rungs."""

    def __init__(self, task: Any, lag: int | None = None, keep: float = 0.33) -> None:
        self.evidence = Evidence(task, lag)
        self._halving = Halving(self.evidence, StopConfig(keep=keep))
        self._task = task
        self._records: list[TrialRecord] = []

    def begin(self, method: str, *measured: Sequence[float]) -> int:
        """A trial that is under way."""
        model = self._task.spaces[method].default()
        bounds = self._task.bounds(method, model)
        record = TrialRecord(len(self._records), method, model.model_dump(mode="json"), 1, bounds)
        self._records.append(record)
        self.evidence.begin(record)
        for macs, points in map(curve, measured):
            self.evidence.show(record.number, Outcome(State.FINISHED, points, training_macs=macs))
        return record.number

    def end(self, number: int, *measured: Sequence[float], state: State = State.FINISHED) -> None:
        *rungs, (macs, points) = map(curve, measured)
        plain = tuple((spent, tuple((p.accuracy, p.macs) for p in each)) for spent, each in rungs)
        outcome = Outcome(state, points, training_macs=macs, rungs=plain)
        self.evidence.end(self._records[number].with_outcome(outcome))

    def ended(self, method: str, *measured: Sequence[float], times: int = 1, **how: Any) -> None:
        for _ in range(times):
            self.end(self.begin(method), *measured, **how)

    def goes_on(self, number: int) -> bool:
        return self._halving.goes_on(number)

    def decided(self, method: str, *measured: Sequence[float]) -> bool:
        """Whether a trial that shows this goes on."""
        return self.goes_on(self.begin(method, *measured))


@pytest.fixture
def rungs(make_fake: Callable[..., Any]) -> Callable[..., Rungs]:
    return lambda **how: Rungs(make_fake(budget=None), **how)


# ---- the first of a method ---------------------------------------------------------------------------


def test_the_first_trial_of_a_method_goes_on_however_poor_it_is(rungs: Callable[..., Rungs]) -> None:
    given = rungs()
    given.ended("deep", (10, 0.9), (30, 0.9), times=9)
    assert given.decided("wide", (10, 0.01))
    assert not given.decided("deep", (10, 0.01))


def test_as_long_as_no_trial_of_a_method_was_trained_to_its_end_all_go_on(
    rungs: Callable[..., Rungs],
) -> None:
    given = rungs()
    given.ended("deep", (10, 0.9), (30, 0.9), times=9)
    given.ended("wide", (10, 0.8), state=State.STOPPED, times=5)
    given.ended("wide", (10, 0.8), (20, 0.8), state=State.STOPPED)
    for _ in range(5):
        given.begin("wide", (10, 0.8))
    assert given.decided("wide", (10, 0.01))
    given.ended("wide", (10, 0.8), (30, 0.8))
    assert not given.decided("wide", (10, 0.01))


def test_a_trial_goes_on_at_a_rung_that_no_finished_one_of_its_method_had_before_its_end(
    rungs: Callable[..., Rungs],
) -> None:
    given = rungs()
    given.ended("wide", (10, 0.8), (30, 0.8), times=6)
    assert not given.decided("wide", (10, 0.01))
    assert given.decided("wide", (10, 0.01), (30, 0.01))


# ---- the three reasons to go on ----------------------------------------------------------------------


@pytest.mark.parametrize(("accuracy", "on"), [(0.3, True), (0.5, False)])
def test_a_trial_goes_on_that_is_among_the_best_third_of_its_method_at_its_rung(
    rungs: Callable[..., Rungs], accuracy: float, on: bool
) -> None:
    given = rungs()
    given.ended("deep", (5, 0.8), (30, 1.0), times=6)  # better at the same cost, and nothing adds to it
    given.ended("wide", (10, accuracy), (30, 0.9), times=4)
    assert given.decided("wide", (10, 0.4)) is on


@pytest.mark.parametrize(("ahead", "on"), [(0, True), (1, True), (2, True), (3, False), (4, False)])
def test_the_best_third_is_rounded_up(rungs: Callable[..., Rungs], ahead: int, on: bool) -> None:
    given = rungs()
    given.ended("wide", (10, 0.6), (30, 0.6), times=ahead)
    given.ended("wide", (10, 0.2), (30, 0.2), times=7 - ahead)
    assert given.decided("wide", (10, 0.4)) is on  # a third of eight: 2.64


def test_where_the_share_is_less_than_one_trial_all_go_on(rungs: Callable[..., Rungs]) -> None:
    given = rungs(keep=0.2)
    given.ended("wide", (10, 0.9), (30, 0.9), times=3)
    assert given.decided("wide", (10, 0.1))
    given.ended("wide", (10, 0.9), (30, 0.9))
    assert not given.decided("wide", (10, 0.1))


@pytest.mark.parametrize(("accuracy", "on"), [(0.3, True), (0.5, False)])
def test_a_trial_goes_on_that_is_among_the_best_third_of_all_at_equal_cost(
    rungs: Callable[..., Rungs], accuracy: float, on: bool
) -> None:
    given = rungs()
    given.ended("deep", (5, accuracy), (30, 0.95), times=6)  # what comes after ten MACs does not count
    given.ended("wide", (100, 0.8), (200, 0.8), times=4)  # better at the rung, but dearer
    assert given.decided("wide", (10, 0.4)) is on


@pytest.mark.parametrize(("end", "on"), [(0.72, True), (0.6, False)])
def test_a_poor_trial_goes_on_that_would_add_to_the_front_with_the_largest_gain_of_its_method(
    rungs: Callable[..., Rungs], end: float, on: bool
) -> None:
    given = rungs()
    given.ended("wide", (10, 0.7), (30, 0.8), times=6)
    given.ended("wide", (10, 0.2), (30, end))
    given.ended("wide", (10, 0.7), (30, 0.8), times=6)
    # it keeps 0.7 of the share of errors that the third one kept: 0.25 becomes 0.816 or 0.7375
    assert given.decided("wide", (10, 0.25)) is on


def test_a_gain_is_a_share_of_the_errors_for_a_trial_that_begins_low_has_more_to_gain(
    rungs: Callable[..., Rungs],
) -> None:
    given = rungs()
    given.ended("wide", (10, 0.8), (30, 0.9), times=6)
    given.ended("deep", (10, 0.9, 600.0), (30, 0.9, 600.0), times=6)
    assert given.decided("wide", (10, 0.3, 299.0))  # cheaper than all
    given.ended("deep", (10, 0.6, 290.0), (30, 0.6, 290.0))
    assert given.decided("wide", (10, 0.3, 295.0)), "0.3 + 0.1 would add nothing, 1 - 0.7 * 0.35 does"


def test_no_gain_lifts_an_accuracy_above_one(rungs: Callable[..., Rungs]) -> None:
    given = rungs()
    given.ended("deep", (5, 1.0), (30, 1.0), times=9)
    given.ended("wide", (10, 0.5), (30, 0.95), times=4)
    given.ended("wide", (10, 0.1), (30, 0.95))
    assert not given.decided("wide", (10, 0.4))  # 0.85 more


@pytest.mark.parametrize("how", ["of another method", "before this rung", "of one that was stopped"])
def test_only_a_gain_of_the_same_method_from_the_same_rung_to_the_end_counts(
    rungs: Callable[..., Rungs], how: str
) -> None:
    given = rungs()
    given.ended("wide", (10, 0.7), (20, 0.7), (30, 0.8), times=6)
    given.ended("deep", (10, 0.7), (20, 0.7), (30, 0.8), times=6)
    match how:
        case "of another method":
            given.ended("deep", (10, 0.1), (20, 0.1), (30, 0.8))
        case "before this rung":
            given.ended("wide", (10, 0.1), (20, 0.75), (30, 0.8))
        case _:
            given.ended("wide", (10, 0.1), (20, 0.1), (25, 0.8), state=State.STOPPED)
    assert not given.decided("wide", (10, 0.2), (20, 0.2))
    given.ended("wide", (10, 0.1), (20, 0.1), (30, 0.8))
    assert given.decided("wide", (10, 0.2), (20, 0.2))


def test_a_trial_stops_that_is_poor_in_both_and_adds_nothing(rungs: Callable[..., Rungs]) -> None:
    given = rungs()
    given.ended("wide", (10, 0.7), (30, 0.8), times=4)
    assert not given.decided("wide", (10, 0.3))


def test_a_trial_that_is_less_accurate_and_cheaper_than_all_goes_on(rungs: Callable[..., Rungs]) -> None:
    given = rungs()
    given.ended("wide", (10, 0.7), (30, 0.8), times=9)
    assert given.decided("wide", (10, 0.1, 200.0))
    assert not given.decided("wide", (10, 0.1, 400.0))


@pytest.mark.parametrize(("accuracy", "cost", "on"), [(0.51, 210.0, False), (0.99, 450.0, True)])
def test_of_trials_on_one_front_those_are_best_without_which_most_is_lost(
    rungs: Callable[..., Rungs], accuracy: float, cost: float, on: bool
) -> None:
    given = rungs()
    given.ended("deep", (5, 1.0, 50.0), (30, 1.0, 40.0), times=6)
    for better, dearer in ((0.1, 50.0), (0.3, 100.0), (0.5, 200.0), (0.7, 300.0), (0.8, 400.0)):
        given.ended("wide", (10, better, dearer), (30, better, dearer))
    assert given.decided("wide", (10, accuracy, cost)) is on


# ---- who is compared ---------------------------------------------------------------------------------


def test_trials_under_way_count_at_the_rung_that_they_reached(rungs: Callable[..., Rungs]) -> None:
    for better, on in ((0.35, True), (0.5, False)):
        given = rungs()
        given.ended("wide", (10, 0.3), (30, 0.3))
        given.ended("deep", (5, 0.9), (30, 0.9), times=9)
        for _ in range(4):
            given.begin("wide", (10, better))
        assert given.decided("wide", (10, 0.4)) is on


def test_trials_under_way_that_showed_nothing_do_not_count(rungs: Callable[..., Rungs]) -> None:
    given = rungs()
    given.ended("wide", (10, 0.8), (30, 0.8), times=3)
    for _ in range(9):
        given.begin("wide")
    assert not given.decided("wide", (10, 0.7))  # the fourth of four, and not of thirteen


def test_trials_of_other_methods_that_are_under_way_count_at_equal_cost(
    rungs: Callable[..., Rungs],
) -> None:
    for macs, on in ((9, False), (11, True)):
        given = rungs()
        given.ended("wide", (100, 0.8), (200, 0.8), times=4)
        given.ended("deep", (5, 0.3), (300, 0.9), times=4)
        for _ in range(6):
            given.begin("deep", (macs, 0.7))
        assert given.decided("wide", (10, 0.4)) is on


def test_what_is_under_way_is_on_the_front_that_a_trial_would_have_to_add_to(
    rungs: Callable[..., Rungs],
) -> None:
    for best, on in ((0.5, True), (0.9, False)):
        given = rungs()
        given.ended("wide", (10, 0.5), (30, 0.6), times=4)
        given.ended("wide", (10, 0.3), (30, 0.6))  # 0.3 more
        given.begin("deep", (100, best))
        assert given.decided("wide", (10, 0.35)) is on


def test_a_deterministic_search_compares_with_what_was_known_when_the_trial_began(
    rungs: Callable[..., Rungs],
) -> None:
    given = rungs(lag=LAG)
    given.ended("wide", (10, 0.3), (30, 0.3), times=LAG + 4)
    mine = given.begin("wide", (10, 0.4))
    given.ended("wide", (10, 0.9), (30, 0.9), times=20)
    given.begin("wide", (10, 0.9))
    assert given.goes_on(mine)
    given.end(mine, (10, 0.4), (30, 0.4))
    assert not given.decided("wide", (10, 0.4))


def test_the_step_at_equal_cost_is_the_last_that_took_no_more() -> None:
    measured = [Measured(macs, curve_) for macs, curve_ in ((10, None), (20, None), (30, None))]  # type: ignore[arg-type]
    assert within(measured, 9) is None
    assert within(measured, 20) is measured[1]
    assert within(measured, 29) is measured[1]
    assert within(measured, 99) is measured[2]


# ---- order -------------------------------------------------------------------------------------------


def test_of_identical_trials_all_go_on(rungs: Callable[..., Rungs]) -> None:
    given = rungs()
    given.ended("wide", (10, 0.5), (30, 0.5), times=8)
    numbers = [given.begin("wide", (10, 0.5)) for _ in range(4)]
    assert all(given.goes_on(number) for number in numbers)


accuracies = st.sampled_from([0.1, 0.3, 0.31, 0.5, 0.7, 0.9])
trials = st.tuples(
    st.sampled_from(["wide", "deep"]),
    accuracies,
    accuracies,
    st.sampled_from([5, 10, 15]),
    st.sampled_from([100.0, 300.0, 500.0]),
    st.sampled_from([State.FINISHED, State.STOPPED]),
)


@given(shown=st.lists(trials, max_size=10), mine=accuracies, data=st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_order_in_which_trials_ended_decides_nothing(
    rungs: Callable[..., Rungs],
    shown: list[tuple[str, float, float, int, float, State]],
    mine: float,
    data: st.DataObject,
) -> None:
    found = []
    for order in (shown, data.draw(st.permutations(shown))):
        one = rungs()
        for method, first, last, macs, cost, state in order:
            one.ended(method, (macs, first, cost), (30, last, cost), state=state)
        found.append(one.decided("wide", (10, mine)))
    assert found[0] is found[1]


@given(shown=st.lists(trials, max_size=10), mine=st.tuples(accuracies, accuracies))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_where_a_trial_goes_on_a_more_accurate_one_does(
    rungs: Callable[..., Rungs],
    shown: list[tuple[str, float, float, int, float, State]],
    mine: tuple[float, float],
) -> None:
    one = rungs()
    for method, first, last, macs, _, state in shown:
        one.ended(method, (macs, first), (30, last), state=state)
    worse, better = (one.begin("wide") for _ in mine)
    found = []
    for number, accuracy in zip((worse, better), sorted(mine), strict=True):
        one.evidence.show(number, Outcome(State.FINISHED, curve((10, accuracy))[1], training_macs=10))
        found.append(one.goes_on(number))
        one.evidence.forget_measured(number)
    assert found[0] <= found[1]
