from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.parametrize(
    ("command", "names"),
    [
        ("methods", {"static": "core", "dgate": "dgate"}),
        ("backbones", dict.fromkeys(("nin", "resnet38", "resnet74", "resnet110", "resnet152"), "core")),
        ("datasets", dict.fromkeys(("digits", "cifar10", "hybrid", "image_folder", "arrays"), "core")),
    ],
)
def test_what_is_installed(run: Any, command: str, names: dict[str, str]) -> None:
    done = run(command, "--json")
    assert (done.status, done.err) == (0, "")
    assert names.items() <= {name: entry["plugin"] for name, entry in done.json.items()}.items()
    assert all(set(entry) == {"plugin", "schema"} for entry in done.json.values())
    status, out, err = run(command)
    assert (status, err) == (0, "")
    assert [name for name in names if name not in out] == []


def test_a_method_tells_its_fields(run: Any) -> None:
    fields = run("methods", "--json").json["static"]["schema"]["properties"]
    assert fields["depth"]["search"] == {"low": 0.2, "high": 1.0, "log": False}
    assert fields["depth"]["default"] == 1.0
    row = next(line for line in run("methods").out.splitlines() if line.startswith("depth "))
    assert row.split(maxsplit=5) == ["depth", "1.0", "0.2", "to", "1.0", fields["depth"]["description"]]


def test_what_only_a_backbone_knows_is_null_without_one(run: Any) -> None:
    fields = run("methods", "--json").json["dgate"]["schema"]["properties"]
    assert fields["positions"]["search"] == {"positions": None, "count": [1, 3]}
    row = next(line for line in run("methods").out.splitlines() if line.startswith("positions "))
    assert "1 to 3 units, by the backbone" in row


def test_every_field_of_a_method_has_a_meaning(run: Any) -> None:
    for entry in run("methods", "--json").json.values():
        for name, facts in entry["schema"]["properties"].items():
            assert facts.get("description"), name


def test_residual_networks_are_told_apart(run: Any) -> None:
    rows = {line.split()[0]: line for line in run("backbones").out.splitlines()}
    assert "ResNet-38: 3 groups of 6 residual blocks" in rows["resnet38"]
    assert "ResNet-152: 3 groups of 25 residual blocks" in rows["resnet152"]


def test_plain_files_are_listed_and_priced(run: Any, fixtures: Path) -> None:
    backbone, method = fixtures / "own_backbone.py", fixtures / "own_method.py"
    words = ("--plugin", backbone, "--plugin", method, "--json")
    assert run("backbones", *words).json["pocket"]["plugin"] == str(backbone)
    assert run("methods", *words).json["skipper"]["plugin"] == str(method)
    assert "digits" in run("datasets", *words).json
    cost = run("cost", "skipper", "--backbone", "pocket", "--dataset", "digits", *words).json
    assert 0 < cost["macs"]["min"] < cost["macs"]["max"]
    assert "no backbone 'pocket'" in run("cost", "static", "--backbone", "pocket", "--dataset", "digits").err


@pytest.mark.parametrize("command", [["methods"], ["cost", "static", "--backbone", "nin"]])
def test_a_plain_file_that_is_not_there(run: Any, tmp_path: Path, command: list[str]) -> None:
    done = run(*command, "--plugin", tmp_path / "none.py")
    assert (done.status, done.out, len(done.lines)) == (2, "", 1)
    assert "must be a Python file" in done.err


def test_a_plain_file_that_cannot_be_loaded(run: Any, tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("import no_such_module")
    words = ("--backbone", "nin", "--dataset", "digits", "--plugin", tmp_path / "bad.py")
    done = run("cost", "own", *words)
    assert (done.status, done.out, len(done.lines)) == (2, "", 1)
    assert "no method 'own'; installed: " in done.err
    assert "bad.py': cannot be loaded: ModuleNotFoundError" in done.err
    done = run("cost", "static", *words, "--json")
    assert (done.status, len(done.lines)) == (0, 1)
    assert done.err.startswith("routesearch: warning: plugin ")


def test_a_backbone_tells_its_size(run: Any) -> None:
    nin = run("backbones", "--json").json["nin"]["schema"]
    assert (nin["units"], nin["image_shape"], nin["classes"]) == (8, [3, 32, 32], 10)
    assert nin["params"] == 966_986  # 192*75+192, 160*192+160, … by hand
    cost = run("cost", "static", "--backbone", "nin", "--shape", "3,32,32", "--classes", "10", "--json").json
    assert (cost["backbone_params"], cost["backbone_macs"]) == (nin["params"], nin["macs"])


def test_a_data_set_tells_what_is_known_of_its_images(run: Any) -> None:
    found = run("datasets", "--json").json
    assert found["digits"]["schema"]["image_shape"] == [1, 16, 16]
    assert found["digits"]["schema"]["classes"] == list("0123456789")
    assert found["arrays"]["schema"]["image_shape"] is None
    assert "1x16x16, 10 classes" in run("datasets").out
    assert "required" in run("datasets").out


def test_cost(run: Any) -> None:
    done = run(
        "cost", "dgate", "--backbone", "nin@0.25", "--dataset", "digits", "--set", "positions=[2]", "--json"
    )
    assert (done.status, done.err) == (0, "")
    cost = done.json
    assert {k: cost[k] for k in ("method", "backbone", "dataset", "labels")} == {
        "method": "dgate",
        "backbone": "nin@0.25",
        "dataset": "digits",
        "labels": "known",
    }
    assert set(cost) == {
        *("method", "backbone", "dataset", "params", "macs"),
        "backbone_macs",
        "backbone_params",
        "labels",
    }
    assert cost["macs"]["min"] < cost["backbone_macs"] < cost["macs"]["max"]
    assert cost["params"] > cost["backbone_params"]


def test_cost_without_a_data_set(run: Any) -> None:
    words = ("cost", "static", "--backbone", "resnet38", "--shape", "3,24,24", "--classes", "5")
    assert run(*words, "--json").json["dataset"] is None
    status, out, err = run(*words)
    assert (status, err) == (0, "")
    assert "most expensive route" in out


def test_a_narrower_network_costs_less(run: Any) -> None:
    words = ("cost", "static", "--backbone", "nin", "--dataset", "digits", "--json")
    wide, narrow = run(*words).json, run(*words, "--set", "width_fraction=0.5").json
    assert wide["macs"]["max"] == wide["backbone_macs"]
    assert narrow["macs"]["max"] < 0.3 * wide["macs"]["max"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["dgat", "--backbone", "nin", "--dataset", "digits"],
            "no method 'dgat'; did you mean 'dgate'? installed:",
        ),
        (["tree2", "--backbone", "nin"], "no method 'tree2'; installed: actor, "),
        (["static", "--backbone", "nim"], "no backbone 'nim'; did you mean 'nin'? installed:"),
        (["static", "--backbone", "nin", "--dataset", "cifar11"], "no data set 'cifar11'"),
        (["static", "--backbone", "nin"], "must be given"),
        (["static", "--backbone", "nin", "--dataset", "arrays"], "data set 'arrays' has no fixed shape"),
        (["static", "--backbone", "nin", "--shape", "3,32", "--classes", "3"], "--shape must be C,H,W"),
        (["static", "--backbone", "nin", "--shape", "3,0,32", "--classes", "3"], "--shape must be C,H,W"),
        (
            ["static", "--backbone", "nin", "--shape", "3,32,32", "--classes", "1"],
            "--classes must be 2 or more",
        ),
        (["static", "--backbone", "nin", "--dataset", "digits", "--set", "deep=1"], "unknown field 'deep'"),
        (
            ["static", "--backbone", "nin", "--dataset", "digits", "--set", "depth=9"],
            "depth: 0.2 <= value <= 1.0",
        ),
        (["static", "--backbone", "nin", "--dataset", "digits", "--set", "depth"], "--set must be KEY=VALUE"),
        (
            ["dgate", "--backbone", "nin", "--dataset", "digits", "--set", "positions=[8]"],
            "1 <= position <= 7",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_priced(run: Any, words: list[str], told: str) -> None:
    done = run("cost", *words, "--json")
    assert (done.status, done.out, len(done.lines)) == (2, "", 1)
    assert told in done.err


def test_a_broken_plugin_is_a_warning(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from routesearch.plugin import loader as plugins

    def load(files: Sequence[Path] = ()) -> plugins.Registry:
        registry = real(files)
        registry.problems.append("plugin 'worn': cannot be loaded: ImportError: no gears")
        return registry

    real = plugins.load_plugins
    monkeypatch.setattr(plugins, "load_plugins", load)
    done = run("methods", "--json")
    assert (done.status, done.lines) == (
        0,
        ["routesearch: warning: plugin 'worn': cannot be loaded: ImportError: no gears"],
    )
    assert "static" in done.json


def test_a_backbone_that_cannot_be_built_leaves_the_others(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from routesearch.backbones import NiN

    def broken(*_: object) -> None:
        raise RuntimeError("no bones")

    monkeypatch.setattr(NiN, "unit", broken)
    done = run("backbones", "--json")
    assert done.status == 0
    assert done.lines == ["routesearch: warning: backbone nin cannot be built: RuntimeError: no bones"]
    assert "units" not in done.json["nin"]["schema"]
    assert done.json["resnet38"]["schema"]["units"] == 18
    assert run("backbones").status == 0
