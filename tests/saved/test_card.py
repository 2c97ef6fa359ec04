"""What ``model.json`` may say: every field has its rule, and a text from somebody else its bounds."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from routesearch import Refusal
from routesearch.saved import code_file
from routesearch.saved.card import Card, TrunkFacts, read_card
from routesearch.saved.plain_json import MAX_BYTES, MAX_DEPTH


def told(file: Path) -> str:
    with pytest.raises(Refusal) as error:
        read_card(file)
    text = str(error.value)
    assert "\n" not in text
    assert text.isprintable()
    assert len(text) < 500 + len(str(file))
    return text


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


SHARES = {"accuracy": 0.5, "macs": 10.0}


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({"shape": [3, 1_000_000, 1_000_000]}, "pixels and 67,108,864 values at most"),
        ({"shape": [4096, 16_384, 16_384]}, "67,108,864 values at most"),
        ({"shape": [100_000, 8, 8]}, "4096 channels"),
        ({"shape": [1.0, 8, 8]}, "shape.0: must be an integer"),
        ({"shape": ["1", 8, 8]}, "shape.0: must be an integer"),
        ({"classes": ["a", "a", "b"]}, "classes: each name must be there once"),
        ({"classes": ["a", "", "b"]}, "classes.1"),
        ({"classes": ["a", "b" * 201, "c"]}, "classes.1"),
        ({"classes": ["a", "b\u001b[31m", "c"]}, "texts must have no control characters, got 'b\\x1b[31m'"),
        ({"classes": ["a", "b\nc", "d"]}, "texts must have no control characters"),
        ({"classes": ["a", "\ud800", "c"]}, "texts must have no control characters, got '\\ud800'"),
        ({"classes": ["a", 1, "c"]}, "classes.1: must be text"),
        ({"mean": [1e300]}, "mean and std must be 1e+06 at most"),
        ({"std": [1e-40]}, "std no less than 1e-06"),
        ({"std": [-1.0]}, "std must be more than 0"),
        ({"files": {"size": [8, 800_000], "mode": "L"}}, "files must be of the shape (1, 8, 8)"),
        ({"files": {"size": [8, 8], "mode": "RGB"}}, "files must be of the shape (1, 8, 8)"),
        ({"files": {"size": [8, 8], "mode": "CMYK"}}, "files.mode"),
        ({"params": -1}, "params: must be greater than or equal to 0"),
        ({"params": True}, "params: must be an integer"),
        ({"trial": "0"}, "trial: must be an integer"),
        ({"seed": 1 << 70}, "seed: must be less than"),
        ({"seed": 1.5}, "seed: must be an integer"),
        ({"backbone_macs": 0}, "backbone_macs: must be greater than 0"),
        ({"validation": SHARES | {"accuracy": 17}}, "validation.accuracy: must be less than or equal to 1"),
        ({"validation": SHARES | {"macs": 0}}, "validation.macs: must be greater than 0"),
        ({"validation": SHARES | {"route_share": [1.5]}}, "validation.route_share.0: a share must be 0 to 1"),
        ({"test": SHARES | {"route_share": [-0.5]}}, "test.route_share.0: a share must be 0 to 1"),
        ({"trunk": {"accuracy": 0.5, "confusion": [[1.0]]}}, "trunk.confusion must have a row and a column"),
        ({"trunk": {"accuracy": 0.5, "confusion": [[7.0] * 3] * 3}}, "trunk.confusion.0.0: a share must be"),
        ({"study": ""}, "study"),
        ({"method": "x" * 3000}, "method"),
        ({"versions": {"torch": "2" * 1000}}, "versions.torch"),
        ({"versions": {"x" * 1000: "2"}}, "keys must be 200 plain characters at most"),
        ({"versions": {"a\u001b": "2"}}, "keys must be 200 plain characters at most, got 'a\\x1b'"),
        ({"config": {"deep": nested(MAX_DEPTH)}}, f"brackets within brackets, more than {MAX_DEPTH} deep"),
        ({"knob": []}, "knob: must be a mapping"),
    ],
)
def test_values_that_cannot_be(
    model: Path, edit: Callable[..., None], fields: dict[str, Any], rule: str
) -> None:
    edit(**fields)
    assert rule in told(model / "model.json")


@pytest.mark.parametrize(
    "name",
    [
        *("/etc/passwd", "../x.py", "plugins/../../x.py", "plugins\\x.py", "x.py", "", "plugins/a\nb.py"),
        *("/plugins/own_method.py", "pluginsx/own_method.py"),
    ],
)
def test_code_lies_below_plugins(model: Path, edit: Callable[..., None], name: str) -> None:
    code = json.loads((model / "model.json").read_text())["code"]
    code["method"]["file"] = name
    edit(code=code)
    told(model / "model.json")


@pytest.mark.parametrize(
    "text", ['{"kind": 1, "kind": 2}', '{"a": {"b": 1, "b": 1}}', '{"a": "\\udc80"}', "[1"]
)
def test_texts_that_are_refused(model: Path, text: str) -> None:
    (model / "model.json").write_text(text)
    assert "is no readable JSON" in told(model / "model.json")


@pytest.mark.parametrize("name", ["T-shirt/top", "b" * 200])
def test_class_names_that_load(model: Path, edit: Callable[..., None], name: str) -> None:
    """Also what earlier versions called a class of Fashion-MNIST."""
    edit(classes=["a", name, "c"])
    assert read_card(model / "model.json").classes == ("a", name, "c")


def test_the_confusion_of_a_thousand_classes_has_room(model: Path) -> None:
    card = read_card(model / "model.json")
    row = tuple(1 / 3 + n * 1e-9 for n in range(1000))
    large = card.model_copy(
        update={
            "classes": tuple(f"class {n}" for n in range(1000)),
            "trunk": TrunkFacts(accuracy=0.5, confusion=(row,) * 1000),
        }
    )
    (model / "model.json").write_text(large.dumps())
    assert (model / "model.json").stat().st_size > 16 << 20
    assert read_card(model / "model.json") == large


def test_a_file_has_a_size(model: Path) -> None:
    with (model / "model.json").open("r+b") as file:
        file.truncate(MAX_BYTES + 1)
    assert "64 MiB at most, got 67,108,865 bytes" in told(model / "model.json")


@pytest.mark.parametrize("kind", ["folder", "pipe", "endless", "link to nothing"])
def test_a_card_is_a_plain_file(model: Path, kind: str) -> None:
    file = model / "model.json"
    file.unlink()
    if kind == "folder":
        file.mkdir()
    elif kind == "pipe":
        os.mkfifo(file)
    else:
        file.symlink_to("/dev/zero" if kind == "endless" else "gone")
    told(file)


def test_what_is_written_can_be_read(model: Path) -> None:
    file = model / "model.json"
    card = read_card(file)
    file.write_text(card.dumps())
    assert read_card(file) == card
    assert isinstance(card, Card)


@pytest.mark.parametrize(
    "name",
    ["plugins/own_method.py", "plugins/gone.py", "plugins/link.py", "plugins/a b.py", "plugins/$(x).py"],
)
def test_a_file_with_code_is_one_that_lies_there(model: Path, name: str, tmp_path: Path) -> None:
    (tmp_path / "other.py").write_text("")
    (model / "plugins" / "link.py").symlink_to(tmp_path / "other.py")
    for odd in ("a b.py", "$(x).py"):
        (model / "plugins" / odd).write_text("")
    found = code_file(model, name)
    assert found == (model / name if name == "plugins/own_method.py" else None)


def test_a_plugins_folder_that_is_a_link_has_no_code(model: Path, tmp_path: Path) -> None:
    (model / "plugins").rename(tmp_path / "there")
    (model / "plugins").symlink_to(tmp_path / "there")
    assert code_file(model, "plugins/own_method.py") is None
    assert code_file(model, None) is None
