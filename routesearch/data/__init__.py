"""Images in memory, three splits of them, and the data sets that come with the package."""

from __future__ import annotations

from routesearch.data.arrays import Arrays, as_pixels
from routesearch.data.augment import Augment
from routesearch.data.base import SPLITS, Data, Dataset, Images, Shape, Source
from routesearch.data.digits import Digits
from routesearch.data.fashion_mnist import FashionMNIST
from routesearch.data.image_folder import ImageFolder, read_image

DATASETS: tuple[type[Dataset], ...] = (Digits, FashionMNIST, ImageFolder, Arrays)
"""What the package itself offers through the hook ``routesearch_datasets``."""

__all__ = [
    "DATASETS",
    "SPLITS",
    "Arrays",
    "Augment",
    "Data",
    "Dataset",
    "Digits",
    "FashionMNIST",
    "ImageFolder",
    "Images",
    "Shape",
    "Source",
    "as_pixels",
    "read_image",
]
