"""Functions of several tensors, and resizing, on the meta device: the real shapes and the real refusals."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from routesearch.routing.shapes import shapes_only


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
        lambda: F.max_pool2d(torch.ones(2, 3, 9, 7), 3, 2, padding=1),
        lambda: F.max_pool2d(torch.ones(3, 9, 7), (2, 3)),
        lambda: F.max_pool2d(torch.ones(2, 3, 9, 7), 2, ceil_mode=True),
        lambda: F.max_pool2d(torch.ones(2, 3, 9, 7), 3, 1, 1, 2),
        lambda: F.max_pool2d(torch.ones(2, 3, 2, 2), 3),
        lambda: F.max_pool2d(torch.ones(2, 3, 9, 9), 2, padding=2),
        lambda: F.max_pool2d(torch.ones(9, 9), 2),
        lambda: F.avg_pool2d(torch.ones(2, 3, 9, 7), 3, 2, 1),
        lambda: F.avg_pool2d(torch.ones(2, 3, 9, 7), 2, count_include_pad=False),
        lambda: torch.ones(2, 3, 5, 7).mean((2, 3)),
        lambda: torch.ones(2, 3, 5, 7).mean([-1], keepdim=True),
        lambda: torch.ones(2, 3, 5, 7).mean((2, -2)),
        lambda: torch.ones(2, 3).mean(()),
        lambda: torch.ones(2, 3).mean((3,)),
        lambda: torch.ones(2, 3).mean(1),
        lambda: torch.ones(2, 3).amax(1),
        lambda: torch.ones(2, 3, 4).amax((0, -1)),
        lambda: torch.ones(2, 3).amax(2),
        lambda: torch.ones(2, 0).amax(1),
        lambda: torch.ones(2, 3).mean(),
        lambda: torch.ones(2, 3, dtype=torch.int64).mean((1,)),
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
