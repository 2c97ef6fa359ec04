"""The trunk: the backbone trained once in a study, shared by every method that starts from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from routesearch.backbones.base import Backbone
from routesearch.data.base import Data
from routesearch.methods.base import Batch, Stage, Trunk
from routesearch.study.recipe import Recipe
from routesearch.training.loop import fit, place, states
from routesearch.utils.arrays import Arrays, Stored


@dataclass(frozen=True, eq=False)
class TrainedTrunk:
    """The backbone's static network, trained: arrays, as they are stored and sent.

    Attributes:
        weights: the state dict of ``backbone.plain()``.
        accuracy: on validation data.
        macs: multiply-adds that its training took.
    """

    weights: Arrays
    accuracy: float
    macs: int

    def state(self) -> dict[str, torch.Tensor]:
        """The weights as tensors; copied, since memory that processes share cannot be written."""
        return as_tensors(self.weights)

    def trunk(self, confusion: Sequence[Sequence[float]] = ()) -> Trunk:
        """What a method starts from."""
        return Trunk(self.state(), self.accuracy, confusion)

    def pack(self) -> Stored:
        """What a file holds of it."""
        return dict(self.weights), {"accuracy": repr(self.accuracy), "training_macs": str(self.macs)}

    @classmethod
    def unpack(cls, arrays: Arrays, facts: Mapping[str, str]) -> TrainedTrunk:
        """The inverse of :meth:`pack`."""
        return cls(arrays, float(facts["accuracy"]), int(facts["training_macs"]))


def as_tensors(arrays: Arrays) -> dict[str, torch.Tensor]:
    """Arrays by name as tensors of their own memory."""
    return {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}


def train_trunk(
    backbone: Backbone,
    data: Data,
    recipe: Recipe,
    *,
    seed: int,
    device: torch.device,
    weights: Arrays | None = None,
) -> TrainedTrunk:
    """Train ``backbone.plain()`` for ``recipe.trunk_epochs``.

    Args:
        weights: what to begin with, by name; a tensor that is not among them begins at random.
    """
    torch.manual_seed(seed)
    net = backbone.plain()
    net.load_state_dict(as_tensors(weights or {}), strict=False)
    place(net, device)

    def loss(batch: Batch) -> torch.Tensor:
        return F.cross_entropy(net(batch.inputs), batch.labels)

    macs = 0
    if recipe.trunk_epochs:
        stages = [Stage(loss)]
        macs = fit(net, stages, data, recipe, epochs=recipe.trunk_epochs, seed=seed, device=device).macs
    net.eval()
    right = 0
    with torch.inference_mode():
        for chunk in data.validation.chunks(256):
            logits = net(data.inputs(chunk.pixels.to(device)))
            right += int(logits.argmax(1).eq(chunk.labels.to(device)).sum())
    arrays = {name: tensor.numpy() for name, tensor in states(net).items()}
    return TrainedTrunk(arrays, right / len(data.validation), macs)
