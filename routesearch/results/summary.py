"""Where a study stands, in the form that ``routesearch search --json`` prints."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from routesearch.results.confirmed import spent
from routesearch.results.points import Point, hypervolume
from routesearch.results.reader import StudyResults
from routesearch.results.record import State


@dataclass(frozen=True)
class Summary:
    """A study's totals over all runs of its search, its front, its best.

    Attributes:
        tracking_uri, experiment: where MLflow shows the study.
        feasible_hypervolume: None without a budget.
        best: the most accurate point within the budget.
        confirmations: retrainings of the front, how many failed, and the training MACs that they took.
        shrinkage: accuracy on validation less that on test, the mean over confirmed points of the front;
            None where none is confirmed.
        results: what all this was taken from.
    """

    study: str
    storage: str
    tracking_uri: str
    experiment: str
    finished: int
    stopped: int
    failed: int
    refused: int
    hypervolume: float
    feasible_hypervolume: float | None
    front: list[Point]
    best: Point | None
    confirmations: dict[str, int]
    shrinkage: float | None
    results: StudyResults = field(repr=False)

    @classmethod
    def of(cls, results: StudyResults, tracking_uri: str, experiment: str) -> Summary:
        """The summary of what was read."""
        config, budget, backbone_macs = results.config, results.budget, results.backbone_macs
        return cls(
            study=config.name,
            storage=str(config.dir),
            tracking_uri=tracking_uri,
            experiment=experiment,
            finished=results.count(State.FINISHED),
            stopped=results.count(State.STOPPED),
            failed=results.count(State.FAILED),
            refused=results.count(State.REFUSED),
            hypervolume=hypervolume(results.front, backbone_macs),
            feasible_hypervolume=budget.feasible_hypervolume(results.points, backbone_macs)
            if budget
            else None,
            front=results.front,
            best=results.best,
            confirmations=spent(results.facts),
            shrinkage=results.mean_shrinkage,
            results=results,
        )

    def as_dict(self) -> dict[str, Any]:
        """The summary as JSON values."""
        values = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "results"}
        best = None if self.best is None else self.best.as_dict()
        return {**values, "front": [point.as_dict() for point in self.front], "best": best}
