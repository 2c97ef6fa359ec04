"""Timings as numbers, and whether MACs tell time: ranks by definition."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routesearch.results.timing import Timing, rank_correlation

NUMBERS = st.lists(st.integers(-5, 5), min_size=3, max_size=12)


def test_savings_are_shares_of_the_static_network() -> None:
    timing = Timing(batch=8, p50=0.004, p95=0.005, static_p50=0.016, macs=10.0, static_macs=50.0)
    assert timing.mac_saving == pytest.approx(0.8)
    assert timing.time_saving == pytest.approx(0.75)
    assert timing.images_per_second == pytest.approx(2000)
    shown = timing.as_dict()
    assert (shown["p50_ms"], shown["p95_ms"], shown["static_p50_ms"]) == pytest.approx((4, 5, 16))


def test_ranks_by_hand() -> None:
    assert rank_correlation([1, 2, 3, 4, 5], [5, 6, 7, 8, 7]) == pytest.approx(0.820783, abs=1e-6)
    assert rank_correlation([1, 2, 2, 9], [1, 2, 3, 4]) == pytest.approx(0.948683, abs=1e-6)
    assert rank_correlation([1, 2, 3], [10, 1000, 10**6]) == pytest.approx(1.0)
    assert rank_correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1.0)


def test_where_ranks_say_nothing() -> None:
    assert rank_correlation([], []) is None
    assert rank_correlation([1, 2], [1, 2]) is None, "of two points it is always 1 or -1"
    assert rank_correlation([1, 1, 1], [1, 2, 3]) is None
    with pytest.raises(ValueError, match="as many values on both sides must be given, got 1 and 2"):
        rank_correlation([1], [1, 2])


@given(st.data(), NUMBERS)
def test_only_the_order_counts(data: st.DataObject, first: list[int]) -> None:
    size = len(first)
    second = data.draw(st.lists(st.integers(-5, 5), min_size=size, max_size=size))
    found = rank_correlation(first, second)
    if found is None:
        assert len(set(first)) == 1 or len(set(second)) == 1
        return
    assert -1 <= found <= 1
    assert rank_correlation([x**3 for x in first], [2.0**y for y in second]) == pytest.approx(found)
    assert rank_correlation(second, first) == pytest.approx(found)
    assert rank_correlation(first, [-y for y in second]) == pytest.approx(-found)
