"""Configs as features, and Gaussian processes over them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from routesearch.search.surrogate import (
    ABSENT,
    LENGTHS,
    MAX_FITTED,
    NOISES,
    Features,
    GaussianProcesses,
    Vector,
    fit_hyperparameters,
    share_of,
)

# ---- features --------------------------------------------------------------------------------------

FIELDS: dict[str, BaseDistribution] = {
    "width": FloatDistribution(0.0, 4.0),
    "beta": FloatDistribution(0.01, 100, log=True),
    "depth": IntDistribution(2, 10, step=2),
    "kind": CategoricalDistribution(["a", "b", "c"]),
}
"""By name: beta, depth, three of kind, width."""


def test_numbers_are_shares_of_their_ranges_and_a_choice_has_a_feature_for_each_value() -> None:
    found = Features(FIELDS)([{"width": 1.0, "beta": 1.0, "depth": 10, "kind": "b"}])
    assert found == pytest.approx(np.array([[0.5, 1.0, 0, 1, 0, 0.25]]))


def test_what_a_config_does_not_have_lies_outside_of_all_ranges() -> None:
    found = Features(FIELDS)([{"width": 0.0}, {"kind": "c"}, {}])
    expected = [
        [ABSENT, ABSENT, 0, 0, 0, 0.0],
        [ABSENT, ABSENT, 0, 0, 1, ABSENT],
        [ABSENT, ABSENT, 0, 0, 0, ABSENT],
    ]
    assert found == pytest.approx(np.array(expected))
    assert ABSENT < 0


def test_the_order_of_fields_does_not_matter() -> None:
    config = {"width": 1.0, "beta": 3.0, "depth": 4, "kind": "a"}
    backwards = dict(reversed(FIELDS.items()))
    turned = dict(reversed(config.items()))
    assert (Features(FIELDS)([config]) == Features(backwards)([turned])).all()


def test_an_unknown_choice_is_none_of_those_known_and_an_unknown_field_is_overlooked() -> None:
    """As in a study that was narrowed since."""
    plain = Features(FIELDS)([{"kind": "a", "width": 1.0}])
    assert (Features(FIELDS)([{"kind": "a", "width": 1.0, "colour": "red"}]) == plain).all()
    assert Features(FIELDS)([{"kind": "z"}])[0, 2:5].tolist() == [0, 0, 0]


def test_a_space_without_fields_has_no_features() -> None:
    assert Features({})([{}, {}, {}]).shape == (3, 0)


@given(st.data())
def test_a_feature_lies_between_none_and_one_and_grows_with_the_value(data: st.DataObject) -> None:
    log = data.draw(st.booleans())
    low = data.draw(st.integers(1, 100))
    high = low + data.draw(st.integers(1, 1000))
    distribution: Any = data.draw(
        st.sampled_from([IntDistribution(low, high, log=log), FloatDistribution(low, high, log=log)])
    )
    a, b = sorted(data.draw(st.tuples(st.integers(low, high), st.integers(low, high))))
    assert 0 <= share_of(a, distribution) <= share_of(b, distribution) <= 1
    assert (share_of(low, distribution), share_of(high, distribution)) == (0.0, 1.0)
    if log and b > a:
        factor = (share_of(b, distribution) - share_of(a, distribution)) * math.log(high / low)
        assert math.exp(factor) == pytest.approx(b / a)


@pytest.mark.parametrize("log", [False, True])
def test_a_range_of_one_value_is_in_the_middle(log: bool) -> None:
    assert share_of(3, IntDistribution(3, 3, log=log)) == 0.5


# ---- processes -------------------------------------------------------------------------------------


def points(count: int, features: int, seed: int = 0) -> Vector:
    """Inputs at random in [0, 1], no two of them close together."""
    rng, found = np.random.default_rng(seed), [np.full(features, 0.5)]
    while len(found) < count:
        x = rng.random(features)
        if min(float(np.abs(x - other).max()) for other in found) > 0.08:
            found.append(x)
    return np.array(found)


def lengths(*values: float) -> Vector:
    return np.array(values)


@given(st.integers(1, 20), st.integers(0, 50), st.sampled_from([1e-3, 0.1, 10.0]))
def test_with_little_noise_the_outputs_that_were_shown_are_predicted(
    count: int, seed: int, size: float
) -> None:
    x = points(count, 2, seed)
    y = size * np.column_stack((np.sin(5 * x[:, 0]) + x[:, 1], x[:, 0] * x[:, 1], np.full(count, 3.0)))
    model = GaussianProcesses(x, y, 1e-3 * size, (lengths(0.3, 0.3), 1e-6))
    mean, deviation = model.predict(x)
    assert mean.shape == deviation.shape == y.shape
    assert mean == pytest.approx(y, abs=0.01 * size)
    assert (deviation < 0.01 * np.maximum(y.std(0), 1e-3 * size)).all()


def test_the_deviation_grows_with_the_distance_from_what_was_shown_up_to_the_spread() -> None:
    x = np.array([[0.4, 0.5], [0.5, 0.5], [0.6, 0.5]])
    y = np.array([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0]])
    model = GaussianProcesses(x, y, 0.25, (lengths(0.3, 0.3), 1e-4))
    away = np.array([[0.6 + step, 0.5] for step in (0.0, 0.05, 0.1, 0.2, 0.4, 0.8, 5.0)])
    mean, deviation = model.predict(away)
    assert (np.diff(deviation, axis=0) > 0).all()
    spread = np.array([float(y[:, 0].std()), 0.25])
    assert deviation[-1] == pytest.approx(spread, rel=1e-3)
    assert mean[-1] == pytest.approx(y.mean(0), abs=1e-3), "far away nothing but the mean is known"


def test_a_length_says_how_far_an_output_reaches_along_its_feature() -> None:
    x, y = np.array([[0.0, 0.0], [1.0, 1.0]]), np.array([[0.0], [1.0]])
    model = GaussianProcesses(x, y, 0.1, (lengths(0.15, 5.0), 1e-4))
    _, (along_short, along_long) = model.predict(np.array([[0.4, 0.0], [0.0, 0.4]]))
    assert along_long < 0.2 * along_short


def test_noise_is_averaged_over_trials_of_the_same_config() -> None:
    x = np.array([[0.2]] * 8 + [[0.8]] * 8)
    y = np.array([[0.4], [0.6]] * 4 + [[1.4], [1.6]] * 4)
    model = GaussianProcesses(x, y, 0.1, (lengths(0.3), 0.05))
    mean, deviation = model.predict(np.array([[0.2], [0.8]]))
    assert mean.ravel() == pytest.approx([0.5, 1.5], abs=0.02)
    once = GaussianProcesses(x[[0, 8]], y[[0, 8]], 0.1, (lengths(0.3), 0.05))
    assert (deviation < once.predict(np.array([[0.2], [0.8]]))[1]).all()


def test_a_process_is_as_a_matern_kernel_has_it() -> None:
    """At a distance d of one trial, the other far away: (1 + r + r^2 / 3) exp(-r), with r = sqrt(5) d / l."""
    x, y = np.array([[0.0], [10.0]]), np.array([[-1.0], [1.0]])
    model = GaussianProcesses(x, y, 0.1, (lengths(0.6), 0.25))
    r = math.sqrt(5) * 0.3 / 0.6
    k = (1 + r + r * r / 3) * math.exp(-r)
    mean, deviation = model.predict(np.array([[0.3]]))
    assert float(mean[0, 0]) == pytest.approx(-k / 1.25, abs=1e-6)
    assert float(deviation[0, 0]) == pytest.approx(math.sqrt(1 - k * k / 1.25), abs=1e-6)


def test_outputs_do_not_lean_on_each_other() -> None:
    x, y = points(12, 2), np.random.default_rng(1).random((12, 3))
    scales = lengths(0.3, 0.6), 1e-2
    at = points(5, 2, seed=9)
    mean, deviation = GaussianProcesses(x, y, 0.1, scales).predict(at)
    for i in range(3):
        alone = GaussianProcesses(x, y[:, [i]], 0.1, scales).predict(at)
        assert mean[:, [i]] == pytest.approx(alone[0])
        assert deviation[:, [i]] == pytest.approx(alone[1])


@pytest.mark.parametrize("count", [1, 2, 9])
def test_outputs_with_no_spread_are_predicted_as_they_are_with_the_spread_that_is_assumed(count: int) -> None:
    x, y = points(count, 2), np.full((count, 4), 0.7)
    model = GaussianProcesses(x, y, 0.1, fit_hyperparameters(x, y, 0.1))
    mean, deviation = model.predict(np.array([[0.5, 0.5], [80.0, 80.0]]))
    assert mean == pytest.approx(np.full((2, 4), 0.7))
    assert (deviation[0] < 0.05).all()
    assert deviation[1] == pytest.approx(np.full(4, 0.1), rel=0.01)


def test_the_same_config_many_times_is_no_obstacle() -> None:
    x, y = np.zeros((30, 3)), np.linspace(0, 1, 30)[:, None]
    mean, deviation = GaussianProcesses(x, y, 0.1, fit_hyperparameters(x, y, 0.1)).predict(x[:1])
    assert float(mean[0, 0]) == pytest.approx(0.5, abs=1e-6)
    assert 0 < float(deviation[0, 0]) < 0.3


def test_a_space_without_features_has_a_mean() -> None:
    x, y = np.empty((3, 0)), np.array([[1.0], [2.0], [3.0]])
    mean, _ = GaussianProcesses(x, y, 0.1, fit_hyperparameters(x, y, 0.1)).predict(np.empty((2, 0)))
    assert mean == pytest.approx(np.full((2, 1), 2.0))


# ---- fit_hyperparameters -------------------------------------------------------------------------------


@pytest.mark.parametrize("relevant", [0, 1, 2])
@pytest.mark.parametrize("count", [16, 60])
def test_a_feature_that_does_not_matter_has_a_longer_length_than_one_that_does(
    relevant: int, count: int
) -> None:
    x = np.random.default_rng(relevant).random((count, 3))
    wave = np.sin(6 * x[:, relevant])
    found, noise = fit_hyperparameters(x, np.column_stack((wave, wave**2, 2 * wave)), 0.1)
    others = [i for i in range(3) if i != relevant]
    assert all(found[relevant] < found[i] for i in others)
    assert all(found[i] >= 1.2 for i in others)
    assert noise <= 1e-3


@pytest.mark.parametrize("seed", range(3))
def test_what_no_feature_explains_is_noise(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.random((80, 2))
    trend = np.sin(3 * x[:, [0]])
    exact, noisy = (
        fit_hyperparameters(x, trend + size * rng.normal(size=(80, 1)), 0.1) for size in (0.0, 0.15)
    )
    assert exact[1] < 0.01
    assert noisy[1] >= 0.05, "a quarter of the variance"
    assert noisy[0][1] >= 1.2


def test_what_is_chosen_is_among_what_is_tried_and_a_feature_that_is_constant_keeps_its_length() -> None:
    x = np.random.default_rng(0).random((20, 3))
    x[:, 1] = ABSENT
    found, noise = fit_hyperparameters(x, np.sin(9 * x[:, [0]]) + x[:, [2]], 0.1)
    assert set(found.tolist()) <= set(LENGTHS)
    assert noise in NOISES
    assert found[1] == 1.2


def test_what_is_chosen_does_not_depend_on_the_outputs_unit_or_origin() -> None:
    x = np.random.default_rng(0).random((25, 2))
    y = np.column_stack((np.sin(6 * x[:, 0]), x[:, 1] ** 2))
    plain = fit_hyperparameters(x, y, 1e-6)
    moved = fit_hyperparameters(x, 1e6 * y - 3e6, 1e-6)
    assert plain[0].tolist() == moved[0].tolist()
    assert plain[1] == moved[1]


def test_of_many_trials_some_are_enough_and_the_same_ones_every_time() -> None:
    x = np.random.default_rng(0).random((3 * MAX_FITTED, 2))
    y = np.sin(6 * x[:, [0]])
    first, again = fit_hyperparameters(x, y, 0.1), fit_hyperparameters(x, y, 0.1)
    assert first[0].tolist() == again[0].tolist()
    assert first[1] == again[1]
    assert first[0][0] < first[0][1]


def test_a_model_with_what_is_chosen_predicts_what_it_was_not_shown() -> None:
    rng = np.random.default_rng(0)

    def outputs(x: Vector) -> Vector:
        return np.column_stack((np.sin(4 * x[:, 0]) + x[:, 1], np.exp(-x[:, 0]) * x[:, 1]))

    x, new = rng.random((40, 3)), rng.random((200, 3))
    model = GaussianProcesses(x, outputs(x), 0.1, fit_hyperparameters(x, outputs(x), 0.1))
    mean, deviation = model.predict(new)
    error = np.abs(mean - outputs(new))
    assert np.median(error) < 0.05
    assert np.mean(error < 3 * deviation + 0.02) > 0.95
