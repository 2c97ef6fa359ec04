"""Plugins that are plain files: each a module of its own, with the files beside it that it imports.

A neighbour is imported under a name of its own too, so that two studies may both have a ``blocks.py``: only
the plugin sees it, and there it comes before an installed package of its name. Names of the standard library,
and of the packages that plugins are written with, are never a neighbour's.
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
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from routesearch.utils.files import file_digest


def load_file(path: Path, loaded: dict[Path, ModuleType] | None = None) -> ModuleType:
    """Import one file as a module, under a name that no installed module has.

    Args:
        loaded: modules by file, of plugins that are loaded together: a neighbour of two is one module. By
            default neighbours are read afresh.

    Raises:
        ImportError: it is no Python file.
        Exception: whatever the module raises.
    """
    return _load(path.resolve(), {} if loaded is None else loaded)


class _Loader(SourceFileLoader):
    """Runs a module whose ``import`` looks beside the plugin first."""

    def __init__(self, name: str, path: str, folder: Path, loaded: dict[Path, ModuleType]) -> None:
        super().__init__(name, path)
        self.folder, self.loaded = folder, loaded

    def exec_module(self, module: ModuleType) -> None:
        look = partial(_import, self.folder, self.loaded)
        module.__dict__["__builtins__"] = {**vars(builtins), "__import__": look}
        super().exec_module(module)


class _Submodules:
    """Finds the submodules of neighbours that are packages, by the packages' own loaders."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        package = sys.modules.get(name.partition(".")[0])
        loader = getattr(package, "__loader__", None)
        if path is None or not isinstance(loader, _Loader):
            return None
        spec = PathFinder.find_spec(name, path)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path, loader.folder, loader.loaded)
        return spec


sys.meta_path.insert(0, _Submodules)


def _load(path: Path, loaded: dict[Path, ModuleType]) -> ModuleType:
    """A plugin's file or a neighbour, as a module.

    Args:
        loaded: modules so far, by file.
    """
    if path in loaded:
        return loaded[path]
    # The same in every process: classes travel by their module's name.
    whole = path.name == "__init__.py"
    stem = path.parent.name if whole else path.stem
    name = f"routesearch_file_{stem}_{sha256(bytes(path)).hexdigest()[:16]}"
    folder = path.parent.parent if whole else path.parent
    loader = _Loader(name, str(path), folder, loaded)
    inside = [str(path.parent)] if whole else None
    spec = importlib.util.spec_from_file_location(
        name, path, loader=loader, submodule_search_locations=inside
    )
    if spec is None or path.suffix != ".py":
        raise ImportError(f"not a Python file: {path}")
    for old in [each for each in sys.modules if each == name or each.startswith(f"{name}.")]:
        del sys.modules[old]
    module = importlib.util.module_from_spec(spec)
    loaded[path] = sys.modules[name] = module  # dataclasses and pydantic look their module up
    try:
        loader.exec_module(module)
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
    """``__import__`` for a module of a plugin in ``folder``: neighbours first, then what is installed."""
    top, _, rest = name.partition(".")
    path = None if level else _neighbour(folder, top)
    if path is None:
        return builtins.__import__(name, variables, local, wanted or (), level)
    module = _load(path, loaded)
    inner = importlib.import_module(f"{module.__name__}.{rest}") if rest else module
    if not wanted:
        return module
    for part in wanted:  # from package import submodule
        if hasattr(inner, "__path__") and part != "*" and not hasattr(inner, part):
            importlib.import_module(f"{inner.__name__}.{part}")
    return inner


_NEVER = sys.stdlib_module_names | {"routesearch", "torch", "torchvision", "numpy", "optuna", "pydantic"}


def _neighbour(folder: Path, name: str) -> Path | None:
    """The file that a name stands for in a folder; None where it stands for none."""
    if name in _NEVER:
        return None
    files = (folder / f"{name}.py", folder / name / "__init__.py")
    return next((file for file in files if file.is_file()), None)


def with_neighbours(path: Path) -> list[Path]:
    """A plugin's file and the files beside it that it imports, and that these import; packages whole."""
    path = path.resolve()  # a link's neighbours are those of what it points at
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
    folder = first.parent
    try:
        digest = file_digest(first)
        if others:
            names = [f"{file.relative_to(folder)} {file_digest(file)}" for file in sorted(others)]
            digest = sha256("\n".join([digest, *names]).encode()).hexdigest()
    except OSError:  # reported when it is loaded
        return f"{path.name} unread"
    return f"{path.name} {digest[:16]}"
