"""Network in Network (Lin et al., 2014) as DecisioNet uses it: nine convolutions, no normalisation."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from routesearch.backbones.base import Backbone, kaiming

CONVS = ((192, 5), (160, 1), (96, 1), (192, 5), (192, 1), (192, 1), (192, 3), (192, 1))
"""Filters and kernel of units 1-8; the ninth convolution, one filter a class, is the head's."""


class NiN(Backbone):
    """Units 1-8 are conv + ReLU, with the pooling and dropout after units 3 and 6; head: conv 9 + ReLU + GAP.

    The head's ReLU is the authors' own: logits are never negative.
    """

    name: ClassVar[str] = "nin"

    def __len__(self) -> int:
        return len(CONVS)

    def unit(self, k: int, width: float = 1.0, width_in: float | None = None) -> nn.Module:
        self.check(k)
        filters, kernel = CONVS[k - 1]
        before = (
            self.image_shape[0] if k == 1 else self.channels(k - 1, width if width_in is None else width_in)
        )
        layers: list[nn.Module] = [
            nn.Conv2d(before, self.scaled(filters, width), kernel, padding=kernel // 2),
            nn.ReLU(inplace=True),
        ]
        if k == 3:
            layers += [nn.MaxPool2d(3, 2, padding=1), nn.Dropout(0.5)]
        if k == 6:
            layers += [nn.AvgPool2d(3, 2, padding=1), nn.Dropout(0.5)]
        return kaiming(nn.Sequential(*layers))

    def channels(self, k: int, width: float = 1.0) -> int:
        return self.scaled(CONVS[k - 1][0], width)

    def head(self, width: float = 1.0) -> nn.Module:
        conv = nn.Conv2d(self.channels(len(self), width), self.classes, 1)
        head = kaiming(nn.Sequential(conv, nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
        assert conv.bias is not None
        # The same added to all logits changes nothing but that the last ReLU starts open: without it three of
        # eight seeds stay at chance level (docs/decisions.md).
        nn.init.constant_(conv.bias, 1.0)
        return head
