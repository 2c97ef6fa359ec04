"""What trials have shown, as a search's decisions use it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState

from routesearch.results.curves import NOTHING, Curve, merged
from routesearch.results.points import Interval, OperatingPoint
from routesearch.results.record import Outcome, State, TrialRecord
from routesearch.search.evidence import (
    JUDGED,
    MAX_MODELLED,
    PROMISED,
    RECENT,
    EndedTrial,
    Evidence,
    MethodSummary,
)
from routesearch.study.search_settings import LAG

CONFIGS = {
    "wide": {"width": 0.1, "depth": 2},
    "deep": {"cuts": [3], "beta": 1.0, "kind": "plain", "gamma": 0.5},
}


def record(number: int, method: str = "wide", **changes: Any) -> TrialRecord:
    config = {**CONFIGS.get(method, {}), **changes}
    return TrialRecord(number, method, config, 1, Interval(190, 1000))


def outcome(*rows: tuple[float, float], state: State = State.FINISHED, macs: int = 100) -> Outcome:
    points = tuple(OperatingPoint({"t": i}, accuracy, cost) for i, (accuracy, cost) in enumerate(rows))
    return Outcome(state, points, training_macs=macs)


def trial(evidence: Evidence, one: TrialRecord, ended: Outcome) -> None:
    """One that is begun, unless it is refused, and ends."""
    if ended.state is not State.REFUSED:
        evidence.begin(one)
    evidence.end(one.with_outcome(ended))


def numbers(shown: Sequence[EndedTrial]) -> list[int]:
    return [one.number for one in shown]


def same(one: Curve, other: Curve) -> bool:
    return np.array_equal(one, other)


# ---- promises --------------------------------------------------------------------------------------


def promised(evidence: Evidence, number: int, gain: float, ended: Outcome, method: str = "wide") -> None:
    one = record(number, method)
    evidence.begin(one, {PROMISED: gain})
    evidence.end(one.with_outcome(ended))


def test_a_method_keeps_its_promises_as_long_as_it_made_none(make_fake: Callable[..., Any]) -> None:
    evidence = Evidence(make_fake())
    trial(evidence, record(0), outcome((0.5, 300.0)))
    assert evidence.summaries["wide"].promises_kept == 1.0
    promised(evidence, 1, 0.0, outcome((0.6, 300.0)))
    assert evidence.summaries["wide"].promises_kept == 1.0


def test_what_a_method_keeps_is_what_its_trials_added_beside_one_that_keeps_its_promise(
    make_fake: Callable[..., Any],
) -> None:
    evidence = Evidence(make_fake(budget=500.0))
    promised(evidence, 0, 0.2, outcome((0.5, 300.0)))  # adds 0.5 x 0.2 of the backbone
    assert evidence.summaries["wide"].promises_kept == pytest.approx((0.1 + 0.2) / 0.4)
    promised(evidence, 1, 0.1, outcome((0.5, 300.0)))  # nothing
    assert evidence.summaries["wide"].promises_kept == pytest.approx((0.1 + 0.15) / 0.45)
    promised(evidence, 2, 0.3, outcome(state=State.FAILED))
    assert evidence.summaries["wide"].promises_kept == pytest.approx((0.1 + 0.2) / 0.8)
    assert evidence.summaries["deep"].promises_kept == 1.0


def test_what_another_method_found_is_not_added_again(make_fake: Callable[..., Any]) -> None:
    evidence = Evidence(make_fake(budget=500.0))
    trial(evidence, record(0, "deep"), outcome((0.5, 300.0)))
    promised(evidence, 1, 0.1, outcome((0.5, 300.0)))
    assert evidence.summaries["wide"].promises_kept == pytest.approx(0.5)


def test_more_than_was_promised_is_no_reason_to_promise_more(make_fake: Callable[..., Any]) -> None:
    evidence = Evidence(make_fake(budget=500.0))
    promised(evidence, 0, 1e-3, outcome((0.5, 300.0)))
    assert evidence.summaries["wide"].promises_kept == 1.0


def test_only_the_latest_promises_count(make_fake: Callable[..., Any]) -> None:
    evidence = Evidence(make_fake(budget=500.0))
    promised(evidence, 0, 0.1, outcome((0.5, 300.0)))
    for number in range(1, JUDGED + 1):
        promised(evidence, number, 0.1, outcome((0.1, 300.0)))
    assert evidence.summaries["wide"].promises == [(0.1, 0.0)] * JUDGED
    assert evidence.summaries["wide"].promises_kept == pytest.approx(1 / (JUDGED + 1))


# ---- summaries -----------------------------------------------------------------------------------------


class Drawn(NamedTuple):
    method: str
    state: State
    accuracy: float
    cost: int
    macs: int
    own: bool
    width: float


drawn = st.builds(
    Drawn,
    method=st.sampled_from(["wide", "wide", "deep", "gone"]),
    state=st.sampled_from([State.FINISHED, State.FINISHED, State.STOPPED, State.FAILED, State.REFUSED]),
    accuracy=st.floats(0, 1),
    cost=st.integers(50, 1000),
    macs=st.integers(0, 1000),
    own=st.booleans(),
    width=st.sampled_from([0.1, 0.9, 5.0]),  # 5 is not in the space
)


def put(evidence: Evidence, number: int, one: Drawn) -> None:
    rows = ((one.accuracy, float(one.cost)), (one.accuracy / 2, one.cost / 2))
    curve = rows if one.state in (State.FINISHED, State.STOPPED) else ()
    ended = outcome(*curve, state=one.state, macs=0 if one.state is State.REFUSED else one.macs)
    asked = record(number, one.method, **({"width": one.width} if one.method == "wide" else {}))
    if one.own:
        trial(evidence, asked, ended)
    else:
        evidence.learn_from([asked.with_outcome(ended)])


def check(summary: MethodSummary, ended: list[EndedTrial]) -> None:
    """That a summary is what follows from the whole list."""
    begun = [one for one in ended if one.own and one.observation.state is not TrialState.PRUNED]
    own = [one for one in ended if one.own]
    assert same(summary.front, merged([one.curve for one in ended]))
    assert same(summary.own_front, merged([one.curve for one in own]))
    assert same(summary.settled_front, merged([one.curve for one in begun[:-RECENT]]))
    assert summary.recent == begun[-RECENT:]
    assert (summary.begun, summary.macs) == (len(begun), sum(one.macs for one in begun))
    assert summary.mean_macs == (np.mean([one.macs for one in begun]) if begun else 0)
    assert summary.with_curve == sum(len(one.curve) > 0 for one in ended)
    assert summary.modelled == [one for one in ended if one.params is not None and len(one.curve)]
    assert summary.comparable == [one for one in own if one.measured]


@given(st.lists(drawn, max_size=16))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_tallies_that_are_kept_are_those_of_the_whole_list(
    make_fake: Callable[..., Any], shown: list[Drawn]
) -> None:
    evidence = Evidence(make_fake(budget=700.0))
    for number, one in enumerate(shown):
        put(evidence, number, one)
        for method, summary in evidence.summaries.items():
            check(summary, evidence.ended[method])
    every = [one for each in evidence.ended.values() for one in each]
    unread = {i for i, each in enumerate(shown) if each.state is State.FAILED and not each.own}
    here = {i for i, each in enumerate(shown) if each.method != "gone"}
    assert sorted(numbers(every)) == sorted(here - unread)
    assert same(evidence.own_front(), merged([one.curve for one in every if one.own]))
    for method in CONFIGS:
        assert same(evidence.others(method), merged([one.curve for one in every if one.method != method]))


def test_the_tallies_of_methods_are_apart(make_fake: Callable[..., Any]) -> None:
    evidence = Evidence(make_fake())
    trial(evidence, record(0, "wide"), outcome((0.5, 300), macs=100))
    trial(evidence, record(1, "deep"), outcome((0.7, 400), macs=900))
    wide, deep = evidence.summaries["wide"], evidence.summaries["deep"]
    assert (wide.mean_macs, deep.mean_macs) == (100, 900)
    assert (wide.front.tolist(), deep.front.tolist()) == ([[0.5, 0.3]], [[0.7, 0.4]])
    assert evidence.others("wide").tolist() == deep.front.tolist()
    assert evidence.own_front().tolist() == [[0.5, 0.3], [0.7, 0.4]]


def test_a_model_learns_from_a_limited_number_and_always_from_those_on_the_front(
    make_fake: Callable[..., Any],
) -> None:
    evidence, random = Evidence(make_fake()), Random(1)
    trial(evidence, record(0, "deep"), outcome((0.25, 250)))
    summary, most = evidence.summaries["wide"], 0
    for number in range(1, 600):
        cost = random.uniform(100, 700)
        trial(evidence, record(number), outcome((random.uniform(0.0, cost / 1000), cost)))
        most = max(most, len(summary.modelled))
    assert len(evidence.ended["wide"]) == summary.with_curve == 599
    assert most == MAX_MODELLED
    counting = merged([summary.front, evidence.others("wide")])
    front = {tuple(row) for row in counting.tolist() if row[1] <= evidence.edge}
    leading = [one for one in evidence.ended["wide"] if front & {tuple(row) for row in one.curve.tolist()}]
    assert len(leading) > 5
    assert {id(one) for one in leading} <= {id(one) for one in summary.modelled}
    assert numbers(summary.modelled) == sorted(numbers(summary.modelled))


def test_those_that_a_model_no_longer_learns_from_are_the_worst(make_fake: Callable[..., Any]) -> None:
    evidence = Evidence(make_fake())
    order = list(range(MAX_MODELLED + 1))
    Random(2).shuffle(order)
    for number in order:  # the higher the number, the better
        trial(evidence, record(number), outcome((0.1 + number / 1000, 300)))
    kept = MAX_MODELLED * 3 // 4
    assert set(numbers(evidence.summaries["wide"].modelled)) == set(
        range(MAX_MODELLED + 1 - kept, MAX_MODELLED + 1)
    )


# ---- other studies' trials ---------------------------------------------------------------------------


def test_trials_of_another_study_are_told_and_are_no_trials_of_this_one(
    make_fake: Callable[..., Any],
) -> None:
    evidence = Evidence(make_fake())
    evidence.learn_from([record(7).with_outcome(outcome((0.8, 300)))])
    [one], summary = evidence.ended["wide"], evidence.summaries["wide"]
    assert not one.own
    assert not one.begun
    assert summary.modelled == [one]
    assert summary.front.tolist() == [[0.8, 0.3]]
    assert summary.with_curve == 1
    assert same(summary.own_front, NOTHING)
    assert same(evidence.own_front(), NOTHING)
    assert (summary.begun, summary.macs, summary.recent, summary.comparable) == (0, 0, [], [])
    assert evidence.others("deep").tolist() == [[0.8, 0.3]]


def test_nothing_is_learnt_from_trials_of_another_study_that_failed_or_run(
    make_fake: Callable[..., Any],
) -> None:
    evidence = Evidence(make_fake())
    failed = record(0).with_outcome(Outcome.failure("out of memory"))
    refused = record(2, width=1.0).with_outcome(Outcome(State.REFUSED, reason="over the budget"))
    evidence.learn_from([failed, record(1), refused])
    assert numbers(evidence.ended["wide"]) == [2]


def test_a_trial_is_not_compared_with_those_of_another_study(make_fake: Callable[..., Any]) -> None:
    evidence = Evidence(make_fake())
    evidence.learn_from([record(0).with_outcome(outcome((0.8, 300)))])
    evidence.begin(record(0))
    assert evidence.compared_with(0) == {"wide": [], "deep": []}
    assert same(evidence.compared_front(0), NOTHING)


# ---- what one trial shows ----------------------------------------------------------------------------


def test_a_trial_shows_its_rungs_and_its_end_in_shares_of_the_backbone(
    make_fake: Callable[..., Any],
) -> None:
    evidence = Evidence(make_fake())
    rungs = ((10, ((0.2, 300.0),)), (30, ((0.4, 300.0), (0.3, 100.0))))
    trial(evidence, record(0), replace(outcome((0.6, 400), (0.7, 800)), rungs=rungs))
    [one] = evidence.ended["wide"]
    assert [step.macs for step in one.measured] == [10, 30, 100]
    assert [step.curve.tolist() for step in one.measured] == [
        [[0.2, 0.3]],
        [[0.3, 0.1], [0.4, 0.3]],
        [[0.6, 0.4]],  # what is over the budget does not count
    ]
    assert one.curve is one.measured[-1].curve
    assert one.whole
    assert one.own
    assert one.begun


@pytest.mark.parametrize(
    ("ended", "whole", "begun"),
    [
        (outcome((0.5, 300), state=State.STOPPED), False, True),
        (Outcome.failure("out of memory"), False, True),
        (Outcome(State.REFUSED, reason="over the budget"), False, False),
    ],
    ids=["stopped", "failed", "refused"],
)
def test_what_was_begun_and_what_was_trained_to_its_end(
    make_fake: Callable[..., Any], ended: Outcome, whole: bool, begun: bool
) -> None:
    evidence = Evidence(make_fake())
    trial(evidence, record(0), ended)
    [one] = evidence.ended["wide"]
    assert (one.whole, one.begun) == (whole, begun)
    assert len(one.curve) == len(ended.points)


def test_a_failed_trial_shows_nothing_even_if_it_had_passed_a_rung(make_fake: Callable[..., Any]) -> None:
    evidence = Evidence(make_fake())
    trial(evidence, record(0), replace(Outcome.failure("lost"), rungs=((10, ((0.9, 300.0),)),)))
    [one] = evidence.ended["wide"]
    assert not one.measured
    assert same(one.curve, NOTHING)


def test_a_config_outside_the_space_is_known_without_its_parameters(make_fake: Callable[..., Any]) -> None:
    evidence = Evidence(make_fake())
    trial(evidence, record(0, width=3.0), outcome((0.5, 300)))
    [one] = evidence.ended["wide"]
    assert one.params is None
    assert one.distributions is None
    assert evidence.summaries["wide"].modelled == []
    assert evidence.summaries["wide"].front.tolist() == [[0.5, 0.3]]


def test_what_a_sampler_left_for_itself_stays_with_the_trial(make_fake: Callable[..., Any]) -> None:
    evidence = Evidence(make_fake())
    evidence.begin(record(0), {"generation": 3})
    assert evidence.pending[0].attributes == {"generation": 3}
    evidence.end(record(0).with_outcome(outcome((0.5, 300))))
    assert evidence.ended["wide"][0].attributes == {"generation": 3}


@pytest.mark.parametrize(("budget", "edge"), [(None, 1.0), (500.0, 0.5), (2000.0, 1.0)])
def test_accuracy_counts_up_to_the_budget_and_at_most_up_to_the_backbone(
    make_fake: Callable[..., Any], budget: float | None, edge: float
) -> None:
    assert Evidence(make_fake(budget=budget)).edge == edge


# ---- under way ---------------------------------------------------------------------------------------


def test_a_trial_under_way_shows_its_steps_until_it_begins_anew_or_ends(
    make_fake: Callable[..., Any],
) -> None:
    evidence = Evidence(make_fake())
    evidence.begin(record(0))
    evidence.begin(record(1, "deep"))
    evidence.show(0, outcome((0.3, 300), macs=10))
    evidence.show(0, outcome((0.4, 300), macs=30))
    method, measured = evidence.measured_of(0)
    assert (method, [step.macs for step in measured]) == ("wide", [10, 30])
    assert evidence.compared_front(1).tolist() == [[0.4, 0.3]]
    assert same(evidence.compared_front(0), NOTHING), "not with itself"
    assert evidence.compared_with(1)["wide"] == [evidence.pending[0]]
    assert evidence.compared_with(0) == {"wide": [], "deep": []}
    evidence.forget_measured(0)
    assert evidence.compared_with(1)["wide"] == []
    assert same(evidence.compared_front(1), NOTHING)
    evidence.end(record(0).with_outcome(outcome((0.5, 300))))
    assert list(evidence.pending) == [1]
    assert evidence.compared_with(1)["wide"] == evidence.ended["wide"]


def test_what_is_known_changes_whenever_a_trial_begins_or_ends(make_fake: Callable[..., Any]) -> None:
    evidence, found = Evidence(make_fake()), []
    found.append(evidence.revision)
    evidence.begin(record(0))
    found.append(evidence.revision)
    evidence.end(record(1).with_outcome(Outcome(State.REFUSED, reason="over the budget")))
    found.append(evidence.revision)
    evidence.end(record(0).with_outcome(outcome((0.5, 300))))
    found.append(evidence.revision)
    assert len(set(found)) == len(found)


# ---- lag ---------------------------------------------------------------------------------------------


def test_without_a_lag_the_next_trial_may_always_be_drawn(make_fake: Callable[..., Any]) -> None:
    evidence = Evidence(make_fake())
    for number in range(3 * LAG):
        assert evidence.ready
        evidence.begin(record(number))
    evidence.end(record(20).with_outcome(outcome((0.5, 300))))
    assert numbers(evidence.ended["wide"]) == [20]


@given(seed=st.integers(0, 10**6), workers=st.integers(1, LAG + 4))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_with_a_lag_nothing_is_known_of_the_latest_whichever_ends_first(
    make_fake: Callable[..., Any], seed: int, workers: int
) -> None:
    evidence, random = Evidence(make_fake(), LAG), Random(seed)
    under_way: list[int] = []
    for number in range(4 * LAG):
        while not evidence.ready or len(under_way) == workers:
            ended = under_way.pop(random.randrange(len(under_way)))
            evidence.end(record(ended).with_outcome(outcome((0.5, 300), macs=1)))
        evidence.release()
        # itself included, eight are not known
        assert numbers(evidence.ended["wide"]) == list(range(max(0, number + 1 - LAG)))
        known, untold = len(evidence.ended["wide"]), evidence.untold_macs
        assert untold == number - len(under_way) - known
        evidence.begin(record(number))
        under_way.append(number)
        assert sorted(evidence.pending) == list(range(known, number + 1))


def test_with_a_lag_a_trial_waits_for_the_one_that_was_begun_eight_before_it(
    make_fake: Callable[..., Any],
) -> None:
    evidence = Evidence(make_fake(), LAG)
    for number in range(LAG):
        assert evidence.ready
        evidence.begin(record(number))
    for number in range(1, LAG):
        evidence.end(record(number).with_outcome(outcome((0.5, 300))))
        assert not evidence.ready
    evidence.end(record(0).with_outcome(outcome((0.5, 300))))
    assert evidence.ready
    assert numbers(evidence.ended["wide"]) == [0]


def test_with_a_lag_a_refusal_is_known_at_once(make_fake: Callable[..., Any]) -> None:
    evidence = Evidence(make_fake(), LAG)
    evidence.begin(record(0))
    evidence.end(record(1).with_outcome(Outcome(State.REFUSED, reason="over the budget")))
    assert numbers(evidence.ended["wide"]) == [1]


def test_with_a_lag_a_trial_is_compared_with_what_was_known_when_it_began(
    make_fake: Callable[..., Any],
) -> None:
    evidence = Evidence(make_fake(), LAG)
    for number in range(LAG + 1):
        trial(evidence, record(number), outcome((0.5 + number / 100, 300)))
    assert numbers(evidence.ended["wide"]) == [0, 1]
    evidence.begin(record(20))
    evidence.begin(record(21))
    evidence.show(21, outcome((0.9, 300)))
    evidence.end(record(21).with_outcome(outcome((0.9, 300))))
    assert numbers(evidence.ended["wide"]) == [0, 1, 2, 3]
    assert numbers(evidence.compared_with(20)["wide"]) == [0, 1]  # type: ignore[arg-type]
    assert evidence.compared_front(20).tolist() == [[0.51, 0.3]]
