"""The constraints that every data set must meet, whoever wrote its reader."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from routesearch.data.class_names import check_class_names
from routesearch.data.images import Images, Shape
from routesearch.data.source import Source
from routesearch.data.survey import some
from routesearch.errors import Refusal
from routesearch.errors.texts import shown


def check_source(name: str, source: Source) -> None:
    """Raise Refusal unless what was read can be trained on: forms, class names, labels, pixels.

    Args:
        name: of the data set.
    """
    if not isinstance(source, Source):
        raise Refusal(f"{name}: read must give a Source, got {shown(source)}")
    check_class_names(name, source.classes)
    _check_range(name, source.pixel_range)
    for split, images in {"train": source.train, **source.splits()}.items():
        where = f"{name}, {split}"
        _check_form(where, images)
        if images.shape != source.train.shape or images.dtype != source.train.dtype:
            got = f"{images.shape} of {images.dtype}, not {source.train.shape} of {source.train.dtype}"
            raise Refusal(f"{where}: images must have the form of the training images, got {got}")
        _check_pixels(where, images, source.pixel_range)
        low, high = int(images.labels.min()), int(images.labels.max())
        if low < 0 or high >= len(source.classes):
            raise Refusal(f"{where}: labels must lie in 0..{len(source.classes) - 1}, got {low}..{high}")


def check_declared(name: str, source: Source, shape: Shape | None, classes: Sequence[str] | None) -> None:
    """Raise Refusal where what was read is not what the data set declares; None declares nothing."""
    rule = f"{name}: images must have the declared shape (C, H, W)"
    if shape is not None and tuple(shape) != source.train.shape:
        raise Refusal(f"{rule}, got {source.train.shape} and {shown(shape)} declared")
    rule = f"{name}: classes must be the declared ones"
    if classes is not None and tuple(classes) != tuple(source.classes):
        counts = f"{len(source.classes)} and {len(classes)} declared"
        pairs = zip(source.classes, classes, strict=False)
        other = next(((a, b) for a, b in pairs if a != b), None)
        raise Refusal(f"{rule}, got {counts if other is None else f'{other[0]!r} and {other[1]!r} declared'}")


def check_facts(name: str, facts: Any) -> None:
    """Raise Refusal unless a data set's facts are an image shape and class names."""
    if not isinstance(facts, Sequence) or len(facts) != 2:
        raise Refusal(f"{name}: facts must be shape and class names, got {shown(facts)}")
    shape, classes = facts
    sound = isinstance(shape, Sequence) and len(shape) == 3
    if not sound or not all(isinstance(size, int) and size >= 1 for size in shape):
        raise Refusal(f"{name}: shape must be C, H, W, each 1 or more, got {shown(shape)}")
    check_class_names(name, classes)


def enough(name: str, source: Source, parts: int) -> None:
    """Raise Refusal unless every class has an image for each part that its images are cut in."""
    counts = torch.bincount(source.train.labels, minlength=len(source.classes)).tolist()
    few = [f"{count} of {source.classes[label]!r}" for label, count in enumerate(counts) if count < parts]
    if few:
        rule = f"a class needs {parts} images or more to be cut in {parts} splits"
        cure = "add images, leave the class out, or give the splits yourself"
        raise Refusal(f"{name}: {rule}, got {some(few)}; {cure}")


def complete(name: str, train: Images, classes: tuple[str, ...]) -> None:
    """Raise Refusal unless every class has a training image."""
    counts = torch.bincount(train.labels, minlength=len(classes)).tolist()
    absent = [classes[label] for label, count in enumerate(counts) if count == 0]
    if absent:
        rule = "every class must have a training image"
        raise Refusal(f"{name}: {rule}, got none of {', '.join(map(repr, absent))} among {len(train)}")


def _check_range(name: str, bounds: Any) -> None:
    numbers = isinstance(bounds, Sequence) and all(isinstance(bound, int | float) for bound in bounds)
    if not numbers or len(bounds) != 2 or not -math.inf < bounds[0] < bounds[1] < math.inf:
        rule = "pixel_range must be two finite numbers, the least and the greatest"
        raise Refusal(f"{name}: {rule}, got {shown(bounds)}")


def _check_form(where: str, images: Images) -> None:
    """Tensors of the right types and sizes."""
    if not isinstance(images, Images):
        raise Refusal(f"{where}: a split must be Images, got {shown(images)}")
    held = vars(images).get("pixels")  # not those that are read one by one
    for what, values in (("pixels", images.labels if held is None else held), ("labels", images.labels)):
        if not isinstance(values, Tensor):
            raise Refusal(f"{where}: {what} must be a torch tensor, got {type(values).__name__}")
    sizes, dtype, labels = images.sizes, images.dtype, images.labels
    if len(sizes) != 4 or dtype not in (torch.uint8, torch.float32):
        raise Refusal(f"{where}: pixels must be N,C,H,W of uint8 or float32, got {sizes} of {dtype}")
    if labels.shape != sizes[:1] or labels.dtype != torch.int64:
        got = f"{tuple(labels.shape)} of {labels.dtype} for {sizes[0]} images"
        raise Refusal(f"{where}: labels must be one int64 per image, got {got}")
    for key, values in images.aux.items():
        if values.shape != labels.shape or values.dtype != torch.int64 or bool((values < 0).any()):
            got = f"{tuple(values.shape)} of {values.dtype} for {sizes[0]} images"
            raise Refusal(f"{where}: {key} must be one int64 of 0 or more per image, got {got}")
    if 0 in sizes:
        raise Refusal(f"{where}: at least one image must exist, got pixels of shape {sizes}")


def _check_pixels(where: str, images: Images, bounds: tuple[float, float]) -> None:
    """Pixels of float32 within the declared range; bytes have one of their own."""
    if images.dtype == torch.uint8:
        return
    least, greatest = bounds
    for chunk in images.pieces():
        darkest, lightest = (float(bound) for bound in chunk.pixels.aminmax())
        if not (darkest >= least and lightest <= greatest):  # false for NaN too
            rule = f"pixels of float32 must lie in [{least:g}, {greatest:g}], where 0 is black and 1 is white"
            how = "scale them, or declare Source.pixel_range"
            raise Refusal(f"{where}: {rule}, got {darkest:.6g} to {lightest:.6g}: {how}")
