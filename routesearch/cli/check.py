"""The command that tries a method against the invariants of the conformance kit."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from routesearch.cli.options import Json, Plugins, parse_settings
from routesearch.cli.output import Answer, log, tell_problems
from routesearch.errors import Refusal, RunFailed

if TYPE_CHECKING:
    from routesearch.backbones.base import Backbone
    from routesearch.methods.base import RoutedNet
    from routesearch.plugin.loader import Registry
    from routesearch.testing import MethodContract, Verdict

SHAPES = ((1, 8, 8), (3, 32, 32), (3, 64, 64))
"""Toy images for a named backbone: the first of these that it and the method take."""

CONFIGS = 3
"""Configs that are tried in depth on a named backbone, which may be slow."""


def check(
    method: Annotated[str, typer.Argument(metavar="METHOD", help="A routing method.", show_default=False)],
    plugins: Plugins = None,
    backbone: Annotated[
        str | None,
        typer.Option(metavar="B", help="NAME or NAME@WIDTH; without it toy backbones that the method takes."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Fix a field of the method, in YAML. Repeatable."),
    ] = None,
    as_json: Json = False,
) -> Answer:
    r"""Try a method on toy images against the invariants of the conformance kit; under a minute.

    Can every config be built, priced and trained; is each image charged for what ran for it and no more;
    does its way depend on itself alone? One line for each invariant. Needs pytest and hypothesis:
    pip install 'routesearch\[test]'.
    """
    try:
        import hypothesis  # noqa: F401
        import pytest  # noqa: F401
    except ImportError as error:
        what = "check needs pytest and hypothesis: pip install 'routesearch[test]'"
        raise Refusal(f"{what} ({error})") from None
    from routesearch.plugin.loader import load_plugins
    from routesearch.testing import examine
    from routesearch.utils.machine import torch_threads

    registry = load_plugins(plugins or ())
    try:
        kind = registry.methods.find(method)
    except Refusal as refusal:
        raise Refusal(f"{refusal}{registry.not_loaded()}") from None
    tell_problems(registry.problems)
    fields = parse_settings(settings)
    contract = _contract(
        kind, None if backbone is None else _backbone(kind, backbone, fields, registry), fields
    )
    started = time.monotonic()
    with torch_threads(1):  # the networks are tiny: threads would wait for each other
        targets = [target.name for target, _ in contract.suitable()]
        log.info("%s: %d configs on %s", method, len(contract.cases()), ", ".join(targets))
        verdicts = list(examine(contract))
    failed = [verdict for verdict in verdicts if verdict.state == "failed"]
    document = {
        "method": method,
        "plugin": registry.methods.origin[method],
        "backbones": targets,
        "passed": not failed,
        "laws": [vars(verdict) for verdict in verdicts],
    }
    parts = _lines(verdicts)
    kept = len([v for v in verdicts if v.state == "ok"])
    parts.append(f"{kept} of {len(verdicts)} invariants hold ({time.monotonic() - started:.0f} s)")
    broken = RunFailed(f"{method} breaks {len(failed)} of {len(verdicts)} invariants") if failed else None
    return Answer(document, parts, broken)


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
