"""Names of the Optuna studies in a journal: a sampler's history holds for one budget and one space."""

from __future__ import annotations

import json
import zlib

from routesearch.space import SearchSpace


def study_name(method: str, budget: float | None, space: SearchSpace) -> str:
    """Method, budget in MACs, and a mark of the space: ``dgate@40000000#1a2b3c4d``.

    The same space must have the same mark for ever: with another one, trials that wait in the old study
    are taught to a new one.
    """
    shape = {name: domain.identity() for name, domain in space.domains.items()}
    mark = zlib.crc32(json.dumps(shape, sort_keys=True, default=str).encode())
    return f"{method}@{'none' if budget is None else f'{budget:.12g}'}#{mark:08x}"


def budget_of(name: str) -> float | None:
    """The budget in a study's name."""
    limit = name.rpartition("#")[0].rpartition("@")[2]
    return None if limit == "none" else float(limit)
