"""Optimizers and learning rates of a recipe, and optimizers that bear parameters without a gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from routesearch.methods.schedules import cosine
from routesearch.study.recipe import Recipe


def schedule_of(recipe: Recipe) -> Callable[[float], float]:
    """Progress to the recipe's factor of the learning rate."""
    if not recipe.lr_steps:
        return cosine
    return lambda progress: recipe.lr_factor ** sum(progress >= step for step in recipe.lr_steps)


def make_optimizer(
    recipe: Recipe, parameters: Sequence[nn.Parameter], rates: Mapping[nn.Module, float] | None = None
) -> torch.optim.Optimizer:
    """The recipe's optimizer, in the form that is one fused kernel a step.

    Args:
        rates: modules -> a factor of the learning rate of their parameters, where it is not 1; of several
            modules that a parameter is in, the last one's.
    """
    factor = {p: factor for module, factor in (rates or {}).items() for p in module.parameters()}
    groups = [
        {"params": own, "lr": recipe.learning_rate * rate}
        for rate in dict.fromkeys([1.0, *factor.values()])
        if (own := [p for p in parameters if factor.get(p, 1.0) == rate])
    ]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)
    return torch.optim.SGD(
        groups,
        recipe.learning_rate,
        momentum=recipe.momentum,
        nesterov=recipe.momentum > 0,
        weight_decay=recipe.weight_decay,
        fused=True,
    )


def allow_missing_gradients(optimizer: torch.optim.Optimizer) -> None:
    """Let every step of an optimizer leave out the parameters that got no gradient.

    Blocks that no image of a batch ran have none. All of torch's optimizers pass them by but one: fused SGD
    with momentum fails where some parameters have met a gradient before and others have not.
    """
    if not isinstance(optimizer, torch.optim.SGD):
        return
    for group in optimizer.param_groups:
        if not (group["fused"] and group["momentum"]):
            continue
        if group["dampening"]:
            group["fused"] = False  # a first step is not dampened, so that no buffer can stand for it
            continue
        for parameter in group["params"]:  # from zeros the first step is what it is without a buffer
            optimizer.state[parameter].setdefault("momentum_buffer", torch.zeros_like(parameter))
