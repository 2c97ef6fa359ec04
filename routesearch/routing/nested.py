"""Lists, tuples and dicts of tensors, as they travel between blocks; images are always dim 0."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

Tensors = Any
"""A tensor, or nested lists, tuples and dicts of tensors."""


def tensors(state: Tensors) -> list[Tensor]:
    """All tensors in a state, in order."""
    if isinstance(state, Tensor):
        return [state]
    if isinstance(state, dict):
        state = tuple(state.values())
    found: list[Tensor] = []
    if isinstance(state, list | tuple):
        for part in state:
            if isinstance(part, Tensor):
                found.append(part)
            else:
                found += tensors(part)
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
