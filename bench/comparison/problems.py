"""The problems of the comparison: a study file each, and how many trainings of each method are recorded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from routesearch.study.config import load_study
from routesearch.task.resolve import Task, resolve

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Problem:
    """One study whose trainings are recorded.

    Attributes:
        training_macs: what a search may spend in the comparison, in 10^12, the trunk included.
        counts: method -> trainings to be recorded; cheap ones are recorded more often.
    """

    name: str
    training_macs: float
    counts: Mapping[str, int]

    @property
    def study(self) -> Path:
        return HERE / "problems" / f"{self.name}.yaml"

    @property
    def table(self) -> Path:
        """The recorded trainings that are part of the repository."""
        return HERE / "tables" / f"{self.name}.jsonl.gz"

    def task(self, settings: Mapping[str, Any] | None = None) -> Task:
        """The resolved study; ``settings`` as ``--set`` gives them."""
        return resolve(load_study(self.study, settings))


PROBLEMS = {
    problem.name: problem
    for problem in (
        Problem("digits", 2.5, {"static": 80, "dgate": 160}),
        Problem(
            "fashion",
            3.0,
            {"static": 45, "dgate": 70, "decisionet": 40, "skipnet": 45, "actor": 45, "critic": 45},
        ),
    )
}
