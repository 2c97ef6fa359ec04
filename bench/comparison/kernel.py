"""A mean of what was recorded nearby (Nadaraya and Watson), with a length for each dimension."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

LENGTHS = (0.03, 0.06, 0.1, 0.2, 0.4, 0.8, 1.6, 6.4)
"""Lengths that are tried, in shares of a dimension's range; the last all but ignores it."""

Vector = npt.NDArray[np.float64]


def gaps_between(places: Vector, place: Vector, categorical: npt.NDArray[np.bool_]) -> Vector:
    """How far places are from another, dimension by dimension, from 0 to 1.

    Choices are the same or not; so is what only one of two places has (the other is -1 there).
    """
    gaps = np.abs(places - place)
    lacking = (places < 0) != (place < 0)
    return np.where(categorical | lacking, (gaps > 0).astype(float), gaps)


class Kernel:
    """Predicts what belongs to a place.

    Args:
        places: N x dimensions; equal ones hold repetitions, which are left out together.
        categorical: dimensions whose numbers have no order.
        targets: N x anything; lengths are fitted to them by leaving one out.
    """

    def __init__(self, places: Vector, categorical: npt.NDArray[np.bool_], targets: Vector) -> None:
        self.places = places
        self.categorical = categorical
        self.targets = targets.reshape(len(targets), -1)
        self._shape = targets.shape[1:]
        self._squares = np.array([gaps_between(places, place, categorical) ** 2 for place in places])
        self.lengths = self._fitted()

    def mean(self, place: Vector) -> Vector:
        """The prediction at a place, by all that is recorded."""
        squares = gaps_between(self.places, place, self.categorical) ** 2
        return (self._weights(squares @ self.lengths**-2.0) @ self.targets).reshape(self._shape)

    def left_out(self) -> Vector:
        """The prediction at each recorded place by all others."""
        return self._left_out(self.lengths).reshape(-1, *self._shape)

    def nearest(self, place: Vector, without_equal: bool = False) -> npt.NDArray[np.intp]:
        """The nearest recorded places, all dimensions counting alike."""
        squares = (gaps_between(self.places, place, self.categorical) ** 2).sum(1)
        if without_equal:
            squares = np.where(squares == 0, np.inf, squares)
        return np.flatnonzero(squares <= squares.min() + 1e-12)

    def _left_out(self, lengths: Vector) -> Vector:
        squares = self._squares @ lengths**-2.0
        squares[self._squares.sum(2) == 0] = np.inf
        return np.asarray(self._weights(squares) @ self.targets)

    @staticmethod
    def _weights(squares: Vector) -> Vector:
        """Of each place; the nearest one always counts."""
        weights = np.exp(-0.5 * (squares - squares.min(-1, keepdims=True)))
        return np.asarray(weights / weights.sum(-1, keepdims=True))

    def _fitted(self) -> Vector:
        """One dimension after the other, twice."""
        lengths = np.full(self.places.shape[1], 0.8)

        def error(tried: Vector) -> float:
            return float(np.square(self._left_out(tried) - self.targets).mean())

        best = error(lengths)
        for i in [*range(len(lengths))] * 2:
            for length in LENGTHS:
                tried = lengths.copy()
                tried[i] = length
                if (found := error(tried)) < best:
                    best, lengths = found, tried
        return lengths
