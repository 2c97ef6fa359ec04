"""Arrays on disk as safetensors: a file is there whole or not at all.

Only safetensors and numpy are needed, so that a process that writes for others stays small.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from routesearch.utils.files import write_whole

Arrays = Mapping[str, npt.NDArray[Any]]
"""Arrays by name."""

Stored = tuple[dict[str, npt.NDArray[Any]], dict[str, str]]
"""What a file holds: arrays, and short texts beside them."""


def write_arrays(path: Path, arrays: Arrays, facts: Mapping[str, str] | None = None) -> None:
    """Put ``arrays`` into one file: after a crash there is the old file or the new one, never a part.

    Args:
        path: its folder is made if need be.
        facts: short texts that are kept beside the arrays.

    Raises:
        OSError: the disk does not take it; nothing is left of the attempt.
    """
    from safetensors.numpy import save

    path.parent.mkdir(parents=True, exist_ok=True)
    # asarray, not ascontiguousarray: that one makes a list of a single number.
    whole = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    write_whole(path, save(whole, metadata=dict(facts) if facts else None), durable=True)


def read_arrays(path: Path) -> Stored:
    """The arrays of a file, and the facts beside them.

    Raises:
        OSError: there is no such file, or it cannot be read.
        ValueError: it is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            facts = file.metadata() or {}
            return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118 (no mapping)
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def read_forms(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type (as safetensors calls it: ``F32``) and shape of each array of a file; the arrays are not read.

    Raises:
        OSError: there is no such file, or it cannot be read.
        ValueError: it is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            return {name: (str(p.get_dtype()), tuple(p.get_shape())) for name, p in parts.items()}
    except SafetensorError as error:
        raise ValueError(str(error)) from error
