"""Losses that more than one stage uses: what a classifier learns from, be it labels or a trained trunk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from routesearch.methods.base import Batch


def classification_loss(logits: Tensor, batch: Batch, reduction: Literal["mean", "none"] = "mean") -> Tensor:
    """Cross-entropy with the labels, mixed with what the trunk says of the same images.

    (1 - share) x cross-entropy + share x T^2 x KL(softmax(teacher / T) || softmax(logits / T)): the labels
    smoothed as the study wants it, and distillation (Hinton et al., 2015), whose factor T^2 keeps its
    gradients' size. Without a teacher, cross-entropy alone. Computed in float32 (float64 for such logits),
    under autocast too.

    Args:
        logits: N x classes; or N x ... x classes, each of an image's rows against the same label.
        batch: whose ``labels``, ``teacher`` and ``targets`` are meant.
        reduction: ``mean`` over all rows; or ``none``: one number a row, N x ... .

    Raises:
        ValueError: for another reduction, or logits of another number of images.
    """
    if reduction not in ("mean", "none"):
        raise ValueError(f"reduction must be mean or none, got {reduction!r}")
    if logits.ndim < 2 or len(logits) != len(batch.labels):
        got = f"{tuple(logits.shape)} for {len(batch.labels)} labels"
        raise ValueError(f"logits must be N x classes or N x ... x classes, got {got}")
    targets, rows = batch.targets, logits.shape[:-1]
    with torch.autocast(logits.device.type, enabled=False):
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32)).flatten(0, -2)
        labels = _for_each_row(batch.labels, rows).flatten()
        plain = batch.teacher is None or targets.share == 0
        loss = F.cross_entropy(
            logits, labels, reduction=reduction if plain else "none", label_smoothing=targets.smoothing
        )
        if not plain:
            assert batch.teacher is not None
            teacher = _for_each_row(batch.teacher.detach().to(logits.dtype), rows).flatten(0, -2)
            heat = targets.temperature
            wanted, given = (teacher / heat).log_softmax(1), (logits / heat).log_softmax(1)
            apart = F.kl_div(given, wanted, reduction="none", log_target=True).sum(1)
            loss = torch.lerp(loss, heat**2 * apart, targets.share)
            loss = loss.mean() if reduction == "mean" else loss
    return loss.unflatten(0, rows) if reduction == "none" else loss


def cross_entropy(net: nn.Module) -> Callable[[Batch], Tensor]:
    """A stage's loss: the mean :func:`classification_loss` of a network's logits, N x classes."""

    def loss(batch: Batch) -> Tensor:
        return classification_loss(net(batch.inputs), batch)

    return loss


def _for_each_row(values: Tensor, rows: torch.Size) -> Tensor:
    """What belongs to N images, N or N x classes, for each of their rows."""
    shape = (len(values), *[1] * (len(rows) - 1), *values.shape[1:])
    return values.view(shape).expand(*rows, *values.shape[1:])
