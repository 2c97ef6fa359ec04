"""A saved model in memory: the network rebuilt from its card, and predictions on plain images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from routesearch.data.moments import normalised
from routesearch.data.pixels import as_pixels
from routesearch.errors import Refusal
from routesearch.evaluation.latency import BATCHES, SECONDS, time_network
from routesearch.methods.base import RoutedNet
from routesearch.methods.running import run
from routesearch.plugin.loader import load_plugins
from routesearch.results.timing import Timing
from routesearch.routing.billing import Routed
from routesearch.saved.card import Card
from routesearch.saved.folder import read
from routesearch.saved.network import rebuild
from routesearch.training.loop import to_device

BATCH = 256
"""Images that go through the network at a time."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a model says of N images, as numpy arrays in their order.

    Attributes:
        labels: N, int64: positions in the model's ``classes``.
        confidence: N, float32: the softmax of the chosen label, in [0, 1].
        macs: N, int64: multiply-adds spent on each image.
        route: N, int64: the exit or leaf that each image finished at.
        ran: N, sites, bool: which skippable blocks ran; no columns where the network skips nothing.
    """

    labels: npt.NDArray[np.int64]
    confidence: npt.NDArray[np.float32]
    macs: npt.NDArray[np.int64]
    route: npt.NDArray[np.int64]
    ran: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.labels)


class SavedModel:
    """A trained network at its knob, ready to predict.

    Attributes:
        card: what is known of it: method, config, accuracy, MACs, ...
        net: the network, in eval mode.
        device: where it runs.
    """

    def __init__(self, card: Card, net: RoutedNet, device: torch.device) -> None:
        self.card = card
        self.net = to_device(net, device).eval()
        self.device = device

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the labels."""
        return self.card.classes

    def predict(self, images: Any, *, batch_size: int = BATCH) -> Prediction:
        """Label images, each by the part of the network that it needs.

        Args:
            images: N,H,W or N,H,W,C as an array, a torch tensor or a list of arrays; uint8, or floats in
                ``card.pixel_range``, mostly [0, 1]: before any normalisation. One image is ``image[None]``.
                A fourth channel beside the model's three is alpha: white shows through.
            batch_size: images that go through the network at a time; bounds the memory.

        Raises:
            Refusal: another shape, another type, values outside of ``card.pixel_range``.
        """
        if batch_size < 1:
            raise Refusal(f"batch_size >= 1 must hold, got {batch_size}")
        pixels = _pixels(images, self.card)
        parts = [self._routed(chunk) for chunk in pixels.split(batch_size)] if len(pixels) else []
        return _joined(parts)

    def latency(self, batches: Sequence[int] = BATCHES, *, seconds: float = SECONDS) -> list[Timing]:
        """Time the network beside its static backbone, in this process with torch's threads.

        Images take the ways in the shares that they had on validation data.

        Args:
            batches: sizes, one timing each.
            seconds: what a size may take, roughly.

        Raises:
            Refusal: for a size that is not 1 or more.
        """
        if not batches or min(batches) < 1:
            raise Refusal(f"batch sizes must be 1 or more, got {list(batches)}")
        share = self.card.validation.route_share
        if not share:
            raise Refusal("validation.route_share must tell which ways to take, got none in model.json")
        return time_network(self.net, self.card.knob, share, self.device, batches, seconds)

    def _routed(self, pixels: Tensor) -> Routed:
        """One batch, N,C,H,W as the user gave it."""
        inputs = normalised(pixels.to(self.device), self.card.mean, self.card.std)
        return run(self.net, inputs, self.card.knob)


def load(folder: Path | str, *, plugins: Sequence[Path | str] = (), device: str = "cpu") -> SavedModel:
    """Rebuild a saved model.

    No code from the folder runs: where the method or the backbone came from a plain file, name that file
    (its copy lies in the folder's ``plugins/``) to say that it may.

    Args:
        plugins: plain Python files with hooks in them, beside what is installed; they are run.
        device: ``cpu``, ``cuda`` or ``cuda:N``; one that is not there is refused.

    Raises:
        Refusal: the folder is no model, damaged or of a newer format; a plugin is missing; no such device.
    """
    folder, where = Path(folder), _device(device)
    card, weights = read(folder)
    registry = load_plugins([Path(file) for file in plugins])
    return SavedModel(card, rebuild(card, weights, registry, folder), where)


def _pixels(images: Any, card: Card) -> Tensor:
    """Images as users give them, N,C,H,W in uint8 or float32, of the model's own size."""
    channels, height, width = card.shape
    if isinstance(images, Tensor):
        rows = images.detach().cpu()
        array: npt.NDArray[Any] = (rows.float() if rows.dtype == torch.bfloat16 else rows).numpy()
    else:
        try:
            array = np.asarray(images)
        except (ValueError, TypeError) as error:  # a list of different sizes
            raise Refusal(f"images must be of one size, got {' '.join(str(error).split())}") from None
    own = f"N,{height},{width},{channels}" + (f" or N,{height},{width}" if channels == 1 else "")
    if array.shape == (height, width, channels) or (channels == 1 and array.shape == (height, width)):
        raise Refusal(f"images must be {own}, got one image of shape {array.shape}: give image[None]")
    if array.shape[1:] == card.shape and card.shape != (height, width, channels):
        how = "images.movedim(1, -1)" if isinstance(images, Tensor) else "np.moveaxis(images, 1, -1)"
        raise Refusal(f"images must be {own}, channels last, got shape {array.shape}: {how}")
    pixels = as_pixels(array, "images", card.pixel_range, alpha=channels == 3, expected=card.shape)
    if pixels.shape[1:] != card.shape:
        raise Refusal(f"images must be {own}, as the model was trained on, got shape {array.shape}")
    return pixels


def _joined(parts: Sequence[Routed]) -> Prediction:
    if not parts:
        none = np.zeros(0, np.int64)
        return Prediction(none, np.zeros(0, np.float32), none, none, np.zeros((0, 0), np.bool_))
    routed = Routed.joined(parts)
    confidence, labels = routed.logits.float().softmax(1).max(1)
    columns = (labels, confidence, routed.macs, routed.route, routed.ran)
    return Prediction(*(column.cpu().numpy() for column in columns))


def _device(text: str) -> torch.device:
    rule = "device must be cpu, cuda or cuda:N"
    try:
        device = torch.device(text)
    except (RuntimeError, TypeError):
        raise Refusal(f"{rule}, got {text!r}") from None
    if device.type not in ("cpu", "cuda"):
        raise Refusal(f"{rule}, got {text!r}")
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= there:
        raise Refusal(f"device must be there, got {text!r} where torch sees {there} CUDA devices")
    return device
