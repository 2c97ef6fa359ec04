"""What max-drop promises, held against simulated calibrations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routesearch.results.risk_control import Losses, is_controlled, last_controlled, p_value, smallest_drop

RUNS = 1000
MOST = 0.05 + 3 * math.sqrt(0.05 * 0.95 / RUNS)
"""Violations at a confidence of 95 %, and three standard errors."""


def drawn(rng: np.random.Generator, drop: float, apart: float, images: int) -> Losses:
    """A calibration of a setting that loses ``drop`` and disagrees on a share ``apart`` of all images."""
    lost, gained, _ = rng.multinomial(images, [(apart + drop) / 2, (apart - drop) / 2, 1 - apart])
    return Losses(int(lost), int(gained), images)


@pytest.mark.parametrize("images", [150, 1000])
@pytest.mark.parametrize(("drop", "apart"), [(0.01, 0.01), (0.01, 0.037), (0.02, 0.21), (0.05, 0.6)])
def test_a_loss_at_the_bound_is_seldom_taken_for_less(images: int, drop: float, apart: float) -> None:
    rng = np.random.default_rng(images)
    wrong = sum(is_controlled(drawn(rng, drop, apart, images), drop, 0.95) for _ in range(RUNS))
    assert wrong / RUNS <= MOST


@pytest.mark.parametrize("confidence", [0.8, 0.95])
@pytest.mark.parametrize("start", [-0.01, 0.0])
def test_what_is_chosen_along_a_curve_seldom_loses_more_than_promised(
    confidence: float, start: float
) -> None:
    """Ten neighbouring settings on the same images: their losses are dependent, as those of a curve are."""
    rng, images, drop, wrong = np.random.default_rng(5), 800, 0.02, 0
    losses = np.linspace(start, 0.06, 10)
    lost_at = np.linspace(0.03, 0.10, 10)
    gained_at = lost_at - losses
    for _ in range(RUNS):
        u = rng.random(images)  # below lost_at: lost; above 1 - gained_at: gained
        sequence = [
            Losses(int((u < a).sum()), int((u > 1 - b).sum()), images)
            for a, b in zip(lost_at, gained_at, strict=True)
        ]
        last = last_controlled(sequence, drop, confidence)
        wrong += last is not None and losses[last] > drop
    allowed = 1 - confidence
    assert wrong / RUNS <= allowed + 3 * math.sqrt(allowed * confidence / RUNS)


def test_it_is_not_for_want_of_choosing_anything() -> None:
    rng = np.random.default_rng(0)
    found = [is_controlled(drawn(rng, 0.0, 0.05, 2000), 0.02, 0.95) for _ in range(100)]
    assert sum(found) >= 90


def test_the_sequence_ends_at_the_first_that_fails() -> None:
    good, bad = Losses(0, 5, 1000), Losses(80, 0, 1000)
    assert last_controlled([good, good, bad, good], 0.02, 0.95) == 1
    assert last_controlled([bad, good], 0.02, 0.95) is None
    assert last_controlled([], 0.02, 0.95) is None


def test_three_hundred_images_without_a_loss_promise_little_more_than_one_percent() -> None:
    assert 0.01 < smallest_drop(Losses(0, 0, 300), 0.95) < 0.02
    assert smallest_drop(Losses(300, 0, 300), 0.95) == 1.0


@given(st.integers(0, 60), st.integers(0, 60), st.integers(120, 2000), st.sampled_from([0.8, 0.95, 0.99]))
def test_the_smallest_drop_is_controlled_and_no_smaller_one(
    lost: int, gained: int, images: int, confidence: float
) -> None:
    losses = Losses(lost, gained, images)
    least = smallest_drop(losses, confidence)
    assert is_controlled(losses, least, confidence)
    assert least < 2e-4 or not is_controlled(losses, least - 1e-4, confidence)
    assert 0 <= p_value(losses, least, confidence) <= 1
    assert least >= (lost - gained) / images - 1e-4


@given(st.integers(0, 50), st.integers(0, 50), st.integers(1, 20))
def test_more_losses_are_never_better(lost: int, gained: int, more: int) -> None:
    worse, better = Losses(lost + more, gained, 500), Losses(lost, gained, 500)
    assert smallest_drop(worse, 0.95) >= smallest_drop(better, 0.95)
