"""Options that several commands share, and the turning of their text into values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from routesearch.errors import Refusal

if TYPE_CHECKING:
    from routesearch.api import Study

StudyFile = Annotated[Path, typer.Argument(metavar="STUDY", help="The study file.", show_default=False)]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a key of the study file, such as search.trials=10; the value is YAML. Repeatable.",
        show_default=False,
    ),
]
Plugins = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin",
        metavar="FILE",
        help="A plain Python file with hooks in it. Repeatable.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]


def parse_settings(settings: Sequence[str] | None) -> dict[str, Any]:
    """``KEY=VALUE`` texts as key -> YAML value; of a key that is given twice the last counts.

    Raises:
        Refusal: for a text without ``=`` or a value that is not YAML.
    """
    from routesearch.utils.validation import parse_yaml

    values: dict[str, Any] = {}
    for text in settings or ():
        key, equals, value = text.partition("=")
        if not (equals and key.strip()):
            raise Refusal(f"--set must be KEY=VALUE such as search.trials=10, got {text!r}")
        values[key.strip()] = parse_yaml(value, f"--set {key.strip()}")
    return values


def open_study(path: Path, settings: Sequence[str] | None = None, **sugar: Any) -> Study:
    """The study, changed by ``--set`` and then by the command's other options.

    Args:
        sugar: dotted key with ``__`` for the dot -> value; None where the option was not given.
    """
    from routesearch.api import Study

    given = {key.replace("__", "."): value for key, value in sugar.items() if value is not None}
    return Study.load(path, parse_settings(settings) | given)
