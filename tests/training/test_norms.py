"""Batch norms that meet a single value a channel while they train."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from routesearch.training.norms import single_values_normalised


@pytest.mark.parametrize(
    ("norm", "one", "more"),
    [
        (nn.BatchNorm2d(3), (1, 3, 1, 1), (1, 3, 2, 1)),
        (nn.BatchNorm1d(3), (1, 3), (2, 3)),
        (nn.BatchNorm1d(3), (1, 3, 1), (1, 3, 2)),
    ],
)
def test_a_single_value_is_normalised_by_the_running_statistics(
    norm: nn.BatchNorm2d, one: tuple[int, ...], more: tuple[int, ...]
) -> None:
    assert norm.running_mean is not None
    norm.running_mean.fill_(2.0)
    x = torch.full(one, 3.0)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        norm(x)
    with single_values_normalised(nn.Sequential(norm)):
        assert torch.allclose(norm(x), torch.ones(one), atol=1e-4)
        assert norm.training
        assert norm.running_mean.eq(2.0).all()
        norm(torch.zeros(more))
        assert norm.running_mean.ne(2.0).all()
    assert not norm._forward_hooks
    assert not norm._forward_pre_hooks


def test_a_layer_that_raises_keeps_its_mode() -> None:
    class Raises(nn.BatchNorm2d):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("no")

    norm = Raises(3)
    with single_values_normalised(norm), pytest.raises(RuntimeError, match="no"):
        norm(torch.ones(1, 3, 1, 1))
    assert norm.training


def test_norms_in_eval_mode_stay_in_it() -> None:
    norm = nn.BatchNorm2d(3).eval()
    with single_values_normalised(norm):
        norm(torch.ones(1, 3, 1, 1))
    assert not norm.training
