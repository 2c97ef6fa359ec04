"""Plugins that are plain files: each a module of its own, with the files beside it that it imports.

A neighbour is imported under a name of its own too, so that two studies may both have a ``blocks.py``, and
no installed package is hidden by one. Names of the standard library are never a neighbour's.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

from routesearch.utils.files import file_digest


def load_file(path: Path) -> ModuleType:
    """Import one file as a module, under a name that no installed module has; its neighbours afresh.

    Raises:
        ImportError: it is no Python file.
        Exception: whatever the module raises.
    """
    return _load(path.resolve(), {})


def _load(path: Path, loaded: dict[Path, ModuleType]) -> ModuleType:
    """A plugin's file or a neighbour, as a module.

    Args:
        loaded: modules of this plugin so far, by file.
    """
    if path in loaded:
        return loaded[path]
    # The same in every process: classes travel by their module's name.
    stem = path.parent.name if path.name == "__init__.py" else path.stem
    name = f"routesearch_file_{stem}_{sha256(bytes(path)).hexdigest()[:16]}"
    whole = [str(path.parent)] if path.name == "__init__.py" else None
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=whole)
    if spec is None or spec.loader is None:
        raise ImportError(f"not a Python file: {path}")
    module = importlib.util.module_from_spec(spec)
    module.__dict__["__builtins__"] = {
        **vars(builtins),
        "__import__": partial(_import, path.parent if whole is None else path.parent.parent, loaded),
    }
    loaded[path] = sys.modules[name] = module  # dataclasses and pydantic look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del loaded[path], sys.modules[name]
        raise
    return module


def _import(
    folder: Path,
    loaded: dict[Path, ModuleType],
    name: str,
    variables: Mapping[str, Any] | None = None,
    local: Mapping[str, Any] | None = None,
    wanted: Sequence[str] | None = (),
    level: int = 0,
) -> Any:
    """``__import__`` for a module in ``folder``: neighbours first, then what is installed."""
    top, _, rest = name.partition(".")
    path = None if level else _neighbour(folder, top)
    if path is None:
        return builtins.__import__(name, variables, local, wanted or (), level)
    module = _load(path, loaded)
    inner = importlib.import_module(f"{module.__name__}.{rest}") if rest else module
    if not wanted:
        return module
    for part in wanted:  # from package import submodule
        if path.name == "__init__.py" and not hasattr(inner, part) and part != "*":
            importlib.import_module(f"{inner.__name__}.{part}")
    return inner


def _neighbour(folder: Path, name: str) -> Path | None:
    """The file that a name stands for in a folder; None where it stands for none."""
    if name in sys.stdlib_module_names or name == "routesearch":
        return None
    files = (folder / f"{name}.py", folder / name / "__init__.py")
    return next((file for file in files if file.is_file()), None)


def with_neighbours(path: Path) -> list[Path]:
    """A plugin's file and the files beside it that it imports, and that these import; packages whole."""
    folder, found, todo = path.parent, [path], [path]
    while todo:
        for name in _imports(todo.pop()):
            first = _neighbour(folder, name)
            if first is None or first in found:
                continue
            files = sorted(first.parent.rglob("*.py")) if first.name == "__init__.py" else [first]
            found += files
            todo += files
    return found


def _imports(path: Path) -> Iterator[str]:
    """Top-level names that a file imports, anywhere in it; none of a file that cannot be read."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):  # reported when it is loaded
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.module.partition(".")[0]


def code_digest(path: Path) -> str:
    """What a plugin's code is known by: its name, and a digest of it and its neighbours."""
    first, *others = with_neighbours(path)
    try:
        digest = file_digest(first)
        if others:
            names = [f"{file.relative_to(path.parent)} {file_digest(file)}" for file in sorted(others)]
            digest = sha256("\n".join([digest, *names]).encode()).hexdigest()
    except OSError:  # reported when it is loaded
        return f"{path.name} unread"
    return f"{path.name} {digest[:16]}"
