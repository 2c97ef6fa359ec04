"""A network that uses all that a meter offers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchinfo import summary

from routesearch.routing.billing import BatchMeter, Routed
from routesearch.routing.meter import Meter


def conv(before: int, after: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU())


class Forget(nn.Module):
    """A step that needs a list (a state and a memory) and gives one back."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(size, size)

    def forward(self, x: Tensor, memory: list[Tensor]) -> list[Tensor]:
        return list(self.cell(x, tuple(memory)))


def macs(block: nn.Module, shape: tuple[int, ...]) -> int:
    return int(summary(block, input_size=(1, *shape), verbose=0).total_mult_adds)


class Tree(nn.Module):
    """All the meter offers at once: a skipped block, an exit, and a three-way split with nested state.

    The choices are read off the images, so that a test can send every image where it likes: entry
    [0, 0, 0] above 0 runs the skippable block, [0, 0, 1] above 0 leaves early, [0, 0, 2] is the branch.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.skippable = conv(2, 4), conv(4, 4)
        self.early = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
        self.step = Forget(4)
        self.branches = nn.ModuleList(
            [nn.Linear(4, 3), nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3)), nn.Linear(4, 3, bias=False)]
        )
        self.eval()

    def route(self, meter: Meter, images: Tensor) -> None:
        choices = images[:, 0, 0]
        x = meter.run(self.stem, images)
        x = meter.patch(choices[:, 0] > 0, self.skippable, x, into=x)
        for leaves, some, x_of, picked in meter.split(choices[:, 1] > 0, 2, x, choices[:, 2]):
            if leaves:
                some.finish(some.run(self.early, x_of), route=0)
                continue
            y = x_of.mean((2, 3))
            memory = some.run(self.step, y, [y, 2 * y])
            for way, few, state in some.split(picked.long().clamp(0, 2), 3, (memory, [y])):
                (hidden, _), (plain,) = state
                few.finish(few.run(self.branches[way], hidden + plain), route=1 + way)

    def bill(self, images: Tensor) -> Routed:
        meter = BatchMeter(images)
        with torch.inference_mode():
            self.route(meter, images)
        return meter.bill()

    def price(self, images: Tensor) -> int:
        """What one image costs, counted module by module with torchinfo, from the rules above."""
        run, leave, branch = (float(v) for v in images[0, 0, 0, :3])
        total = macs(self.stem, (2, 4, 4)) + (macs(self.skippable, (4, 4, 4)) if run > 0 else 0)
        if leave > 0:
            return total + macs(self.early, (4, 4, 4))
        cell = 2 * 4 * 4 * 4 + 2 * 4 * 4  # two matrices of four gates, two biases
        return total + cell + macs(self.branches[min(2, max(0, int(branch)))], (4,))


@pytest.fixture(scope="session")
def tree() -> Tree:
    torch.manual_seed(0)
    return Tree()
