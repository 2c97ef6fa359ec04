"""An exponential moving average of weights, which is measured and kept instead of the last ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class MovingAverage:
    """The running mean of all floating parameters and buffers of a network, recent steps weighing most.

    After step t the mean moves by 1 - d towards the present values, d = min(decay, (1 + t) / (10 + t)): a
    short training is averaged over about its last tenth, whatever the decay, and none is still half of what
    was drawn at random. A whole number (a counter, an order) stays what it is.

    Args:
        net: whose values are averaged.
        decay: 0 < decay < 1; of every step's weight in the mean, what the next step leaves of it.
    """

    def __init__(self, net: nn.Module, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self._parameters = [p for p in net.parameters() if p.is_floating_point()]
        # By their names: a network may put another tensor into the place of a buffer.
        self._buffers = [(m, name) for m in net.modules() for name, _ in m.named_buffers(recurse=False)]
        self._buffers = [(m, name) for m, name in self._buffers if m.get_buffer(name).is_floating_point()]
        self._mean: list[Tensor | nn.Parameter] = [t.detach().clone() for t in self._live()]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the network's present values, after a step of its optimizer."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        get_ema_multi_avg_fn(decay)(self._mean, self._live(), self.steps)

    @torch.no_grad()
    def apply(self) -> None:
        """Put the mean into the network."""
        for live, mean in zip(self._live(), self._mean, strict=True):
            live.copy_(mean)

    def _live(self) -> list[Tensor | nn.Parameter]:
        return [*self._parameters, *(m.get_buffer(name) for m, name in self._buffers)]
