"""Cutting a set of labelled images in parts, with every class shared out in proportion.

The draws depend on ``split_seed`` alone. They come from numpy's ``RandomState``, whose stream is frozen
for good (NEP 19): the same seed cuts the same parts with every version of numpy.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Index = npt.NDArray[np.int64]


def pick(labels: Index, count: int, *seed: int) -> tuple[Index, Index]:
    """Choose ``count`` images such that each class gives its share, to within one image.

    Args:
        labels: class of each image, N integers.
        count: images wanted, 0 to N.
        seed: the split seed, and a number that tells one use of it from another.

    Returns:
        Indices of the chosen images and of the others, both in ascending order.
    """
    if not 0 <= count <= len(labels):
        raise ValueError(f"0 <= count <= images must hold, got count={count}, images={len(labels)}")
    random = np.random.RandomState(seed)
    shuffled = random.permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    sizes = np.unique(labels, return_counts=True)[1]
    chosen = np.zeros(len(labels), dtype=bool)
    end = 0
    for size, quota in zip(sizes, _quotas(sizes, count, random), strict=True):
        chosen[by_class[end : end + quota]] = True
        end += size
    return np.flatnonzero(chosen), np.flatnonzero(~chosen)


def _quotas(sizes: Index, count: int, random: np.random.RandomState) -> Index:
    """Share ``count`` out by largest remainder, in whole numbers; equal remainders are drawn by lot."""
    total = max(1, int(sizes.sum()))
    quotas, remainders = np.divmod(sizes * count, total)
    ranking = np.lexsort((random.permutation(len(sizes)), -remainders))
    quotas[ranking[: count - int(quotas.sum())]] += 1
    return np.asarray(quotas, dtype=np.int64)
