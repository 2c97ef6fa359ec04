"""What a search has spent and found so far: feasible hypervolume against training MACs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from routesearch.results.points import OperatingPoint, front
from routesearch.task.resolve import Task


class Search(Protocol):
    """Anything that spends training MACs and finds points."""

    def __call__(self, ledger: Ledger, seed: int) -> None:
        """Search until :attr:`Ledger.over`."""


class Ledger:
    """The account of one search.

    Args:
        limit: training MACs after which it is over.

    Attributes:
        spent: training MACs so far.
        trainings: trainings that were begun; refused configs are none.
        history: spent MACs and feasible hypervolume after each training that ended.
    """

    def __init__(self, task: Task, limit: float) -> None:
        self.task = task
        self.limit = limit
        self.spent = 0.0
        self.trainings = 0
        self.history: list[tuple[float, float]] = []
        self._front: list[OperatingPoint] = []

    @property
    def over(self) -> bool:
        return self.spent >= self.limit

    @property
    def hypervolume(self) -> float:
        """Feasible, as :class:`routesearch.results.budget.Budget` has it."""
        return self.history[-1][1] if self.history else 0.0

    def spend(self, macs: float) -> None:
        self.spent += macs

    def found(self, points: Iterable[OperatingPoint]) -> None:
        """Points of a training that ended, all MACs of which are spent."""
        within = self.task.budget.within(points)
        self._front = front([*self._front, *within])
        area = self.task.budget.feasible_hypervolume(self._front, self.task.backbone_macs)
        self.history.append((self.spent, area))


def at(history: Sequence[tuple[float, float]], grid: Sequence[float]) -> npt.NDArray[np.float64]:
    """Hypervolume when so many MACs were spent; 0 before the first training ended."""
    spent = [0.0, *(s for s, _ in history)]
    areas = [0.0, *(a for _, a in history)]
    return np.array([areas[int(np.searchsorted(spent, g, side="right")) - 1] for g in grid])


def reached(history: Sequence[tuple[float, float]], area: float) -> float:
    """MACs spent when a hypervolume was first reached; infinity if it never was."""
    return next((spent for spent, found in history if found >= area), float("inf"))
