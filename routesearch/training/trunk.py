"""The trunk: the backbone trained once in a study, shared by every method that starts from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from routesearch.backbones.base import Backbone
from routesearch.data.base import Data
from routesearch.methods.base import Stage, Trunk
from routesearch.methods.losses import cross_entropy
from routesearch.study.recipe import Recipe
from routesearch.training.loop import fit, to_device
from routesearch.training.state_arrays import as_tensors, to_arrays
from routesearch.training.teacher import keep_logits
from routesearch.utils.arrays import Arrays, Stored

_LOGITS = "logits"
"""Name of an array in a file; those of weights have a dot."""


@dataclass(frozen=True, eq=False)
class TrainedTrunk:
    """The backbone's static network, trained: arrays, as they are stored and sent.

    Attributes:
        weights: the state dict of ``backbone.plain()``.
        accuracy: on validation data.
        macs: multiply-adds that its training took, and the pass that its logits are from.
        logits: for all training images, N x classes; None where they are not kept.
    """

    weights: Arrays
    accuracy: float
    macs: int
    logits: npt.NDArray[np.float32] | None = None

    def state(self) -> dict[str, torch.Tensor]:
        """The weights as tensors; copied, since memory that processes share cannot be written."""
        return as_tensors(self.weights)

    def trunk(self, confusion: Sequence[Sequence[float]] = ()) -> Trunk:
        """What a method starts from."""
        kept = None if self.logits is None else torch.from_numpy(np.array(self.logits))
        return Trunk(self.state(), self.accuracy, confusion, kept)

    def pack(self) -> Stored:
        """What a file holds of it."""
        kept = {} if self.logits is None else {_LOGITS: self.logits}
        return {**self.weights, **kept}, {"accuracy": repr(self.accuracy), "training_macs": str(self.macs)}

    @classmethod
    def unpack(cls, arrays: Arrays, facts: Mapping[str, str]) -> TrainedTrunk:
        """The inverse of :meth:`pack`; a file of an earlier version has no logits."""
        weights = {name: array for name, array in arrays.items() if name != _LOGITS}
        kept = arrays.get(_LOGITS)
        return cls(weights, float(facts["accuracy"]), int(facts["training_macs"]), kept)


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
    kept, spent = keep_logits(net, data, device) if recipe.distill else (None, 0)
    logits = None if kept is None else kept.numpy()
    return TrainedTrunk(to_arrays(net), right / len(data.validation), macs + spent, logits)
