"""Configs that were drawn, and how often a proposal that repeats one is passed over."""

from __future__ import annotations

import pytest
from optuna.distributions import FloatDistribution

from routesearch.search.config_history import MAX_DECLINED, MAX_REPEATED, ConfigHistory, Repetitions
from routesearch.search.design import Design


@pytest.fixture
def configs() -> ConfigHistory:
    return ConfigHistory(Design(0))


def passed_over(configs: ConfigHistory, text: str, refused: bool = False) -> int:
    """How often one proposal of a draw is passed over before it is taken."""
    repetitions = Repetitions(configs)
    count = 0
    while repetitions.passes_over(text, refused):
        count += 1
    return count


def test_nothing_new_is_passed_over(configs: ConfigHistory) -> None:
    configs.note("trained", refused=False)
    configs.note("refused", refused=True)
    assert passed_over(configs, "new") == passed_over(configs, "new", refused=True) == 0


def test_a_trained_config_is_passed_over_and_then_trained_again(configs: ConfigHistory) -> None:
    configs.note("one", refused=False)
    assert passed_over(configs, "one") == MAX_DECLINED


def test_a_refusal_is_passed_over_for_longer(configs: ConfigHistory) -> None:
    configs.note("one", refused=True)
    assert passed_over(configs, "one", refused=True) == MAX_REPEATED > MAX_DECLINED


def test_what_was_refused_and_may_be_trained_now_is_new(configs: ConfigHistory) -> None:
    configs.note("one", refused=True)
    assert passed_over(configs, "one", refused=False) == 0


def test_a_space_without_anything_new_is_searched_for_it_less_and_less(configs: ConfigHistory) -> None:
    configs.note("one", refused=False)
    found = []
    for _ in range(5):
        found.append(passed_over(configs, "one"))
        configs.note("one", refused=False)
    assert found == [MAX_DECLINED >> i for i in range(5)]
    assert found[-1] == 0
    configs.note("two", refused=False)
    assert passed_over(configs, "one") == MAX_DECLINED


def test_what_was_drawn_is_all_that_was_trained_or_refused(configs: ConfigHistory) -> None:
    assert configs.fresh
    configs.note("one", refused=False)
    configs.note("two", refused=True)
    configs.note("one", refused=False)
    assert configs.drawn == {"one", "two"}
    assert configs.trained["one"] == 2
    assert not configs.fresh


def test_a_place_of_the_design_is_the_same_config_whenever_it_is_asked_for(configs: ConfigHistory) -> None:
    values = FloatDistribution(0, 1)
    ahead = [configs.at(place)("x", values) for place in (5, 1, 5)]
    assert ahead[0] == ahead[2] != ahead[1]
