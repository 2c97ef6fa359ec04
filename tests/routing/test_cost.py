"""What a block costs, for one image."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from routesearch.routing.cost import mult_adds


def conv(before: int, after: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU())


class Forget(nn.Module):
    """A step that needs a list (a state and a memory) and gives one back."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(size, size)

    def forward(self, x: Tensor, memory: list[Tensor]) -> list[Tensor]:
        return list(self.cell(x, tuple(memory)))


def test_figures_by_hand() -> None:
    """3x3 convolution 2 -> 4 with bias on 4x4: (2*9 + 1)*4*16 = 1,216; its norm: 2*4 = 8."""
    assert mult_adds(conv(2, 4), torch.zeros(1, 2, 4, 4)) == 1216 + 8
    assert mult_adds(nn.Linear(64, 3), torch.zeros(7, 64)) == 65 * 3


def test_pricing_remembers_each_shape_apart() -> None:
    block = nn.Conv2d(1, 1, 3, padding=1, bias=False)
    assert [mult_adds(block, torch.zeros(1, 1, s, s)) for s in (4, 8, 4)] == [9 * 16, 9 * 64, 9 * 16]


def test_pricing_leaves_modes_buffers_and_generators_alone() -> None:
    block = nn.Sequential(conv(1, 3), nn.Dropout(0.5), conv(3, 3)).train()
    block[2].eval()
    modes = [m.training for m in block.modules()]
    before = {name: value.clone() for name, value in block.state_dict().items()}
    state = torch.get_rng_state()
    mult_adds(block, torch.ones(4, 1, 4, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert [m.training for m in block.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in block.state_dict().items())


def test_pricing_looks_into_any_depth() -> None:
    deep = conv(2, 4)
    for _ in range(8):
        deep = nn.Sequential(deep)
    assert mult_adds(deep, torch.zeros(1, 2, 4, 4)) == 1216 + 8


def test_nested_state_is_priced_for_one_image() -> None:
    step = Forget(4)
    y = torch.zeros(3, 4)
    assert mult_adds(step, y, [y, y]) == mult_adds(step, y[:1], [y[:1], y[:1]]) > 0
