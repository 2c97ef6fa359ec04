"""The trunk as a teacher: its logits for training images, kept once in a study or computed for each batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from routesearch.backbones.base import Backbone
from routesearch.data.base import Data
from routesearch.methods.base import Trunk
from routesearch.routing.cost import mult_adds

MAX_KEPT = 256 << 20
"""Bytes of kept logits at most; more are computed batch by batch."""


class Teacher:
    """What the trunk says of training images.

    Args:
        net: the trunk, in eval mode.
        kept: its logits for all training images, N x classes; None: it runs for every batch.
    """

    def __init__(self, net: nn.Module, kept: Tensor | None = None) -> None:
        self.net = net
        self.kept = kept
        self._price: int | None = None

    @classmethod
    def of(cls, trunk: Trunk, backbone: Backbone, data: Data, device: torch.device) -> Teacher:
        """The teacher that a trunk is on a device; its kept logits hold for images that are not augmented."""
        net = backbone.plain()
        net.load_state_dict(dict(trunk.state))
        net.to(device).to(memory_format=torch.channels_last).eval().requires_grad_(False)
        kept = trunk.logits
        if kept is not None and (data.augment or kept.shape != (len(data.train), len(data.classes))):
            kept = None
        return cls(net, None if kept is None else kept.to(device))

    def logits(self, rows: Tensor, images: Callable[[], Tensor]) -> tuple[Tensor, int]:
        """Logits for a batch, and the multiply-adds that they took.

        Args:
            rows: numbers of the training images.
            images: what the student sees of them, normalised; called where logits are not kept.
        """
        if self.kept is not None:
            return self.kept[rows.to(self.kept.device)], 0
        inputs = images()
        with torch.no_grad():
            found = self.net(inputs)
        if self._price is None:
            self._price = mult_adds(self.net, inputs)
        return found, self._price * len(inputs)


def keep_logits(net: nn.Module, data: Data, device: torch.device) -> tuple[Tensor | None, int]:
    """A trained trunk's logits for all training images on the CPU, and the multiply-adds that they took.

    None where images are augmented, so that no logits hold for long, or where they would be too many.
    """
    if data.augment or 4 * len(data.train) * len(data.classes) > MAX_KEPT:
        return None, 0
    net.eval()
    found, macs = [], 0
    with torch.no_grad():
        for inputs, _ in data.chunks(data.train, device):
            found.append(net(inputs).float().cpu())
            macs += len(inputs) * mult_adds(net, inputs)
    return torch.cat(found), macs
