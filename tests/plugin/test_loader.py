"""Plugins: installed ones and plain files, good ones and broken ones."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from routesearch.backbones import BACKBONES
from routesearch.data import DATASETS
from routesearch.errors import Refusal, UnknownName
from routesearch.plugin import hookspecs
from routesearch.plugin import loader as plugins
from routesearch.plugin.loader import Registry, load_file, load_plugins

HOOKS = sorted(name for name in vars(hookspecs) if name.startswith("routesearch_"))
ROOT = Path(__file__).parents[2]


METHOD = """
    class Mine(RoutedNet):
        name = "mine"
        def stages(self): return []
        def route(self, meter, images, knob): ...
        def knobs(self, scores=None, labels=None): return [{}]
"""


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes a plugin file that imports what the others do."""

    def make(body: str, name: str = "mine.py") -> Path:
        path = tmp_path / name
        head = "from typing import Annotated\nfrom optuna.distributions import IntDistribution\n"
        head += "from routesearch import Backbone, Dataset, RoutedNet, Space, When, hookimpl\n\n"
        path.write_text(head + textwrap.dedent(body))
        return path

    return make


def offered(registry: Registry) -> dict[str, list[str]]:
    return {s.kind: sorted(s.items) for s in (registry.methods, registry.backbones, registry.datasets)}


def test_the_cores_own_plugin_is_an_entry_point_too() -> None:
    registry = load_plugins()
    found = offered(registry)
    assert "static" in found["method"]
    assert set(found["backbone"]) >= {kind.name for kind in BACKBONES}
    assert set(found["data set"]) >= {kind.name for kind in DATASETS}
    assert registry.methods.origin["static"] == "core"
    assert registry.problems == []


def test_an_installed_plugin_is_found_by_its_entry_point() -> None:
    registry = load_plugins()
    assert registry.methods.origin["dgate"] == "dgate"
    assert registry.methods.find("dgate").__module__ == "routesearch_dgate"


def test_a_plain_file_joins(fixtures: Path) -> None:
    registry = load_plugins([fixtures / "own_backbone.py", fixtures / "own_method.py"])
    assert registry.problems == []
    assert registry.backbones.origin["pocket"].endswith("own_backbone.py")
    assert registry.methods.find("skipper").name == "skipper"


def test_each_registry_is_fresh(fixtures: Path) -> None:
    load_plugins([fixtures / "own_method.py"])
    assert "skipper" not in load_plugins().methods.items


def test_a_module_of_a_file_has_the_same_name_in_every_process(fixtures: Path) -> None:
    one, two = load_file(fixtures / "own_method.py"), load_file(fixtures / "own_method.py")
    assert one.__name__ == two.__name__
    assert one is not two
    import subprocess
    import sys

    code = "import sys; from pathlib import Path; from routesearch.plugin.loader import load_file; "
    code += "print(load_file(Path(sys.argv[1])).__name__)"
    command = [sys.executable, "-c", code, str(fixtures / "own_method.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == one.__name__


BROKEN = {
    "a syntax error": ("def f(:\n", "cannot be loaded: SyntaxError: "),
    "a missing import": (
        "import not_installed_anywhere\n",
        "cannot be loaded: ModuleNotFoundError: No module named 'not_installed_anywhere'",
    ),
    "an exit": ("raise SystemExit(3)\n", "cannot be loaded: SystemExit: 3"),
    "an error of two lines": ("raise ValueError('one\\n two')\n", "cannot be loaded: ValueError: one two"),
    "an unknown hook": (
        "@hookimpl\ndef routesearch_metods(): return []\n",
        f"unknown hook 'routesearch_metods'; hooks: {', '.join(HOOKS)}",
    ),
    "arguments that no hook has": (
        "@hookimpl\ndef routesearch_methods(config): return []\n",
        "cannot be loaded: PluginValidationError: ",
    ),
    "a hook that raises": (
        "@hookimpl\ndef routesearch_methods(): return 1 / 0\n",
        "its hook failed: ZeroDivisionError: division by zero",
    ),
    "a hook that returns nothing": (
        "@hookimpl\ndef routesearch_methods(): ...\n",
        "its hook failed: TypeError: 'NoneType' object is not iterable",
    ),
    "no hook at all": (
        "def routesearch_methods(): return []\n",
        "no hook in it; a function marked @hookimpl must be named one of routesearch_backbones",
    ),
    "no class": (
        "@hookimpl\ndef routesearch_methods(): return ['static']\n",
        "a method must be a subclass of RoutedNet with a name, got 'static'",
    ),
    "a class of another kind": (
        "@hookimpl\ndef routesearch_methods(): return [Space]\n",
        "a method must be a subclass of RoutedNet with a name, got <class 'routesearch.space.space.Space'>",
    ),
    "a backbone among the data sets": (
        "class B(Backbone):\n    name = 'b'\n@hookimpl\ndef routesearch_datasets(): return [B]\n",
        "a data set must be a subclass of Dataset with a name, got",
    ),
    "a method without a name": (
        "class M(RoutedNet): ...\n@hookimpl\ndef routesearch_methods(): return [M]\n",
        "a method must be a subclass of RoutedNet with a name, got",
    ),
    "an unfinished method": (
        "class M(RoutedNet):\n    name, stages = 'm', id\n@hookimpl\ndef routesearch_methods(): return [M]\n",
        "method 'm' must define knobs, route",
    ),
    "a default outside its range": (
        METHOD
        + "        class Config(Space):\n            beta: Annotated[int, IntDistribution(1, 3)] = 4\n"
        + "    @hookimpl\n    def routesearch_methods(): return [Mine]\n",
        "method 'mine': Mine.Config.beta: 1 <= value <= 3 must hold for its default, got 4",
    ),
    "a condition on nothing": (
        METHOD
        + "        class Config(Space):\n"
        + "            beta: Annotated[int, IntDistribution(1, 3), When('schedul', 'a')] = 1\n"
        + "    @hookimpl\n    def routesearch_methods(): return [Mine]\n",
        "method 'mine': Mine.Config.beta: When must name an earlier field (none), got 'schedul'",
    ),
    "fields that are no space": (
        METHOD + "        Config = dict\n    @hookimpl\n    def routesearch_methods(): return [Mine]\n",
        "method 'mine': its Config must be a subclass of Space, got <class 'dict'>",
    ),
    "a name that is taken": (
        METHOD.replace("mine", "static") + "    @hookimpl\n    def routesearch_methods(): return [Mine]\n",
        "method 'static' is already offered by plugin 'core'",
    ),
}


@pytest.mark.parametrize("name", ["..", "", "a/b", "two words", "line\nend", "\x1b[2J", "x" * 3000, "\ud800"])
def test_a_name_that_is_no_plain_one_is_refused_when_it_is_loaded(
    name: str, write: Callable[..., Path], fixtures: Path
) -> None:
    body = METHOD.replace("'mine'", ascii(name)).replace('"mine"', ascii(name))
    assert ascii(name) in body
    path = write(body + "\n    @hookimpl\n    def routesearch_methods(): return [Mine]\n")
    registry = load_plugins([path, fixtures / "own_method.py"])
    [problem] = registry.problems
    assert "the name of a method must be letters, digits, '.', '_' and '-'" in problem
    assert problem.isprintable()
    assert len(problem) < 600
    assert name not in registry.methods.items
    assert "skipper" in registry.methods.items or len(registry.methods.items) > 1


def test_a_field_with_a_name_that_is_none_is_refused(write: Callable[..., Path]) -> None:
    config = (
        "        Config = __import__('pydantic').create_model('C', __base__=Space, **{'a b': (int, 1)})\n"
    )
    [problem] = load_plugins(
        [write(METHOD + config + "    @hookimpl\n    def routesearch_methods(): return [Mine]\n")]
    ).problems
    assert "a field's name must be letters, digits and '_', no digit first, 100 at most, got 'a b'" in problem


def test_a_plugins_endless_message_is_bounded(write: Callable[..., Path]) -> None:
    [problem] = load_plugins([write("raise ValueError('\x1b[2J' + 30_000_000 * 'x')")]).problems
    assert len(problem) < 2100
    assert problem.isprintable()
    assert "characters left out" in problem


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_plugin_is_one_line_and_the_rest_loads(
    case: str, write: Callable[..., Path], fixtures: Path
) -> None:
    body, message = BROKEN[case]
    broken = write(body, "broken.py")
    registry = load_plugins([broken, fixtures / "own_method.py"])
    [problem] = registry.problems
    assert problem.startswith(f"plugin '{broken}': {message}")
    assert "\n" not in problem
    assert {"static", "dgate", "skipper"} <= registry.methods.items.keys()
    assert registry.methods.origin["static"] == "core"


def test_what_is_right_in_a_plugin_counts_in_spite_of_what_is_wrong(write: Callable[..., Path]) -> None:
    body = METHOD + "\n    @hookimpl\n    def routesearch_methods(): return [Mine, 3]\n"
    registry = load_plugins([write(body)])
    assert "mine" in registry.methods.items
    assert len(registry.problems) == 1


def test_a_file_named_twice_is_a_problem_of_one_line(write: Callable[..., Path]) -> None:
    path = write(METHOD + "\n    @hookimpl\n    def routesearch_methods(): return [Mine]\n")
    registry = load_plugins([path, path])
    assert "mine" in registry.methods.items
    assert len(registry.problems) == 1


def test_a_broken_installed_plugin_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def points(group: str) -> list[EntryPoint]:
        assert group == "routesearch"
        return [
            EntryPoint("aaa", "not_installed_anywhere", group),
            EntryPoint("core", "routesearch.plugin.builtin", group),
            EntryPoint("zzz", "routesearch.plugin.builtin:not_there", group),
        ]

    monkeypatch.setattr(plugins, "entry_points", points)
    registry = load_plugins()
    assert "static" in registry.methods.items
    assert [p.split(":")[0] for p in registry.problems] == ["plugin 'aaa'", "plugin 'zzz'"]


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        Refusal, match=r"a plugin must be a Python file, got .*gone\.py, which does not exist"
    ):
        load_plugins([tmp_path / "gone.py"])


def test_an_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(UnknownName, match=r"^no method 'unheard'; installed: .*dgate.*, static"):
        load_plugins().methods.find("unheard")


def test_the_hooks_are_three() -> None:
    assert HOOKS == ["routesearch_backbones", "routesearch_datasets", "routesearch_methods"]
    for name in HOOKS:
        with pytest.raises(TypeError, match="never called"):
            getattr(hookspecs, name)()


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_is_documented(hook: str) -> None:
    assert (getattr(hookspecs, hook).__doc__ or "").startswith("Return the ")
    pages = list((ROOT / "docs").rglob("*.md"))
    text = "".join(page.read_text() for page in [*pages, ROOT / "README.md"])
    assert f"{hook}()" in text or f"`{hook}`" in text, f"{hook} must be on a page of docs/ or in the README"


def test_hooks_may_come_from_a_class_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an entry point names need not be a module."""
    from routesearch import hookimpl
    from routesearch.methods.static import Static

    class Another(Static):
        name = "another"

    class Plugin:
        @hookimpl
        def routesearch_methods(self) -> list[Any]:
            return [Another]

    class Point:
        name = "another"

        def load(self) -> Plugin:
            return Plugin()

    monkeypatch.setattr(plugins, "entry_points", lambda group: [Point()])
    registry = load_plugins()
    assert (offered(registry)["method"], registry.problems) == (["another"], [])


def test_code_is_known_by_version_or_by_digest(write: Callable[..., Path]) -> None:
    import routesearch

    body = METHOD + "\n    @hookimpl\n    def routesearch_methods(): return [Mine]\n"
    path = write(body)
    first, again = load_plugins([path]).code, load_plugins([path]).code
    assert first == again
    assert first["core"] == f"routesearch {routesearch.__version__}"
    assert first["dgate"].startswith("routesearch-dgate ")
    assert re.fullmatch(r"mine\.py [0-9a-f]{16}", first[str(path)])
    write(body + "\n")
    assert load_plugins([path]).code[str(path)] != first[str(path)]


def test_a_name_that_two_plugins_offer_is_refused_where_it_is_used(write: Callable[..., Path]) -> None:
    body = METHOD.replace("mine", "static") + "    @hookimpl\n    def routesearch_methods(): return [Mine]\n"
    file = write(body)
    registry = load_plugins([file])
    with pytest.raises(Refusal) as refused:
        registry.methods.find("static")
    rule = "method 'static' must be offered by one plugin, got 'core' and"
    assert str(refused.value) == f"{rule} {str(file)!r}: rename one of them"
    assert registry.methods.find("dgate").name == "dgate", "other names are as they were"
