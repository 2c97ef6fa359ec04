"""Image by image: which ones a trained network labels right at each knob."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from routesearch.data.base import Data, Images
from routesearch.errors import noted
from routesearch.evaluation.measure import observe_all
from routesearch.methods.base import Knob, RoutedNet
from routesearch.methods.running import run


def right_at(
    net: RoutedNet, data: Data, images: Images, device: torch.device, knobs: Sequence[Knob]
) -> Tensor:
    """Knobs x images, bool, on the CPU: whether each image gets its label.

    Where the method offers scores, the split is passed through once.
    """
    net.eval()
    labels = images.labels.to(device)
    scores = observe_all(net, data, images, device)
    rows = []
    for knob in knobs:
        with noted("at knob", dict(knob)):
            if scores is not None and scores.predictions.shape[1]:
                taken = net.decide(scores.scores, knob)
                given = scores.predictions.gather(1, taken[:, None]).squeeze(1)
            else:
                chunks = data.chunks(images, device)
                given = torch.cat([run(net, inputs, knob).logits.argmax(1) for inputs, _ in chunks])
        rows.append(given.eq(labels).cpu())
    return torch.stack(rows) if rows else torch.zeros(0, len(labels), dtype=torch.bool)
