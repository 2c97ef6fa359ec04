"""Functions of several tensors, and resizing, on the meta device: the real shapes and the real refusals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from routesearch.routing.nested import tensors
from routesearch.routing.shapes import shapes_only


@pytest.mark.parametrize(
    "use",
    [
        lambda: torch.cat([torch.ones(2, 3, 4), torch.ones(2, 1, 4), torch.ones(2, 2, 4)], 1),
        lambda: torch.cat((torch.ones(2, 3), torch.ones(4, 3))),
        lambda: torch.cat([torch.ones(2, 3), torch.ones(2, 5)], dim=-1),
        lambda: torch.cat([torch.ones(2, 3), torch.ones(2, 3, dtype=torch.int64)]),
        lambda: torch.cat([torch.ones(2, 3), torch.ones(3, 3)], 1),
        lambda: torch.cat([torch.ones(2, 3), torch.ones(2)], 1),
        lambda: torch.cat([torch.ones(2, 3)], 2),
        lambda: torch.cat([]),
        lambda: torch.ones(2, 3).add_(torch.ones(2, 3)),
        lambda: torch.ones(2, 3).__iadd__(torch.ones(3)),
        lambda: torch.ones(2, 3).__imul__(torch.ones(2, 4)),
        lambda: torch.ones(2, 3, dtype=torch.int64).add_(torch.ones(2, 3)),
        lambda: F.interpolate(torch.ones(2, 3, 5, 7), (8, 9), mode="bilinear", align_corners=False),
        lambda: F.interpolate(torch.ones(2, 3, 5, 7), size=4),
        lambda: F.interpolate(torch.ones(2, 3, 5, 7), scale_factor=2),
        lambda: F.interpolate(torch.ones(2, 3, 5, 7), (8, 9, 10)),
        lambda: F.interpolate(torch.ones(2, 3, 5, 7), (0, 4)),
        lambda: F.max_pool2d(torch.ones(2, 3, 9, 7), 3, 2, padding=1),
        lambda: F.max_pool2d(torch.ones(3, 9, 7), (2, 3)),
        lambda: F.max_pool2d(torch.ones(2, 3, 9, 7), 2, ceil_mode=True),
        lambda: F.max_pool2d(torch.ones(2, 3, 9, 7), 3, 1, 1, 2),
        lambda: F.max_pool2d(torch.ones(2, 3, 2, 2), 3),
        lambda: F.max_pool2d(torch.ones(2, 3, 9, 9), 2, padding=2),
        lambda: F.max_pool2d(torch.ones(9, 9), 2),
        lambda: F.avg_pool2d(torch.ones(2, 3, 9, 7), 3, 2, 1),
        lambda: F.avg_pool2d(torch.ones(2, 3, 9, 7), 2, count_include_pad=False),
        lambda: torch.ones(2, 3, 5, 7).mean((2, 3)),
        lambda: torch.ones(2, 3, 5, 7).mean([-1], keepdim=True),
        lambda: torch.ones(2, 3, 5, 7).mean((2, -2)),
        lambda: torch.ones(2, 3).mean(()),
        lambda: torch.ones(2, 3).mean((3,)),
        lambda: torch.ones(2, 3).mean(1),
        lambda: torch.ones(2, 3).amax(1),
        lambda: torch.ones(2, 3, 4).amax((0, -1)),
        lambda: torch.ones(2, 3).amax(2),
        lambda: torch.ones(2, 0).amax(1),
        lambda: torch.ones(2, 3).mean(),
        lambda: torch.ones(2, 3, dtype=torch.int64).mean((1,)),
    ],
)
def test_shapes_and_refusals_are_the_real_ones(use: Callable[[], Tensor]) -> None:
    def result() -> object:
        try:
            found = use()
        except (RuntimeError, ValueError, IndexError):
            return "refused"
        return tuple(found.shape), found.dtype

    real = result()
    with shapes_only():
        assert result() == real


SIZES = st.integers(1, 7)


@given(st.data())
@settings(max_examples=150)
def test_shapes_only_are_the_real_shapes_and_the_real_refusals(draw: Any) -> None:
    """Convolutions of any form on images of any size, also where they do not fit together."""

    def pick(values: Any) -> Any:
        return draw.draw(values)

    before, groups = pick(st.integers(1, 4)), pick(st.sampled_from([1, 1, 2]))
    form: dict[str, Any] = {
        "stride": pick(st.integers(1, 3) | st.tuples(st.integers(1, 3), st.integers(1, 3))),
        "padding": pick(
            st.integers(0, 2) | st.tuples(st.integers(0, 2), st.integers(0, 2)) | st.just("valid")
        ),
        "dilation": pick(st.integers(1, 2)),
        "groups": groups,
        "bias": pick(st.booleans()),
        "padding_mode": pick(st.sampled_from(["zeros", "zeros", "reflect"])),
    }
    kernel = pick(SIZES | st.tuples(SIZES, SIZES))
    seen = before * groups if pick(st.integers(0, 4)) else before * groups + 1

    def shape(device: str) -> Any:
        try:
            conv = nn.Conv2d(before * groups, 2 * groups, kernel, **form, device=device)
            with torch.no_grad():
                y = conv(torch.zeros(2, seen, height, width, device=device))
        except RuntimeError:
            return "refused"
        return tuple(y.shape)

    height, width = pick(SIZES), pick(SIZES)
    real = shape("cpu")
    with shapes_only():
        assert shape("meta") == real


@pytest.mark.parametrize(
    ("block", "shape"),
    [
        (lambda: nn.Linear(6, 4), (2, 6)),
        (lambda: nn.Linear(6, 4), (2, 5)),
        (lambda: nn.Linear(6, 4, bias=False), (2, 3, 6)),
        (lambda: nn.BatchNorm2d(3), (2, 3, 4, 4)),
        (lambda: nn.BatchNorm2d(3), (2, 4, 4, 4)),
        (lambda: nn.AdaptiveAvgPool2d(1), (2, 3, 4, 5)),
        (lambda: nn.AdaptiveAvgPool2d((2, None)), (2, 3, 4, 5)),
        (lambda: nn.Conv2d(3, 4, 3, padding="same"), (2, 3, 5, 5)),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(36, 2)), (1, 3, 5, 5)),
        (lambda: nn.ConvTranspose2d(3, 4, 2, 2), (1, 3, 5, 5)),
        (lambda: nn.Conv1d(3, 4, 3), (1, 3, 9)),
        (lambda: nn.LSTMCell(4, 5), (2, 4)),
    ],
)
def test_other_layers_keep_their_shapes_too(block: Any, shape: tuple[int, ...]) -> None:
    def result(device: str) -> Any:
        with torch.device(device), torch.no_grad():
            try:
                found = block().eval()(torch.empty(*shape).zero_())
            except RuntimeError:
                return "refused"
        return [tuple(t.shape) for t in tensors(found)]

    real = result("cpu")
    with shapes_only():
        assert result("meta") == real


def test_comparisons_of_shapes_in_any_form() -> None:
    with shapes_only():
        x = torch.empty(3, 2)
        found = [x > 0.5, x >= 1, x < x, torch.lt(x, 0.5), torch.ge(x, other=0.5), x.amax(1) <= 2]
    assert [(tuple(f.shape), f.dtype) for f in found] == [((3, 2), torch.bool)] * 5 + [((3,), torch.bool)]


def test_functions_called_by_keyword() -> None:
    with shapes_only():
        x, w = torch.empty(1, 3, 5, 5), torch.empty(4, 3, 3, 3)
        assert F.conv2d(x, weight=w, padding=1, bias=None).shape == (1, 4, 5, 5)
        assert F.linear(x, weight=torch.empty(2, 5), bias=None).shape == (1, 3, 5, 2)
        assert F.adaptive_avg_pool2d(x, output_size=2).shape == (1, 3, 2, 2)
        assert F.batch_norm(x, running_mean=torch.empty(3), running_var=torch.empty(3)).shape == x.shape


def test_real_tensors_are_left_alone() -> None:
    with shapes_only():
        x = torch.ones(2, 2, device="cpu")
        assert (x > 0.5).all()
        assert F.linear(x, x).eq(2).all()
        assert x.fill_(3).eq(3).all()
