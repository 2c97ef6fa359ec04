"""Static networks that methods cut, narrow and route through."""

from routesearch.backbones.base import Backbone, Plain
from routesearch.backbones.nin import NiN
from routesearch.backbones.pyramid import Pyramid8
from routesearch.backbones.resnet import CifarResNet, ResNet38, ResNet74, ResNet110, ResNet152
from routesearch.backbones.torchvision_nets import (
    VGG16,
    AlexNet,
    AlexNetCifar,
    DenseNet201,
    DenseNet201Cifar,
    ResNet101,
    ResNet101Cifar,
    VGG16Cifar,
)
from routesearch.backbones.wide_resnet import WideResNet, WRN28x10

BACKBONES: tuple[type[Backbone], ...] = (
    NiN,
    ResNet38,
    ResNet74,
    ResNet110,
    ResNet152,
    WRN28x10,
    ResNet101Cifar,
    DenseNet201Cifar,
    ResNet101,
    DenseNet201,
    VGG16,
    VGG16Cifar,
    AlexNet,
    AlexNetCifar,
    Pyramid8,
)

__all__ = [
    "BACKBONES",
    "VGG16",
    "AlexNet",
    "AlexNetCifar",
    "Backbone",
    "CifarResNet",
    "DenseNet201",
    "DenseNet201Cifar",
    "NiN",
    "Plain",
    "Pyramid8",
    "ResNet38",
    "ResNet74",
    "ResNet101",
    "ResNet101Cifar",
    "ResNet110",
    "ResNet152",
    "VGG16Cifar",
    "WRN28x10",
    "WideResNet",
]
