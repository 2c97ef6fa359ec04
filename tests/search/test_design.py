"""A design that fills a space evenly, and values at shares of distributions."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from routesearch.search.design import _BLOCK, PARAMETERS, Design, value_at

SHARES = st.floats(0, 1, exclude_max=True)
TOP = math.nextafter(1.0, 0.0)
UNIT = FloatDistribution(0, 1)


@st.composite
def ints(draw: st.DrawFn) -> IntDistribution:
    low, width, step = draw(st.integers(-50, 50)), draw(st.integers(0, 200)), draw(st.integers(1, 9))
    return IntDistribution(low, low + step * (width // step), step=step)


@st.composite
def log_ints(draw: st.DrawFn) -> IntDistribution:
    low = draw(st.integers(1, 1000))
    return IntDistribution(low, low + draw(st.integers(0, 10**6)), log=True)


@st.composite
def floats(draw: st.DrawFn) -> FloatDistribution:
    low = draw(st.floats(-1e3, 1e3))
    return FloatDistribution(low, low + draw(st.floats(0, 1e6)))


@st.composite
def log_floats(draw: st.DrawFn) -> FloatDistribution:
    low = draw(st.floats(1e-9, 1e3))
    return FloatDistribution(low, low * draw(st.floats(1, 1e6)), log=True)


@st.composite
def stepped_floats(draw: st.DrawFn) -> FloatDistribution:
    """Ends and steps with few decimals, as people write them."""
    places = 10 ** draw(st.integers(0, 3))
    low, step = draw(st.integers(-500, 500)), draw(st.integers(1, 50))
    high = low + step * draw(st.integers(0, 40))
    return FloatDistribution(low / places, high / places, step=step / places)


CHOICES = st.integers(1, 40).map(lambda n: CategoricalDistribution([f"c{i}" for i in range(n)]))
ANY = ints() | log_ints() | floats() | log_floats() | stepped_floats() | CHOICES


def lies_in(value: Any, distribution: BaseDistribution) -> bool:
    """Optuna's own measure: what it does not hold for cannot be stored."""
    return distribution._contains(distribution.to_internal_repr(value))


@given(SHARES | st.sampled_from([0.0, TOP]), ANY)
def test_a_value_lies_in_its_range_at_any_share(share: float, distribution: BaseDistribution) -> None:
    value = value_at(share, distribution)
    assert lies_in(value, distribution)
    if isinstance(distribution, IntDistribution):
        assert type(value) is int


@given(SHARES, SHARES, ints() | log_ints() | floats() | log_floats() | stepped_floats())
def test_a_larger_share_is_no_smaller_value(a: float, b: float, distribution: BaseDistribution) -> None:
    assert value_at(min(a, b), distribution) <= value_at(max(a, b), distribution)


@given(ANY)
def test_the_ends_of_the_shares_are_the_ends_of_the_range(distribution: BaseDistribution) -> None:
    first, last = value_at(0.0, distribution), value_at(TOP, distribution)
    if isinstance(distribution, CategoricalDistribution):
        assert (first, last) == (distribution.choices[0], distribution.choices[-1])
    else:
        assert isinstance(distribution, IntDistribution | FloatDistribution)
        assert (first, last) == (pytest.approx(distribution.low), pytest.approx(distribution.high))


@given(SHARES | st.sampled_from([0.0, TOP]), log_floats())
def test_a_share_of_a_logarithmic_range_is_a_share_of_its_logarithm(
    share: float, distribution: FloatDistribution
) -> None:
    low, high = math.log(distribution.low), math.log(distribution.high)
    assert math.log(value_at(share, distribution)) == pytest.approx(low + share * (high - low), abs=1e-9)


@pytest.mark.parametrize(
    "distribution",
    [
        IntDistribution(-3, 4),
        IntDistribution(0, 70, step=10),
        FloatDistribution(0, 0.7, step=0.1),
        CategoricalDistribution(list("abcdefgh")),
    ],
    ids=str,
)
def test_each_of_eight_values_has_an_eighth_of_the_shares(distribution: BaseDistribution) -> None:
    found = Counter(value_at(i / 64, distribution) for i in range(64))
    assert list(found.values()) == [8] * 8
    assert all(lies_in(value, distribution) for value in found)


def test_a_whole_number_of_a_logarithmic_range_has_its_part_of_it() -> None:
    """From a half below to a half above it, on the scale of the logarithm."""
    count, low, high = 10_000, 1, 20
    found = Counter(value_at(i / count, IntDistribution(low, high, log=True)) for i in range(count))
    whole = math.log(high + 0.5) - math.log(low - 0.5)
    for value in range(low, high + 1):
        part = (math.log(value + 0.5) - math.log(value - 0.5)) / whole
        assert found[value] == pytest.approx(count * part, abs=1.5)


def test_a_distribution_that_is_none_of_optuna_s_three_is_an_error() -> None:
    odd: Any = "a text"
    with pytest.raises(TypeError, match="a distribution must be Optuna's float, int or categorical, got"):
        value_at(0.5, odd)


def configs(
    design: Design, count: int, names: int | list[str], distribution: BaseDistribution = UNIT
) -> list[list[Any]]:
    order = names if isinstance(names, list) else [f"p{i}" for i in range(names)]
    return [[design.suggest(i, name, distribution) for name in order] for i in range(count)]


@pytest.mark.parametrize("power", range(1, 10))
@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
def test_the_first_configs_fill_equal_intervals_evenly(power: int, seed: int) -> None:
    count = 2**power
    rows = configs(Design(seed), count, 20)
    for column in zip(*rows, strict=True):
        assert sorted(int(value * count) for value in column) == list(range(count))


def test_each_block_of_the_sequence_fills_equal_intervals_evenly_too() -> None:
    rows = configs(Design(3), 4 * _BLOCK, 4)
    for first in range(0, len(rows), _BLOCK):
        for column in zip(*rows[first : first + _BLOCK], strict=True):
            assert sorted(int(value * _BLOCK) for value in column) == list(range(_BLOCK))


def test_pairs_of_parameters_fill_squares_evenly() -> None:
    """No two parameters go together, up and down: all four quarters of each pair are filled alike."""
    rows = configs(Design(0), 64, 12)
    for a, b in itertools.combinations(zip(*rows, strict=True), 2):
        quarters = Counter((x < 0.5, y < 0.5) for x, y in zip(a, b, strict=True))
        assert min(quarters.values(), default=0) >= 8
        assert len(quarters) == 4


def test_the_same_seed_is_the_same_design_and_another_seed_is_another() -> None:
    one, same, other = (configs(Design(seed, ["b", "a"]), 16, 5) for seed in (7, 7, 8))
    assert one == same
    assert all(x != y for x, y in zip(one, other, strict=True))


def test_a_longer_design_begins_as_a_shorter_one() -> None:
    """Whatever order configs are asked for in, and however many blocks are computed in between."""
    design = Design(1)
    early = configs(design, 10, 3)
    late = design.suggest(5 * _BLOCK + 1, "p0", UNIT)
    assert configs(design, 10, 3) == early
    fresh = Design(1)
    assert fresh.suggest(5 * _BLOCK + 1, "p0", UNIT) == late
    assert configs(fresh, 10, 3) == early
    assert configs(Design(1), 2 * _BLOCK, 3)[:10] == early


def test_a_parameter_that_was_named_keeps_its_dimension_whatever_is_asked_first() -> None:
    """A conditional parameter that a config lacks does not move the others."""
    names = ["a", "b", "c"]
    one, two = Design(0, names), Design(0, names)
    forwards = {name: one.suggest(0, name, UNIT) for name in names}
    backwards = {name: two.suggest(0, name, UNIT) for name in reversed(names)}
    assert forwards == backwards
    assert len(set(forwards.values())) == 3


def test_a_parameter_that_was_not_named_has_a_dimension_of_its_own() -> None:
    design = Design(0, ["a", "b"])
    rows = configs(design, 32, ["a", "b", "late"])
    assert len({tuple(column) for column in zip(*rows, strict=True)}) == 3
    for column in zip(*rows, strict=True):
        assert sorted(int(value * 32) for value in column) == list(range(32))


def test_more_parameters_than_dimensions_share_them_two_by_two() -> None:
    rows = configs(Design(0), 8, 2 * PARAMETERS)
    for row in rows:
        assert row[:PARAMETERS] == row[PARAMETERS:]
    assert len({tuple(column) for column in zip(*rows, strict=True)}) == PARAMETERS


@given(st.integers(0, 2**32 - 1), st.integers(0, 2000), ANY)
def test_every_config_lies_in_its_space(seed: int, index: int, distribution: BaseDistribution) -> None:
    assert lies_in(Design(seed).suggest(index, "x", distribution), distribution)
