"""What a trial takes of a budget."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from routesearch.results.points import Interval, OperatingPoint
from routesearch.results.record import Outcome, State, TrialRecord
from routesearch.search.effort import BudgetShare, Effort
from routesearch.search.evidence import Evidence

Taken = tuple[str, int]
"""Method, and training MACs of one of its trials."""


def ended(number: int, method: str, macs: int) -> TrialRecord:
    record = TrialRecord(number, method, {}, 1, Interval(100, 1000))
    points = (OperatingPoint({}, 0.5, 100.0),)
    return record.with_outcome(Outcome(State.FINISHED, points, training_macs=macs))


def share(task: Any, *taken: Taken) -> BudgetShare:
    evidence = Evidence(task)
    for number, (method, macs) in enumerate(taken):
        one = ended(number, method, macs)
        evidence.begin(one)
        evidence.end(one)
    return Effort(task.config.search, evidence).share


def test_a_trial_takes_one_of_the_trials_and_its_training_macs_of_those_that_are_to_be_had(
    make_fake: Callable[..., Any],
) -> None:
    task = make_fake(search={"trials": 20, "training_macs": 4000})
    found = share(task, ("wide", 100), ("deep", 900))
    assert found == BudgetShare(1 / 20, 1 / 4000)
    assert found(0) == 1 / 20
    assert found(400) == pytest.approx(1 / 20 + 0.1)


def test_without_a_limit_on_macs_the_budget_is_what_trials_of_all_methods_in_equal_parts_take(
    make_fake: Callable[..., Any],
) -> None:
    found = share(make_fake(search={"trials": 10}), ("wide", 100), ("deep", 200), ("deep", 400))
    assert found.trial == 1 / 10
    assert found.mac == pytest.approx(1 / (10 * (100 + 300) / 2))
    assert 5 * found(100) + 5 * found(300) == pytest.approx(2), "one whole for trials, and one for MACs"


def test_without_a_limit_on_macs_many_cheap_trials_do_not_shrink_the_budget(
    make_fake: Callable[..., Any],
) -> None:
    task = make_fake(search={"trials": 10})
    few = share(task, ("wide", 100), ("deep", 900))
    assert share(task, *[("wide", 100)] * 20, ("deep", 900)) == few


def test_as_long_as_nothing_was_trained_training_macs_take_nothing(make_fake: Callable[..., Any]) -> None:
    task = make_fake(search={"trials": 10})
    assert share(task) == BudgetShare(1 / 10, 0.0)
    assert share(task, ("wide", 0)) == BudgetShare(1 / 10, 0.0)
    assert share(make_fake(search={"trials": 10, "training_macs": 50})) == BudgetShare(1 / 10, 1 / 50)


def test_the_share_follows_what_is_known(make_fake: Callable[..., Any]) -> None:
    task = make_fake(search={"trials": 10})
    evidence = Evidence(task)
    effort = Effort(task.config.search, evidence)
    assert effort.share.mac == 0
    one = ended(0, "wide", 200)
    evidence.begin(one)
    assert effort.share.mac == 0
    evidence.end(one)
    assert effort.share.mac == pytest.approx(1 / 2000)


def test_what_trials_of_another_study_took_is_no_measure(make_fake: Callable[..., Any]) -> None:
    task = make_fake(search={"trials": 10})
    evidence = Evidence(task)
    evidence.learn_from([ended(0, "wide", 10**9)])
    assert Effort(task.config.search, evidence).share.mac == 0
