"""The interface through which a network routes images: it runs blocks and decides through a meter only.

The same ``route`` of a method runs on three meters:

- :class:`~routesearch.routing.billing.BatchMeter` runs it for a batch, and charges each image for its blocks;
- :class:`~routesearch.routing.pricing.PricingMeter` takes every way with one image on the meta device: what
  each route costs, before anything is trained;
- :class:`~routesearch.export.trace.TracingMeter` records every way as one graph.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from routesearch.routing.nested import Tensors


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
    def choose(
        self,
        mask: Tensor,
        blocks: Sequence[nn.Module],
        *inputs: Tensors,
        weights: Tensor,
        into: Tensor,
        exactly: int | None = None,
    ) -> Tensor:
        """Run some of E experts for each image, and add up what they give: a mixture.

        Args:
            mask: N x E, bool: the experts that run for an image, which is charged for these.
            blocks: the experts; each gives the shape of ``into``.
            weights: N x E: what an expert's output is multiplied by.
            into: what the outputs are added to, of every image; a residual path, or zeros.
            exactly: experts that every image runs, where their number is fixed: the price is then exact,
                up to how much experts differ. None: any number.

        Returns:
            into + sum over the experts of an image of weights[:, e] * blocks[e](*inputs).
        """

    @abstractmethod
    def finish(self, logits: Tensor, route: int = 0) -> None:
        """End the way of these images with their logits; every image finishes exactly once."""


def check_experts(
    mask: Tensor, weights: Tensor, images: int, experts: int, exactly: int | None, *, values: bool = True
) -> None:
    """Raise ValueError unless a mask and weights are of so many images and experts.

    Args:
        values: whether there are values to look at, not only shapes.
    """
    if mask.shape != (images, experts) or mask.dtype != torch.bool:
        got = f"{mask.dtype} of shape {tuple(mask.shape)} for {images} images and {experts} experts"
        raise ValueError(f"a mask of experts must be one bool per image and expert, got {got}")
    if weights.shape != mask.shape:
        raise ValueError(
            f"weights must have the mask's shape {tuple(mask.shape)}, got {tuple(weights.shape)}"
        )
    if exactly is None:
        return
    if not 0 <= exactly <= experts:
        raise ValueError(f"exactly must be 0 to {experts} experts, got {exactly}")
    if values and images and bool((mask.sum(1) != exactly).any()):
        low, high = (int(bound) for bound in mask.sum(1).aminmax())
        raise ValueError(f"every image must run exactly {exactly} experts, got {low} to {high}")


def check_merged(output: Tensor, into: Tensor) -> None:
    """Raise ValueError unless a block gives, for each image, the shape of what its output goes into."""
    if output.shape[1:] != into.shape[1:]:
        rule = "a block must give the shape of what its output goes into"
        raise ValueError(f"{rule}, got {tuple(output.shape[1:])} and {tuple(into.shape[1:])}")


def check_choice(choice: Tensor, images: int) -> None:
    """Raise ValueError unless ``choice`` has one integer or bool for each of so many images."""
    if choice.shape != (images,) or choice.is_floating_point():
        got = f"{choice.dtype} of shape {tuple(choice.shape)} for {images} images"
        raise ValueError(f"a choice must be one integer or bool per image, got {got}")
