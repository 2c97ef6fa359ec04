"""Torch's meta device made quick: networks with shapes and no values, for pricing them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class _ShapesOnly(TorchFunctionMode):
    """Spares the meta device work that could not show: it has shapes and no values.

    Random initialisation and the functions below have Python forms there: milliseconds each, and the
    first call imports torch's compiler, which takes longer than pricing any network.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        first = args[0] if args else None
        if func is torch.cat and first:
            first = first[0]
        if isinstance(first, Tensor) and first.is_meta:
            name = getattr(func, "__name__", "")
            if name in _INITIALISERS:
                return first
            if name in _COMPARISONS and len(args) == 2 and isinstance(args[1], int | float):
                return first.new_empty(first.shape, dtype=torch.bool)
            if name in _IN_PLACE and len(args) == 2 and _fits(args[1], first):
                return first
            shape = _SHAPES[func](*args, **(kwargs or {})) if func in _SHAPES else None
            if shape is not None:
                return first.new_empty(shape)
        return func(*args, **(kwargs or {}))


def _pooled(x: Tensor, output_size: Any) -> list[int]:
    """Output size of an adaptive pooling: one side for both, None for as it is."""
    sides = [
        side if want is None else int(want)
        for want, side in zip(_pair(output_size), x.shape[-2:], strict=True)
    ]
    return [*x.shape[:-2], *sides]


def _convolved(
    x: Tensor,
    weight: Tensor,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> list[int] | None:
    if x.dim() < 3 or x.shape[-3] != weight.shape[1] * groups:
        return None
    sides = []
    for axis in (0, 1):
        reach = _pair(dilation)[axis] * (weight.shape[2 + axis] - 1)
        pad = {"same": reach, "valid": 0}[padding] if isinstance(padding, str) else 2 * _pair(padding)[axis]
        sides.append((x.shape[-2 + axis] + pad - reach - 1) // _pair(stride)[axis] + 1)
    return [*x.shape[:-3], weight.shape[0], *sides] if min(sides) > 0 else None


def _normed(x: Tensor, running_mean: Tensor | None, *_: Any, **__: Any) -> Sequence[int] | None:
    fits = running_mean is not None and x.dim() > 1 and x.shape[1] == len(running_mean)
    return x.shape if fits else None


def _mapped(x: Tensor, weight: Tensor, bias: Any = None) -> list[int] | None:
    return [*x.shape[:-1], weight.shape[0]] if x.shape[-1] == weight.shape[1] else None


def _joined(parts: Sequence[Tensor], dim: int = 0) -> list[int] | None:
    shape, dtype = list(parts[0].shape), parts[0].dtype
    if not -len(shape) <= dim < len(shape):
        return None
    dim %= len(shape)
    for part in parts[1:]:
        fits = part.is_meta and part.dtype == dtype and part.dim() == len(shape)
        if not fits or [*part.shape[:dim], *part.shape[dim + 1 :]] != [*shape[:dim], *shape[dim + 1 :]]:
            return None
        shape[dim] += part.shape[dim]
    return shape


def _max_pooled(
    x: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> list[int] | None:
    if ceil_mode or return_indices or x.dim() not in (3, 4):
        return None
    kernel, pad, apart = _pair(kernel_size), _pair(padding), _pair(dilation)
    step = kernel if stride is None or stride == () or stride == [] else _pair(stride)
    if any(2 * p > k for p, k in zip(pad, kernel, strict=True)):
        return None
    sides = [
        (x.shape[axis - 2] + 2 * pad[axis] - apart[axis] * (kernel[axis] - 1) - 1) // step[axis] + 1
        for axis in (0, 1)
    ]
    return [*x.shape[:-2], *sides] if min(sides) > 0 else None


def _avg_pooled(
    x: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    *_: Any,
    **__: Any,
) -> list[int] | None:
    return _max_pooled(x, kernel_size, stride, padding, 1, ceil_mode)


def _resized(x: Tensor, size: Any = None, *_: Any, **__: Any) -> list[int] | None:
    known = isinstance(size, list | tuple) and x.dim() == len(size) + 2 and min(*x.shape[1:], *size) > 0
    return [*x.shape[:2], *size] if known else None


def _reduced(x: Tensor, dim: Any = None, keepdim: bool = False, **_: Any) -> list[int] | None:
    dims = [dim] if isinstance(dim, int) else dim
    plain = x.is_floating_point() and isinstance(dims, list | tuple) and dims and not keepdim
    if not plain or not all(-x.dim() <= d < x.dim() for d in dims):
        return None
    gone = {d % x.dim() for d in dims}
    if len(gone) < len(dims) or any(x.shape[d] == 0 for d in gone):
        return None
    return [side for axis, side in enumerate(x.shape) if axis not in gone]


def _fits(other: Any, first: Tensor) -> bool:
    """Whether a residual sum keeps the shape of what it is added to."""
    return isinstance(other, Tensor) and (other.shape, other.dtype) == (first.shape, first.dtype)


def _pair(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else (value, value)


_INITIALISERS = frozenset({"normal_", "uniform_", "trunc_normal_", "fill_", "zero_", "ones_", "zeros_"})
_IN_PLACE = frozenset({"add_", "mul_", "__iadd__", "__imul__"})
_COMPARISONS = frozenset({"ge", "gt", "le", "lt", "__ge__", "__gt__", "__le__", "__lt__"})
_SHAPES: dict[Any, Callable[..., Sequence[int] | None]] = {
    F.adaptive_avg_pool2d: _pooled,
    F.avg_pool2d: _avg_pooled,
    F.batch_norm: _normed,
    F.conv2d: _convolved,
    F.interpolate: _resized,
    F.linear: _mapped,
    F.max_pool2d: _max_pooled,
    torch.Tensor.amax: _reduced,
    torch.Tensor.mean: _reduced,
    torch.cat: _joined,
}
"""Functions and the shape of what they give; None where they would refuse, which torch then does itself."""


@contextmanager
def shapes_only() -> Iterator[None]:
    """Modules made and tensors run inside are on the meta device: shapes and prices without weights."""
    with torch.device("meta"), _ShapesOnly(), torch.no_grad():
        yield
