"""Finding plugins: installed ones by entry point, a study's own by file; a broken one stops no other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

import pluggy

from routesearch.backbones.base import Backbone
from routesearch.data.base import Dataset
from routesearch.errors import Refusal, UnknownName, shortened
from routesearch.errors.texts import MAX_REASON, MAX_SAID, one_line, shown
from routesearch.methods.base import RoutedNet
from routesearch.plugin import hookspecs
from routesearch.plugin.files import code_digest, load_file
from routesearch.plugin.hookspecs import GROUP
from routesearch.space.space import SearchSpace, Space
from routesearch.utils.names import FIELD_RULE, NAME_RULE, is_field, is_name

T = TypeVar("T")


@dataclass
class PluginTable(Generic[T]):
    """What plugins offer of one kind, by name.

    Attributes:
        origin: name -> the plugin that offers it, the first of several.
        others: name -> further plugins that offer it: it cannot be told whose is meant.
    """

    kind: str
    items: dict[str, type[T]] = field(default_factory=dict)
    origin: dict[str, str] = field(default_factory=dict)
    others: dict[str, list[str]] = field(default_factory=dict)

    def find(self, name: str) -> type[T]:
        """What has this name.

        Raises:
            Refusal: nothing has, or several plugins offer it.
        """
        if name not in self.items:
            raise UnknownName(self.kind, name, self.items)
        if name in self.others:
            offers = " and ".join(repr(plugin) for plugin in (self.origin[name], *self.others[name]))
            rule = f"{self.kind} {name!r} must be offered by one plugin"
            raise Refusal(f"{rule}, got {offers}: rename one of them")
        return self.items[name]


@dataclass
class Registry:
    """Everything that the loaded plugins offer.

    Attributes:
        problems: one line for each plugin, or part of one, that could not be used.
        code: plugin -> what its code is known by: a package's name and version, a file's name and digest.
    """

    methods: PluginTable[RoutedNet] = field(default_factory=lambda: PluginTable("method"))
    backbones: PluginTable[Backbone] = field(default_factory=lambda: PluginTable("backbone"))
    datasets: PluginTable[Dataset] = field(default_factory=lambda: PluginTable("data set"))
    problems: list[str] = field(default_factory=list)
    code: dict[str, str] = field(default_factory=dict)

    def not_loaded(self) -> str:
        """The problems in brackets, to end a refusal of a missing name; empty without any."""
        return f" (not loaded: {'; '.join(self.problems)})" if self.problems else ""


def load_plugins(files: Sequence[Path] = ()) -> Registry:
    """Load the installed plugins and then ``files``, each a plain Python module with hooks in it.

    Raises:
        Refusal: when one of ``files`` does not exist.
    """
    registry = Registry()
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    for point in sorted(entry_points(group=GROUP), key=lambda p: (p.name != "core", p.name)):
        registry.code[point.name] = _version(point)
        _register(manager, registry, point.name, point.load)
    loaded: dict[Path, ModuleType] = {}
    for file in files:
        if not file.is_file():
            raise Refusal(f"plugins: a plugin must be a Python file, got {file}, which does not exist")
        registry.code[str(file)] = code_digest(file)
        _register(manager, registry, str(file), partial(load_file, file, loaded))
    return registry


def _version(point: EntryPoint) -> str:
    package = getattr(point, "dist", None)
    return f"{point.name} of no known version" if package is None else f"{package.name} {package.version}"


def _register(
    manager: pluggy.PluginManager, registry: Registry, name: str, load: Callable[[], object]
) -> None:
    def problem(text: str) -> None:
        registry.problems.append(one_line(f"plugin {shown(name, MAX_SAID)}: {text}", MAX_REASON))

    try:
        plugin = load()
        manager.register(plugin, name)
    except (Exception, SystemExit) as error:  # a plugin's module may raise anything at import
        problem(f"cannot be loaded: {shortened(error, MAX_SAID)}")
        return
    known = {n for n in vars(hookspecs) if n.startswith(f"{GROUP}_")}
    callers = manager.get_hookcallers(plugin) or []
    if not callers:
        problem(f"no hook in it; a function marked @hookimpl must be named one of {', '.join(sorted(known))}")
    for caller in callers:
        if caller.name not in known:
            problem(f"unknown hook {caller.name!r}; hooks: {', '.join(sorted(known))}")
            continue
        shelf, base = _place(registry, caller.name)
        for implementation in caller.get_hookimpls():
            if implementation.plugin is plugin:
                _collect(shelf, base, name, implementation.function, problem)


def _place(registry: Registry, hook: str) -> tuple[PluginTable[Any], type]:
    places: Mapping[str, tuple[PluginTable[Any], type]] = {
        "routesearch_methods": (registry.methods, RoutedNet),
        "routesearch_backbones": (registry.backbones, Backbone),
        "routesearch_datasets": (registry.datasets, Dataset),
    }
    return places[hook]


def _collect(
    shelf: PluginTable[Any],
    base: type,
    plugin: str,
    offer: Callable[[], Any],
    problem: Callable[[str], None],
) -> None:
    try:
        offered = list(offer())
    except Exception as error:  # whatever a plugin's hook raises must not stop the others
        problem(f"its hook failed: {shortened(error, MAX_SAID)}")
        return
    for item in offered:
        name = getattr(item, "name", None)
        if not (isinstance(item, type) and issubclass(item, base) and isinstance(name, str)):
            problem(f"a {shelf.kind} must be a subclass of {base.__name__} with a name, got {shown(item)}")
        elif not is_name(name):
            problem(f"the name of a {shelf.kind} must be {NAME_RULE}, got {shown(name)}")
        elif unfinished := sorted(getattr(item, "__abstractmethods__", ())):
            problem(f"{shelf.kind} {name!r} must define {', '.join(unfinished)}")
        elif flaw := _flaw(item):
            problem(f"{shelf.kind} {name!r}: {flaw}")
        elif name in shelf.items:
            shelf.others.setdefault(name, []).append(plugin)
            problem(f"{shelf.kind} {name!r} is already offered by plugin {shelf.origin[name]!r}")
        else:
            shelf.items[name] = item
            shelf.origin[name] = plugin


def _flaw(item: type) -> str | None:
    """What is wrong with a method's fields, whatever the backbone; None for a sound one."""
    if not issubclass(item, RoutedNet):
        return None
    if not (isinstance(item.Config, type) and issubclass(item.Config, Space)):
        return f"its Config must be a subclass of Space, got {shown(item.Config)}"
    for name in item.Config.model_fields:
        if not is_field(name):
            return f"a field's name must be {FIELD_RULE}, got {shown(name)}"
    try:
        SearchSpace(item.Config)
    except Refusal as refusal:
        return str(refusal)
    return None
