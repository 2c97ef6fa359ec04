"""The trunk: the backbone trained once in a study, shared by every method that starts from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from routesearch.backbones.base import Backbone
from routesearch.data.base import Data
from routesearch.methods.base import Stage, Trunk
from routesearch.methods.losses import cross_entropy
from routesearch.study.recipe import Recipe
from routesearch.training.loop import fit, to_device
from routesearch.training.state_arrays import as_tensors, to_arrays
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
    to_device(net, device)

    macs = 0
    if recipe.trunk_epochs:
        stages = [Stage(cross_entropy(net))]
        macs = fit(net, stages, data, recipe, epochs=recipe.trunk_epochs, seed=seed, device=device).macs
    net.eval()
    right = 0
    with torch.inference_mode():
        for inputs, labels in data.chunks(data.validation, device):
            right += int(net(inputs).argmax(1).eq(labels).sum())
    return TrainedTrunk(to_arrays(net), right / len(data.validation), macs)
