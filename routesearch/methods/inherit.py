"""Weights of a trained network for one of the same layers that may be narrower."""

from __future__ import annotations

import torch
from torch import nn

from routesearch.errors import Refusal


@torch.no_grad()
def inherit(net: nn.Module, trained: nn.Module) -> None:
    """Give a network another's weights: all where they fit, those of the leading channels where not.

    Of every tensor the leading rows and columns are taken, so that channels which are added to each other
    stay those of one number. A narrower layer adds up fewer inputs: its weights are scaled by how many were
    left out, which keeps means.

    Args:
        net: what is filled; the same names of tensors, none larger than the trained one.

    Raises:
        Refusal: a tensor is missing from the trained network, or larger than there.
    """
    found = trained.state_dict()
    for name, tensor in net.state_dict(keep_vars=True).items():
        source = found.get(name)
        if source is None or source.ndim != tensor.ndim:
            raise Refusal(f"a network starts from one with the same layers, got none named {name}")
        if any(have < want for have, want in zip(source.shape, tensor.shape, strict=True)):
            got = f"{tuple(source.shape)} of {name} for {tuple(tensor.shape)}"
            raise Refusal(f"a network must be no wider than the one it starts from, got {got}")
        part = source[tuple(slice(size) for size in tensor.shape)]
        if tensor.ndim > 1 and tensor.shape[1] != source.shape[1]:
            part = part * (source.shape[1] / tensor.shape[1])
        tensor.copy_(part)
