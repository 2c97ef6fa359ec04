"""Torch's meta device made quick: networks with shapes and no values, for pricing them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class _ShapesOnly(TorchDispatchMode):
    """Spares the meta device work that could not show: it has shapes and no values.

    The operators below have Python forms there: half a millisecond each, and the first of them imports
    torch's compiler, which takes longer than pricing any network.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """False: else torch imports its compiler to wrap the method below, for over a second."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        first = args[0] if args else None
        if isinstance(first, list | tuple) and first:
            first = first[0]
        if isinstance(first, Tensor) and first.is_meta:
            shortcut: Callable[[Any, Any, Any], Any] = _SHORTCUTS.get(
                func._overloadpacket.__name__, _pointwise
            )
            found = shortcut(func, args, kwargs)
            if found is not None:
                return found
        return func(*args, **kwargs)


# Each takes an operator and its arguments, and gives its output; None where torch itself has to say what it
# is, or what is wrong.


def _unchanged(func: Any, args: Any, kwargs: Any) -> Tensor:
    """Initialisation in place, without drawing."""
    found: Tensor = args[0]
    return found


def _pointwise(func: Any, args: Any, kwargs: Any) -> Tensor | None:
    """Operators on each entry by itself, of floating-point tensors of one type."""
    if torch.Tag.pointwise not in func.tags or kwargs:
        return None
    first = args[0]
    shape = first.shape
    for other in args[1:]:
        if isinstance(other, Tensor):
            if not other.is_meta or other.dtype != first.dtype:
                return None
            if other.shape != shape:
                return None  # broadcasting is rare enough
        elif not isinstance(other, int | float | bool | None):
            return None
    name = func._overloadpacket.__name__
    if name in _COMPARISONS:
        return first.new_empty(shape, dtype=torch.bool)  # type: ignore[no-any-return]
    if not first.is_floating_point() or name not in _ENTRYWISE:
        return None
    if name.endswith("_"):
        return first  # type: ignore[no-any-return]
    return first.new_empty(shape)  # type: ignore[no-any-return]


def _convolution(func: Any, args: Any, kwargs: Any) -> Tensor | None:
    x, weight, _, stride, padding, dilation, transposed, _, groups = args
    if transposed or x.dim() != weight.dim() or x.shape[1] != weight.shape[1] * groups:
        return None
    sides = []
    for axis, side in enumerate(x.shape[2:]):
        step, pad, apart = (option[axis % len(option)] for option in (stride, padding, dilation))
        sides.append((side + 2 * pad - apart * (weight.shape[2 + axis] - 1) - 1) // step + 1)
    return _like(x, (x.shape[0], weight.shape[0], *sides)) if min(sides) > 0 else None


def _batch_norm(func: Any, args: Any, kwargs: Any) -> tuple[Tensor, ...] | None:
    x, _, _, mean, _, training, *_ = args
    if training or mean is None or x.dim() < 2 or x.shape[1] != len(mean):
        return None
    return _like(x, x.shape), _like(x, (0,)), _like(x, (0,))


def _layer_norm(func: Any, args: Any, kwargs: Any) -> tuple[Tensor, ...] | None:
    x, normalised = args[0], list(args[1])
    if not normalised or list(x.shape[-len(normalised) :]) != normalised:
        return None
    each = (*x.shape[: x.dim() - len(normalised)], *(1 for _ in normalised))
    return _like(x, x.shape), _like(x, each), _like(x, each)


def _product(func: Any, args: Any, kwargs: Any) -> Tensor | None:
    a, b = args
    fits = a.dim() == b.dim() and a.shape[-1] == b.shape[-2] and a.shape[:-2] == b.shape[:-2]
    return _like(a, (*a.shape[:-1], b.shape[-1])) if fits and a.dtype == b.dtype else None


def _added_product(func: Any, args: Any, kwargs: Any) -> Tensor | None:
    bias, a, b = args
    fits = a.dim() == b.dim() == 2 and a.shape[1] == b.shape[0] and bias.shape == (b.shape[1],)
    return _like(a, (a.shape[0], b.shape[1])) if fits and not kwargs else None


def _reduced(func: Any, args: Any, kwargs: Any) -> Tensor | None:
    x, dims, keep = (*args, None, False)[:3] if len(args) < 3 else args
    if kwargs or not dims or not x.is_floating_point() or not all(-x.dim() <= d < x.dim() for d in dims):
        return None
    gone = {d % x.dim() for d in dims}
    if len(gone) < len(dims) or any(x.shape[d] == 0 for d in gone):
        return None
    sides = [1 if axis in gone else side for axis, side in enumerate(x.shape) if keep or axis not in gone]
    return _like(x, sides)


def _softmax(func: Any, args: Any, kwargs: Any) -> Tensor | None:
    x, dim = args[0], args[1]
    return _like(x, x.shape) if x.is_floating_point() and -x.dim() <= dim < x.dim() else None


def _joined(func: Any, args: Any, kwargs: Any) -> Tensor | None:
    parts, dim = args[0], args[1] if len(args) > 1 else 0
    shape, dtype = list(parts[0].shape), parts[0].dtype
    if not -len(shape) <= dim < len(shape):
        return None
    dim %= len(shape)
    for part in parts[1:]:
        fits = part.is_meta and part.dtype == dtype and part.dim() == len(shape)
        if not fits or [*part.shape[:dim], *part.shape[dim + 1 :]] != [*shape[:dim], *shape[dim + 1 :]]:
            return None
        shape[dim] += part.shape[dim]
    return _like(parts[0], shape)


def _adaptive_pool(func: Any, args: Any, kwargs: Any) -> Tensor | None:
    x, sides = args
    return _like(x, (*x.shape[:-2], *sides)) if x.dim() in (3, 4) and min(x.shape) > 0 else None


def _max_pool(func: Any, args: Any, kwargs: Any) -> tuple[Tensor, ...] | None:
    x, kernel, *options = args
    defaults: list[Any] = [[], [0], [1], False]
    stride, padding, dilation, ceil = options + defaults[len(options) :]
    shape = None if ceil else _pooled(x, kernel, stride, padding, dilation)
    return None if shape is None else (_like(x, shape), x.new_empty(shape, dtype=torch.int64))


def _avg_pool(func: Any, args: Any, kwargs: Any) -> Tensor | None:
    x, kernel, *options = args
    defaults: list[Any] = [[], [0], False]
    stride, padding, ceil = (options + defaults[len(options) :])[:3]
    shape = None if ceil or kwargs else _pooled(x, kernel, stride, padding, [1])
    return None if shape is None else _like(x, shape)


def _pooled(x: Tensor, *options: Any) -> list[int] | None:
    if x.dim() not in (3, 4):
        return None
    kernel, stride, pad, apart = (_pair(option) for option in options)
    step = stride or kernel
    if any(2 * p > k for p, k in zip(pad, kernel, strict=True)):
        return None
    sides = [
        (x.shape[axis - 2] + 2 * pad[axis] - apart[axis] * (kernel[axis] - 1) - 1) // step[axis] + 1
        for axis in (0, 1)
    ]
    return [*x.shape[:-2], *sides] if min(sides) > 0 and min(x.shape) > 0 else None


def _pair(option: Any) -> Any:
    """An operator's list of one number or two as two; None for an empty one."""
    return (option * 2)[:2] if option else None


def _resized(func: Any, args: Any, kwargs: Any) -> Tensor | None:
    x, size = args[0], args[1]
    known = isinstance(size, list) and x.dim() == len(size) + 2 and min(*x.shape[1:], *size) > 0
    return _like(x, (*x.shape[:2], *size)) if known else None


def _like(x: Tensor, shape: Sequence[int]) -> Tensor:
    return x.new_empty(shape)


_COMPARISONS = frozenset({"ge", "gt", "le", "lt", "eq", "ne"})
_ENTRYWISE = frozenset(
    f"{name}{place}"
    for name in (
        *("add", "sub", "mul", "div", "neg", "abs", "square", "sqrt", "rsqrt", "exp", "clamp", "clamp_min"),
        *("relu", "gelu", "silu", "sigmoid", "tanh", "hardswish", "hardsigmoid", "hardtanh", "leaky_relu"),
        *("elu", "softplus", "mish"),
    )
    for place in ("", "_")
)
_SHORTCUTS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "convolution": _convolution,
    "native_batch_norm": _batch_norm,
    "native_layer_norm": _layer_norm,
    "mm": _product,
    "bmm": _product,
    "addmm": _added_product,
    "mean": _reduced,
    "amax": _reduced,
    "_softmax": _softmax,
    "cat": _joined,
    "_adaptive_avg_pool2d": _adaptive_pool,
    "max_pool2d_with_indices": _max_pool,
    "avg_pool2d": _avg_pool,
    "upsample_bilinear2d": _resized,
    "upsample_nearest2d": _resized,
} | dict.fromkeys(("normal_", "uniform_", "fill_", "zero_", "bernoulli_", "random_"), _unchanged)
"""Name of an operator to its shortcut."""


@contextmanager
def shapes_only() -> Iterator[None]:
    """Modules made and tensors run inside are on the meta device: shapes and prices without weights."""
    with torch.device("meta"), torch.no_grad(), _ShapesOnly():  # type: ignore[no-untyped-call]
        yield
