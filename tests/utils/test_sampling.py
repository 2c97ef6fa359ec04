"""A few of many, evenly chosen."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
from hypothesis import given

from routesearch.utils.sampling import evenly_spaced


@given(st.integers(1, 5000), st.integers(2, 400))
def test_both_ends_and_even_steps(count: int, most: int) -> None:
    chosen = evenly_spaced(count, most)
    assert len(chosen) == min(count, most)
    assert (chosen[0], chosen[-1]) == (0, count - 1)
    if len(chosen) > 2:
        steps = np.diff(chosen)
        assert steps.max() - steps.min() <= 1


def test_of_nothing_nothing() -> None:
    assert evenly_spaced(0, 5).tolist() == []
