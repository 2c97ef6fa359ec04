"""Losses that more than one stage uses."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from routesearch import Batch, Targets, classification_loss
from routesearch.methods.losses import cross_entropy


def batch(labels: Tensor, teacher: Tensor | None = None, **targets: float) -> Batch:
    return Batch(None, labels, 0.0, teacher=teacher, targets=Targets(**targets))


def test_cross_entropy_is_of_the_networks_logits_and_reaches_its_weights() -> None:
    torch.manual_seed(0)
    net, inputs, labels = nn.Linear(5, 3), torch.randn(7, 5), torch.arange(7) % 3
    loss = cross_entropy(net)(Batch(inputs, labels, 0.0))
    assert torch.equal(loss, F.cross_entropy(net(inputs), labels))
    loss.backward()
    assert net.weight.grad is not None
    assert bool(net.weight.grad.any())


def test_one_image_worked_out_by_hand() -> None:
    # softmax of (ln 3, 0) is (3/4, 1/4); at temperature 2 the teacher's (2 ln 4, 0) is (4/5, 1/5)
    # and the student's (sqrt 3, 1) / (1 + sqrt 3)
    student, teacher = torch.tensor([[math.log(3), 0.0]]), torch.tensor([[2 * math.log(4), 0.0]])
    label = torch.tensor([1])
    a = math.sqrt(3) / (1 + math.sqrt(3))
    apart = 0.8 * math.log(0.8 / a) + 0.2 * math.log(0.2 / (1 - a))
    smooth = -0.95 * math.log(1 / 4) - 0.05 * math.log(3 / 4)
    found = classification_loss(student, batch(label, teacher, smoothing=0.1, share=0.3, temperature=2.0))
    assert float(found) == pytest.approx(0.7 * smooth + 0.3 * 4 * apart, rel=1e-5)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 1000),
    images=st.integers(1, 6),
    exits=st.lists(st.integers(1, 3), max_size=2),
    smoothing=st.sampled_from([0.0, 0.1]),
    share=st.sampled_from([0.0, 0.5, 1.0]),
    taught=st.booleans(),
)
def test_every_row_is_what_it_would_be_alone(
    seed: int, images: int, exits: list[int], smoothing: float, share: float, taught: bool
) -> None:
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(images, *exits, 4, generator=draw)
    labels = torch.randint(4, (images,), generator=draw)
    teacher = torch.randn(images, 4, generator=draw) if taught else None
    how: dict[str, Any] = {"smoothing": smoothing, "share": share, "temperature": 3.0}
    each = classification_loss(logits, batch(labels, teacher, **how), reduction="none")
    assert each.shape == (images, *exits)
    assert torch.allclose(each.mean(), classification_loss(logits, batch(labels, teacher, **how)), atol=1e-5)
    for i in range(images):
        own = batch(labels[i : i + 1], None if teacher is None else teacher[i : i + 1], **how)
        for row, found in zip(logits[i].reshape(-1, 4), each[i].reshape(-1), strict=True):
            assert torch.allclose(classification_loss(row[None], own), found, atol=1e-5)


def test_without_a_teacher_distillation_has_no_share() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 3), torch.arange(6) % 3
    alone = classification_loss(logits, batch(labels, share=0.9, temperature=4.0))
    assert torch.equal(alone, F.cross_entropy(logits, labels))


def test_a_student_that_agrees_with_its_teacher_is_not_moved() -> None:
    torch.manual_seed(0)
    logits = torch.randn(6, 3, requires_grad=True)
    loss = classification_loss(
        logits, batch(torch.arange(6) % 3, logits.detach(), share=1.0, temperature=2.0)
    )
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-6)
    assert logits.grad is not None
    assert float(logits.grad.abs().max()) < 1e-6


def test_no_gradient_reaches_the_teacher() -> None:
    teacher = torch.randn(4, 3, requires_grad=True)
    logits = torch.randn(4, 3, requires_grad=True)
    classification_loss(logits, batch(torch.arange(4) % 3, teacher, share=0.5)).backward()
    assert teacher.grad is None


def test_it_is_float32_under_autocast() -> None:
    torch.manual_seed(0)
    net, x, labels = nn.Linear(8, 5), torch.randn(9, 8), torch.arange(9) % 5
    teacher = torch.randn(9, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = net(x)
        assert logits.dtype is torch.bfloat16
        told = batch(labels, teacher, share=0.5, temperature=2.0, smoothing=0.1)
        loss = classification_loss(logits, told)
    assert loss.dtype is torch.float32
    assert torch.allclose(loss, classification_loss(logits.float(), told))


@pytest.mark.parametrize(
    ("logits", "options", "message"),
    [
        (torch.zeros(4, 3), {"reduction": "sum"}, "reduction must be mean or none, got 'sum'"),
        (torch.zeros(3, 4, 2), {}, r"logits must be N x classes or .*, got \(3, 4, 2\) for 4 labels"),
        (torch.zeros(4), {}, r"got \(4,\) for 4 labels"),
    ],
)
def test_what_fits_no_batch_is_refused(logits: Tensor, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        classification_loss(logits, batch(torch.arange(4) % 2), **options)
