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
    ("study", "told"),
    [
        ("a: [1, 2", "not valid YAML: "),
        ("data: digits\ndata: digits\n", "line 2: not valid YAML: key 'data' is given twice"),
        ("a: " + "[" * 5000, "too deep"),
        ("", "a study must be a mapping with data, backbone and methods, got None"),
        ({"methods": None}, "methods must be given"),
        ({"serch": {}}, "unknown key 'serch'; did you mean 'search'?"),
        ({"search": {"trials": 0}}, "search.trials: must be greater than or equal to 1, got 0"),
        (
            {"search": {"sampler": "best"}},
            "search.sampler: must be one of auto, tpe, gp, nsga2, qmc, random, ",
        ),
        ({"search": {"stop": {"rungs": 1}}}, "search.stop.rungs: must be greater than or equal to 2, got 1"),
        ({"search": {"stop": {"keep": 1.5}}}, "search.stop.keep: must be less than 1, got 1.5"),
        ({"search": {"training_macs": "many"}}, "search.training_macs: work must be MACs of training such"),
        ({"budget": "3M"}, "budget: must be a mapping with max_macs, got '3M'; did you mean {max_macs: 3M}?"),
        ({"methods": ["dgat"]}, "methods: no method 'dgat'; did you mean 'dgate'? installed: actor, "),
        ({"backbone": "nin@99"}, "0 < width <= 16 must hold for backbone nin, got width=99.0"),
        ({"data": {"name": "digits", "nois": 0.1}}, "unknown key 'data.nois'; did you mean 'noise'?"),
        (
            {"methods": {"dgate": {"positions": [9]}}},
            "methods.dgate: positions: 1 <= position <= 7 must hold",
        ),
    ],
)
def test_a_study_that_is_wrong(refused: Callable[..., str], study: Any, told: str) -> None:
    """One of each kind; tests/study, tests/task and tests/data try every key and value."""
    line = refused(study)
    assert "study.yaml" in line
    assert told in line


@pytest.mark.parametrize(
    ("sampler", "told"),
    [
        (
            "no_such_package:Sampler",
            "search.sampler: no_such_package:Sampler cannot be imported: ModuleNotFound",
        ),
        ("optuna.samplers:Nothing", "no sampler 'optuna.samplers:Nothing'; installed: auto, gp, "),
        (
            "optuna.study.Study",
            "search.sampler: must be a subclass of optuna.samplers.BaseSampler, got optuna.",
        ),
        ("json:dumps", "search.sampler: must be a subclass of optuna.samplers.BaseSampler, got json:dumps"),
    ],
)
def test_a_sampler_that_is_none(refused: Callable[..., str], sampler: str, told: str) -> None:
    assert told in refused({"search": {"sampler": sampler}})


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


def test_images_of_the_wrong_shape(refused: Callable[..., str]) -> None:
    np.savez("mine.npz", x_train=np.zeros((9, 3)), y_train=np.arange(9) % 3)
    told = "x_train must be N,H,W or N,H,W,C, got shape (9, 3)"
    assert told in refused({"data": {"name": "arrays", "path": "mine.npz"}})


def test_a_photo_that_cannot_be_read(refused: Callable[..., str], photos: Path) -> None:
    (photos / "dark" / "03.png").write_bytes(b"no picture")
    line = refused({"data": {"name": "image_folder", "path": str(photos), "size": 16}})
    assert "data: image_folder: 1 of 40 images cannot be read: dark/03.png (" in line


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
