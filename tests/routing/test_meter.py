"""The interface of a meter: abstract, and its implementations final."""

from __future__ import annotations

import ast
import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import routesearch
from routesearch import Meter
from routesearch.export.trace import TracingMeter
from routesearch.routing.billing import BatchMeter
from routesearch.routing.pricing import PricingMeter


def subclasses(kind: type) -> Iterator[type]:
    for child in kind.__subclasses__():
        yield child
        yield from subclasses(child)


def test_a_meter_that_misses_a_method_cannot_be_made() -> None:
    names = sorted(Meter.__abstractmethods__)
    assert names == ["__len__", "choose", "finish", "patch", "run", "split"]
    for missing in names:
        rest = {name: getattr(BatchMeter, name) for name in names if name != missing}
        kind = type("Partly", (Meter,), rest)
        with pytest.raises(TypeError, match=missing):
            kind()


def test_every_meter_of_the_package_is_final_and_overrides_nothing_concrete() -> None:
    for module in pkgutil.walk_packages(routesearch.__path__, "routesearch."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found = [kind for kind in subclasses(Meter) if kind.__module__.startswith("routesearch.")]
    assert set(found) == {BatchMeter, PricingMeter, TracingMeter}
    for kind in found:
        assert kind.__bases__ == (Meter,)
        assert getattr(kind, "__final__", False)
        assert not hasattr(kind, "__getattr__"), "no attribute access is trapped"


def test_no_meter_outside_of_the_package_inherits_from_one_that_runs() -> None:
    """Neither in the benches, which no other test imports, nor in the plugins; and each is whole."""
    root = Path(__file__).parents[2]
    files = [*(root / "bench").glob("*.py"), *(root / "plugins").glob("*/*.py")]
    assert len(files) > 8
    final, whole = {"BatchMeter", "PricingMeter", "TracingMeter"}, Meter.__abstractmethods__
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                bases = {ast.unparse(base) for base in node.bases}
                assert not bases & final, f"{file.name}: {node.name}"
                if "Meter" in bases:
                    methods = {each.name for each in node.body if isinstance(each, ast.FunctionDef)}
                    assert whole <= methods, f"{file.name}: {node.name} lacks {whole - methods}"
