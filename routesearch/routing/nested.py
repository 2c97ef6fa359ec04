"""Lists, tuples and dicts of tensors, as they travel between blocks; images are always dim 0."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

Tensors = Any
"""A tensor, or nested lists, tuples and dicts of tensors."""


def tensors(state: Tensors) -> Iterator[Tensor]:
    yield from tensors_of((state,))


def tensors_of(values: Any) -> list[Tensor]:
    """All tensors in some values, in order."""
    found = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += tensors_of(value)
        elif isinstance(value, dict):
            found += tensors_of(value.values())
    return found


def map_tensors(state: Tensors, change: Callable[[Tensor], Any]) -> Tensors:
    """The same nesting with each tensor changed; anything else stays as it is."""
    if isinstance(state, Tensor):
        return change(state)
    if isinstance(state, dict):
        return {key: map_tensors(value, change) for key, value in state.items()}
    if isinstance(state, list | tuple):
        parts = [map_tensors(part, change) for part in state]
        return type(state)(*parts) if hasattr(state, "_fields") else type(state)(parts)
    return state


def shape_key(state: Any) -> Any:
    """What the price of a call depends on: shapes for tensors, everything else with its type."""
    if isinstance(state, Tensor):
        return tuple(state.shape[1:]), state.is_meta
    if isinstance(state, list | tuple):
        return tuple(shape_key(part) for part in state)
    if isinstance(state, dict):
        return tuple((key, shape_key(value)) for key, value in state.items())
    return type(state), state
