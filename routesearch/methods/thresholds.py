"""Thresholds for a chain of exits, chosen from stored scores: what methods with exits offer as knobs.

The sums behind them are in :mod:`routesearch.methods.exit_chain`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from routesearch.errors import Refusal
from routesearch.methods.base import Scores
from routesearch.methods.exit_chain import SLICE, Array, Curve, ExitChain, ExitFront, gate_rows, midpoints

EXACT = 150_000_000
"""Most settings that are tried one and all: of two gates for 12,000 images, of three for 500."""

SPREAD = 32
"""Settings that are measured beside a front, evenly from everybody leaving to nobody leaving early."""


def first_exit(scores: Tensor, thresholds: Sequence[float]) -> Tensor:
    """The route of each image: the first gate whose threshold its score reaches, else the last exit.

    Args:
        scores: N x gates.
        thresholds: one a gate.

    Returns:
        N, int64, in 0..gates.
    """
    if len(thresholds) != scores.shape[1]:
        raise Refusal(f"thresholds must be one a gate, got {len(thresholds)} for {scores.shape[1]} gates")
    stays = torch.ones(len(scores), dtype=torch.bool, device=scores.device)
    route = torch.zeros(len(scores), dtype=torch.int64, device=scores.device)
    for column, threshold in zip(scores.unbind(1), thresholds, strict=True):
        stays = stays & (column < threshold)
        route += stays
    return route


def exit_thresholds(
    scores: Scores | None,
    labels: Tensor | None,
    search: Literal["front", "sequential", "shared"] = "front",
) -> list[list[float]]:
    """Threshold settings worth measuring, one number a gate each.

    What ``knobs`` of a method with exits needs:
    ``[{"thresholds": t} for t in [usual, *exit_thresholds(scores, labels)]]``.
    First the curve, from the cheapest to the most accurate; then ``SPREAD`` settings at the same quantile of
    each gate's scores, whatever they are worth: from everybody leaving at the first gate to nobody leaving.

    Args:
        scores: as ``knobs`` gets them; None (before training): no settings. Without prices: only the spread.
        labels: N, int64; None: only the spread.
        search: the curve over all gates together (:func:`exit_front`); over one gate after the other, for
            every target (:func:`sequential_curve`); or of one threshold for all gates (:func:`shared_curve`).
            With the latter two only the ends of the spread.

    Raises:
        Refusal: where scores, labels and prices are not those of a chain of exits.
    """
    if scores is None or not len(scores.scores):
        return []
    found: list[list[float]] = []
    count = SPREAD
    if labels is not None and scores.prices is not None:
        found = _curve(scores, labels, search).thresholds.tolist()
        count = SPREAD if search == "front" else 2
    columns = [midpoints(row) for row in gate_rows(scores.scores)]
    at = np.linspace(0, 1, count)
    found += np.stack([c[(at * (len(c) - 1)).round().astype(np.int64)] for c in columns], 1).tolist()
    return list(map(list, dict.fromkeys(map(tuple, found))))


def spread_thresholds(scores: Tensor, count: int) -> list[float]:
    """Thresholds spread evenly over a set of scores, both ends beyond all of them; none at a score.

    Args:
        scores: any shape, any device; their order does not matter.
        count: at most so many; few different scores have fewer places between them.
    """
    middles = midpoints(scores.detach().flatten().cpu().numpy())
    at = (np.linspace(0, 1, count) * (len(middles) - 1)).round().astype(np.int64)
    return list(dict.fromkeys(middles[at].astype(np.float64).tolist()))


def _curve(scores: Scores, labels: Tensor, search: str) -> Curve:
    if search == "front":
        return exit_front(scores, labels)
    if search == "sequential":
        return sequential_curve(scores, labels)
    found = ExitFront(ExitChain(scores, labels))
    found.add_shared()
    return found.curve()


def exit_front(scores: Scores, labels: Tensor) -> Curve:
    """The front over per-gate thresholds, cheapest first.

    Exact where there are at most ``EXACT`` settings: each combination of midpoints is tried. Beyond that
    the union of a grid (``GRID`` candidates a gate or more, up to four gates), of the sequential procedure
    for every target accuracy and every target MACs, and of the shared threshold, so it is never below any
    of these; then every point is refined along one gate after the other, over all midpoints, until no
    sweep finds a better one.

    Raises:
        Refusal: where scores, labels and prices are not those of a chain of exits.
    """
    chain = ExitChain(scores, labels)
    front = ExitFront(chain)
    settings = math.prod(map(len, chain.candidates))
    if not chain.images:
        return front.curve()
    if chain.gates == 1:
        front.sweep(chain.closed, 0)
    elif settings <= EXACT and settings // len(chain.candidates[0]) <= SLICE:
        chain.grid(front, [np.arange(len(c)) for c in chain.candidates])
    else:
        if picks := chain.picks():
            chain.grid(front, picks)
        for _ in _sequential(chain, front):
            pass
        _sequential_macs(chain, front)
        front.add_shared()
        front.refine()
    return front.curve()


def shared_curve(scores: Scores, labels: Tensor) -> Curve:
    """One threshold for all gates, at every midpoint between scores where a route changes, ascending.

    Exact, by one sort: with a falling threshold an image's exit changes only at the running maxima of its
    scores from gate to gate.
    """
    chain = ExitChain(scores, labels)
    thresholds, rights, costs = chain.shared()
    count = max(chain.images, 1)
    keep = slice(None if chain.images else 0)
    columns = np.repeat(thresholds.astype(np.float64)[:, None], chain.gates, 1)
    return Curve(columns[keep], rights[keep] / count, costs[keep] / count)


def sequential_curve(scores: Scores, labels: Tensor) -> Curve:
    """What :func:`sequential_thresholds` gives for every target accuracy, without those another beats."""
    chain = ExitChain(scores, labels)
    found = ExitFront(chain)
    if chain.images:
        for at, right, cost in _sequential(chain, ExitFront(chain)):
            found.add(np.array([right]), np.array([cost]), lambda cells, at=at: np.array([at]))  # type: ignore[misc]
    return found.curve()


def sequential_thresholds(
    scores: Scores, labels: Tensor, *, accuracy: float | None = None, macs: float | None = None
) -> list[float]:
    """The d-gate paper's thresholds for a target (section 3.1): gates one after the other, first to last.

    Each gate is set while those before it stand and those after it let nobody leave: for an accuracy, to
    the lowest mean MACs that keep it; for MACs, to the highest accuracy within them.

    Args:
        accuracy: share of images to be right, or
        macs: mean multiply-adds per image to stay within.

    Raises:
        Refusal: where the target cannot be reached this way, or where not just one target is given.
    """
    if (accuracy is None) == (macs is None):
        raise Refusal(f"one target must be given, got accuracy={accuracy} and macs={macs}")
    chain = ExitChain(scores, labels)
    if not chain.images:
        raise Refusal("a target must be compared with images, got none")
    count, at = chain.images, chain.closed
    for gate in range(chain.gates):
        rights, costs = chain.sweep_gate(at, gate)
        if macs is None:
            needed = math.ceil((accuracy or 0.0) * count - 1e-9)
            k = int(_cheapest(rights, np.array([needed]))[0])
        else:
            within = costs <= macs * count
            if not within.any():
                raise Refusal(f"macs must be {costs.min() / count:,.0f} or more, got {macs:,.0f}")
            k = int(rights[within].argmax())  # costs never fall along a gate: those within come first
        at = (*at[:gate], k, *at[gate + 1 :])
    if macs is None and rights[k] < needed:
        raise Refusal(f"accuracy must be {rights[k] / count:.4f} or less, got {accuracy}")
    chosen: list[float] = chain.thresholds(np.array([at]))[0].tolist()
    return chosen


def _sequential(chain: ExitChain, front: ExitFront) -> Iterator[tuple[tuple[int, ...], int, float]]:
    """The sequential procedure for every target accuracy: setting, images right, MACs of all.

    All that it tries on the way goes into ``front``.
    """
    groups = [(chain.closed, np.arange(chain.images + 1))]  # a setting so far, and the targets it is for
    for gate in range(chain.gates):
        further = []
        for at, targets in groups:
            rights, costs = front.sweep(at, gate)
            chosen = _cheapest(rights, targets)
            for part in np.split(np.arange(len(chosen)), np.flatnonzero(np.diff(chosen)) + 1):
                k = int(chosen[part[0]])
                further.append(((*at[:gate], k, *at[gate + 1 :]), targets[part]))
                if gate == chain.gates - 1:
                    yield further[-1][0], int(rights[k]), float(costs[k])
        groups = further


def _sequential_macs(chain: ExitChain, front: ExitFront) -> None:
    """The sequential procedure for every target MACs, into ``front``.

    Whatever the target, gates after the first only lower the cost: each goes to its highest accuracy.
    """
    best = np.maximum.accumulate(front.sweep(chain.closed, 0)[0])
    for k in np.flatnonzero(np.diff(best, prepend=-1)).tolist():
        at: tuple[int, ...] = (k, *chain.closed[1:])
        for gate in range(1, chain.gates):
            found = int(front.sweep(at, gate)[0].argmax())
            at = (*at[:gate], found, *at[gate + 1 :])


def _cheapest(rights: Array, targets: Array) -> Array:
    """The cheapest place for each target: the first with as many right; without one, the most accurate.

    Along one gate costs never fall: fewer leave there.
    """
    best = np.maximum.accumulate(rights)
    return np.asarray(np.searchsorted(best, np.minimum(targets, best[-1])))
