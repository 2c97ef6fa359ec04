"""The command that tries a method, a backbone or a data set against the invariants of the conformance kit."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from routesearch.cli.options import Json, Plugins, parse_settings
from routesearch.cli.output import Answer, log, tell_problems
from routesearch.errors import Refusal, RunFailed, UnknownName

if TYPE_CHECKING:
    from routesearch.backbones.base import Backbone
    from routesearch.data.base import Dataset
    from routesearch.methods.base import RoutedNet
    from routesearch.plugin.loader import PluginTable, Registry
    from routesearch.testing import BackboneContract, DatasetContract, MethodContract, Verdict
    from routesearch.testing.verdict import Contract

SHAPES = ((1, 8, 8), (3, 32, 32), (3, 64, 64))
"""Toy images for a named backbone: the first of these that it and the method take."""

CONFIGS = 3
"""Configs that are tried in depth on a named backbone, which may be slow."""

METHOD, BACKBONE, DATASET = "method", "backbone", "dataset"


@dataclass(frozen=True)
class Subject:
    """What is checked, and on what.

    Attributes:
        on: a line for the user.
        document: the same as JSON.
    """

    contract: Contract
    on: str
    document: Mapping[str, Any]


def check(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="A routing method, a backbone (NAME or NAME@WIDTH) or a data set.",
            show_default=False,
        ),
    ],
    plugins: Plugins = None,
    kind: Annotated[
        str | None,
        typer.Option(
            metavar="K", help="method, backbone or dataset, where several have the name.", show_default=False
        ),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            metavar="B", help="What to try a method on: NAME or NAME@WIDTH; without it toys that it takes."
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            help="Fix a field of the method or data set, in YAML. Repeatable.",
        ),
    ] = None,
    as_json: Json = False,
) -> Answer:
    r"""Try a method, a backbone or a data set against the invariants of the conformance kit.

    Of a method: can every config be built, priced and trained; is each image charged for what ran for it and
    no more; does its way depend on itself alone? Under a minute, on toy images. Of a backbone: do units fit
    at any width, and cost what is said? Of a data set: is what it declares what it reads, every time the
    same? One line for each invariant. Needs pytest and hypothesis: pip install 'routesearch\[test]'.
    """
    _need_kit()
    from routesearch.plugin.loader import load_plugins
    from routesearch.testing import examine
    from routesearch.utils.machine import torch_threads

    registry = load_plugins(plugins or ())
    kind, plain = _kind(name, kind, registry)
    tell_problems(registry.problems)
    fields = parse_settings(settings)
    started = time.monotonic()
    with torch_threads(1):  # the networks are tiny: threads would wait for each other
        subject = _subject(kind, plain, name, backbone, fields, registry)
        log.info("%s: %s", name, subject.on)
        verdicts = list(examine(subject.contract))
    failed = [verdict for verdict in verdicts if verdict.state == "failed"]
    document = {
        kind: plain,
        "kind": kind,
        "plugin": _tables(registry)[kind].origin[plain],
        **subject.document,
        "passed": not failed,
        "laws": [vars(verdict) for verdict in verdicts],
    }
    parts = _lines(verdicts)
    kept = len([v for v in verdicts if v.state == "ok"])
    parts.append(f"{kept} of {len(verdicts)} invariants hold ({time.monotonic() - started:.0f} s)")
    broken = RunFailed(f"{plain} breaks {len(failed)} of {len(verdicts)} invariants") if failed else None
    return Answer(document, parts, broken)


def _need_kit() -> None:
    """Raise Refusal where what the invariants are written with is not installed."""
    try:
        import hypothesis  # noqa: F401
        import pytest  # noqa: F401
    except ImportError as error:
        what = "check needs pytest and hypothesis: pip install 'routesearch[test]'"
        raise Refusal(f"{what} ({error})") from None


def _tables(registry: Registry) -> dict[str, PluginTable[Any]]:
    return {METHOD: registry.methods, BACKBONE: registry.backbones, DATASET: registry.datasets}


def _kind(name: str, wanted: str | None, registry: Registry) -> tuple[str, str]:
    """The kind of thing that ``name`` names, and the name without a width.

    Raises:
        Refusal: it is of none, or of several and ``wanted`` says of none of these.
    """
    tables = _tables(registry)
    if wanted is not None and wanted not in tables:
        raise Refusal(f"--kind must be one of {', '.join(tables)}, got {wanted!r}")
    plain = {key: name.partition("@")[0] if key == BACKBONE else name for key in tables}
    asked = [key for key in tables if wanted in (None, key)]
    found = [key for key in asked if plain[key] in tables[key].items]
    if not found:
        known = [each for key in asked for each in tables[key].items]
        what = "method, backbone or data set" if wanted is None else tables[wanted].kind
        raise Refusal(f"{UnknownName(what, name, known)}{registry.not_loaded()}")
    if len(found) > 1:
        kinds = " and ".join(
            f"a {tables[key].kind} (of plugin {tables[key].origin[plain[key]]!r})" for key in found
        )
        raise Refusal(f"{name} is {kinds}: say which by --kind {' or --kind '.join(found)}")
    return found[0], plain[found[0]]


def _lines(verdicts: Sequence[Verdict]) -> list[str]:
    """A line for each invariant; a cause that breaks several is told once."""
    told: dict[str, str] = {}
    lines = []
    for verdict in verdicts:
        # An error of the method's own code follows the config that it was met with, which may differ.
        cause = verdict.reason.partition("): ")[2] or verdict.reason
        reason = verdict.reason
        if verdict.state == "failed" and told.setdefault(cause, verdict.title) != verdict.title:
            reason = f"as for {told[cause]!r}"
        lines.append(f"{verdict.state:7}  {verdict.title}{f': {reason}' if reason else ''}")
    return lines


def _subject(
    kind: str, plain: str, name: str, backbone: str | None, fields: Mapping[str, Any], registry: Registry
) -> Subject:
    """What of this kind and name is checked.

    Args:
        plain: the name without a width.

    Raises:
        Refusal: several plugins offer it, or an option is not for its kind.
    """
    table = _tables(registry)[kind]
    found = table.find(plain)
    if kind == METHOD:
        return _method(found, backbone, fields, registry)
    if backbone is not None:
        raise Refusal(f"--backbone is for methods, got {plain}, a {table.kind}")
    if kind == DATASET:
        return _dataset(found, fields)
    if fields:
        raise Refusal(f"--set is for methods and data sets, got {plain}, a backbone: its width is NAME@WIDTH")
    return _whole_backbone(found, name)


# ---- a method ------------------------------------------------------------------------------------------


def _method(
    kind: type[RoutedNet], backbone: str | None, fields: Mapping[str, Any], registry: Registry
) -> Subject:
    """A method on toy backbones, or on the named one."""
    own = None if backbone is None else _backbone(kind, backbone, fields, registry)
    contract = _contract(kind, own, fields)
    targets = [target.name for target, _ in contract.suitable()]
    on = f"{len(contract.cases())} configs on {', '.join(targets)}"
    return Subject(contract, on, {"backbones": targets})


def _contract(
    kind: type[RoutedNet], backbone: Backbone | None, fields: Mapping[str, Any]
) -> type[MethodContract]:
    """The invariants, with what the method declares, the user's fields and the backbone to try."""
    from routesearch.testing import MethodContract

    class Checked(MethodContract):
        method = kind

    Checked.fixed = {**Checked.fixed, **fields}
    if backbone is not None:
        Checked.backbones, Checked.most_configs = [backbone], CONFIGS
    return Checked


def _backbone(kind: type[RoutedNet], text: str, fields: Mapping[str, Any], registry: Registry) -> Backbone:
    """The named backbone on the first of ``SHAPES`` that suits it and the method."""
    from routesearch.study.config import parse_backbone
    from routesearch.testing.toys import CLASSES

    name, width = parse_backbone(text)
    try:
        found = registry.backbones.find(name)
    except Refusal as refusal:
        raise Refusal(f"{refusal}{registry.not_loaded()}") from None
    reasons: list[Refusal] = []
    for shape in SHAPES:
        try:
            backbone = found(shape, CLASSES, width)
            contract = _contract(kind, backbone, fields)
            reason = contract.refusal(contract.default(backbone), backbone)
        except Refusal as refusal:
            reasons.append(refusal)
            continue
        if reason is None:
            return backbone
        reasons.append(reason)
    raise reasons[-1]


# ---- a backbone, a data set ----------------------------------------------------------------------------


def _whole_backbone(kind: type[Backbone], text: str) -> Subject:
    """A backbone on the images that it declares; else on the kit's that it takes, or on one of ``SHAPES``."""
    from routesearch.study.config import parse_backbone
    from routesearch.testing import BackboneContract

    class Checked(BackboneContract):
        backbone = kind

    if "@" in text:
        Checked.width = parse_backbone(text)[1]
    if "shapes" not in kind.contract:
        taken, reason = _taken(Checked, Checked.shapes)
        taken = taken or _taken(Checked, SHAPES)[0][:1]
        if not taken and reason is not None:
            raise reason
        Checked.shapes = taken
    images = ["x".join(map(str, shape)) for shape in Checked.shapes]
    on = f"width {Checked.width:g}, images of {' and '.join(images)}"
    return Subject(Checked, on, {"width": Checked.width, "shapes": [list(shape) for shape in Checked.shapes]})


def _taken(
    contract: type[BackboneContract], shapes: Sequence[tuple[int, int, int]]
) -> tuple[list[tuple[int, int, int]], Refusal | None]:
    """The shapes of images that a backbone takes, and why it does not take another."""
    taken, reason = [], None
    for shape in shapes:
        try:
            contract.make(shape)
            taken.append(shape)
        except Refusal as refusal:
            reason = refusal
    return taken, reason


def _dataset(kind: type[Dataset], fields: Mapping[str, Any]) -> Subject:
    """A data set with the user's settings, whose paths start here; without any, with those that it declares.

    Raises:
        Refusal: its files are not there.
    """
    from routesearch.testing import DatasetContract

    class Checked(DatasetContract):
        dataset = kind

    if fields:
        Checked.settings = [fields]
        Checked.base = Path()
    counts = [_counts(Checked, made) for made in Checked.made()]
    settings = [dict(values) for values in Checked.settings]
    return Subject(Checked, "; ".join(counts), {"settings": settings})


def _counts(contract: type[DatasetContract], made: Dataset) -> str:
    source: Any = contract.source(made)  # a plugin's code may give anything
    try:
        parts = [f"{len(images)} {name} images" for name, images in source.splits().items()]
        return f"{len(source.classes)} classes, {', '.join(parts)}"
    except Exception:  # the invariants say what is wrong
        return f"got {type(source).__name__}"
