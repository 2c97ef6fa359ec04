"""Functions of several tensors, and resizing, on the meta device: the real shapes and the real refusals."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from routesearch.meta import shapes_only


@pytest.mark.parametrize(
    "use",
    [
        lambda: torch.cat([torch.ones(2, 3, 4), torch.ones(2, 1, 4), torch.ones(2, 2, 4)], 1),
        lambda: torch.cat((torch.ones(2, 3), torch.ones(4, 3))),
        lambda: torch.cat([torch.ones(2, 3), torch.ones(2, 5)], dim=-1),
        lambda: torch.cat([torch.ones(2, 3), torch.ones(2, 3, dtype=torch.int64)]),
        lambda: torch.cat([torch.ones(2, 3), torch.ones(3, 3)], 1),
        lambda: torch.cat([torch.ones(2, 3), torch.ones(2)], 1),
        lambda: torch.cat([torch.ones(2, 3)], 2),
        lambda: torch.cat([]),
        lambda: torch.ones(2, 3).add_(torch.ones(2, 3)),
        lambda: torch.ones(2, 3).__iadd__(torch.ones(3)),
        lambda: torch.ones(2, 3).__imul__(torch.ones(2, 4)),
        lambda: torch.ones(2, 3, dtype=torch.int64).add_(torch.ones(2, 3)),
        lambda: F.interpolate(torch.ones(2, 3, 5, 7), (8, 9), mode="bilinear", align_corners=False),
        lambda: F.interpolate(torch.ones(2, 3, 5, 7), size=4),
        lambda: F.interpolate(torch.ones(2, 3, 5, 7), scale_factor=2),
        lambda: F.interpolate(torch.ones(2, 3, 5, 7), (8, 9, 10)),
        lambda: F.interpolate(torch.ones(2, 3, 5, 7), (0, 4)),
    ],
)
def test_shapes_and_refusals_are_the_real_ones(use: Callable[[], Tensor]) -> None:
    def result() -> object:
        try:
            found = use()
        except (RuntimeError, ValueError, IndexError):
            return "refused"
        return tuple(found.shape), found.dtype

    real = result()
    with shapes_only():
        assert result() == real
