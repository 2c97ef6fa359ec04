"""The invariants of the conformance kit, for every backbone of the core and for a user's own.

One of each family is tried in the quick tests, the others in the slow ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from routesearch.backbones import (
    BACKBONES,
    VGG16,
    AlexNet,
    AlexNetCifar,
    Backbone,
    DenseNet201,
    DenseNet201Cifar,
    NiN,
    Pyramid8,
    ResNet38,
    ResNet74,
    ResNet101,
    ResNet101Cifar,
    ResNet110,
    ResNet152,
    VGG16Cifar,
    WRN28x10,
)
from routesearch.plugin.loader import load_file
from routesearch.testing import BackboneContract

OWN = load_file(Path(__file__).parents[1] / "fixtures" / "own_backbone.py")


class TestPocket(BackboneContract):
    backbone = OWN.Pocket


class TestNiN(BackboneContract):
    backbone = NiN


class TestResNet38(BackboneContract):
    backbone = ResNet38


@pytest.mark.slow
class TestResNet74(BackboneContract):
    backbone = ResNet74
    shapes = ((3, 12, 10),)


@pytest.mark.slow
class TestResNet110(BackboneContract):
    backbone = ResNet110


@pytest.mark.slow
class TestResNet152(BackboneContract):
    backbone = ResNet152


class TestWRN28x10(BackboneContract):
    backbone = WRN28x10


class TestPyramid8(BackboneContract):
    backbone = Pyramid8


class TestResNet101Cifar(BackboneContract):
    backbone = ResNet101Cifar


class TestDenseNet201Cifar(BackboneContract):
    backbone = DenseNet201Cifar


class TestVGG16Cifar(BackboneContract):
    backbone = VGG16Cifar


@pytest.mark.slow
class TestAlexNetCifar(BackboneContract):
    backbone = AlexNetCifar


@pytest.mark.slow
class TestResNet101(BackboneContract):
    backbone = ResNet101


@pytest.mark.slow
class TestDenseNet201(BackboneContract):
    backbone = DenseNet201


@pytest.mark.slow
class TestVGG16(BackboneContract):
    backbone = VGG16


@pytest.mark.slow
class TestAlexNet(BackboneContract):
    backbone = AlexNet


def held() -> Iterator[type[Backbone]]:
    """The backbones of the classes above."""
    for value in globals().values():
        if isinstance(value, type) and issubclass(value, BackboneContract) and value is not BackboneContract:
            yield value.backbone


def test_no_backbone_is_missing() -> None:
    assert set(held()) == {*BACKBONES, OWN.Pocket}
