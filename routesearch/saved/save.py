"""The saving of a study's operating point as a model."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from routesearch.data.source import UNIT
from routesearch.errors import Refusal
from routesearch.plugin.files import with_neighbours
from routesearch.plugin.loader import PluginTable
from routesearch.results.confirmed import ConfirmedPoint
from routesearch.results.intervals import Confirmation
from routesearch.results.points import OperatingPoint, Point
from routesearch.results.reader import StudyResults
from routesearch.saved.card import (
    MODES,
    PLUGINS,
    Card,
    Code,
    Confirmed,
    Files,
    Measured,
    Part,
    Spread,
    TrunkFacts,
)
from routesearch.saved.folder import read, replaceable, write
from routesearch.saved.network import rebuild
from routesearch.search.trial_weights import confirmed_path, weights_path
from routesearch.task.resolve import CONFUSION, Task, resolve
from routesearch.training.confusion import read_confusion
from routesearch.utils.folders import folder_draft
from routesearch.utils.validation import explain

log = logging.getLogger("routesearch")


@contextmanager
def _refusing() -> Iterator[None]:
    """Raises Refusal where a study holds what no card can, such as two classes of one name."""
    try:
        yield
    except ValidationError as error:
        raise Refusal(f"it cannot be a saved model: {explain(error, Card)}") from None


@_refusing()
def save(results: StudyResults, point: Point, folder: Path) -> None:
    """Write a trained network at a knob as a folder; the network is rebuilt once before it takes its name.

    Args:
        results: of the point's study, whose data are not read.
        point: as measured on validation. Of one that was confirmed, the retraining that is the most accurate
            on validation is saved, with its own knob.

    Raises:
        Refusal: the weights are missing or do not fit, or the folder cannot be written.
    """
    config, facts, tested = results.config, results.facts, results.on_test(point)
    weights, confirmed = weights_path(config.dir, point.trial), None
    if point.confirmation is not None:
        chosen = results.confirmed[point.key]
        weights = confirmed_path(config.dir, point.trial, chosen.best)
        confirmed = Confirmed(validation=_spread(chosen.validation), test=_spread(chosen.test))
        point, tested = _retrained(point, chosen, "validation"), _retrained(point, chosen, "test")
    if "inputs" not in facts:
        rule = "the study must know the mean and deviation of its images"
        raise Refusal(f"{config.name}: {rule}: run `routesearch search` on it once more, all trials stay")
    inputs = facts["inputs"]
    shape, classes = tuple(inputs["shape"]), tuple(inputs["classes"])
    task = resolve(config, (shape, classes))
    if not weights.is_file():
        rule = f"the weights of trial {point.trial} must be in {weights}, got no such file"
        raise Refusal(f"{rule}: only trials on the front keep theirs; ask again where a search is running")
    code, copies = _code(task, point.method)
    _warn_of_changes(task, facts.get("code") or {})
    channels, height, width = task.shape
    mode = MODES.get(channels)
    card = Card(
        study=task.config.name,
        trial=point.trial,
        seed=point.seed,
        method=point.method,
        config=dict(point.config),
        knob=dict(point.knob),
        backbone=task.config.backbone.name,
        shape=task.shape,
        classes=task.classes,
        mean=inputs["mean"],
        std=inputs["std"],
        pixel_range=inputs.get("pixel_range", UNIT),
        files=None if mode is None else Files(size=(height, width), mode=mode),
        params=point.params,
        backbone_macs=task.backbone_macs,
        validation=_measured(point),
        test=None if tested is None else _measured(tested),
        confirmed=confirmed,
        trunk=_trunk(task, point.method, facts["fingerprint"]),
        code=code,
        versions={"routesearch": version("routesearch"), "torch": torch.__version__},
    )
    with folder_draft(folder, replaceable, "a model") as draft:
        write(draft, card, weights, copies)
        rebuild(*read(draft), task.registry, weights)


def _retrained(point: Point, chosen: ConfirmedPoint, split: str) -> Point:
    """A confirmed point as the best of its retrainings is."""
    measured: OperatingPoint = getattr(chosen.point, split)
    return replace(
        point,
        seed=chosen.chosen.seed,
        params=chosen.chosen.params,
        knob=measured.knob,
        accuracy=measured.accuracy,
        macs=measured.macs,
        route_share=measured.route_share,
    )


def _spread(confirmation: Confirmation) -> Spread:
    return Spread(**{**confirmation.as_dict(), "interval": confirmation.interval()})


def _measured(point: Point) -> Measured:
    return Measured(accuracy=point.accuracy, macs=point.macs, route_share=point.route_share)


def _trunk(task: Task, method: str, fingerprint: Mapping[str, str]) -> TrunkFacts | None:
    """What the structure depends on; the trunk's weights are among the network's own."""
    if not task.methods[method].needs_confusion:
        return None
    confusion = read_confusion(task.trunk_files(fingerprint)[CONFUSION])
    return TrunkFacts(accuracy=0.0, confusion=tuple(tuple(row) for row in confusion.rows))


def _warn_of_changes(task: Task, trained: Mapping[str, str]) -> None:
    """The model is saved with the code that is there now, which may not be the code it was trained with."""
    for part, now in task.code().items():
        if trained.get(part, now) != now:
            log.warning("the %s was trained with %s, the model is saved with %s", part, trained[part], now)


def _code(task: Task, method: str) -> tuple[dict[Part, Code], dict[str, Path]]:
    """Whose code the network needs, and what plain files of it are copied: name in the folder -> file."""
    registry = task.registry
    code: dict[Part, Code] = {}
    copies: dict[str, Path] = {}
    parts: dict[Part, tuple[PluginTable[Any], str]] = {
        "method": (registry.methods, method),
        "backbone": (registry.backbones, task.backbone.name),
    }
    for part, (shelf, name) in parts.items():
        plugin = shelf.origin[name]
        file = next((f for f in task.config.plugin_files if str(f) == plugin), None)
        copy = None
        if file is not None:
            sources = with_neighbours(file)
            places = [f"{PLUGINS}/{source.relative_to(sources[0].parent)}" for source in sources]
            if any(
                copies.get(place, source) != source for place, source in zip(places, sources, strict=True)
            ):
                own = f"{PLUGINS}/{part}_" if len(sources) == 1 else f"{PLUGINS}/{part}/"
                places = [own + place.removeprefix(f"{PLUGINS}/") for place in places]
            copies.update(zip(places, sources, strict=True))
            copy = places[0]
        code[part] = Code(
            plugin=plugin if file is None else file.name, version=registry.code[plugin], file=copy
        )
    return code, copies
