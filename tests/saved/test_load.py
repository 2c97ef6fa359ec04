"""Loading: the same network as was measured, or one line that says what is wrong with the folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from routesearch import Refusal, load
from routesearch.data.base import Data
from routesearch.plugin.loader import Registry, load_plugins


def refusal(folder: Path, **options: Any) -> str:
    with pytest.raises(Refusal) as error:
        load(folder, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_it_predicts_what_was_measured_on_test(trained_model: Path, plugins: list[Path], data: Data) -> None:
    model = load(trained_model, plugins=plugins)
    found = model.predict(data.test.pixels.permute(0, 2, 3, 1).numpy())
    measured = model.card.test
    assert measured is not None
    assert (found.labels == data.test.labels.numpy()).mean() == pytest.approx(measured.accuracy)
    assert found.macs.mean() == pytest.approx(measured.macs)
    assert found.ran.mean(0) == pytest.approx(measured.route_share, abs=1e-5)
    assert measured.accuracy > 0.5
    assert model.classes == ("0", "1", "2")


def test_loading_leaves_random_numbers_alone(trained_model: Path, plugins: list[Path]) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    load(trained_model, plugins=plugins)
    assert torch.equal(torch.get_rng_state(), before)


def test_no_code_of_a_folder_runs_unasked(model: Path) -> None:
    trap = model / "plugins" / "own_backbone.py"
    trap.write_text(f"open({str(model / 'ran')!r}, 'w')")
    told = refusal(model)
    assert "the method 'skipper' is code in a plain file, which runs only where it is named" in told
    assert f"read {model / 'plugins' / 'own_method.py'} first, then give it as --plugin" in told
    assert not (model / "ran").exists()


def test_code_that_is_not_what_it_was_is_told(
    model: Path, plugins: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    changed = model.parent / "own_method.py"
    changed.write_text((model / "plugins" / "own_method.py").read_text() + "\n# changed\n")
    load(model, plugins=[plugins[0], changed])
    assert "the method 'skipper' was saved with own_method.py" in caplog.text
    caplog.clear()
    load(model, plugins=plugins)
    assert caplog.text == ""


def test_a_plugin_that_is_not_installed_is_named(
    model: Path, edit: Callable[..., None], plugins: list[Path]
) -> None:
    code = json.loads((model / "model.json").read_text())["code"]
    code["method"] = {"plugin": "fog", "version": "routesearch-fog 2.1", "file": None}
    edit(method="foggy", code=code)
    rule = "the method 'foggy' is not installed; its model.json names 'routesearch-fog 2.1' (plugin 'fog')"
    assert rule in refusal(model, plugins=plugins)


def test_a_model_of_an_earlier_version_says_nothing_of_pixels_beyond_white(
    model: Path, edit: Callable[..., None], plugins: list[Path]
) -> None:
    assert json.loads((model / "model.json").read_text())["pixel_range"] == [0, 1]
    edit(pixel_range=[-4, 5])
    assert load(model, plugins=plugins).card.pixel_range == (-4, 5)
    file = model / "model.json"
    card = json.loads(file.read_text())
    del card["pixel_range"]
    file.write_text(json.dumps(card))
    assert load(model, plugins=plugins).card.pixel_range == (0, 1)
    for wrong in ([1, 0], [0, 0], [0], "0..1", [0, "x"]):
        edit(pixel_range=wrong)
        assert "pixel_range" in refusal(model, plugins=plugins)


def test_a_plugin_that_cannot_be_loaded_is_blamed(model: Path, plugins: list[Path]) -> None:
    (model.parent / "bad.py").write_text("import no_such_module")
    told = refusal(model, plugins=[model.parent / "bad.py"])
    assert "not loaded: plugin" in told
    assert "no_such_module" in told
    assert "does not exist" in refusal(model, plugins=["nowhere.py"])


@pytest.mark.parametrize("keep", [0, 0.3, 0.99])
def test_truncated_json(model: Path, plugins: list[Path], keep: float) -> None:
    file = model / "model.json"
    text = file.read_text()
    file.write_text(text[: int(keep * len(text))])
    assert f"{file} is no readable JSON" in refusal(model, plugins=plugins)


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b"\xff\xfe{}", "is no readable JSON"),
        (b"[1, 2]", "must be a saved model's (kind: 'routesearch model'), got [1, 2]"),
        (b'{"architectures": ["ResNet"]}', "must be a saved model's (kind: 'routesearch model'), got None"),
        (b'{"kind": "routesearch model"}', "format must be 1 or more, got None"),
        (b'{"kind": "routesearch model", "format": true}', "format must be 1 or more, got True"),
        (b'{"kind": "routesearch model", "format": 1}', "study must be given"),
        (b'{"kind": "routesearch model", "format": 1, "macs": NaN}', "NaN is no number"),
        (
            b'{"kind": "routesearch model", "format": 2, "versions": {"routesearch": "3.0"}}',
            "format <= 1 must hold in this version, got 2 (written by routesearch '3.0'): upgrade",
        ),
        (b"[" * 100_000, "is no readable JSON"),
    ],
)
def test_json_that_is_no_models(model: Path, content: bytes, rule: str) -> None:
    (model / "model.json").write_bytes(content)
    assert rule in refusal(model)


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({"mean": [0.1, 0.2]}, "mean and std must have a number per channel, got 2 and 1 for 1"),
        ({"std": [0.0]}, "std must be more than 0"),
        ({"shape": [1, 8]}, "shape.2 must be given"),
        ({"shape": [1, 0, 8]}, "C, H, W must be 1 or more"),
        ({"classes": ["one"]}, "classes: "),
        ({"classes": ["a", "b"]}, "the weights must fit the network that skipper builds"),
        ({"backbone": "nin@0.1"}, "the weights must fit the network that skipper builds"),
        ({"backbone": "../nin"}, "a backbone must be NAME or NAME@WIDTH"),
        ({"backbone": "pocket@0.5"}, "the weights must fit the network that skipper builds"),
        ({"config": {"prise": 1}}, "unknown key 'config.prise'; did you mean 'price'?"),
        ({"config": {"price": "dear"}}, "config.price: must be a number, got 'dear'"),
        ({"weights": "0" * 64}, "must be the weights that model.json names by their SHA-256"),
    ],
)
def test_fields_that_do_not_fit(
    model: Path, edit: Callable[..., None], plugins: list[Path], fields: dict[str, Any], rule: str
) -> None:
    edit(**fields)
    told = refusal(model, plugins=plugins)
    assert rule in told
    assert str(model) in told


def test_keys_of_a_later_version_are_passed_over(
    model: Path, edit: Callable[..., None], plugins: list[Path]
) -> None:
    edit(latency={"p50": 0.1})
    assert len(load(model, plugins=plugins).predict(np.zeros((1, 8, 8), np.uint8))) == 1


@pytest.mark.parametrize("damage", ["flip", "cut", "gone", "pickle"])
def test_damaged_weights(model: Path, plugins: list[Path], damage: str) -> None:
    file = model / "model.safetensors"
    content = bytearray(file.read_bytes())
    if damage == "gone":
        file.unlink()
        assert "a saved model has its weights in model.safetensors, got none" in refusal(
            model, plugins=plugins
        )
        return
    if damage == "flip":
        content[-7] ^= 1
    if damage == "pickle":
        torch.save({"a": torch.zeros(3)}, file)
        content = bytearray(file.read_bytes())
    file.write_bytes(content[: len(content) // 2] if damage == "cut" else content)
    assert "damaged or exchanged" in refusal(model, plugins=plugins)


def test_weights_that_are_no_safetensors(model: Path, edit: Callable[..., None], plugins: list[Path]) -> None:
    """Even where their digest is right."""
    from routesearch.utils.files import file_digest

    (model / "model.safetensors").write_bytes(b"hello")
    edit(weights=file_digest(model / "model.safetensors"))
    assert "model.safetensors cannot be read" in refusal(model, plugins=plugins)


def test_folders_that_are_none(tmp_path: Path) -> None:
    assert "which does not exist" in refusal(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    assert "which is a file" in refusal(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    assert "with model.json and model.safetensors, got no model.json" in refusal(tmp_path / "empty")


def test_a_confusion_that_is_missing(
    model: Path, plugins: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def loaded(files: Any) -> Registry:
        registry = load_plugins(files)
        monkeypatch.setattr(registry.methods.find("skipper"), "needs_confusion", True)
        return registry

    monkeypatch.setattr("routesearch.saved.model.load_plugins", loaded)
    assert "skipper builds by the trunk's confusion, got none in model.json" in refusal(
        model, plugins=plugins
    )


@pytest.mark.parametrize("device", ["tpu", "meta", "cuda:99", "", "mps"])
def test_a_device_that_is_not_there(trained_model: Path, plugins: list[Path], device: str) -> None:
    assert "device must be" in refusal(trained_model, plugins=plugins, device=device)


def test_a_moved_folder_is_the_same_model(model: Path, plugins: list[Path], tmp_path: Path) -> None:
    images = np.random.default_rng(1).random((9, 8, 8))
    before = load(model, plugins=plugins).predict(images)
    shutil.move(model, tmp_path / "elsewhere")
    after = load(str(tmp_path / "elsewhere"), plugins=[str(f) for f in plugins]).predict(images)
    assert np.array_equal(before.confidence, after.confidence)
