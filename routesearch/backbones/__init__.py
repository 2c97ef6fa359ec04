"""Static networks that methods cut, narrow and route through."""

from routesearch.backbones.base import Backbone, Plain
from routesearch.backbones.nin import NiN
from routesearch.backbones.resnet import CifarResNet, ResNet38, ResNet74, ResNet110, ResNet152

BACKBONES: tuple[type[Backbone], ...] = (NiN, ResNet38, ResNet74, ResNet110, ResNet152)

__all__ = [
    "BACKBONES",
    "Backbone",
    "CifarResNet",
    "NiN",
    "Plain",
    "ResNet38",
    "ResNet74",
    "ResNet110",
    "ResNet152",
]
