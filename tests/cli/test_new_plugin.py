"""The command that writes a plugin: what it writes works as it is."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from routesearch import RoutedNet
from routesearch.plugin.loader import load_plugins
from routesearch.study.config import load_study
from routesearch.task.resolve import resolve

Run = Callable[..., Any]
FILES = {"two_way.py", "tests/test_two_way.py", "study.yaml", "pyproject.toml", "README.md"}


def contents(folder: Path) -> Mapping[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_text() for path in files}


@pytest.fixture
def plugin(run: Run, tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    assert run("new-plugin", "two_way", folder).status == 0
    return folder


def test_what_it_writes_is_told(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "a b" / "mine"
    status, out, err = run("new-plugin", "two_way", folder)
    assert (status, err) == (0, "")
    assert contents(folder).keys() == FILES
    lines = out.splitlines()
    written = {line.removeprefix("Wrote ") for line in lines if line.startswith("Wrote ")}
    assert written == {str(folder / path) for path in FILES}
    assert f"           routesearch search '{folder / 'study.yaml'}'" in lines


def test_no_name_is_left_to_fill_in(plugin: Path) -> None:
    assert [path for path, text in contents(plugin).items() if "$" in text] == []


def test_it_keeps_every_law(run: Run, plugin: Path) -> None:
    done = run("check", "two_way", "--plugin", plugin / "two_way.py", "--set", "position=2", "--json")
    assert done.status == 0
    assert done.json["backbones"] == ["toy_chain", "toy_residual"]
    assert {each["state"] for each in done.json["laws"]} == {"ok"}


def test_its_own_tests_pass(plugin: Path, tmp_path: Path) -> None:
    """They pass from another folder than their own, too."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(plugin)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout


def test_its_study_can_be_run(plugin: Path) -> None:
    """The position that it takes by itself is within the budget."""
    task = resolve(load_study(plugin / "study.yaml"))
    assert set(task.spaces) == {"static", "two_way"}
    reach = task.reach("two_way")
    assert reach.share > 0.2
    assert task.budget is not None
    assert task.spaces["two_way"].default().position == 3


@pytest.mark.slow
def test_a_search_finds_something(run: Run, plugin: Path) -> None:
    quick = ("--set", "training.epochs=1", "--set", "methods=[two_way]", "--max-macs", "1x", "--trials", "2")
    done = run("search", plugin / "study.yaml", "--json", *quick)
    assert done.status == 0, done.err
    assert (done.json["finished"], done.json["failed"]) == (2, 0)
    assert {point["method"] for point in done.json["front"]} == {"two_way"}
    assert len(done.json["front"]) > 2


def test_it_is_a_package(plugin: Path) -> None:
    from routesearch import __version__

    project = tomllib.loads((plugin / "pyproject.toml").read_text())
    about = project["project"]
    assert about["name"] == "routesearch-two-way"
    assert about["entry-points"]["routesearch"] == {"two_way": "two_way"}
    minor = __version__.rsplit(".", 1)[0]
    assert about["dependencies"][0].startswith(f"routesearch>={minor},<")
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"] == ["two_way.py"]
    assert (plugin / about["readme"]).is_file()


@pytest.mark.parametrize(
    ("name", "kind"),
    [("one_exit", "OneExit"), ("stage", "StageExit"), ("none", "NoneExit"), ("A1__b", "A1B"), ("e", "E")],
)
def test_classes_hide_nothing_of_the_module(run: Run, tmp_path: Path, name: str, kind: str) -> None:
    """``none`` is no word of YAML's, and None one of Python's; Stage is imported."""
    folder = tmp_path / "mine"
    assert run("new-plugin", name, folder).status == 0
    text = (folder / f"{name}.py").read_text()
    assert [n.name for n in ast.parse(text).body if isinstance(n, ast.ClassDef)] == [kind]
    registry = load_plugins([folder / f"{name}.py"])
    assert [p for p in registry.problems if name in p] == []
    found: type[RoutedNet] = registry.methods.find(name)
    assert found.__name__ == kind
    assert load_study(folder / "study.yaml").name == name


@pytest.mark.parametrize(
    ("name", "line"),
    [
        (
            "two-way",
            "NAME must be up to 50 letters, digits and underscores, a letter first and ",
        ),
        ("2way", "a letter first and no underscore last, got '2way'"),
        ("way_", "got 'way_'"),
        ("", "got ''"),
        ("../way", "got '../way'"),
        ("wäy", "got 'wäy'"),
        ("w" * 51, "up to 50 letters"),
        ("lambda", "NAME must not be a word of Python's or YAML's own, got 'lambda'"),
        ("yes", "NAME must not be a word of Python's or YAML's own, got 'yes'"),
        ("static", "NAME must be new, got 'static', a method of the installed plugin 'core'"),
        ("dgate", "NAME must be new, got 'dgate', a method of the installed plugin 'dgate'"),
        ("core", "NAME must be new, got 'core', an installed plugin"),
        ("torch", "NAME must be new, got 'torch', a module that Python already finds"),
        ("statistics", "NAME must be new, got 'statistics', a module that Python already finds"),
    ],
)
def test_names_that_it_refuses(run: Run, tmp_path: Path, name: str, line: str) -> None:
    done = run("new-plugin", name, tmp_path / "mine")
    assert (done.status, done.out, len(done.lines)) == (2, "", 1)
    assert line in done.err
    assert not (tmp_path / "mine").exists()


def test_nothing_is_overwritten(run: Run, plugin: Path) -> None:
    before = contents(plugin)
    done = run("new-plugin", "other", plugin)
    assert (done.status, done.out, len(done.lines)) == (2, "", 1)
    assert f"DIR must be new or empty, got {plugin} with README.md in it" in done.err
    assert contents(plugin) == before


def test_a_folder_that_cannot_be_made(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder, line in (
        (tmp_path / "file", "DIR must be a folder, got"),
        (tmp_path / "file" / "mine", "DIR must be a folder that can be written, got"),
    ):
        done = run("new-plugin", "two_way", folder)
        assert (done.status, done.out, len(done.lines)) == (2, "", 1)
        assert line in done.err


def test_an_empty_folder_is_filled(run: Run, tmp_path: Path) -> None:
    assert run("new-plugin", "two_way", tmp_path).status == 0
    assert contents(tmp_path).keys() == FILES
