"""Intervals over seeds and images: that they hold what they promise, by simulation."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routesearch.errors import Refusal
from routesearch.results.intervals import Confirmation, binomial_lower, mean_interval, paired_difference

RUNS = 500
SLACK = 3 * math.sqrt(0.05 * 0.95 / RUNS)
"""Three standard errors of a coverage of 95 %."""


def outcomes(
    rng: np.random.Generator, accuracies: npt.NDArray[np.float64], images: int
) -> npt.NDArray[np.bool_]:
    """Seeds x images: most images are easy or hard for all seeds alike."""
    alike = rng.random(images) < 0.8
    return np.where(alike, rng.random(images), rng.random((len(accuracies), images))) < accuracies[:, None]


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("images", [300, 3000])
@pytest.mark.parametrize("spread", [0.0, 0.003, 0.03])
def test_an_interval_covers_the_accuracy_of_trainings_to_come(seeds: int, images: int, spread: float) -> None:
    rng, covered = np.random.default_rng(seeds * images), 0
    for _ in range(RUNS):
        # What outcomes() gives in the mean, drawn as counts: common images, and each seed's own.
        truth = np.clip(0.8 + spread * rng.standard_normal(seeds), 0, 1)
        accuracies = outcomes(rng, truth, images).mean(1)
        low, high = mean_interval(accuracies.tolist(), images)
        covered += low <= 0.8 <= high
    assert covered / RUNS >= 0.95 - SLACK


def test_images_that_all_seeds_share_are_not_averaged_out() -> None:
    few, many = mean_interval([0.9] * 3, 400), mean_interval([0.9] * 50, 400)
    binomial = 1.96 * math.sqrt(0.9 * 0.1 / 400)
    assert few[1] - few[0] == pytest.approx(2 * binomial, rel=0.05)
    assert many == pytest.approx(few)


def test_the_spread_of_few_seeds_counts_by_students_t() -> None:
    low, high = mean_interval([0.89, 0.90, 0.91], 10**12)
    assert (high - low) / 2 == pytest.approx(4.3027 * 0.01 / math.sqrt(3), rel=1e-4)


@given(
    st.lists(st.floats(0, 1), min_size=2, max_size=8),
    st.integers(1, 10**6),
    st.sampled_from([0.5, 0.8, 0.95]),
)
def test_an_interval_holds_its_mean_and_grows_with_the_confidence(
    accuracies: list[float], images: int, confidence: float
) -> None:
    low, high = mean_interval(accuracies, images, confidence)
    assert 0 <= low <= np.mean(accuracies) + 1e-12
    assert np.mean(accuracies) - 1e-12 <= high <= 1
    wider = mean_interval(accuracies, images, 0.99)
    assert wider[0] <= low
    assert wider[1] >= high


def test_one_seed_or_an_odd_confidence_is_refused() -> None:
    with pytest.raises(ValueError, match="two seeds or more"):
        mean_interval([0.9], 100)
    with pytest.raises(Refusal, match="confidence must be"):
        mean_interval([0.9, 0.8], 100, 1.0)


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("images", [100, 5000])
def test_a_binomial_bound_lies_below_as_often_as_it_says(share: float, images: int) -> None:
    rights = np.random.default_rng(images).binomial(images, share, 4000)
    below = np.mean([binomial_lower(right / images, images) <= share for right in rights])
    assert below >= 0.975 - 0.02  # Wilson's coverage swings with the share by about two points


def test_a_binomial_bound_of_certainty_is_below_it() -> None:
    assert 0.96 < binomial_lower(1.0, 100) < 1.0
    assert binomial_lower(0.0, 100) == 0.0


@pytest.mark.parametrize("difference", [0.0, 0.02])
@pytest.mark.parametrize(("count", "spread"), [(4, 0.005), (3, 0.03), (2, 0.03)])
def test_a_paired_difference_covers_what_two_methods_differ_by(
    count: int, spread: float, difference: float
) -> None:
    rng, covered, runs = np.random.default_rng(7), 0, 150
    for _ in range(runs):
        alike = rng.random(1500)  # each image is as hard for one method as for the other
        seeds = 0.8 + spread * rng.standard_normal((2, count)) + np.array([[difference], [0.0]])
        own = rng.random((2, count, 1500))
        shared = rng.random(1500) < 0.8
        first, second = np.where(shared, alike, own) < seeds[:, :, None]
        _, low, high = paired_difference(first, second)
        covered += low <= difference <= high
    assert covered / runs >= 0.95 - 3 * math.sqrt(0.05 * 0.95 / runs)


def test_pairing_tells_apart_what_two_intervals_would_not() -> None:
    rng = np.random.default_rng(0)
    weaker = np.tile(rng.random(1000) < 0.8, (3, 1))
    stronger = weaker.copy()
    stronger[:, np.flatnonzero(~weaker[0])[:15]] = True
    found, low, high = paired_difference(stronger, weaker)
    assert found == pytest.approx(0.015)
    assert 0 < low < found < high < 0.03
    alone = mean_interval(stronger.mean(1).tolist(), 1000)
    assert alone[0] < weaker.mean() < alone[1]


def test_what_a_point_says_of_its_seeds() -> None:
    found = Confirmation((0.9, 0.92), (100.0, 110.0), 500).as_dict()
    assert found["accuracy_mean"] == pytest.approx(0.91)
    assert found["accuracy_std"] == pytest.approx(0.01 * math.sqrt(2))
    assert (found["macs_mean"], found["seeds"]) == (105.0, 2)
    assert found["interval"] == list(mean_interval([0.9, 0.92], 500))
