"""Which classes look alike to a backbone: its soft confusion on images that it was not trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from routesearch.backbones.base import Backbone
from routesearch.data.base import Data
from routesearch.data.splits import Index
from routesearch.errors import Refusal
from routesearch.methods.base import Stage
from routesearch.methods.losses import cross_entropy
from routesearch.routing.cost import mult_adds
from routesearch.study.recipe import Recipe
from routesearch.training.loop import fit, to_device
from routesearch.utils.arrays import Arrays, Stored, read_arrays

FOLDS = 3
"""Parts of the images, and networks: training them costs FOLDS - 1 trunks at most. With two, networks that
see half of a small data set learn too little to confuse the classes that the trunk confuses
(docs/decisions.md)."""

_NAME = "confusion"
"""Name of the array in a file."""


@dataclass(frozen=True, eq=False)
class Confusion:
    """Which classes a backbone takes for which.

    Attributes:
        rows: classes x classes, rows that sum to 1: mean softmax for images of the row's class.
        macs: multiply-adds that its measurement took, the training of networks included.
    """

    rows: Sequence[Sequence[float]]
    macs: int

    def pack(self) -> Stored:
        """What a file holds of it."""
        facts = {"accuracy": "0.0", "training_macs": str(self.macs)}  # no accuracy: the key is the format's
        return {_NAME: np.array(self.rows, dtype=np.float64)}, facts

    @classmethod
    def unpack(cls, arrays: Arrays, facts: Mapping[str, str]) -> Confusion:
        """The inverse of :meth:`pack`.

        Raises:
            ValueError: for an array of another shape.
        """
        array = arrays[_NAME]
        if array.ndim != 2 or array.shape[0] != array.shape[1]:
            raise ValueError(f"a confusion must be classes x classes, got {array.shape}")
        return cls(tuple(map(tuple, array.tolist())), int(facts["training_macs"]))


def read_confusion(path: Path) -> Confusion:
    """Read the file that a study keeps its confusion in.

    Raises:
        Refusal: for a missing or damaged file.
    """
    try:
        return Confusion.unpack(*read_arrays(path))
    except (OSError, KeyError, ValueError) as error:
        raise Refusal(f"the confusion must be a readable safetensors file, got {path}: {error}") from None


def measure_confusion(
    backbone: Backbone, data: Data, recipe: Recipe, *, seed: int, device: torch.device
) -> Confusion:
    """Train ``backbone.plain()`` afresh on all folds but one, predict that one, and so for each.

    Training images only, equally many of each class: the images of :func:`folds`. Means of softmax, not
    counts of errors: a backbone that makes none would leave all classes equally far from each other.

    Raises:
        Refusal: where a class has fewer training images than there are folds.
    """
    parts = folds(data.train.labels.cpu().numpy(), data.classes, FOLDS, seed)
    total = torch.zeros(len(data.classes), len(data.classes), dtype=torch.float64)
    macs, where = 0, data.train.labels.device
    for number, part in enumerate(parts):
        seen = data.train.select(torch.from_numpy(_all_but(parts, number)).to(where))
        own = int(np.random.SeedSequence((seed, number)).generate_state(1)[0])
        torch.manual_seed(own)
        net = to_device(backbone.plain(), device)
        fold = replace(data, train=seen)
        fitted = fit(
            net,
            [Stage(cross_entropy(net))],
            fold,
            recipe,
            epochs=recipe.trunk_epochs,
            seed=own,
            device=device,
        )
        macs += fitted.macs
        held = data.train.select(torch.from_numpy(part).to(where))
        net.eval()
        with torch.inference_mode():
            for inputs, labels in data.chunks(held, device):
                sure = net(inputs).float().softmax(1).double().cpu()
                total.index_add_(0, labels.cpu(), sure)
                macs += len(labels) * mult_adds(net, inputs)
    return Confusion(tuple(map(tuple, (total / total.sum(1, keepdim=True)).tolist())), macs)


def folds(labels: Index, classes: Sequence[str], count: int, seed: int) -> list[Index]:
    """Row numbers of ``count`` disjoint parts; in each, equally many images of every class.

    Together they hold as many of a class as the rarest class has, rounded down to a multiple of ``count``.

    Raises:
        Refusal: where a class has fewer than ``count`` images.
    """
    sizes = np.bincount(labels, minlength=len(classes))
    rarest = int(sizes.argmin())
    each = int(sizes[rarest]) // count
    if not each:
        rule = f"every class must have {count} training images: confusion is measured by networks"
        name = classes[rarest]
        raise Refusal(f"{rule} trained without them; got {sizes[rarest]} of class {name!r}")
    random = np.random.RandomState((seed, count))
    order = [random.permutation(np.flatnonzero(labels == c))[: each * count] for c in range(len(classes))]
    return [np.sort(np.concatenate([rows[part::count] for rows in order])) for part in range(count)]


def _all_but(parts: Sequence[Index], number: int) -> Index:
    """Row numbers of all parts but one, in ascending order."""
    return np.sort(np.concatenate([part for place, part in enumerate(parts) if place != number]))


def equivalent_epochs(data: Data, recipe: Recipe) -> float:
    """Epochs of the backbone on all training images that take as long as :func:`measure_confusion`."""
    sizes = torch.bincount(data.train.labels, minlength=len(data.classes))
    share = int(sizes.min()) // FOLDS * FOLDS * len(data.classes) / len(data.train)
    return share * ((FOLDS - 1) * recipe.trunk_epochs + 1 / 3)  # a step is 3 x forward, about
