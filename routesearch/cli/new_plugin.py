"""The command that writes a plugin to start from."""

from __future__ import annotations

import builtins
import importlib.util
import keyword
import re
import shlex
import sys
from pathlib import Path
from string import Template
from typing import Annotated

import typer

from routesearch.cli.output import Answer
from routesearch.cli.plugin_template import FILES, METHOD, TEST
from routesearch.errors import Refusal


def new_plugin(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="What studies will call your method, and its module.", show_default=False
        ),
    ],
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder for the plugin: new, or empty.", show_default=False)
    ],
) -> Answer:
    """Write a plugin to start from: a small complete method, its tests, a study to try it, and its packaging.

    The method is an early exit with one searched position; it passes its own tests and can be searched as it
    is. Nothing is overwritten.
    """
    from routesearch import __version__

    _check_name(name)
    _check_folder(folder)
    major, minor = map(int, __version__.split(".")[:2])
    fill = {
        "name": name,
        "kind": _class_of(name),
        "package": f"routesearch-{re.sub('_+', '-', name).lower()}",
        "versions": f">={major}.{minor},<{major}.{minor + 1}",
    }
    texts = {Template(path).substitute(fill): Template(text).substitute(fill) for path, text in FILES.items()}
    try:
        for path, text in texts.items():
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("x", encoding="utf-8") as out:
                out.write(text)
    except OSError as error:
        raise Refusal(f"DIR must be a folder that can be written, got {folder}: {error.strerror}") from error
    study, tests, module = (shlex.quote(str(folder / path)) for path in ("study.yaml", "tests", f"{name}.py"))
    return Answer(
        parts=(
            *(f"Wrote {folder / path}" for path in texts),
            f"Next       pytest {tests}",
            f"           routesearch check {name} --plugin {module}",
            f"           routesearch search {study}",
        )
    )


def _check_name(name: str) -> None:
    """Refuse what cannot be a module, a distribution and the name of a method, or is one already."""
    import yaml

    from routesearch.plugin.loader import load_plugins

    if not re.fullmatch(r"[A-Za-z]([A-Za-z0-9_]{0,48}[A-Za-z0-9])?", name):
        rule = "NAME must be up to 50 letters, digits and underscores, a letter first and no underscore last"
        raise Refusal(f"{rule}, got {name!r}")
    if keyword.iskeyword(name) or yaml.safe_load(name) != name:
        raise Refusal(f"NAME must not be a word of Python's or YAML's own, got {name!r}")
    registry = load_plugins()
    if name in registry.methods.items:
        origin = registry.methods.origin[name]
        raise Refusal(f"NAME must be new, got {name!r}, a method of the installed plugin {origin!r}")
    if name in registry.code:
        raise Refusal(f"NAME must be new, got {name!r}, an installed plugin")
    if _importable(name):
        raise Refusal(f"NAME must be new, got {name!r}, a module that Python already finds")


def _importable(name: str) -> bool:
    """Whether a module of that name would hide the new one, or be hidden by it."""
    if name in sys.stdlib_module_names or name in sys.modules:
        return True
    found = importlib.util.find_spec(name)
    return found is not None and found.origin is not None  # a folder without code is no module


def _check_folder(folder: Path) -> None:
    if folder.is_dir():
        if inside := sorted(path.name for path in folder.iterdir()):
            raise Refusal(f"DIR must be new or empty, got {folder} with {inside[0]} in it")
    elif folder.exists() or folder.is_symlink():
        raise Refusal(f"DIR must be a folder, got {folder}, which is something else")


def _class_of(name: str) -> str:
    """The class: ``one_exit`` becomes ``OneExit``, with another ending where the module has that name."""
    camel = "".join(part[:1].upper() + part[1:] for part in name.split("_"))
    taken = keyword.iskeyword(camel) or hasattr(builtins, camel)
    if taken or re.search(rf"\b{camel}\b", METHOD + TEST):
        return f"{camel}Exit"
    return camel
