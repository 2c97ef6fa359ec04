"""The interface through which a network routes images: it runs blocks and decides through a meter only.

The same ``route`` of a method runs on three meters:

- :class:`~routesearch.routing.billing.BatchMeter` runs it for a batch, and charges each image for its blocks;
- :class:`~routesearch.routing.pricing.PricingMeter` takes every way with one image on the meta device: what
  each route costs, before anything is trained;
- :class:`~routesearch.export.trace.TracingMeter` records every way as one graph.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from routesearch.routing.cost import Tensors


class Meter(ABC):
    """A group of images that went the same way so far; ``len(meter)`` is their number.

    Implementations are final: none overrides another.
    """

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def run(self, block: nn.Module, *inputs: Tensors) -> Any:
        """Run ``block`` for the whole group and charge each of its images."""

    @abstractmethod
    def split(self, choice: Tensor, ways: int, *state: Tensors) -> Iterator[tuple[Any, ...]]:
        """Send each image the way that ``choice`` (its index, or a bool for two ways) names.

        Yields:
            (way, group, *state) for each way that any image takes, the state cut down to the group.
            The group that was split must not be used afterwards.
        """

    @abstractmethod
    def patch(self, mask: Tensor, block: nn.Module, *inputs: Tensors, into: Tensor) -> Tensor:
        """Run ``block`` for the masked images only; the others keep their rows of ``into``.

        Args:
            mask: bool, one per image of the group.
            into: what the others go on with, of the shape that the block gives. It is given up: its rows
                may be overwritten.
        """

    @abstractmethod
    def finish(self, logits: Tensor, route: int = 0) -> None:
        """End the way of these images with their logits; every image finishes exactly once."""


def check_choice(choice: Tensor, images: int) -> None:
    """Raise ValueError unless ``choice`` has one integer or bool for each of so many images."""
    if choice.shape != (images,) or choice.is_floating_point():
        got = f"{choice.dtype} of shape {tuple(choice.shape)} for {images} images"
        raise ValueError(f"a choice must be one integer or bool per image, got {got}")
