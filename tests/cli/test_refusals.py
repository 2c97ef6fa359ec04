"""Whatever is wrong with a study is one line on standard error, status 2, and nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

DIGITS: dict[str, Any] = {"data": "digits", "backbone": "nin@0.25", "methods": ["static", "dgate"]}


@pytest.fixture
def refused(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Search a study (its text, or keys beside those of DIGITS; None leaves one out) and get the line."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def search(study: str | dict[str, Any], *words: str) -> str:
        if not isinstance(study, str):
            study = yaml.safe_dump({k: v for k, v in (DIGITS | study).items() if v is not None})
        Path("study.yaml").write_text(study)
        before = sorted(folder.rglob("*"))
        done = run("search", "study.yaml", "--json", *words)
        assert (done.status, done.out, len(done.lines)) == (2, "", 1), done.err
        assert done.err.startswith("routesearch: ")
        assert sorted(folder.rglob("*")) == before
        return str(done.err.strip())

    return search


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: [1, 2", "study.yaml: not valid YAML: "),
        ("data: digits\nmethods: [static\n", "study.yaml, line 3: not valid YAML: "),
        ("data: digits\ndata: digits\n", "study.yaml, line 2: not valid YAML: key 'data' is given twice"),
        ("? [1]\n: 2\n", "study.yaml, line 1: not valid YAML: found unhashable key"),
        ("!!python/object/apply:os.system ['ls']", "could not determine a constructor"),
        ("data: \0", "special characters are not allowed"),
        ("name: 2020-99-99", "month must be in 1..12"),
        ("a: " + "[" * 5000, "too deep"),
        ("", "a study must be a mapping with data, backbone and methods, got None"),
        ("- 1", "a study must be a mapping with data, backbone and methods, got [1]"),
        ("hello", "a study must be a mapping with data, backbone and methods, got 'hello'"),
    ],
)
def test_text_that_is_no_study(refused: Callable[..., str], text: str, told: str) -> None:
    assert told in refused(text)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"data": None}, "data must be given"),
        ({"backbone": None}, "backbone must be given"),
        ({"methods": None}, "methods must be given"),
        ({"methods": []}, "methods: must not be empty"),
        ({"methods": [3]}, "methods: a method must be a name, got 3"),
        ({"methods": [["static"]]}, "methods: a method must be a name, got ['static']"),
        (
            {"methods": "static"},
            "methods: must be a list such as [static], or a mapping of methods to their fields, got 'static'",
        ),
        ({"methods": ["static", "static"]}, "methods: each method must be named once, got 'static' twice"),
        ({"methods": {"static": 3}}, "methods.static: must be a mapping, got 3"),
        ({"serch": {}}, "unknown key 'serch'; did you mean 'search'?"),
        ({"search": {"trails": 3}}, "unknown key 'search.trails'; did you mean 'trials'?"),
        ({"search": [1]}, "search: must be a mapping with trials, sampler, time_limit, seed, got [1]"),
        ({"search": {"trials": 0}}, "search.trials: must be greater than or equal to 1, got 0"),
        ({"search": {"trials": "many"}}, "search.trials: must be an integer, got 'many'"),
        ({"search": {"trials": 2.5}}, "search.trials: must be an integer, got 2.5"),
        ({"search": {"trials": True}}, "search.trials: must not be true or false, got True"),
        ({"search": {"sampler": "magic"}}, "search.sampler: must be 'tpe', 'random', 'nsga2', 'qmc' or 'gp'"),
        ({"search": {"time_limit": "soon"}}, "search.time_limit: a time must be more than 0, such as 90s"),
        ({"search": {"time_limit": 0}}, "search.time_limit: a time must be more than 0"),
        ({"search": {"seed": -1}}, "search.seed: must be greater than or equal to 0, got -1"),
        ({"budget": {"max_macs": "lots"}}, "budget.max_macs: a budget must be MACs such as 40M"),
        ({"budget": {"max_macs": "-3M"}}, "budget.max_macs: a budget must be MACs such as 40M"),
        ({"budget": {"max_macs": 0}}, "budget.max_macs: a budget must be more than 0"),
        ({"budget": {"max_macs": "1e999x"}}, "budget.max_macs: a budget must be more than 0 and finite"),
        ({"budget": {"max_macs": float("nan")}}, "budget.max_macs: a budget must be MACs such as 40M"),
        ({"budget": "3M"}, "budget: must be a mapping with max_macs, got '3M'; did you mean {max_macs: 3M}?"),
        ({"training": {"learning_rate": float("inf")}}, "training.learning_rate: must be a finite number"),
        ({"training": {"epochs": 0}}, "training.epochs: must be greater than or equal to 1, got 0"),
        ({"training": {"optimizer": "adam"}}, "training.optimizer: must be 'adamw' or 'sgd', got 'adam'"),
        ({"resources": {"cpu": 0}}, "resources.cpu: must be greater than 0, got 0"),
        ({"resources": {"gpu": -1}}, "resources.gpu: must be greater than or equal to 0, got -1"),
        ({"name": "../other"}, "name: must be letters, digits, '.', '_' and '-'"),
        ({"name": 3}, "name: must be text, got 3"),
        ({"storage": {"dir": ""}}, "storage.dir: must be a path, got ''"),
        ({"storage": {"dir": "a\0b"}}, "storage.dir: must be a path"),
        ({"tracking": {"uri": 3}}, "tracking.uri: must be text, got 3"),
        ({"plugins": "x.py"}, "plugins: must be a list, got 'x.py'"),
        ({"plugins": ["nowhere.py"]}, "plugins: a plugin must be a Python file, got "),
        ({"backbone": 3}, "backbone: must be a mapping with name, weights, got 3"),
        ({"backbone": "nin@"}, "a backbone must be NAME or NAME@WIDTH such as nin@0.25, got 'nin@'"),
        ({"backbone": "nin@99"}, "0 < width <= 16 must hold for backbone nin, got width=99.0"),
        ({"budget": {"max_latency": "3"}}, "budget.max_latency: a latency must be more than 0 with its unit"),
        ({"confirm": {"seeds": 3}}, "confirm: this version does not offer"),
        ({"storage": {"journal": "postgresql://x"}}, "storage.journal: this version does not offer"),
        (
            {"backbone": {"name": "nin", "weights": "imagenet"}},
            "backbone.weights: must be a .pth, .pt or .safetensors file",
        ),
    ],
    ids=str,
)
def test_keys_and_values(refused: Callable[..., str], change: dict[str, Any], told: str) -> None:
    line = refused(change)
    assert "study.yaml: " in line
    assert told in line


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"methods": ["dgat"]}, "methods: no method 'dgat'; did you mean 'dgate'? installed: actor, "),
        ({"backbone": "nim"}, "no backbone 'nim'; did you mean 'nin'? installed: "),
        (
            {"data": "cifar11"},
            "no data set 'cifar11'; did you mean 'cifar10'? installed: arrays, ",
        ),
        ({"data": {"noise": 1}}, "data.name: a data set's name must be given, got None"),
        ({"data": {"name": "digits", "nois": 0.1}}, "unknown key 'data.nois'; did you mean 'noise'?"),
        ({"data": {"name": "digits", "noise": 2}}, "data.noise: must be less than or equal to 1, got 2"),
        ({"data": {"name": "digits", "noise": [1]}}, "data.noise: must be a number, got [1]"),
        ({"data": {"name": "digits", "augment": {"crop": -1}}}, "data.augment.crop: must be greater than or"),
        ({"data": {"name": "arrays"}}, "data.path must be given"),
        (
            {"methods": {"dgate": {"position": [3]}}},
            "methods.dgate: unknown field 'position'; fields: positions",
        ),
        (
            {"methods": {"dgate": {"positions": [9]}}},
            "methods.dgate: positions: 1 <= position <= 7 must hold",
        ),
        (
            {"methods": {"static": {"depth": 3}}},
            "methods.static: depth: 0.2 <= value <= 1.0 must hold, got 3",
        ),
        (
            {"methods": {"static": {"depth": {"low": 0.1}}}},
            "methods.static: depth: 0.2 <= value <= 1.0 must hold",
        ),
        (
            {"methods": {"static": {"depth": {"lo": 0.3}}}},
            "methods.static: depth: a mapping must be {choices:",
        ),
        ({"methods": {"dgate": {"gate_loss": {"choices": ["x"]}}}}, "gate_loss: one of hinge, cross_entropy"),
        ({"methods": {"dgate": {"learning_rate": "fast"}}}, "methods.dgate: learning_rate: "),
    ],
    ids=str,
)
def test_names_and_fields(refused: Callable[..., str], change: dict[str, Any], told: str) -> None:
    line = refused(change)
    assert "study.yaml: " in line
    assert told in line


def test_a_missing_study(run: Any, tmp_path: Path) -> None:
    for command in ("search", "front", "best", "trials", "plan", "publish", "ui"):
        done = run(command, tmp_path / "none.yaml")
        assert (done.status, done.out, len(done.lines)) == (2, "", 1)
        assert "none.yaml: a study must be a readable YAML file: No such file" in done.err


def test_a_folder_instead_of_its_study(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine").mkdir()
    told = "routesearch: mine: a study must be a readable YAML file: Is a directory"
    assert run("plan", "mine").lines == [told]
    Path("mine/study.yaml").write_text(yaml.safe_dump(DIGITS))
    assert run("plan", "mine").lines == [f"{told}; did you mean mine/study.yaml?"]


@pytest.mark.parametrize(
    "change", [{"methods": ["dgat"]}, {"search": {"trials": 0}}, {"budget": {"max_macs": "0.001x"}}], ids=str
)
def test_the_file_is_called_what_the_user_called_it(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(DIGITS | change))
    for name in ("../mine.yaml", str(file)):
        done = run("search", name)
        assert done.status == 2
        assert done.err.startswith(f"routesearch: {name}: ")


def test_a_study_without_a_search(run: Any, write_study: Callable[..., Path]) -> None:
    file = write_study()
    for command in ("front", "best", "trials", "publish", "ui"):
        done = run(command, file)
        assert (done.status, done.out, len(done.lines)) == (2, "", 1)
        assert "run `routesearch search` first" in done.err
    assert not (file.parent / ".routesearch").exists()


@pytest.mark.parametrize("budget", ["100", "0.001x"])
def test_an_impossible_budget_names_the_cheapest_found(refused: Callable[..., str], budget: str) -> None:
    line = refused({"budget": {"max_macs": budget}})
    assert "budget.max_macs: some route must cost at most" in line
    assert "the cheapest found is 89,178 (0.025x, method static)" in line


def test_a_budget_on_the_command_line(refused: Callable[..., str]) -> None:
    assert "some route must cost at most 10 MACs" in refused({}, "--max-macs", "10")
    assert "budget.max_macs: a budget must be MACs such as 40M" in refused({}, "--max-macs", "little")


@pytest.mark.parametrize("folder", ["file/storage", "/proc/storage"])
def test_a_folder_that_cannot_be_written(refused: Callable[..., str], tmp_path: Path, folder: str) -> None:
    (tmp_path / "work" / "file").write_text("not a folder")
    assert "storage.dir must be a writable folder, got " in refused({"storage": {"dir": folder}})


def test_data_that_is_not_there(refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("routesearch.data.fashion_mnist.DEBIAN", Path("/nowhere"))
    line = refused({"data": {"name": "fashion_mnist"}})
    assert "apt-get install dataset-fashion-mnist" in line
    line = refused({"data": {"name": "image_folder", "path": "photos"}})
    assert "image_folder: no folder " in line
    line = refused({"data": {"name": "arrays", "path": "mine.npz"}})
    assert "arrays: no file " in line


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"x_train": np.zeros((9, 3))}, "x_train must be N,H,W or N,H,W,C, got shape (9, 3)"),
        ({"x_train": np.zeros((9, 8, 8), int)}, "x_train must be uint8, or floats in [0, 1], got int64"),
        ({"x_val": np.zeros((9, 9, 9), np.uint8), "y_val": np.arange(9) % 3}, "images must have the form of"),
        ({"y_train": np.arange(9) % 3 + 1}, "labels in y_train must be 0 to C-1"),
        ({"x_train": np.zeros((8, 8, 8), np.uint8)}, "every image must have a label, got 8 images and 9"),
        ({"x_train": np.array([{}], object)}, "cannot be read as an npz"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_images_of_the_wrong_shape(refused: Callable[..., str], arrays: dict[str, Any], told: str) -> None:
    good = {"x_train": np.zeros((9, 8, 8), np.uint8), "y_train": np.arange(9) % 3}
    np.savez("mine.npz", **(good | arrays))
    assert told in refused({"data": {"name": "arrays", "path": "mine.npz"}})


def test_a_photo_that_cannot_be_read(refused: Callable[..., str], photos: Path) -> None:
    (photos / "dark" / "03.png").write_bytes(b"no picture")
    line = refused({"data": {"name": "image_folder", "path": str(photos), "size": 16}})
    assert "dark/03.png cannot be read as an image" in line


def test_an_address_of_ray_client(refused: Callable[..., str]) -> None:
    assert "--address must be auto or HOST:PORT, got ray://x:1" in refused({}, "--address", "ray://x:1")


def test_settings_of_the_command_line(refused: Callable[..., str]) -> None:
    assert "--set must be KEY=VALUE" in refused({}, "--set", "search.trials")
    assert "--set a: not valid YAML" in refused({}, "--set", "a=[1")
    assert "unknown key 'search.trails'" in refused({}, "--set", "search.trails=3")
    assert "--set search.trials.x: search.trials is 3" in refused(
        {"search": {"trials": 3}}, "--set", "search.trials.x=1"
    )
    assert "--set a..b: a key must be a dotted path" in refused({}, "--set", "a..b=1")


def test_a_plugin_that_cannot_be_loaded_is_named(
    run: Any, write_study: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text("import no_such_module")
    file = write_study(plugins=["mine.py"], methods=["own"], backbone="nin")
    done = run("search", file)
    assert (done.status, done.out, len(done.lines)) == (2, "", 1)
    assert "no method 'own'" in done.err
    assert "mine.py': cannot be loaded: ModuleNotFoundError: No module named 'no_such_module'" in done.err
