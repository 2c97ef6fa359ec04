"""Find the best routing of images through a network under a compute budget.

Importing this package is light: each public name is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str
    from routesearch.api import Study, build
    from routesearch.backbones.base import Backbone, Plain, kaiming
    from routesearch.data.base import Data, Dataset, Images, Source
    from routesearch.errors import Refusal, RouteSearchError, RunFailed
    from routesearch.export import export_model
    from routesearch.methods.base import Batch, Knob, RoutedNet, Scores, Stage, Start, Targets, Trunk
    from routesearch.methods.inherit import inherit
    from routesearch.methods.linear_exit import Features, LinearExit, place_exits
    from routesearch.methods.losses import classification_loss
    from routesearch.methods.residual import Residual, shortcut_of
    from routesearch.methods.running import run
    from routesearch.methods.schedules import balanced, cosine
    from routesearch.methods.standin import StandIn
    from routesearch.methods.thresholds import (
        exit_thresholds,
        first_exit,
        sequential_thresholds,
        spread_thresholds,
    )
    from routesearch.plugin.hookspecs import hookimpl
    from routesearch.results.points import Interval, OperatingPoint, Point
    from routesearch.routing.billing import BatchMeter, Routed
    from routesearch.routing.cost import mult_adds
    from routesearch.routing.meter import Meter
    from routesearch.saved import Prediction, SavedModel, load
    from routesearch.space.domains import Choices, Cuts
    from routesearch.space.space import SearchSpace, Space, When

_HOME = {
    "routesearch.api": ("Study", "build"),
    "routesearch.backbones.base": ("Backbone", "Plain", "kaiming"),
    "routesearch.data.base": ("Data", "Dataset", "Images", "Source"),
    "routesearch.errors": ("Refusal", "RouteSearchError", "RunFailed"),
    "routesearch.export": ("export_model",),
    "routesearch.methods.base": (
        "Batch",
        "Knob",
        "RoutedNet",
        "Scores",
        "Stage",
        "Start",
        "Targets",
        "Trunk",
    ),
    "routesearch.methods.inherit": ("inherit",),
    "routesearch.methods.linear_exit": ("Features", "LinearExit", "place_exits"),
    "routesearch.methods.losses": ("classification_loss",),
    "routesearch.methods.residual": ("Residual", "shortcut_of"),
    "routesearch.methods.running": ("run",),
    "routesearch.methods.schedules": ("balanced", "cosine"),
    "routesearch.methods.standin": ("StandIn",),
    "routesearch.methods.thresholds": (
        "exit_thresholds",
        "first_exit",
        "sequential_thresholds",
        "spread_thresholds",
    ),
    "routesearch.plugin.hookspecs": ("hookimpl",),
    "routesearch.results.points": ("Interval", "OperatingPoint", "Point"),
    "routesearch.routing.cost": ("mult_adds",),
    "routesearch.routing.billing": ("BatchMeter", "Routed"),
    "routesearch.routing.meter": ("Meter",),
    "routesearch.saved": ("Prediction", "SavedModel", "load"),
    "routesearch.space.domains": ("Choices", "Cuts"),
    "routesearch.space.space": ("SearchSpace", "Space", "When"),
}
_WHERE = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "Backbone",
    "Batch",
    "BatchMeter",
    "Choices",
    "Cuts",
    "Data",
    "Dataset",
    "Features",
    "Images",
    "Interval",
    "Knob",
    "LinearExit",
    "Meter",
    "OperatingPoint",
    "Plain",
    "Point",
    "Prediction",
    "Refusal",
    "Residual",
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
    "StandIn",
    "Start",
    "Study",
    "Targets",
    "Trunk",
    "When",
    "balanced",
    "build",
    "classification_loss",
    "cosine",
    "exit_thresholds",
    "export_model",
    "first_exit",
    "hookimpl",
    "inherit",
    "kaiming",
    "load",
    "mult_adds",
    "place_exits",
    "run",
    "sequential_thresholds",
    "shortcut_of",
    "spread_thresholds",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("routesearch")
    if name not in _WHERE:
        raise AttributeError(f"module 'routesearch' has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)
