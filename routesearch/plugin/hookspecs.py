"""The whole plugin system: three hooks, each asking who offers what."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from routesearch.backbones.base import Backbone
    from routesearch.data.base import Dataset
    from routesearch.methods.base import RoutedNet

GROUP = "routesearch"
"""The entry-point group, and the prefix of every hook."""

hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


@hookspec
def routesearch_methods() -> Iterable[type[RoutedNet]]:
    """Return the routing methods that this plugin offers."""
    raise TypeError("a hook specification is never called")


@hookspec
def routesearch_backbones() -> Iterable[type[Backbone]]:
    """Return the backbones that this plugin offers."""
    raise TypeError("a hook specification is never called")


@hookspec
def routesearch_datasets() -> Iterable[type[Dataset]]:
    """Return the data sets that this plugin offers."""
    raise TypeError("a hook specification is never called")
