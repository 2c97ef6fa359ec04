"""A backbone's weights from a file: read without running code that is in it, and fitted tensor by tensor."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from routesearch.backbones.base import Backbone, Plain
from routesearch.errors import Refusal
from routesearch.routing.shapes import shapes_only
from routesearch.utils.files import file_digest

log = logging.getLogger(__name__)

_COUNTER = ".num_batches_tracked"
"""Ends the names of batch norms' counters: they decide nothing and old files lack them, so none are read."""

_OLD_NAMES = re.compile(r"\.(norm|conv)\.([12])\.")
"""``denselayer1.norm.1.weight``: torchvision's published DenseNets keep names that its code has left."""


def content_digest(path: Path) -> str:
    """SHA-256 of a file, its first sixteen hexadecimal digits.

    Raises:
        Refusal: for a file that cannot be read.
    """
    try:
        return file_digest(path)[:16]
    except OSError as error:
        raise _unreadable(path, error) from None


def read_weights(path: Path, backbone: Backbone) -> dict[str, Tensor]:
    """The weights of ``backbone.plain()`` in a file, under the names that they have there.

    Args:
        path: a state dict: safetensors, or by any other ending what ``torch.save`` wrote. Its names are
            those of ``backbone.plain()`` or of the published network (:meth:`Backbone.published`).

    Returns:
        All tensors but batch norms' counters; without the class layer where the file's is for another
        number of classes, which a line in the log says.

    Raises:
        Refusal: for a file that cannot be read, and for the first tensor that is missing or does not fit.
    """
    with shapes_only():
        net = backbone.plain()
    wanted = _without_counters(net.state_dict())
    found = _without_counters(_tensors(path))
    called: dict[str, str] = {}  # ours -> the file's
    if not wanted.keys() & found.keys():
        found = {_OLD_NAMES.sub(r".\1\2.", name): tensor for name, tensor in found.items()}
        theirs = [name for name in backbone.published() if not name.endswith(_COUNTER)]
        called = dict(zip(wanted, theirs, strict=False))
    given = {name: found.pop(called.get(name, name), None) for name in wanted}
    layer = _class_layer(net)
    fresh = _other_classes(layer, given, wanted)
    for name, tensor in given.items():
        where, cut = f"{path}: tensor {called.get(name, name)}", int(name in fresh)
        if tensor is None:
            other = f", but tensor {next(iter(found))}" if found else ""
            raise Refusal(f"{where} must be there for backbone {backbone.name}, got none{other}")
        if tensor.shape[cut:] != wanted[name].shape[cut:]:
            fit = f"must be {_size(wanted[name])} for backbone {backbone.name}, got {_size(tensor)}"
            rule = "weights fit the stem, the width and the image channels that they were trained with"
            raise Refusal(f"{where} {fit}: {rule}")
        if not (tensor.is_floating_point() and bool(tensor.isfinite().all())):
            raise Refusal(f"{where} must hold finite numbers, got {_wrong(tensor)}")
    if found:
        raise Refusal(f"{path}: tensor {next(iter(found))} must not be there for backbone {backbone.name}")
    if fresh:
        had = given[layer[0]]
        log.info(
            "%s: its class layer is for %d classes, the study has %d: that layer starts at random",
            path,
            0 if had is None else len(had),
            backbone.classes,
        )
    return {
        name: tensor.to(wanted[name].dtype).contiguous()
        for name, tensor in given.items()
        if tensor is not None and name not in fresh
    }


def is_whole(weights: Mapping[str, Tensor], backbone: Backbone) -> bool:
    """Whether :func:`read_weights` found the class layer too."""
    with shapes_only():
        return weights.keys() >= set(_class_layer(backbone.plain()))


def _tensors(path: Path) -> dict[str, Tensor]:
    """A file's tensors by name, on the CPU."""
    try:
        path.open("rb").close()
    except OSError as error:
        raise _unreadable(path, error) from None
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        with warnings.catch_warnings():  # of pickle's protocol, where a refusal follows anyway
            warnings.simplefilter("ignore")
            values: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes can end in any exception
        code = re.search(r"GLOBAL (\S+)", str(error))
        got = f"one that asks for {code[1]}" if code else f"{type(error).__name__}"
        rule = "weights must be a whole file of tensors: safetensors, or torch.save(net.state_dict(), FILE)"
        raise Refusal(f"{rule}; {path}: {got}") from None
    if not isinstance(values, Mapping) or not values:
        raise Refusal(f"{path}: weights must be a state dict, name to tensor, got {type(values).__name__}")
    for name, value in values.items():
        if not (isinstance(value, Tensor) and value.layout is torch.strided and value.device.type == "cpu"):
            got = f"{name!r}: {type(value).__name__}"
            raise Refusal(f"{path}: weights must be a state dict, name to tensor, got {got}")
    return {str(name): value.detach() for name, value in values.items()}


def _without_counters(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if not name.endswith(_COUNTER)}


def _class_layer(net: Plain) -> list[str]:
    """Names of the tensors of the last layer that has any: one row for each class."""
    layers = [name for name, m in net.named_modules() if any(True for _ in m.parameters(recurse=False))]
    last = net.get_submodule(layers[-1])
    return [f"{layers[-1]}.{name}" for name, _ in last.named_parameters(recurse=False)]


def _other_classes(
    layer: list[str], given: Mapping[str, Tensor | None], wanted: Mapping[str, Tensor]
) -> frozenset[str]:
    """The class layer, where the file's has another number of rows than is wanted."""
    rows = {None if t is None or not t.dim() else len(t) for t in (given[name] for name in layer)}
    other = len(rows) == 1 and None not in rows and rows != {len(wanted[layer[0]])}
    return frozenset(layer if other else ())


def _wrong(tensor: Tensor) -> str:
    return "NaN or infinity" if tensor.is_floating_point() else str(tensor.dtype)


def _size(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "one number"


def _unreadable(path: Path, error: OSError) -> Refusal:
    return Refusal(f"weights must be a readable file, got {path}: {error.strerror}")
