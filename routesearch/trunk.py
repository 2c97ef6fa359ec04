"""The backbone trained once in a study, shared by every method that starts from it."""

from __future__ import annotations

import os
from pathlib import Path

import torch
import torch.nn.functional as F

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
        pairs = zip(data.validation.pixels.split(256), data.validation.labels.split(256), strict=True)
        for pixels, labels in pairs:
            right += int(net(data.inputs(pixels.to(device))).argmax(1).eq(labels.to(device)).sum())
    return Trunk(states(net), right / len(data.validation)), fitted.macs


def save_trunk(trunk: Trunk, macs: int, path: Path) -> None:
    """Write the trunk as safetensors; whole or not at all."""
    from safetensors.torch import save

    facts = {"accuracy": repr(trunk.accuracy), "training_macs": str(macs)}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        file.write(save(dict(trunk.state), metadata=facts))
        file.flush()
        os.fsync(file.fileno())  # else a power loss could leave the name without the content
    part.replace(path)


def load_trunk(path: Path) -> tuple[Trunk, int]:
    """Read what :func:`save_trunk` wrote.

    Raises:
        Refusal: for a missing or damaged file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            facts = file.metadata()
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        return Trunk(state, float(facts["accuracy"])), int(facts["training_macs"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise Refusal(f"a trunk must be a readable safetensors file, got {path}: {error}") from None
