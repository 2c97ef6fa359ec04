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
    left out, which keeps means. What the other network has no tensor of that name for stays as it is: a
    projection that is there because widths change.

    Args:
        net: what is filled; no tensor larger than the trained one of its name.

    Raises:
        Refusal: a tensor is larger than in the trained network, or has other dimensions.
    """
    found = trained.state_dict()
    for name, tensor in net.state_dict(keep_vars=True).items():
        source = found.get(name)
        if source is None:
            continue
        sizes = zip(source.shape, tensor.shape, strict=False)
        if source.ndim != tensor.ndim or any(have < want for have, want in sizes):
            got = f"{tuple(source.shape)} of {name} for {tuple(tensor.shape)}"
            raise Refusal(f"a network must be no wider than the one it starts from, got {got}")
        part = source[tuple(slice(size) for size in tensor.shape)]
        if tensor.ndim > 1 and tensor.shape[1] != source.shape[1]:
            part = part * (source.shape[1] / tensor.shape[1])
        tensor.copy_(part)
