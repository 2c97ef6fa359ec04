"""The package's own plugin: its methods, backbones and data sets enter by an entry point, as any plugin's."""

from __future__ import annotations

from collections.abc import Sequence

from routesearch.backbones import BACKBONES
from routesearch.backbones.base import Backbone
from routesearch.data import DATASETS
from routesearch.data.base import Dataset
from routesearch.methods.base import RoutedNet
from routesearch.methods.static import Static
from routesearch.plugin.hookspecs import hookimpl


@hookimpl
def routesearch_methods() -> Sequence[type[RoutedNet]]:
    return [Static]


@hookimpl
def routesearch_backbones() -> Sequence[type[Backbone]]:
    return BACKBONES


@hookimpl
def routesearch_datasets() -> Sequence[type[Dataset]]:
    return DATASETS
