"""A chain of exits as numbers: what every setting of its thresholds gives, without running a network.

An image leaves at the first gate whose threshold its score reaches. A curve over thresholds is therefore
made of sums: with c_g = 1 where exit g labels an image right (p_g its price in MACs),

    right(t_1..t_G) = sum of c_0 + sum over g = 1..G of the sum of c_g - c_{g-1} over images past gate g

and MACs likewise with p_g. An image is past gate g where its scores 1..g all lie below their thresholds, so
the sums are cumulative histograms over the scores (all settings at once, :meth:`ExitChain.grid`), or
cumulative sums in the order of one gate's scores (all settings of that gate, :meth:`ExitChain.along`).

Of N images 0..N can be right, so a front has at most N + 1 points, and that is all that is kept however
many settings are tried (:class:`ExitFront`): 10^8 take about a second and no more than 150 MB.

Thresholds are midpoints between neighbouring scores, in the scores' own precision; where that has no number
between two scores they are not distinguished. A threshold *at* a score would decide by rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from routesearch.errors import Refusal
from routesearch.methods.base import Scores
from routesearch.utils.sampling import evenly_spaced

GRID = 50
"""Candidates of each of up to four gates that are combined where all candidates would be too many."""

FINE = 20_000_000
"""Settings that are tried at most; with few gates this allows more candidates of each than ``GRID``."""

SLICE = 1_500_000
"""Most settings held at a time, 50 bytes each."""

REFINED = 400_000_000
"""Images x gates x sweeps spent at most on refining a front, about a second; most come to rest earlier."""

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Curve:
    """P threshold settings and what each gives on the images that they were chosen on.

    Attributes:
        thresholds: P x gates, float64.
        accuracy: P, share of images labelled right.
        macs: P, mean multiply-adds per image.
    """

    thresholds: Array
    accuracy: Array
    macs: Array

    def __len__(self) -> int:
        return len(self.accuracy)


class ExitChain:
    """N images, G gates and G + 1 exits as numbers: who is right where, and which thresholds there are.

    A setting is one index a gate into its candidates, ascending; at the last of them nobody leaves.

    Attributes:
        candidates: each gate's thresholds, ascending.
        ranks: gates x N: how many of a gate's candidates lie below an image's score; it leaves at k < rank.
        right: exits x N, 1 where that exit's label is right.
        prices: exits, int64 where they are whole.
    """

    def __init__(self, scores: Scores, labels: Tensor) -> None:
        values, said = scores.scores.detach(), scores.predictions
        if values.ndim != 2 or values.shape[1] < 1 or labels.shape != values.shape[:1]:
            rule = "a chain of exits must have N x gates scores and N labels"
            raise Refusal(f"{rule}, got {tuple(values.shape)} and {tuple(labels.shape)}")
        self.images, self.gates = values.shape
        if said.shape != (self.images, self.gates + 1):
            rule = f"a chain of {self.gates} gates must have N x {self.gates + 1} predictions"
            raise Refusal(f"{rule}, got {tuple(said.shape)} for {self.images} images")
        if scores.prices is None or scores.prices.shape != (self.gates + 1,):
            got = "none" if scores.prices is None else f"{scores.prices.numel()} for {self.gates + 1} exits"
            raise Refusal(f"exits must have one price each, got {got}")
        prices: Array = scores.prices.double().cpu().numpy()
        whole = bool((prices == prices.round()).all())  # as MACs are; integers add up several times faster
        self.prices = prices.astype(np.int64) if whole else prices
        if (np.diff(self.prices) < 0).any():
            raise Refusal(f"an exit must cost no less than the one before, got {self.prices.tolist()}")
        self.scores = gate_rows(values)
        self.candidates = [midpoints(row) for row in self.scores]
        self.ranks = np.stack([rank(c, row) for c, row in zip(self.candidates, self.scores, strict=True)])
        self.right: Array = said.eq(labels[:, None]).cpu().numpy().T.astype(np.int32)
        self.closed = tuple(len(c) - 1 for c in self.candidates)
        """The setting at which nobody leaves early."""
        self._sorted: dict[int, tuple[Array, Array, Array]] = {}

    def thresholds(self, settings: Array) -> Array:
        """P x gates indices to P x gates numbers, float64."""
        columns = [c[at].astype(np.float64) for c, at in zip(self.candidates, settings.T, strict=True)]
        return np.stack(columns, 1)

    def sweep_gate(self, at: Sequence[int], gate: int) -> tuple[Array, Array]:
        """All settings of one gate, the others as ``at`` has them: images right and MACs of all, K each."""
        if gate not in self._sorted:
            order = np.argsort(self.ranks[gate], kind="stable")
            each = np.bincount(self.ranks[gate], minlength=len(self.candidates[gate]) + 1)
            self._sorted[gate] = self.ranks[:, order], self.right[:, order], np.cumsum(each)[:-1]
        ranks, right, passed = self._sorted[
            gate
        ]  # images by this gate's score; how many it lets pass at each k
        goes = [at[g] < ranks[g] for g in range(self.gates)]
        label, paid = right[-1], np.full(self.images, self.prices[-1])
        for g in reversed(range(gate + 1, self.gates)):
            label, paid = np.where(goes[g], right[g], label), np.where(goes[g], self.prices[g], paid)
        gain, rise = label - right[gate], paid - self.prices[gate]  # of an image that passes
        label, paid = right[gate], np.full(self.images, self.prices[gate])
        for g in reversed(range(gate)):
            gain, rise = np.where(goes[g], 0, gain), np.where(goes[g], 0, rise)
            label, paid = np.where(goes[g], right[g], label), np.where(goes[g], self.prices[g], paid)
        rights, costs = np.zeros(self.images + 1, np.int64), np.zeros(self.images + 1, self.prices.dtype)
        np.cumsum(gain, out=rights[1:])
        np.cumsum(rise, out=costs[1:])
        return rights.take(passed) + label.sum(), costs.take(passed) + paid.sum()

    def shared(self) -> tuple[Array, Array, Array]:
        """One threshold for all gates: T thresholds, ascending; images right and MACs of all at each."""
        best = np.maximum.accumulate(self.scores, 0)
        candidates = midpoints(best)
        # An image goes on past a gate at every candidate above the best of its scores so far.
        ranks = rank(candidates, best.ravel())

        def total(start: float, steps: Array) -> Array:
            return np.asarray(
                start + np.cumsum(np.bincount(ranks, steps.ravel(), len(candidates)))[: len(candidates)]
            )

        steps = np.broadcast_to(np.diff(self.prices)[:, None], best.shape)
        rights = total(self.right[0].sum(), np.diff(self.right, axis=0)).astype(np.int64)
        return candidates, rights, total(self.images * self.prices[0], steps)

    def settings_for_shared(self, threshold: Array) -> Array:
        """P thresholds for all gates as P x gates settings by which the same images leave."""
        found = []
        for row, candidates in zip(self.scores, self.candidates, strict=True):
            values = np.concatenate([[-np.inf], np.sort(row)]).astype(row.dtype)
            found.append(rank(candidates, values[np.searchsorted(values, threshold) - 1]))
        return np.stack(found, 1).clip(max=np.array(self.closed))

    def picks(self) -> list[Array]:
        """Some candidates of each gate for a grid, spread by number and by value; none for very many gates.

        ``GRID`` or more by number; fewer where there are more than four gates.
        """
        each = max(int(FINE ** (1 / self.gates)), GRID)
        while each ** (self.gates - 1) > SLICE:
            each -= 1
        found = []
        for c in self.candidates if each > 1 else []:
            by_number = [evenly_spaced(len(c), min(each, GRID)), evenly_spaced(len(c), max(each - GRID, 1))]
            by_value = np.linspace(float(c[0]), float(c[-1]), GRID if each >= 2 * GRID else 2)
            found.append(np.unique(np.concatenate([*by_number, rank(c, by_value).clip(max=len(c) - 1)])))
        return found

    def grid(self, front: ExitFront, picks: Sequence[Array]) -> None:
        """Try every combination of the picked candidates, a slice for each of the first gate.

        Needs two gates or more. A slice holds cumulative histograms, over the other gates' candidates, of
        the images that the first gate lets pass; from one slice to the next the images between two of its
        candidates are added.
        """
        ranks = [rank(pick, row) for pick, row in zip(picks, self.ranks, strict=True)]
        sizes = [len(pick) for pick in picks]
        gains, rises = np.diff(self.right, axis=0), np.diff(self.prices)
        levels = [
            Histogram(np.stack(ranks[1 : g + 1]), sizes[1 : g + 1], gains[g]) for g in range(1, self.gates)
        ]
        order = np.argsort(ranks[0], kind="stable")
        ends = np.searchsorted(ranks[0][order], np.arange(sizes[0]), side="right")
        rights, passed = int(self.right[0].sum()), 0
        for first, images in enumerate(np.split(order, ends)[:-1]):
            rights, passed = rights + int(gains[0][images].sum()), passed + len(images)
            right: Array = np.array(rights, np.int32)
            cost: Array = np.array(self.images * self.prices[0] + passed * rises[0])
            for level, rise in zip(levels, rises[1:], strict=True):
                level.add(images)
                right = right[..., None] + level.gain
                cost = cost[..., None] + level.count * rise

            def settings(cells: Array, head: int = int(picks[0][first])) -> Array:
                rest = np.unravel_index(cells, sizes[1:])
                columns = [p[r] for p, r in zip(picks[1:], rest, strict=True)]
                return np.stack([np.full(len(cells), head), *columns], 1)

            front.add(right.ravel(), cost.ravel(), settings)


class Histogram:
    """Cumulative histogram of images over some gates' candidates: those that go on past all these gates.

    Attributes:
        count: one axis a gate: how many images.
        gain: the same of their weights.
    """

    def __init__(self, ranks: Array, sizes: Sequence[int], weights: Array) -> None:
        self._ranks, self._sizes, self._weights = ranks, tuple(sizes), weights
        self.count = np.zeros(sizes, np.int32)
        self.gain = np.zeros(sizes, np.int32)

    def add(self, images: Array) -> None:
        ranks, weights = self._ranks[:, images], self._weights[images]
        if len(images) <= 2 * len(self._sizes):
            for rank, weight in zip(ranks.T.tolist(), weights.tolist(), strict=True):
                box = tuple(slice(r, None) for r in rank)
                self.count[box] += 1
                if weight:
                    self.gain[box] += weight
            return
        inside = (ranks < np.array(self._sizes)[:, None]).all(0)  # the others leave at every candidate
        cells = np.ravel_multi_index(tuple(ranks[:, inside]), self._sizes)
        for whole, values in ((self.count, None), (self.gain, weights[inside])):
            new: Array = np.bincount(cells, values, whole.size).astype(np.int32).reshape(self._sizes)
            for axis in range(new.ndim):
                np.cumsum(new, axis, out=new)
            whole += new


class ExitFront:
    """The best settings so far: for each number of images right the cheapest, N + 1 at most."""

    def __init__(self, chain: ExitChain) -> None:
        self._chain = chain
        self._cost = np.full(chain.images + 1, np.inf)
        self._settings = np.zeros((chain.images + 1, chain.gates), np.int64)
        self._bar = self._cost  # the cheapest with as many right or more: what a new setting has to beat

    def add(self, rights: Array, costs: Array, settings: Callable[[Array], Array]) -> None:
        """Take in what is better.

        Args:
            rights, costs: of P settings: images right, and MACs of all images.
            settings: some of 0..P-1 to their rows of indices, one a gate.
        """
        better = np.flatnonzero(costs < self._bar[rights])
        if not len(better):
            return
        better = better[np.lexsort((costs[better], rights[better]))]
        better = better[np.diff(rights[better], prepend=-1) > 0]
        self._cost[rights[better]] = costs[better]
        self._settings[rights[better]] = settings(better)
        self._bar = np.minimum.accumulate(self._cost[::-1])[::-1]

    def add_shared(self) -> None:
        """Take in the settings with one threshold for all gates."""
        thresholds, rights, costs = self._chain.shared()
        if self._chain.images:
            self.add(rights, costs, lambda cells: self._chain.settings_for_shared(thresholds[cells]))

    def sweep(self, at: Sequence[int], gate: int) -> tuple[Array, Array]:
        """Try all candidates of one gate: images right, MACs of all."""
        rights, costs = self._chain.sweep_gate(at, gate)

        def settings(cells: Array) -> Array:
            rows = np.repeat(np.array([at]), len(cells), 0)
            rows[:, gate] = cells
            return rows

        self.add(rights, costs, settings)
        return rights, costs

    def refine(self) -> None:
        """Sweep each gate of each point of the front, until no sweep finds a better one."""
        left = REFINED // (self._chain.images * self._chain.gates)
        swept: set[tuple[int, ...]] = set()  # lines: a gate, and where the other gates are

        def fresh() -> list[tuple[list[int], int, tuple[int, ...]]]:
            points: list[list[int]] = self._settings[self._points()].tolist()
            lines = [(at, g, (g, *at[:g], *at[g + 1 :])) for at in points for g in range(self._chain.gates)]
            left_over = [line for line in lines if line[2] not in swept]
            return [line for start in range(16) for line in left_over[start::16]]  # spread along the front

        while left > 0 and (lines := fresh()):
            for at, gate, line in lines[:left]:
                if line not in swept:
                    swept.add(line)
                    self.sweep(at, gate)
                    left -= 1

    def curve(self) -> Curve:
        """The points that no other beats, cheapest first."""
        points = self._points()
        count = max(self._chain.images, 1)
        return Curve(
            self._chain.thresholds(self._settings[points]), points / count, self._cost[points] / count
        )

    def _points(self) -> Array:
        following = np.append(self._bar[1:], np.inf)
        return np.flatnonzero(self._cost < following) if self._chain.images else np.zeros(0, np.int64)


def gate_rows(scores: Tensor) -> Array:
    """N x gates scores as gates x N numbers."""
    if bool(scores.isnan().any()):
        raise Refusal("scores must be numbers, got NaN")
    if scores.dtype == torch.bfloat16:
        scores = scores.float()  # numpy knows no bfloat16
    return np.ascontiguousarray(scores.detach().cpu().numpy().T)


def midpoints(scores: Array) -> Array:
    """Thresholds, ascending: between any two neighbouring scores, below all (everybody leaves), above all.

    In the scores' own precision, as they will be compared there. Nothing lies beyond infinite scores.
    """
    values = np.unique(scores)
    values = values[np.isfinite(values)].astype(np.float64)
    if not len(values):
        return np.zeros(1, scores.dtype)
    edge = float(np.finfo(scores.dtype).max)
    low = max(values[0] - max(1.0, abs(values[0])), -edge)
    high = min(values[-1] + max(1.0, abs(values[-1])), edge)
    ends = np.concatenate([[low], values, [high]])
    middles = (ends[:-1] / 2 + ends[1:] / 2).astype(scores.dtype)
    middles[0], middles[-1] = low, high
    between = (middles > np.concatenate([[-np.inf], values])) & (middles < np.concatenate([values, [np.inf]]))
    return np.asarray(middles[between])


def rank(candidates: Array, scores: Array) -> Array:
    """How many candidates lie below each score (none is equal to one)."""
    return np.asarray(np.searchsorted(candidates, scores))
