"""Multiply-adds of torch's operators, from what they were called with.

An operator is an ``OpOverloadPacket`` such as ``torch.ops.aten.convolution``: what runs when layers,
functions, ``@`` or fused kernels have been taken apart, on any device.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass
class Work:
    """Multiply-adds.

    Attributes:
        macs: all that are charged: products, biases and parameters of normalisation.
        products: those of convolutions, matrix products and attention alone.
        check: the products, counted a second time (:mod:`routesearch.routing.flop_formulas`).
    """

    macs: int = 0
    products: int = 0
    check: int = 0

    def __iadd__(self, other: Work) -> Work:
        self.macs += other.macs
        self.products += other.products
        self.check += other.check
        return self

    def __mul__(self, factor: int) -> Work:
        return Work(self.macs * factor, self.products * factor, self.check * factor)


Formula = Callable[..., Work]
"""The operator's arguments, and its output as ``out``, to its work."""


def work_formula(func: Any) -> Formula | None:
    """What a call of an operator costs; None for one that has no formula."""
    return _FORMULAS.get(func._overloadpacket._qualified_op_name)


def needs_formula(func: Any) -> bool:
    """Whether an operator without a formula may multiply matrices: a custom one, or by its name."""
    return func.namespace not in ("aten", "prim", "prims", "torchvision") or _named_a_product(
        func._overloadpacket.__name__
    )


@functools.cache
def _named_a_product(name: str) -> bool:
    words = name.strip("_").replace("2d", "").replace("3d", "").split("_")
    return not _PRODUCTS.isdisjoint(words) and name not in _NO_PRODUCTS


# ---- formulas ------------------------------------------------------------------------------------------


def _products(count: int, biases: int = 0) -> Work:
    return Work(int(count + biases), int(count))


def _matrices(a: Tensor, b: Tensor, *_: Any, out: Tensor, **__: Any) -> Work:
    """mm, bmm, mv, dot: every entry of the result is a sum over the last axis of ``a``."""
    return _products(out.numel() * a.shape[-1])


def _added(bias: Tensor, a: Tensor, b: Tensor, *_: Any, out: Tensor, **__: Any) -> Work:
    """Addmm and its like, without the bias: where rows are not contiguous, torch adds it by itself."""
    return _products(out.numel() * a.shape[-1])


def _added_sum(bias: Tensor, a: Tensor, b: Tensor, *_: Any, out: Tensor, **__: Any) -> Work:
    """addbmm: the products of a batch of matrices, added up."""
    return _products(out.numel() * a.shape[-1] * a.shape[0])


def _convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None, *options: Any, out: Tensor, **named: Any
) -> Work:
    transposed = options[3] if len(options) > 3 else named.get("transposed", False)
    # Each position of the output reads the whole weight once; transposed, each of the input does.
    at = x if transposed else out
    positions = at.shape[0] * math.prod(at.shape[2:])
    return _products(positions * weight.numel(), 0 if bias is None else out.numel())


def _library_convolution(x: Tensor, weight: Tensor, *_: Any, out: Tensor, **__: Any) -> Work:
    """One of a library's own, never transposed, without a bias."""
    return _products(out.shape[0] * math.prod(out.shape[2:]) * weight.numel())


def _deformable(x: Tensor, weight: Tensor, *_: Any, out: Tensor, **__: Any) -> Work:
    return _products(out.shape[0] * math.prod(out.shape[2:]) * weight.numel(), out.numel())


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, out: Any, **__: Any) -> Work:
    """Scaled dot product; N, heads, length, width."""
    return _products(query.numel() // query.shape[-1] * key.shape[-2] * (key.shape[-1] + value.shape[-1]))


def _flash(query: Tensor, key: Tensor, value: Tensor, *_: Any, out: Any, **__: Any) -> Work:
    """The kernels below the scaled dot product; N, length, heads, width."""
    return _products(query.numel() // query.shape[-1] * key.shape[1] * (key.shape[-1] + value.shape[-1]))


def _multi_head(query: Tensor, key: Tensor, value: Tensor, width: int, *_: Any, **__: Any) -> Work:
    """The fused multi-head attention; N, length, width."""
    images, long, read = query.shape[0], query.shape[1], key.shape[1]
    projected = 2 * long * width * width + 2 * read * width * width
    return _products(images * (projected + 2 * long * read * width))


def _encoder_layer(src: Tensor, width: int, heads: int, *rest: Any, out: Any, **__: Any) -> Work:
    """The fused layer of a transformer's encoder: attention, two norms, two linear layers."""
    work = _multi_head(src, src, src, width)
    norms, (first, first_bias, second, second_bias) = rest[7:11], rest[11:15]
    positions = src.shape[0] * src.shape[1]
    work += _products(
        positions * (first.numel() + second.numel()), positions * (first_bias.numel() + second_bias.numel())
    )
    return Work(work.macs + src.shape[0] * sum(norm.numel() for norm in norms), work.products)


def _recurrent_layer(
    x: Tensor, weight: Tensor, recurrent: Tensor, bias: Tensor, recurrent_bias: Tensor, *_: Any, **__: Any
) -> Work:
    """One layer and direction of an LSTM on oneDNN; length, N, entries."""
    steps = x.shape[0] * x.shape[1]
    return _products(
        steps * (weight.numel() + recurrent.numel()), steps * (bias.numel() + recurrent_bias.numel())
    )


def _recurrent(x: Tensor, weights: Sequence[Tensor], *_: Any, **__: Any) -> Work:
    """A whole LSTM, GRU or RNN on cuDNN; length, N, entries (or N first)."""
    steps = x.numel() // x.shape[-1]
    products = sum(w.numel() for w in weights if w.dim() > 1)
    return _products(steps * products, steps * sum(w.numel() for w in weights if w.dim() == 1))


def _trilinear(
    a: Tensor, b: Tensor, c: Tensor, new_a: Any, new_b: Any, new_c: Any, *_: Any, out: Any, **__: Any
) -> Work:
    """What nn.Bilinear calls: the sum of products of three tensors, with axes of size 1 put in."""

    def widened(x: Tensor, axes: Sequence[int]) -> list[int]:
        shape = list(x.shape)
        for axis in axes:
            shape.insert(axis, 1)
        return shape

    whole = torch.broadcast_shapes(widened(a, new_a), widened(b, new_b), widened(c, new_c))
    return _products(math.prod(whole))


def _norm(x: Tensor, *args: Any, weight: Tensor | None = None, bias: Tensor | None = None, **__: Any) -> Work:
    """A normalisation: its parameters, once for each image."""
    given = [arg for arg in (*args[:3], weight, bias) if isinstance(arg, Tensor)][:2]
    return Work(x.shape[0] * sum(parameter.numel() for parameter in given), 0)


def _batch_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, *_: Any, **__: Any) -> Work:
    return Work(x.shape[0] * sum(p.numel() for p in (weight, bias) if p is not None), 0)


_FORMULAS: dict[str, Formula] = {
    f"aten::{name}": formula
    for formula, names in (
        (_matrices, "mm bmm mv dot vdot _int_mm _sparse_mm _scaled_mm"),
        (_added, "addmm addmv baddbmm _addmm_activation"),
        (_added_sum, "addbmm"),
        (_convolution, "convolution _convolution"),
        (_convolution, "convolution_overrideable"),
        (_library_convolution, "cudnn_convolution _slow_conv2d_forward"),
        (_attention, "_scaled_dot_product_flash_attention _scaled_dot_product_flash_attention_for_cpu"),
        (_attention, "_scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention"),
        (_attention, "_scaled_dot_product_fused_attention_overrideable"),
        (_flash, "_flash_attention_forward _efficient_attention_forward"),
        (_multi_head, "_native_multi_head_attention"),
        (_encoder_layer, "_transformer_encoder_layer_fwd"),
        (_recurrent_layer, "mkldnn_rnn_layer"),
        (_recurrent, "_cudnn_rnn miopen_rnn"),
        (_trilinear, "_trilinear"),
        (_batch_norm, "native_batch_norm cudnn_batch_norm miopen_batch_norm _native_batch_norm_legit"),
        (_batch_norm, "_native_batch_norm_legit_no_training _batch_norm_with_update _batch_norm_no_update"),
        (_norm, "native_layer_norm native_group_norm _fused_rms_norm"),
    )
    for name in names.split()
} | {"torchvision::deform_conv2d": _deformable}


_PRODUCTS = frozenset(
    (
        *("mm", "bmm", "addmm", "addbmm", "baddbmm", "mv", "addmv", "dot", "vdot", "conv", "convolution"),
        *("attention", "lstm", "gru", "rnn", "linear", "bilinear", "trilinear", "einsum", "cdist", "tbc"),
    )
)
"""Words in the names of torch's operators that multiply matrices, whether or not there is a formula."""

_NO_PRODUCTS = frozenset(
    (
        *("upsample_linear1d", "upsample_bilinear2d", "_upsample_bilinear2d_aa", "upsample_trilinear3d"),
        *("_thnn_fused_lstm_cell", "_thnn_fused_gru_cell", "_cudnn_rnn_flatten_weight"),
        *("mkldnn_reorder_conv2d_weight", "mkldnn_reorder_conv3d_weight", "_compute_linear_combination"),
    )
)
"""Operators with such a word that multiply none."""
