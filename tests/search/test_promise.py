"""What a config promises."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

from routesearch.results.curves import NOTHING, Curve, area, curve_of, merged
from routesearch.results.points import Interval, OperatingPoint
from routesearch.search.effort import Effort
from routesearch.search.evidence import EndedTrial, Evidence, Measured
from routesearch.search.observations import Observation
from routesearch.search.promise import Priced, Promise

SPACE = {"x": FloatDistribution(0.0, 1.0), "y": FloatDistribution(0.0, 1.0)}
PRICES = Interval(100, 400)
"""Of a backbone with 1000 MACs."""


def params(x: float, y: float = 0.5) -> Mapping[str, Any]:
    return {"x": x, "y": y}


def priced(x: float, y: float = 0.5) -> Priced:
    return Priced(params(x, y), PRICES)


def shown(
    config: Mapping[str, Any], accuracy: float, bounds: Interval = PRICES, macs: int = 10_000, *rows: Any
) -> EndedTrial:
    """A trial with one accuracy from its cheapest route on, or with rows of its own."""
    points = [OperatingPoint({}, *row) for row in rows or [(accuracy, float(bounds.min))]]
    step = Measured(macs, curve_of(points, 1000.0))
    seen = Observation(TrialState.COMPLETE, [accuracy, bounds.min], {})
    return EndedTrial(0, "wide", config, SPACE, seen, [step], macs, bounds)


@pytest.fixture
def learnt(make_fake: Callable[..., Any]) -> Callable[..., Promise]:
    """What is learnt from trials, in a search of ten trials and ten million training MACs."""

    def make(
        trials: Sequence[EndedTrial], edge: float = 0.5, priced: Sequence[Priced] = (), **search: Any
    ) -> Promise:
        task = make_fake(search={"trials": 10, "training_macs": 10_000_000, **search})
        promise = Promise(SPACE, 1000.0, edge, Effort(task.config.search, Evidence(task)))
        promise.learn(trials, priced)
        return promise

    return make


def hills() -> list[EndedTrial]:
    """Trials that are good at a small x, and bad at a large one."""
    return [shown(params(x), 0.8 if x < 0.5 else 0.3) for x in (0.0, 0.1, 0.2, 0.3, 0.7, 0.8, 0.9, 1.0)]


# ---- ends --------------------------------------------------------------------------------------------


def with_rung(x: float, before: float, after: float | None) -> EndedTrial:
    """A trial that was trained to its end, or that stopped at its first rung."""
    accuracies = [before] if after is None else [before, after]
    measured = [Measured(10_000, curve_of([OperatingPoint({}, a, 100.0)], 1000.0)) for a in accuracies]
    return replace(shown(params(x), accuracies[-1]), measured=measured, whole=after is not None)


def test_a_stopped_trial_is_learnt_as_it_is_expected_at_its_end(learnt: Callable[..., Promise]) -> None:
    whole = [with_rung(x, 0.2, 0.6) for x in (0.0, 0.1, 0.2)]  # half of the errors stay
    promise = learnt([*whole, *(with_rung(x, 0.4, None) for x in (0.8, 0.9, 1.0))])
    assert promise.expected([priced(0.9)])[-1, 0] == pytest.approx(0.7, abs=0.02)
    assert promise.expected([priced(0.1)])[-1, 0] == pytest.approx(0.6, abs=0.02)


def test_a_stopped_trial_is_learnt_as_it_was_where_none_was_trained_on_from_its_rung(
    learnt: Callable[..., Promise],
) -> None:
    promise = learnt([with_rung(x, 0.4, None) for x in (0.0, 0.5, 1.0)])
    assert promise.expected([priced(0.5)])[-1, 0] == pytest.approx(0.4, abs=0.02)


def test_no_trial_is_expected_to_get_worse(learnt: Callable[..., Promise]) -> None:
    whole = [with_rung(x, 0.6, 0.2) for x in (0.0, 0.1, 0.2)]
    promise = learnt([*whole, *(with_rung(x, 0.6, None) for x in (0.8, 0.9, 1.0))])
    assert promise.expected([priced(0.9)])[-1, 0] == pytest.approx(0.6, abs=0.02)


def test_what_training_takes_is_what_whole_trainings_took(learnt: Callable[..., Promise]) -> None:
    whole = [replace(with_rung(x, 0.2, 0.6), macs=90_000) for x in (0.0, 0.5, 1.0)]
    stopped = [replace(with_rung(x, 0.2, None), macs=10_000) for x in (0.2, 0.3, 0.7, 0.8)]
    configs = [params(0.25), params(0.75)]
    _, cost = learnt([*whole, *stopped]).of(configs, NOTHING)
    assert cost == pytest.approx([0.1 + 90_000 / 10_000_000] * 2, rel=1e-3)
    _, cost = learnt(stopped).of(configs, NOTHING)
    assert cost == pytest.approx([0.1 + 10_000 / 10_000_000] * 2, rel=1e-3)


# ---- gain --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exact", [False, True])
def test_a_config_near_a_good_one_promises_more_than_one_near_a_bad_one(
    learnt: Callable[..., Promise], exact: bool
) -> None:
    promise = learnt(hills())
    prices = [PRICES] * 2 if exact else None
    for front in (NOTHING, curve_of([OperatingPoint({}, 0.5, 100.0)], 1000.0)):
        gain, cost = promise.of([params(0.15), params(0.85)], front, prices)
        assert gain[0] > 2 * gain[1]
        assert cost[0] == pytest.approx(cost[1], rel=0.05)


def test_the_gain_is_the_hypervolume_that_a_known_curve_adds(learnt: Callable[..., Promise]) -> None:
    promise = learnt(hills())
    for accuracy in (0.0, 0.4, 0.7):
        front = np.array([[accuracy, 0.05]])
        gain, _ = promise.of([params(0.1)], front, [PRICES])
        assert gain[0] == pytest.approx((0.8 - accuracy) * (0.5 - 0.1), abs=0.02)


def test_nothing_is_promised_over_the_budget(learnt: Callable[..., Promise]) -> None:
    promise = learnt(hills())
    gain, _ = promise.of([params(0.1)] * 3, NOTHING, [Interval(501, 900), Interval(499, 900), PRICES])
    assert gain[0] == 0
    assert 0 < gain[1] < gain[2]


def test_nothing_is_promised_where_the_price_is_predicted_over_the_budget(
    learnt: Callable[..., Promise],
) -> None:
    places = np.linspace(0, 1, 9)
    priced = [Priced(params(x), Interval(int(100 + 800 * x), 1000)) for x in places]
    promise = learnt([shown(params(x), 0.8, priced[i].bounds) for i, x in enumerate(places)], priced=priced)
    gain, _ = promise.of([params(0.05), params(0.3), params(0.7), params(0.95)], NOTHING)
    assert gain[0] > gain[1] > 0
    assert gain[2] == gain[3] == 0


def test_what_a_curve_reaches_over_the_budget_promises_nothing(learnt: Callable[..., Promise]) -> None:
    wide = Interval(100, 1000)
    steep = [(0.2, 100.0), (0.99, 700.0)]
    trials = [shown(params(x), 0.4, wide) for x in (0.0, 0.1, 0.2)]
    trials += [shown(params(x), 0.2, wide, 10_000, *steep) for x in (0.8, 0.9, 1.0)]
    configs, prices = [params(0.1), params(0.9)], [wide, wide]
    flat, late = learnt(trials).of(configs, NOTHING, prices)[0]
    assert flat > 1.5 * late
    flat, late = learnt(trials, edge=1.0).of(configs, NOTHING, prices)[0]
    assert late > 1.1 * flat


def test_nothing_is_gained_where_the_front_is_above_all_that_may_be_reached(
    learnt: Callable[..., Promise],
) -> None:
    promise = learnt(hills())
    configs = [params(x, y) for x in (0.0, 0.15, 0.5, 0.95) for y in (0.0, 1.0)]
    gain, _ = promise.of(configs, np.array([[1.0, 0.05]]), [PRICES] * len(configs))
    assert not gain.any()
    gain, _ = promise.of([params(0.15), params(0.85)], np.array([[0.6, 0.05]]), [PRICES] * 2)
    assert gain[0] > 0
    assert gain[1] < 0.05 * gain[0]


def test_of_two_that_are_expected_alike_the_less_known_one_promises_more(
    learnt: Callable[..., Promise],
) -> None:
    promise = learnt([shown(params(x), accuracy) for x, accuracy in ((0.0, 0.49), (0.1, 0.51), (0.2, 0.5))])
    gain, _ = promise.of([params(0.1), params(1.0)], np.array([[0.5, 0.1]]), [PRICES] * 2)
    assert gain[1] > 1.2 * gain[0]


fronts = st.lists(st.tuples(st.floats(0, 1), st.floats(0.01, 1)), max_size=5).map(
    lambda rows: curve_of([OperatingPoint({}, accuracy, macs) for accuracy, macs in rows], 1.0)
)


@given(front=fronts, raised=st.floats(0, 0.3))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_gain_is_never_negative_nor_more_than_is_left_and_falls_as_the_front_rises(
    learnt: Callable[..., Promise], front: Curve, raised: float
) -> None:
    promise = learnt(hills())
    configs = [params(x) for x in (0.0, 0.4, 0.5, 0.95)]
    gain, _ = promise.of(configs, front)
    assert (gain >= 0).all()
    assert (gain <= 0.5 - area(front, 0.5) + 0.5 / 256).all()
    higher = np.column_stack((np.minimum(front[:, 0] + raised, 1.0), front[:, 1]))
    assert (promise.of(configs, higher)[0] <= gain + 1e-12).all()


# ---- cost --------------------------------------------------------------------------------------------


def longer(macs: Sequence[int]) -> list[EndedTrial]:
    """Trials that are as good as each other; the larger y, the longer they take."""
    places = np.linspace(0, 1, len(macs))
    return [shown(params(0.5, y), 0.6, PRICES, each) for y, each in zip(places, macs, strict=True)]


def test_of_two_that_promise_alike_the_dearer_has_the_lower_worth(learnt: Callable[..., Promise]) -> None:
    promise = learnt(longer([100_000, 300_000, 1_000_000, 3_000_000]))
    gain, cost = promise.of([params(0.5, 0.0), params(0.5, 1.0)], NOTHING, [PRICES] * 2)
    assert gain[0] == pytest.approx(gain[1], rel=0.05)
    assert cost == pytest.approx([0.1 + 0.01, 0.1 + 0.3], rel=0.1)
    assert gain[0] / cost[0] > 2 * gain[1] / cost[1]


def test_what_training_takes_grows_with_the_price_of_the_network(learnt: Callable[..., Promise]) -> None:
    prices = [Interval(50, each) for each in (100, 200, 400, 800)]
    trials = [
        shown(params(x), 0.6, each, 1000 * each.max)
        for x, each in zip((0, 0.3, 0.6, 1), prices, strict=False)
    ]
    _, cost = learnt(trials).of([one.params for one in trials], NOTHING, prices)
    assert cost == pytest.approx([0.1 + each.max * 1e-4 for each in prices], rel=0.05)


# ---- learning ----------------------------------------------------------------------------------------


def test_one_trial_is_enough(learnt: Callable[..., Promise]) -> None:
    promise = learnt(hills()[:1])
    gain, cost = promise.of([params(0.0), params(1.0)], NOTHING)
    assert (np.isfinite(gain) & (gain > 0) & np.isfinite(cost) & (cost > 0.1)).all()


def test_what_is_promised_follows_from_the_trials_and_not_from_when_they_were_learnt(
    make_fake: Callable[..., Any], learnt: Callable[..., Promise]
) -> None:
    trials = [shown(params(x * 0.618 % 1, x * 0.77 % 1), 0.3 + x * 0.37 % 0.5) for x in range(14)]
    configs = [params(0.2, 0.9), params(0.6, 0.1)]
    once, often = learnt(trials), learnt(trials[:1])
    for count in range(2, len(trials) + 1):
        often.learn(trials[:count], ())
    for one, other in zip(once.of(configs, NOTHING), often.of(configs, NOTHING), strict=True):
        assert np.array_equal(one, other)
    under_way = [Priced(each, PRICES) for each in configs]
    assert np.array_equal(once.expected(under_way), often.expected(under_way))


def test_what_is_promised_does_not_depend_on_whether_a_later_trial_was_trained_on_from_a_rung(
    learnt: Callable[..., Promise],
) -> None:
    trials = [with_rung(x * 0.618 % 1, 0.1, 0.15 + 0.01 * x) for x in range(8)]
    for i in (1, 3, 4):
        trials[i] = with_rung(i * 0.618 % 1, 0.1, None)
    trials += [with_rung(0.11, 0.1, 0.2), with_rung(0.93, 0.1, 0.99)]
    once, often = learnt(trials), learnt(trials[:8])
    for count in (9, 10):
        often.learn(trials[:count], ())
    configs = [params(0.2), params(0.7)]
    for one, other in zip(once.of(configs, NOTHING), often.of(configs, NOTHING), strict=True):
        assert np.array_equal(one, other)


# ---- trials under way --------------------------------------------------------------------------------


def test_a_config_is_expected_to_have_the_curve_of_what_is_near(learnt: Callable[..., Promise]) -> None:
    promise = learnt(hills())
    good, bad = promise.expected([priced(0.15)]), promise.expected([priced(0.85)])
    assert good[:, 0].max() == pytest.approx(0.8, abs=0.05)
    assert bad[:, 0].max() == pytest.approx(0.3, abs=0.05)
    assert good[0, 1] == pytest.approx(0.1, rel=0.1)


def test_prices_of_trials_under_way_are_not_predicted(learnt: Callable[..., Promise]) -> None:
    found = learnt(hills()).expected([Priced(params(0.35), Interval(37, 411))])
    assert found[0, 1] == pytest.approx(0.037, rel=1e-9)


def test_a_network_whose_cheapest_route_costs_nothing_has_a_finite_promise(
    learnt: Callable[..., Promise],
) -> None:
    free = Interval(0, 400)
    promise = learnt([*hills(), shown(params(0.4), 0.6, free)])
    gain, cost = promise.of([params(0.45)], NOTHING, [free])
    assert np.isfinite([*gain, *cost]).all()
    assert np.isfinite(promise.expected([Priced(params(0.45), free)])).all()


def test_configs_are_expected_to_have_one_front_together(learnt: Callable[..., Promise]) -> None:
    promise = learnt(hills())
    both = promise.expected([priced(0.85), priced(0.15)])
    assert (np.diff(both[:, 0]) > 0).all()
    assert (np.diff(both[:, 1]) > 0).all()
    apart = merged([promise.expected([each]) for each in (priced(0.85), priced(0.15))])
    assert area(both, 0.5) == pytest.approx(area(apart, 0.5))
