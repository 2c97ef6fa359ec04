"""Who may import whom: the line of the design, read off the sources with ast, and what an import costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Container, Iterable, Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
CORE = ROOT / "routesearch"

LINE = (
    "errors -> utils -> study -> results -> space routing -> backbones data -> methods -> training -> "
    "evaluation -> plugin -> task -> search saved report -> export tracking -> api -> "
    "__init__ -> testing -> cli"
)
"""The core's packages: left never imports right; those of one group may, but not in a circle."""

BESIDE = {"__main__": "cli"}
"""Modules beside the line, which nobody imports, each with the last place on the line that it may import."""

WITHOUT_TORCH = ("errors", "utils", "study", "results", "report")
"""What answers `front` and `best` in half a second: importing any of it must not import torch."""

CONFINED = {
    "ray": ("search",),
    "mlflow": ("tracking",),
    "torchvision": ("backbones", "data"),
    "matplotlib": ("report",),
    "plotly": ("report",),
    "onnx": ("export",),
    "onnxscript": ("export",),
    "onnxruntime": ("export",),
}
"""Packages that cost much to import: where each may be, and there inside functions only."""

FOR_PLUGINS = {"torch", "optuna.distributions", "pydantic.Field"}
"""What a plugin may import beside the standard library and the public names of ``routesearch``."""

PLACE = {unit: place for place, group in enumerate(LINE.split(" -> ")) for unit in group.split()}
SOURCES = sorted(CORE.rglob("*.py"))
PLUGINS = sorted(ROOT.glob("plugins/*/*.py"))


class Import(NamedTuple):
    """One imported name: ``from a.b import c`` is ``a.b`` and ``c``, ``import a.b`` is ``a.b`` and None."""

    module: str
    name: str | None
    free: bool  # costs nothing when the file is imported: in a function, or for type checkers only

    def target(self, known: Container[str]) -> str:
        """The module that it names: ``from a.b import c`` is ``a.b.c`` where that is one, else ``a.b``."""
        inner = f"{self.module}.{self.name}"
        return inner if inner in known else self.module

    def within(self, package: str) -> bool:
        return f"{self.module}.".startswith(f"{package}.") or f"{self.module}.{self.name}" == package


def imports(source: str) -> list[Import]:
    return list(_walk(ast.parse(source), free=False))


def _walk(node: ast.AST, free: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, None, free) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            module = "." * child.level + (child.module or "")
            yield from (Import(module, alias.name, free) for alias in child.names)
        else:
            function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            typing = isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING")
            yield from _walk(child, free or function or typing)


def unit_of(path: Path) -> str:
    """The module or package right below ``routesearch`` that a file belongs to."""
    return path.relative_to(CORE).parts[0].removesuffix(".py")


def module_of(path: Path) -> str:
    """``routesearch.data.base`` of its file; a package by its own name."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def units_in(found: Iterable[Import]) -> set[str]:
    """The units of the core that these imports name; a public name of the package is its ``__init__``'s."""
    units = set()
    for each in found:
        parts = each.module.split(".")
        if parts[0] == "routesearch":
            below = parts[1] if len(parts) > 1 else str(each.name)
            units.add(below if below in PLACE or below in BESIDE or len(parts) > 1 else "__init__")
    return units


def broken_in_core(unit: str, source: str) -> list[str]:
    """The rules that a file of ``unit`` breaks."""
    found = imports(source)
    if unit not in PLACE and unit not in BESIDE:
        return [f"{unit} has no place on the line"]
    limit = PLACE[BESIDE.get(unit, unit)]
    broken = [f"{unit} imports {other}" for other in units_in(found) if PLACE.get(other, 99) > limit]
    for each in found:
        if each.module.startswith("."):
            broken.append(f"{unit} imports {each.module} by a relative name")
        if each.module.startswith("routesearch_"):
            broken.append(f"{unit} imports the plugin {each.module}")
        for package, homes in CONFINED.items():
            if each.within(package) and (unit not in homes or not each.free):
                broken.append(
                    f"{unit} imports {package}, which belongs into functions of {' and '.join(homes)}"
                )
    return broken


def broken_in_plugin(source: str, public: Iterable[str]) -> list[str]:
    """The rules that a plugin's module breaks; ``public`` are the names that ``routesearch`` offers."""
    broken = []
    for each in imports(source):
        if each.module == "routesearch":
            allowed = each.name is None or each.name in public
        else:
            allowed = each.module.split(".")[0] in sys.stdlib_module_names or any(
                map(each.within, FOR_PLUGINS)
            )
        if not allowed:
            broken.append(f"a plugin imports {each.module}{'' if each.name is None else f' ({each.name})'}")
    return broken


def public_names() -> list[str]:
    """``routesearch.__all__``, read without importing anything."""
    for node in ast.parse((CORE / "__init__.py").read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    raise AssertionError("routesearch/__init__.py must have an __all__ of plain strings")


def test_the_top_level_shows_the_architecture() -> None:
    """As many entries as a person takes in at a glance, and files that can be read in one sitting."""
    entries = {path.relative_to(CORE).parts[0] for path in SOURCES}
    assert len(entries) <= 22
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in SOURCES}
    assert {path: lines for path, lines in lengths.items() if lines > 400} == {}


def test_core_keeps_the_line() -> None:
    offenders = [
        f"{path.relative_to(ROOT)}: {what}"
        for path in SOURCES
        for what in broken_in_core(unit_of(path), path.read_text())
    ]
    assert offenders == []


def test_ray_is_in_the_modules_that_are_named_after_it() -> None:
    """The order of a search, its trials and its journal are read without knowing Ray."""
    found = {path.stem for path in SOURCES if any(each.within("ray") for each in imports(path.read_text()))}
    assert found == {"ray_cluster", "ray_pulse", "ray_tasks", "ray_tune", "ray_workers"}


def test_no_two_units_need_each_other() -> None:
    graph: dict[str, set[str]] = {}
    for path in SOURCES:
        unit = unit_of(path)
        graph.setdefault(unit, set()).update(units_in(imports(path.read_text())) - {unit})
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_no_two_modules_import_each_other() -> None:
    """Modules of a package do not either, but for what is imported late, in a function."""
    known = {module_of(path): imports(path.read_text()) for path in SOURCES}
    graph = {name: {each.target(known) for each in found if not each.free} for name, found in known.items()}
    TopologicalSorter({name: needed - {name} for name, needed in graph.items()}).prepare()


def test_plugins_import_what_third_parties_may() -> None:
    public = public_names()
    offenders = [
        f"{path.name}: {what}" for path in PLUGINS for what in broken_in_plugin(path.read_text(), public)
    ]
    assert offenders == []


def test_what_answers_quickly_imports_no_torch() -> None:
    modules = [module_of(path) for path in SOURCES if unit_of(path) in WITHOUT_TORCH]
    code = f"import sys; [__import__(m) for m in {modules}]; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("False", "")


def test_every_public_name_is_there() -> None:
    import routesearch

    assert [name for name in public_names() if getattr(routesearch, name, None) is None] == []


@pytest.mark.parametrize("module", ["routesearch", "routesearch.cli"])
def test_importing_is_light(module: str) -> None:
    heavy = ["torch", *CONFINED]
    code = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


@pytest.mark.parametrize(
    ("unit", "source"),
    [
        ("results", "from routesearch.methods.base import RoutedNet"),
        ("results", "from routesearch import task"),
        ("results", "from routesearch import Study"),
        ("results", "import routesearch.cli"),
        ("results", "def late():\n    from routesearch.cli import main"),
        ("results", "if TYPE_CHECKING:\n    from routesearch.cli import main"),
        ("methods", "from routesearch.plugin.builtin import routesearch_methods"),
        ("study", "from routesearch.unheard_of import thing"),
        ("study", "from .errors import Refusal"),
        ("study", "import routesearch_dgate"),
        ("unheard_of", ""),
        ("search", "import ray"),
        ("search", "from ray import tune"),
        ("search", "class Searcher:\n    import ray.tune"),
        ("training", "def late():\n    import ray"),
        ("cli", "def late():\n    from mlflow.client import MlflowClient"),
        ("data", "try:\n    import torchvision\nexcept ImportError:\n    pass"),
    ],
)
def test_a_breach_in_the_core_is_seen(unit: str, source: str) -> None:
    assert len(broken_in_core(unit, source)) == 1


@pytest.mark.parametrize(
    ("unit", "source"),
    [
        ("search", "def late():\n    import ray.tune"),
        ("search", "if TYPE_CHECKING:\n    from ray.tune import Trainable"),
        ("results", "from routesearch.results.points import Point"),
        ("results", "from routesearch.study.config import StudyConfig"),
        ("cli", "from routesearch import __version__"),
        ("plugin", "from routesearch.methods.base import RoutedNet"),
        ("training", "import rays\nfrom raymond import ray"),
    ],
)
def test_what_keeps_the_line_is_not_reported(unit: str, source: str) -> None:
    assert broken_in_core(unit, source) == []


@pytest.mark.parametrize(
    "source",
    [
        "from routesearch.methods.base import RoutedNet",
        "import routesearch.methods",
        "from routesearch import methods",
        "from routesearch import _private",
        "import optuna",
        "from optuna import create_study",
        "import mlflow",
        "def late():\n    import ray",
        "import routesearch_jungle",
        "from .other import thing",
    ],
)
def test_a_breach_in_a_plugin_is_seen(source: str) -> None:
    assert len(broken_in_plugin(source, ["RoutedNet"])) == 1


def test_a_plugin_that_keeps_the_law_is_not_reported() -> None:
    source = "import math\nimport torch.nn.functional\nfrom optuna.distributions import IntDistribution\n"
    source += "from optuna import distributions\nfrom torch import nn\nfrom routesearch import RoutedNet\n"
    assert broken_in_plugin(source, ["RoutedNet"]) == []
