"""Names of the Optuna studies in a journal: a sampler's history holds for one budget and one space."""

from __future__ import annotations

import json
import zlib

from routesearch.results.budget import Budget
from routesearch.space.space import SearchSpace


def study_name(method: str, budget: Budget, space: SearchSpace) -> str:
    """Method, budget and a mark of the space: ``dgate@40000000#1a2b3c4d``, ``dgate@none,0.002s#1a2b3c4d``.

    The same space must have the same mark for ever: with another one, trials that wait in the old study
    are reported to a new one.
    """
    shape = {name: domain.identity() for name, domain in space.domains.items()}
    mark = zlib.crc32(json.dumps(shape, sort_keys=True, default=str).encode())
    macs = "none" if budget.max_macs is None else f"{budget.max_macs:.12g}"
    latency = "" if budget.max_latency is None else f",{budget.max_latency:.12g}s"
    return f"{method}@{macs}{latency}#{mark:08x}"


def budget_of(name: str) -> Budget:
    """The budget in a study's name, but for its batch, which never changes in a study."""
    macs, _, latency = name.rpartition("#")[0].rpartition("@")[2].partition(",")
    return Budget(
        None if macs == "none" else float(macs), float(latency.removesuffix("s")) if latency else None
    )
