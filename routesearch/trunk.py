"""The backbone trained once in a study, shared by every method that starts from it."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F

from routesearch import files
from routesearch.backbones.base import Backbone
from routesearch.data.base import Data
from routesearch.errors import Refusal
from routesearch.fit import fit, place, states
from routesearch.method import Batch, Stage, Trunk
from routesearch.recipe import Recipe


def train_trunk(
    backbone: Backbone, data: Data, recipe: Recipe, *, seed: int, device: torch.device
) -> tuple[Trunk, int]:
    """Train ``backbone.plain()`` for ``recipe.trunk_epochs``; the trunk and the MACs that it cost."""
    torch.manual_seed(seed)
    net = place(backbone.plain(), device)

    def loss(batch: Batch) -> torch.Tensor:
        return F.cross_entropy(net(batch.inputs), batch.labels)

    fitted = fit(net, [Stage(loss)], data, recipe, epochs=recipe.trunk_epochs, seed=seed, device=device)
    net.eval()
    right = 0
    with torch.inference_mode():
        for chunk in data.validation.chunks(256):
            logits = net(data.inputs(chunk.pixels.to(device)))
            right += int(logits.argmax(1).eq(chunk.labels.to(device)).sum())
    return Trunk(states(net), right / len(data.validation)), fitted.macs


def save_trunk(trunk: Trunk, macs: int, path: Path) -> None:
    """Write the trunk and the MACs that it cost; whole or not at all."""
    arrays = {name: tensor.cpu().numpy() for name, tensor in trunk.state.items()}
    files.write(path, arrays, {"accuracy": repr(trunk.accuracy), "training_macs": str(macs)})


def load_trunk(path: Path) -> tuple[Trunk, int]:
    """Read what :func:`save_trunk` wrote.

    Raises:
        Refusal: for a missing or damaged file.
    """
    try:
        arrays, facts = files.read(path)
        state = {name: torch.from_numpy(array) for name, array in arrays.items()}
        return Trunk(state, float(facts["accuracy"])), int(facts["training_macs"])
    except (OSError, KeyError, ValueError) as error:
        raise Refusal(f"a trunk must be a readable safetensors file, got {path}: {error}") from None
