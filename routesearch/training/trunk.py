"""The backbone trained once in a study, shared by every method that starts from it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from routesearch.backbones.base import Backbone
from routesearch.data.base import Data
from routesearch.errors import Refusal
from routesearch.methods.base import Batch, Stage, Trunk
from routesearch.study.recipe import Recipe
from routesearch.training.loop import fit, place, states
from routesearch.utils.arrays import read_arrays, write_arrays

_CONFUSION = "confusion"
"""Name of that array in a file; the network's tensors are called ``units.…`` and ``head.…``."""


def train_trunk(
    backbone: Backbone,
    data: Data,
    recipe: Recipe,
    *,
    seed: int,
    device: torch.device,
    weights: Mapping[str, torch.Tensor] | None = None,
) -> tuple[Trunk, int]:
    """Train ``backbone.plain()`` for ``recipe.trunk_epochs``; the trunk and the MACs that it cost.

    Args:
        weights: tensors to begin with, by their names; what is not among them begins at random.
    """
    torch.manual_seed(seed)
    net = backbone.plain()
    net.load_state_dict(dict(weights or {}), strict=False)
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
    return Trunk(states(net), right / len(data.validation)), macs


def save_trunk(trunk: Trunk, macs: int, path: Path) -> None:
    """Write the trunk, or its confusion alone, and the MACs that it cost; whole or not at all."""
    arrays = {name: tensor.cpu().numpy() for name, tensor in trunk.state.items()}
    if trunk.confusion:
        arrays[_CONFUSION] = np.array(trunk.confusion, dtype=np.float64)
    write_arrays(path, arrays, {"accuracy": repr(trunk.accuracy), "training_macs": str(macs)})


def load_trunk(path: Path) -> tuple[Trunk, int]:
    """Read what :func:`save_trunk` wrote.

    Raises:
        Refusal: for a missing or damaged file.
    """
    try:
        arrays, facts = read_arrays(path)
        confusion = arrays.pop(_CONFUSION, np.empty((0, 0)))
        if confusion.shape != (len(confusion),) * 2:
            raise ValueError(f"a confusion must be classes x classes, got {confusion.shape}")
        state = {name: torch.from_numpy(array) for name, array in arrays.items()}
        rows = tuple(map(tuple, confusion.tolist()))
        return Trunk(state, float(facts["accuracy"]), rows), int(facts["training_macs"])
    except (OSError, KeyError, ValueError) as error:
        raise Refusal(f"a trunk must be a readable safetensors file, got {path}: {error}") from None
