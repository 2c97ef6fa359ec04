"""The network that a card describes: its weights, knob and shares are checked before it is built."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from routesearch import Refusal, load
from routesearch.saved.network import check_knob
from routesearch.utils.files import file_digest


def refusal(folder: Path, **options: Any) -> str:
    with pytest.raises(Refusal) as error:
        load(folder, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def reweigh(model: Path, edit: Callable[..., None]) -> Callable[[dict[str, Any]], None]:
    """Writes other weights, with the digest that is theirs."""

    def write(arrays: dict[str, Any]) -> None:
        save_file(arrays, model / "model.safetensors")
        edit(weights=file_digest(model / "model.safetensors"))

    return write


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda a: a.astype(np.float64), "F64 [1] where it has F32 [1]"),
        (lambda a: a.astype(np.float16), "F16 [1] where it has F32 [1]"),
        (lambda a: a.astype(np.int64), "I64 [1] where it has F32 [1]"),
        (lambda a: np.zeros((2, 1), np.float32), "F32 [2, 1] where it has F32 [1]"),
        (lambda a: np.zeros((), np.float32), "F32 [] where it has F32 [1]"),
        (lambda a: np.zeros(0, np.float32), "F32 [0] where it has F32 [1]"),
    ],
)
def test_weights_of_another_form(
    model: Path,
    plugins: list[Path],
    reweigh: Callable[[dict[str, Any]], None],
    change: Callable[[Any], Any],
    rule: str,
) -> None:
    arrays = load_file(model / "model.safetensors")
    reweigh(arrays | {"gates.2.1.bias": change(arrays["gates.2.1.bias"])})
    told = refusal(model, plugins=plugins)
    assert f"the weights must fit the network that skipper builds, got 'gates.2.1.bias': {rule}" in told


def test_weights_that_are_too_many_or_too_few(
    model: Path, plugins: list[Path], reweigh: Callable[[dict[str, Any]], None]
) -> None:
    arrays = load_file(model / "model.safetensors")
    reweigh(arrays | {"x" * 3000: np.zeros(3, np.float32)})
    assert "xxxx': F32 [3] where it has none" in refusal(model, plugins=plugins)
    del arrays["gates.2.1.bias"]
    reweigh(arrays)
    assert "got 'gates.2.1.bias': none where it has F32 [1]" in refusal(model, plugins=plugins)


@pytest.mark.parametrize("kind", ["folder", "pipe", "endless", "huge"])
def test_weights_are_a_plain_file(model: Path, plugins: list[Path], kind: str) -> None:
    file = model / "model.safetensors"
    file.unlink()
    if kind == "folder":
        file.mkdir()
    elif kind == "pipe":
        os.mkfifo(file)
    elif kind == "endless":
        file.symlink_to("/dev/zero")
    else:
        with file.open("wb") as made:
            made.truncate(1 << 40)  # takes no room on the disk
    assert "model.safetensors must be a plain file of 8 GiB at most, got" in refusal(model, plugins=plugins)


@pytest.mark.parametrize(
    ("knob", "rule"),
    [
        ({}, "knob must hold threshold, got {}"),
        ({"thresholds": 0.5}, "knob must hold threshold, got {'thresholds': 0.5}"),
        ({"threshold": 0.5, "more": 1}, "knob must hold threshold"),
        ({"threshold": "0.5"}, "knob.threshold must be a number, got '0.5'"),
        ({"threshold": True}, "knob.threshold must be a number, got True"),
        ({"threshold": None}, "knob.threshold must be a number, got None"),
        ({"threshold": [0.5]}, "knob.threshold must be a number, got [0.5]"),
        ({"threshold": 1e308}, "knob.threshold must be a finite number"),
    ],
)
def test_knobs_that_the_network_does_not_have(
    model: Path, edit: Callable[..., None], plugins: list[Path], knob: dict[str, Any], rule: str
) -> None:
    edit(knob=knob)
    assert rule in refusal(model, plugins=plugins)


@pytest.mark.parametrize(
    ("knob", "offered", "rule"),
    [
        ({}, [{}], None),
        ({"k": 2}, [{"k": 1}, {"k": 4}], None),
        ({"k": 5}, [{"k": 1}, {"k": 4}], "knob.k must be 1 to 4, got 5"),
        ({"k": 2.5}, [{"k": 1}, {"k": 4}], "knob.k must be 1 to 4, got 2.5"),
        ({"t": -7.25}, [{"t": 0.0}, {"t": 1.0}], None),
        ({"t": 0.3}, [{"t": 0}], None),
        ({"t": 10**400}, [{"t": 0.5}], "knob.t must be a finite number"),
        ({"t": [0.1, -2.0]}, [{"t": [1.0, 1.0]}], None),
        ({"t": [0.1]}, [{"t": [1.0, 1.0]}], "knob.t must be a list of 2, got [0.1]"),
        ({"t": [0.1] * 3}, [{"t": [1.0, 1.0]}], "knob.t must be a list of 2"),
        ({"t": [0.1] * 3}, [{"t": [1.0]}, {"t": [1.0] * 2}], None),
        ({"t": [0.1, "x"]}, [{"t": [1.0, 1.0]}], "knob.t must be a list, each a number, got [0.1, 'x']"),
        ({"mode": "fast"}, [{"mode": "slow"}], None),
        ({"mode": 1}, [{"mode": "slow"}, {"mode": ["a"]}], "knob.mode must be a list or a text, got 1"),
        ({"x": {"a": 1}}, [{"x": {}}], None),
        ({"x": 3}, [{"x": None}], None),
        ({"b": 1}, [{"a": 1}, {"b": 0.5, "c": 1}], "knob must hold a or b, c, got {'b': 1}"),
    ],
)
def test_a_knob_is_like_those_that_are_offered(
    knob: dict[str, Any], offered: list[dict[str, Any]], rule: str | None
) -> None:
    if rule is None:
        check_knob(knob, offered)
        return
    with pytest.raises(Refusal) as error:
        check_knob(knob, offered)
    assert rule in str(error.value)


def test_shares_are_those_of_the_networks_routes(
    model: Path, edit: Callable[..., None], plugins: list[Path], fixtures: Path
) -> None:
    edit(validation={"accuracy": 0.5, "macs": 10.0, "route_share": [0.5] * 9})
    rule = "validation.route_share must hold a share for each block, "
    assert rule in refusal(model, plugins=plugins)


@pytest.mark.parametrize(
    ("shares", "rule"),
    [([0.5, 0.2, 0.2, 0.0], "must sum to 1, got 0.9"), ([0.2] * 5, "route, 4 at most, got 5")],
)
def test_shares_of_exits_sum_to_one(shares: list[float], rule: str, fixtures: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    given = fixtures / "earlier" / "models" / "dgate"
    values = json.loads((given / "model.json").read_text())
    values["test"]["route_share"] = shares
    (folder / "model.json").write_text(json.dumps(values))
    (folder / "model.safetensors").write_bytes((given / "model.safetensors").read_bytes())
    assert rule in refusal(folder)


GREEDY = '''
from torch import nn
from routesearch import RoutedNet, Space, Stage, hookimpl

class Greedy(RoutedNet):
    """As many layers as its config says."""

    name = "greedy"

    class Config(Space):
        layers: int = 1
        size: int = 4

    def __init__(self, config, backbone, trunk=None):
        super().__init__(config, backbone, trunk)
        self.plain = backbone.plain()
        self.more = nn.ModuleList(nn.Linear(config.size, 4) for _ in range(config.layers))

    def stages(self):
        return [Stage(lambda batch: None)]

    def route(self, meter, images, knob):
        meter.finish(meter.run(self.plain.head, meter.run(nn.Sequential(*self.plain.units), images)))

    def knobs(self, scores=None, labels=None):
        return [{}]

@hookimpl
def routesearch_methods():
    return [Greedy]
'''


@pytest.mark.parametrize(
    ("config", "rule"),
    [
        ({"layers": 10**9}, "the config must be of a network like the weights, got more than"),
        ({"size": 10**12}, "the weights must fit the network that greedy builds"),
        ({"size": 10**30}, "the weights must fit the network that greedy builds"),
        ({"layers": 10, "size": 10**9}, "the weights must fit the network that greedy builds"),
    ],
)
def test_a_config_takes_neither_memory_nor_time(
    model: Path, edit: Callable[..., None], plugins: list[Path], config: dict[str, int], rule: str
) -> None:
    greedy = model.parent / "greedy.py"
    greedy.write_text(GREEDY)
    edit(method="greedy", config=config, knob={}, code={})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert rule in refusal(model, plugins=[*plugins, greedy])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


def test_a_backbone_has_a_width(model: Path, edit: Callable[..., None], plugins: list[Path]) -> None:
    edit(backbone="pocket@1000000000")
    assert "backbone: a width of 100 at most must hold" in refusal(model, plugins=plugins)


@pytest.mark.parametrize("command", ["predict", "latency", "export"])
def test_the_commands_refuse_in_one_line(command: str, model: Path, edit: Callable[..., None]) -> None:
    edit(shape=[3, 10**6, 10**6])
    rest = {"predict": [str(model / "x.png")], "latency": [], "export": [str(model.parent / "out")]}[command]
    done = subprocess.run(
        [sys.executable, "-m", "routesearch.cli", command, str(model), *rest], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "values at most" in done.stderr
