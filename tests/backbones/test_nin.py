"""NiN against the figures of DecisioNet's paper and code."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from routesearch.backbones import NiN
from routesearch.backbones.base import reference_cost
from routesearch.routing.cost import mult_adds

CIFAR10, FMNIST = (3, 32, 32), (1, 28, 28)


@pytest.mark.parametrize(
    ("shape", "params", "macs"), [(CIFAR10, 966_986, 223_117_952), (FMNIST, 957_386, 163_298_282)]
)
def test_reference_figures(shape: tuple[int, int, int], params: int, macs: int) -> None:
    assert reference_cost(NiN(shape, 10)) == (params, macs)


UNITS = [  # parameters and multiply-adds of each unit on CIFAR10 and on Fashion-MNIST
    (14_592, 14_942_208, 4_992, 3_913_728),
    (30_880, 31_621_120, 30_880, 24_209_920),
    (15_456, 15_826_944, 15_456, 12_117_504),
    (460_992, 118_013_952, 460_992, 90_354_432),
    (37_056, 9_486_336, 37_056, 7_262_976),
    (37_056, 9_486_336, 37_056, 7_262_976),
    (331_968, 21_245_952, 331_968, 16_266_432),
    (37_056, 2_371_584, 37_056, 1_815_744),
]


@pytest.mark.parametrize(("shape", "column"), [(CIFAR10, 0), (FMNIST, 2)])
def test_each_unit_and_the_head(shape: tuple[int, int, int], column: int) -> None:
    backbone = NiN(shape, 10)
    assert len(backbone) == 8
    with torch.device("meta"):
        for k, row in enumerate(UNITS, 1):
            unit = backbone.unit(k)
            assert sum(p.numel() for p in unit.parameters()) == row[column]
            assert mult_adds(unit, torch.empty(1, *backbone.shape(k - 1))) == row[column + 1]
        head = backbone.head()
        assert sum(p.numel() for p in head.parameters()) == 1_930
        expected = 123_520 if shape == CIFAR10 else 94_570
        assert mult_adds(head, torch.empty(1, *backbone.shape(8))) == expected


def test_shapes_after_the_pooling_units() -> None:
    cifar, fmnist = NiN(CIFAR10, 10), NiN(FMNIST, 10)
    assert [cifar.shape(k) for k in (1, 2, 3, 6, 8)] == [
        (192, 32, 32),
        (160, 32, 32),
        (96, 16, 16),
        (192, 8, 8),
        (192, 8, 8),
    ]
    assert [fmnist.shape(k)[1:] for k in (2, 3, 6)] == [(28, 28), (14, 14), (7, 7)]


def test_layers_of_the_units() -> None:
    backbone = NiN(FMNIST, 10, 0.1)
    kinds = [[type(m).__name__ for m in backbone.unit(k)] for k in range(1, 9)]  # type: ignore[attr-defined]
    plain = ["Conv2d", "ReLU"]
    assert kinds == [
        plain,
        plain,
        [*plain, "MaxPool2d", "Dropout"],
        plain,
        plain,
        [*plain, "AvgPool2d", "Dropout"],
        plain,
        plain,
    ]
    assert {m.p for k in (3, 6) for m in backbone.unit(k) if isinstance(m, nn.Dropout)} == {0.5}  # type: ignore[attr-defined]


def test_logits_are_never_negative() -> None:
    net = NiN((1, 8, 8), 4, 0.1).plain().eval()
    assert float(net(torch.randn(16, 1, 8, 8)).detach().min()) >= 0.0


def test_the_class_layer_is_not_scaled() -> None:
    backbone = NiN(CIFAR10, 10, 0.25)
    assert [tuple(p.shape) for p in backbone.head().parameters()] == [(10, 48, 1, 1), (10,)]
    assert backbone.channels(2) == 40
