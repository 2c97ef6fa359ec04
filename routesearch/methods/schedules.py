"""Schedules of a stage: the learning rate over its progress, and the order of its images."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor


def cosine(progress: float) -> float:
    """Learning rate factor: a short linear rise (5 %), then half a cosine to 0."""
    if progress < 0.05:
        return (progress + 0.005) / 0.055
    return 0.5 * (1 + math.cos(math.pi * (progress - 0.05) / 0.95))


def shuffled(labels: Tensor, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Row numbers of one epoch's batches in random order; a last partial batch is left out."""
    order = torch.randperm(len(labels), generator=generator)
    size = min(size, len(labels))
    for start in range(0, len(labels) - size + 1, size):
        yield order[start : start + size]


def balanced(labels: Tensor, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Row numbers of one epoch's batches, each with equally many images of every class.

    The number of images is ``size`` rounded down to a multiple of the classes, one of each at least.
    Rare classes come round more often than common ones; the epoch has as many batches as a shuffled one.
    """
    members = [labels.eq(c).nonzero().squeeze(1) for c in labels.unique().tolist()]
    each = max(1, size // len(members))
    batches = max(1, len(labels) // (each * len(members)))
    columns = []
    for rows in members:
        rounds = -(-batches * each // len(rows))
        order = [rows[torch.randperm(len(rows), generator=generator)] for _ in range(rounds)]
        columns.append(torch.cat(order)[: batches * each].view(batches, each))
    yield from torch.cat(columns, 1)
