"""Commands that say what is installed, and what a network would cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from routesearch.cli.fields import default_of, first_line, range_of, size_text
from routesearch.cli.options import Json, Plugins, parse_settings
from routesearch.cli.output import Answer, log, tell_problems
from routesearch.errors import Refusal

if TYPE_CHECKING:
    from routesearch.backbones.base import Backbone
    from routesearch.data.base import Shape
    from routesearch.plugin.loader import PluginTable, Registry

SHAPES = ((3, 32, 32), (3, 224, 224))
"""Images that backbones are described on: the first of these that one takes, with ten classes."""

CLASSES = 10


def methods(plugins: Plugins = None, as_json: Json = False) -> Answer:
    """List the routing methods with the fields that a study can fix or search.

    Ranges that depend on the backbone are shown as far as they are known without one.
    """
    from routesearch.space.space import SearchSpace

    registry = _registry(plugins)
    schemas = {name: SearchSpace(kind.Config).schema() for name, kind in registry.methods.items.items()}
    parts: list[Any] = []
    for name, schema in schemas.items():
        about = first_line(registry.methods.items[name].__doc__)
        rows = [
            (field, default_of(facts), range_of(facts), str(facts.get("description", "")))
            for field, facts in schema.get("properties", {}).items()
        ]
        parts += _entry(name, registry.methods, about, ("field", "default", "searched", "meaning"), rows)
    return Answer(_document(registry.methods, schemas), parts)


def backbones(plugins: Plugins = None, as_json: Json = False) -> Answer:
    """List the backbones, each usable at any width: NAME@0.25 has a quarter of the channels."""
    from routesearch.report import Table
    from routesearch.report.table import mega

    registry = _registry(plugins)
    schemas = {name: _facts(kind) for name, kind in registry.backbones.items.items()}
    rows = []
    for name, facts in schemas.items():
        figures = ("", "", "", "")
        if "macs" in facts:
            params, size = f"{facts['params'] / 1e6:.3g}", size_text(facts["image_shape"])
            figures = (str(facts["units"]), params, mega(facts["macs"]), size)
        rows.append((name, registry.backbones.origin[name], *figures, str(facts["description"])))
    columns = ("backbone", "plugin", "units", "M params", "M MACs", "on images", "what it is")
    return Answer(
        _document(registry.backbones, schemas),
        (Table(columns, tuple(rows), texts=("what it is",), spare=("plugin", "on images")),),
    )


def datasets(plugins: Plugins = None, as_json: Json = False) -> Answer:
    """List the data sets with their settings."""
    registry = _registry(plugins)
    schemas: dict[str, dict[str, Any]] = {}
    parts: list[Any] = []
    for name, kind in registry.datasets.items.items():
        shape, classes = kind.shape, kind.class_names
        schemas[name] = kind.model_json_schema() | {
            "image_shape": None if shape is None else list(shape),
            "classes": None if classes is None else list(classes),
        }
        known = "" if shape is None or classes is None else f" {size_text(shape)}, {len(classes)} classes."
        rows = [
            (field, default_of(facts), str(facts.get("description", "")))
            for field, facts in schemas[name]["properties"].items()
        ]
        about = f"{first_line(kind.__doc__)}{known}"
        parts += _entry(name, registry.datasets, about, ("setting", "default", "meaning"), rows)
    return Answer(_document(registry.datasets, schemas), parts)


def cost(
    method: Annotated[str, typer.Argument(metavar="METHOD", help="A routing method.", show_default=False)],
    backbone: Annotated[str, typer.Option(metavar="B", help="NAME or NAME@WIDTH.", show_default=False)],
    dataset: Annotated[
        str | None, typer.Option(metavar="D", help="Whose images and classes.", show_default=False)
    ] = None,
    shape: Annotated[
        str | None,
        typer.Option(metavar="C,H,W", help="Image shape, if no data set says it.", show_default=False),
    ] = None,
    classes: Annotated[
        int | None, typer.Option(metavar="N", help="Classes, if no data set says it.", show_default=False)
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="A field of the method, in YAML. Repeatable."),
    ] = None,
    plugins: Plugins = None,
    as_json: Json = False,
) -> Answer:
    """Price a network before any training: parameters, and MACs of its cheapest and most expensive route.

    Needs no data, no trunk and no weights.
    """
    from routesearch.plugin.loader import load_plugins
    from routesearch.report import Table
    from routesearch.report.table import mega
    from routesearch.task.blueprint import Blueprint

    size = None if shape is None else _parse_shape(shape)
    if classes is not None and classes < 2:
        raise Refusal(f"--classes must be 2 or more, got {classes}")
    fields, registry = parse_settings(settings), load_plugins(plugins or ())
    found = Blueprint.of(method, backbone, dataset, size, classes, fields, registry).cost()
    tell_problems(registry.problems)  # a missing name blames them itself
    whole = found["backbone_macs"]
    rows = (
        ("cheapest route", f"{mega(found['macs']['min'])} M MACs", f"{found['macs']['min'] / whole:.3f}x"),
        (
            "most expensive route",
            f"{mega(found['macs']['max'])} M MACs",
            f"{found['macs']['max'] / whole:.3f}x",
        ),
        ("parameters", f"{found['params']:,}", f"{found['params'] / found['backbone_params']:.3f}x"),
        (f"{backbone} alone", f"{mega(whole)} M MACs", "1x"),
        ("its parameters", f"{found['backbone_params']:,}", "1x"),
    )
    notes = (
        []
        if found["labels"] == "known"
        else ["The structure depends on which classes are confused; all cases are covered."]
    )
    document = {"method": method, "backbone": backbone, "dataset": dataset, **found}
    return Answer(document, (Table((method, "", "of the backbone"), rows, texts=(method,)), *notes))


def _registry(plugins: Sequence[Path] | None) -> Registry:
    from routesearch.plugin.loader import load_plugins

    registry = load_plugins(plugins or ())
    tell_problems(registry.problems)
    return registry


def _document(shelf: PluginTable[Any], schemas: Mapping[str, Any]) -> dict[str, Any]:
    return {name: {"plugin": shelf.origin[name], "schema": schema} for name, schema in schemas.items()}


def _entry(
    name: str, shelf: PluginTable[Any], about: str, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]
) -> list[Any]:
    """A heading, the table of fields, and an empty line."""
    from routesearch.report import Table

    head = f"{name} (plugin {shelf.origin[name]}): {about}"
    return (
        [head, Table(columns, tuple(rows), texts=("default", "searched", "meaning")), ""]
        if rows
        else [head, ""]
    )


def _facts(kind: type[Backbone]) -> dict[str, Any]:
    """A backbone on the first of ``SHAPES`` that it takes; only its description where it takes none."""
    from routesearch.backbones.base import reference_cost

    facts: dict[str, Any] = {"description": first_line(kind.__doc__)}
    reason = ""
    for shape in SHAPES:
        try:
            backbone = kind(shape, CLASSES)
            params, macs = reference_cost(backbone)
            return (
                facts
                | backbone.describe()
                | {
                    "image_shape": list(shape),
                    "classes": CLASSES,
                    "params": params,
                    "macs": macs,
                }
            )
        except Exception as error:  # a plugin's class may raise anything; the others are to be listed
            reason = f"{type(error).__name__}: {error}"
    log.warning("backbone %s cannot be built: %s", kind.name, reason)
    return facts


def _parse_shape(text: str) -> Shape:
    parts = text.replace("x", ",").split(",")
    if len(parts) != 3 or not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise Refusal(f"--shape must be C,H,W such as 3,32,32, got {text!r}")
    channels, height, width = (int(part) for part in parts)
    return channels, height, width
