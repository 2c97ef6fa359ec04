"""Find the best routing of images through a network under a compute budget.

Importing this package is light: each public name is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

__version__ = version("routesearch")

if TYPE_CHECKING:
    from routesearch.api import Study, build
    from routesearch.backbones.base import Backbone, Plain, kaiming
    from routesearch.data.base import Data, Dataset, Images, Source
    from routesearch.domains import Choices, Cuts
    from routesearch.errors import Refusal, RouteSearchError, RunFailed
    from routesearch.export import export_model
    from routesearch.hookspecs import hookimpl
    from routesearch.method import Batch, Knob, RoutedNet, Scores, Stage, Trunk, balanced, cosine, run
    from routesearch.points import OperatingPoint, Point
    from routesearch.pricing import Interval, mult_adds
    from routesearch.routing import Meter, Routed
    from routesearch.saved import Prediction, SavedModel, load
    from routesearch.space import SearchSpace, Space, When
    from routesearch.sweeps import exit_thresholds, first_exit, sequential_thresholds, spread_thresholds

_HOME = {
    "routesearch.api": ("Study", "build"),
    "routesearch.backbones.base": ("Backbone", "Plain", "kaiming"),
    "routesearch.data.base": ("Data", "Dataset", "Images", "Source"),
    "routesearch.domains": ("Choices", "Cuts"),
    "routesearch.errors": ("Refusal", "RouteSearchError", "RunFailed"),
    "routesearch.export": ("export_model",),
    "routesearch.hookspecs": ("hookimpl",),
    "routesearch.method": (
        "Batch",
        "Knob",
        "RoutedNet",
        "Scores",
        "Stage",
        "Trunk",
        "balanced",
        "cosine",
        "run",
    ),
    "routesearch.points": ("OperatingPoint", "Point"),
    "routesearch.pricing": ("Interval", "mult_adds"),
    "routesearch.routing": ("Meter", "Routed"),
    "routesearch.saved": ("Prediction", "SavedModel", "load"),
    "routesearch.space": ("SearchSpace", "Space", "When"),
    "routesearch.sweeps": ("exit_thresholds", "first_exit", "sequential_thresholds", "spread_thresholds"),
}
_WHERE = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "Backbone",
    "Batch",
    "Choices",
    "Cuts",
    "Data",
    "Dataset",
    "Images",
    "Interval",
    "Knob",
    "Meter",
    "OperatingPoint",
    "Plain",
    "Point",
    "Prediction",
    "Refusal",
    "RouteSearchError",
    "Routed",
    "RoutedNet",
    "RunFailed",
    "SavedModel",
    "Scores",
    "SearchSpace",
    "Source",
    "Space",
    "Stage",
    "Study",
    "Trunk",
    "When",
    "balanced",
    "build",
    "cosine",
    "exit_thresholds",
    "export_model",
    "first_exit",
    "hookimpl",
    "kaiming",
    "load",
    "mult_adds",
    "run",
    "sequential_thresholds",
    "spread_thresholds",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'routesearch' has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)
