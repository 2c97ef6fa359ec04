"""Labelled images, three splits of them, and the data sets that come with the package."""

from __future__ import annotations

from routesearch.data.arrays import Arrays
from routesearch.data.augment import Augment
from routesearch.data.base import SPLITS, Data, Dataset, Images, Shape, Source
from routesearch.data.cifar import Cifar10, Cifar100
from routesearch.data.decode import read_image
from routesearch.data.digits import Digits
from routesearch.data.fashion_mnist import FashionMNIST
from routesearch.data.hybrid import Hybrid
from routesearch.data.image_folder import ImageFolder
from routesearch.data.pixels import as_pixels
from routesearch.data.streamed import StreamedImages
from routesearch.data.survey import Survey
from routesearch.data.svhn import SVHN

DATASETS: tuple[type[Dataset], ...] = (
    Digits,
    FashionMNIST,
    Cifar10,
    Cifar100,
    SVHN,
    Hybrid,
    ImageFolder,
    Arrays,
)
"""What the package itself offers through the hook ``routesearch_datasets``."""

__all__ = [
    "DATASETS",
    "SPLITS",
    "SVHN",
    "Arrays",
    "Augment",
    "Cifar10",
    "Cifar100",
    "Data",
    "Dataset",
    "Digits",
    "FashionMNIST",
    "Hybrid",
    "ImageFolder",
    "Images",
    "Shape",
    "Source",
    "StreamedImages",
    "Survey",
    "as_pixels",
    "read_image",
]
