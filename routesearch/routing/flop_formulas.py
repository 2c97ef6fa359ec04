"""A second opinion on multiply-adds: the formulas of torch's ``FlopCounterMode``, and some that it lacks.

Nothing here is shared with :mod:`routesearch.routing.operators`: where a formula there is wrong, the two
counts differ.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.utils.flop_counter import bmm_flop, flop_registry, sdpa_flop_count


def products_of(func: Any) -> Callable[[Any, Any, Any], int] | None:
    """The formula of an operator: arguments, keyword arguments and output to multiply-adds without biases.

    Returns:
        None for an operator that has no formula.
    """
    packet = func._overloadpacket
    if packet.__name__.endswith("_backward"):
        return None
    lacking = _LACKING.get(packet._qualified_op_name)
    if lacking is not None:
        return lambda args, kwargs, out: lacking(*args, **kwargs)
    known = flop_registry.get(packet)
    if known is None:
        return None
    of_shapes = getattr(known, "__wrapped__", None)  # below a search for tensors in nested arguments
    if of_shapes is None:
        return lambda args, kwargs, out: int(known(*args, **kwargs, out_val=out)) // 2

    def count(args: Any, kwargs: Any, out: Any) -> int:
        shape = out.shape if isinstance(out, Tensor) else None
        return int(of_shapes(*_shapes(args), **kwargs, out_shape=shape)) // 2

    return count


def _shapes(args: Sequence[Any]) -> list[Any]:
    return [arg.shape if isinstance(arg, Tensor) else arg for arg in args]


def _vector(matrix: Any, vector: Any, *_: Any, **__: Any) -> int:
    return int(matrix.numel())


def _added_vector(bias: Any, matrix: Any, vector: Any, *_: Any, **__: Any) -> int:
    return int(matrix.numel())


def _batch(a: Any, b: Any) -> int:
    return int(bmm_flop(a, b)) // 2


def _added_batch(bias: Any, a: Any, b: Any, *_: Any, **__: Any) -> int:
    return _batch(a.shape, b.shape)


def _added_matrix(bias: Any, a: Any, b: Any, *_: Any, **__: Any) -> int:
    return _batch((1, *a.shape), (1, *b.shape))


def _matrix(a: Any, b: Any, *_: Any, **__: Any) -> int:
    return _batch((1, *a.shape), (1, *b.shape))


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query.shape, key.shape, value.shape)) // 2


def _multi_head(query: Any, key: Any, value: Any, width: int, heads: int, *weights: Any, **__: Any) -> int:
    n, each = query.shape[0], width // heads
    total = sum(_batch((n, x.shape[1], width), (n, width, width)) for x in (query, key, value, query))
    heads_of = [(n, heads, x.shape[1], each) for x in (query, key, value)]
    return total + int(sdpa_flop_count(*heads_of)) // 2


def _encoder_layer(x: Any, width: int, heads: int, *weights: Any, **__: Any) -> int:
    n, length = x.shape[:2]
    inner = weights[11].shape[0]
    linear = _batch((n, length, width), (n, width, inner)) + _batch((n, length, inner), (n, inner, width))
    return _multi_head(x, x, x, width, heads) + linear


def _mkldnn_recurrent(x: Any, weight: Any, recurrent: Any, *_: Any, **__: Any) -> int:
    steps, images = x.shape[:2]
    total = 0
    for matrix in (weight, recurrent):
        gates, entries = matrix.shape
        total += steps * _batch((1, images, entries), (1, entries, gates))
    return total


def _cudnn_recurrent(x: Any, weights: Any, per_layer: int, *rest: Any, **__: Any) -> int:
    batch_first = bool(rest[7])
    images, steps = (x.shape[0], x.shape[1]) if batch_first else (x.shape[1], x.shape[0])
    if x.dim() < 3:  # packed: all steps of all images one below the other
        images, steps = x.shape[0], 1
    total = 0
    for matrix in weights:
        if matrix.dim() == 2:
            gates, entries = matrix.shape
            total += steps * _batch((1, images, entries), (1, entries, gates))
    return total


def _bilinear(a: Any, b: Any, c: Any, *_: Any, **__: Any) -> int:
    images = a.numel() // a.shape[-1]
    return int(images * b.numel())  # the weight stands in the middle


def _deformable(x: Any, weight: Any, offset: Any, *_: Any, **__: Any) -> int:
    channels_out, channels_in, high, wide = weight.shape
    images, _, rows, columns = offset.shape
    return int(
        images * channels_out * _batch((1, rows * columns, channels_in), (1, channels_in, high * wide))
    )


_LACKING: dict[str, Callable[..., int]] = {
    "aten::mv": _vector,
    "aten::dot": _vector,
    "aten::vdot": _vector,
    "aten::addmv": _added_vector,
    "aten::addbmm": _added_batch,
    "aten::_addmm_activation": _added_matrix,
    "aten::_int_mm": _matrix,
    "aten::_sparse_mm": _matrix,
    "aten::_scaled_dot_product_flash_attention_for_cpu": _attention,
    "aten::_scaled_dot_product_fused_attention_overrideable": _attention,
    "aten::_native_multi_head_attention": _multi_head,
    "aten::_transformer_encoder_layer_fwd": _encoder_layer,
    "aten::mkldnn_rnn_layer": _mkldnn_recurrent,
    "aten::_cudnn_rnn": _cudnn_recurrent,
    "aten::_trilinear": _bilinear,
    "torchvision::deform_conv2d": _deformable,
}
