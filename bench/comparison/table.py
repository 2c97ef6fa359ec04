"""Recorded trainings, and what a training of any other config would have brought.

A recorded curve becomes the accuracy at :data:`GRID` shares of the way from a network's cheapest route to its
most expensive one, at each rung and at the end. Of a config that was not recorded the routes' prices are
exact (the network is priced as in a search), and its accuracies are

- the mean of recorded ones of its method, weighted by nearness (a Gaussian kernel over the sampler's
  parameters and the two prices, with a length for each dimension that is fitted by leaving one out),
  plus
- what a seed makes of it: the difference of two recorded trainings of one config, divided by the square
  root of two, drawn by config and seed, one and the same for all rungs.

The first follows the space; the second keeps the spread that trainings have, so that the best of many is as
lucky here as it is in fact. ``bench/compare.py error`` prints how far off this is, beside the plain nearest
neighbour: the second truth that ``--nearest`` chooses, for a search may do well on the first because it
models curves likewise.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from optuna.distributions import CategoricalDistribution

from comparison.design import parameters, place_of
from comparison.kernel import Kernel, Vector
from routesearch.results.points import Interval, OperatingPoint, thin
from routesearch.results.record import Outcome, State
from routesearch.space.space import SearchSpace
from routesearch.task.resolve import CONFUSION, NETWORK, Task

GRID = 48
"""Prices at which a curve's accuracy is kept."""


def read_lines(file: Path) -> list[dict[str, Any]]:
    """The lines of a table: plain, or packed with gzip."""
    data = file.read_bytes()
    text = gzip.decompress(data) if file.suffix == ".gz" else data
    return [json.loads(line) for line in text.splitlines()]


def pack(lines: Path, table: Path) -> None:
    """Put recorded lines into the repository's form; the same lines give the same bytes."""
    table.parent.mkdir(parents=True, exist_ok=True)
    table.write_bytes(gzip.compress(lines.read_bytes(), 9, mtime=0))


class MethodTable:
    """The recorded trainings of one method.

    Args:
        lines: of one method; failed trainings are left out.
        nearest: answer with the nearest recorded training as it is.

    Attributes:
        curves: trainings x rungs x GRID accuracies.
        macs: trainings x rungs, logarithm of the training MACs for each MAC of the dearest route.
    """

    def __init__(
        self,
        space: SearchSpace,
        lines: Sequence[Mapping[str, Any]],
        backbone_macs: float,
        nearest: bool = False,
    ) -> None:
        self.nearest = nearest
        self.space = space
        self.backbone_macs = backbone_macs
        self.names = sorted(parameters(space))
        self.kinds = parameters(space)
        good = [line for line in lines if line["rungs"]]
        self.bounds = [Interval(*line["bounds"]) for line in good]
        self.places = np.array([self.place(line["config"], Interval(*line["bounds"])) for line in good])
        self.curves = np.array([_curves(line) for line in good])
        spent = np.array([[rung["macs"] for rung in line["rungs"]] for line in good], dtype=float)
        dearest = np.array([[bounds.max] for bounds in self.bounds])
        self.macs = np.log(spent) - np.log(dearest)  # a training's work goes with its network's
        categorical = [isinstance(self.kinds[name], CategoricalDistribution) for name in self.names]
        mask = np.array([*categorical, False, False])
        self.by_curve = Kernel(self.places, mask, self.curves)
        self.by_macs = Kernel(self.places, mask, self.macs)
        self.pairs = _pairs(good)
        found = [
            sign * (self.curves[a] - self.curves[b]) / np.sqrt(2) for a, b in self.pairs for sign in (1, -1)
        ]
        self.noise = np.array(found or [np.zeros(self.curves.shape[1:])])

    def place(self, config: Mapping[str, Any], bounds: Interval) -> Vector:
        """Each parameter's share of its range (-1 where a config has none), and both prices."""
        encoded = self.space.encode(self.space.parse(config))
        found = [
            place_of(self.kinds[name], encoded[name]) if name in encoded else -1.0 for name in self.names
        ]
        return np.array([*found, bounds.min / self.backbone_macs, bounds.max / self.backbone_macs])

    def predict(self, config: Mapping[str, Any], bounds: Interval, seed: int) -> tuple[Vector, Vector]:
        """Accuracies (rungs x GRID) and training MACs (rungs) of a training."""
        place = self.place(config, bounds)
        if self.nearest:
            alike = self.by_curve.nearest(place)
            chosen = alike[seed % len(alike)]
            return _possible(self.curves[chosen]), np.exp(self.macs[chosen]) * bounds.max
        text = json.dumps([dict(config), seed], sort_keys=True)
        curves = self.with_noise(self.by_curve.mean(place), zlib.crc32(text.encode()))
        return curves, np.exp(self.by_macs.mean(place)) * bounds.max

    def with_noise(self, mean: Vector, draw: int) -> Vector:
        """Curves as one seed would bring them."""
        return _possible(np.where(mean > 0, mean + self.noise[draw % len(self.noise)], 0.0))


class Table:
    """All recorded trainings of a problem.

    Args:
        lines: as :func:`read_lines` gives them.
        task: the problem's study.
        nearest: answer with the nearest recorded training as it is.
    """

    def __init__(self, lines: Sequence[Mapping[str, Any]], task: Task, nearest: bool = False) -> None:
        facts = next(line["trunk"] for line in lines if "trunk" in line)
        self.trunk_macs = {part: int(fact["training_macs"]) for part, fact in facts.items()}
        self.backbone_macs = task.backbone_macs
        self.lines = [line for line in lines if "method" in line]
        self.methods = {
            name: MethodTable(
                space, [line for line in self.lines if line["method"] == name], task.backbone_macs, nearest
            )
            for name, space in task.spaces.items()
        }
        self._known: dict[str, list[Outcome]] = {}

    @property
    def shared_macs(self) -> int:
        """What the parts that trials share cost."""
        return sum(self.trunk_macs.values())

    def shared_macs_of(self, task: Task, method: str, config: Mapping[str, Any]) -> int:
        """What the shared parts cost that a training of a config needs."""
        kind = task.methods[method]
        starts = kind.uses_weights(task.spaces[method].parse(config))
        needed = {NETWORK: starts, CONFUSION: kind.needs_confusion}
        return sum(self.trunk_macs.get(part, 0) for part, is_needed in needed.items() if is_needed)

    def outcomes(self, method: str, config: Mapping[str, Any], bounds: Interval, seed: int) -> list[Outcome]:
        """What a training brings at each rung and at its end."""
        key = json.dumps([method, dict(config), seed], sort_keys=True)
        if key not in self._known:
            accuracies, macs = self.methods[method].predict(config, bounds, seed)
            last = len(macs) - 1
            self._known[key] = [
                Outcome(
                    State.FINISHED if i == last else State.STOPPED,
                    tuple(points_of(accuracies[i], bounds)),
                    params=1,
                    training_macs=int(macs[i]),
                    seconds=1.0,
                )
                for i in range(len(macs))
            ]
        return self._known[key]


def points_of(accuracies: Vector, bounds: Interval) -> list[OperatingPoint]:
    """A curve's points where its accuracy rises; its knob is the place on the grid."""
    points = [
        OperatingPoint({"place": i}, float(accuracy), price)
        for i, (accuracy, price) in enumerate(zip(accuracies, prices(bounds), strict=True))
        if accuracy > 0
    ]
    return thin(points) or [OperatingPoint({"place": GRID - 1}, 0.0, float(bounds.max))]


def prices(bounds: Interval) -> list[float]:
    """The grid's MACs between a network's cheapest and most expensive route."""
    return [float(p) for p in np.linspace(bounds.min, bounds.max, GRID)]


def _curves(line: Mapping[str, Any]) -> list[Vector]:
    """Accuracies on the grid at each rung: the best of points that cost no more, 0 below the cheapest."""
    grid = np.array(prices(Interval(*line["bounds"])))
    grid[-1] += 1  # MACs were rounded
    found = []
    for rung in line["rungs"]:
        points = np.array(rung["points"])
        affordable = points[None, :, 1] <= grid[:, None] + 0.5
        found.append(np.where(affordable, points[None, :, 0], 0.0).max(1))
    return found


def _pairs(lines: Sequence[Mapping[str, Any]]) -> list[tuple[int, int]]:
    """Two trainings of one config each."""
    first = {line["index"]: i for i, line in enumerate(lines) if not line["repeat"]}
    return [
        (first[line["index"]], i) for i, line in enumerate(lines) if line["repeat"] and line["index"] in first
    ]


def _possible(curves: Vector) -> Vector:
    """Accuracies in [0, 1] that do not fall as networks may cost more."""
    return np.asarray(np.maximum.accumulate(np.clip(curves, 0.0, 1.0), axis=-1))
