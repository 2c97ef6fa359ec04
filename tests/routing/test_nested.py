"""Lists, tuples and dicts of tensors."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from hypothesis import given
from hypothesis import strategies as st

from routesearch.routing.nested import map_tensors, tensors


class Pair(NamedTuple):
    left: Any
    right: Any


TENSORS = st.recursive(
    st.integers(0, 9).map(lambda v: torch.full((2, 1), float(v))) | st.none(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.sampled_from("abc"), inner)
        | st.builds(Pair, inner, inner)
    ),
    max_leaves=6,
)


@given(TENSORS)
def test_map_keeps_the_form_of_a_state(state: Any) -> None:
    doubled = map_tensors(state, lambda t: 2 * t)
    assert [t.tolist() for t in tensors(doubled)] == [(2 * t).tolist() for t in tensors(state)]
    assert form(doubled) == form(state)


def form(state: Any) -> Any:
    if isinstance(state, dict):
        return [type(state), *((key, form(value)) for key, value in state.items())]
    return [type(state), *map(form, state)] if isinstance(state, list | tuple) else type(state)
