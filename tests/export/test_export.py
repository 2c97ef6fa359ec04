"""Exported models predict what the originals predict, and what cannot be exported is refused in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from routesearch import Meter, Refusal, RunFailed, export_model
from routesearch.data.base import normalised
from routesearch.export import engines
from routesearch.export.runner import Runner
from routesearch.methods.running import price, run
from routesearch.saved import SavedModel

Digits = npt.NDArray[np.uint8]

ROUTES = {
    "static": 1,
    "dgate": 3,
    "exits": 3,
    "exits-patience": 4,
    "decisionet": 4,
    "skipnet-rnngate": 1,
    "skipnet-ffgate2": 1,
    "skipnet-ffgate1": 1,
    "aig": 1,
    "critic": 3,
    "actor": 5,
    "actor-told": 2,
    "jungle": 1,
}
"""Cases, and how many exits or leaves they have."""

NEVER = {"exits-patience": {0}}
"""Of these, exits that no image takes: with the first one none agrees yet."""


@pytest.fixture(scope="module")
def exported(
    make_model: Callable[[str], SavedModel], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """The folder of a case, written once."""
    done: dict[tuple[str, str], Path] = {}

    def export(case: str, engine: str = "onnx") -> Path:
        if (case, engine) not in done:
            folder, net = tmp_path_factory.mktemp("exported") / case, make_model(case).net
            before = {name: (tensor.clone(), tensor.stride()) for name, tensor in net.state_dict().items()}
            drawn = torch.get_rng_state()
            export_model(make_model(case), folder, engine)
            for name, tensor in net.state_dict().items():  # the model stays as it was
                assert torch.equal(tensor, before[name][0])
                assert tensor.stride() == before[name][1]
            assert torch.equal(torch.get_rng_state(), drawn)
            done[case, engine] = folder
        return done[case, engine]

    return export


def same(model: SavedModel, runner: Runner, images: Any) -> Any:
    """Hold the runner's predictions against the model's; they are returned."""
    wanted, found = model.predict(images), runner.predict(images)
    for name in ("labels", "macs", "route", "ran"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name), err_msg=name)
        assert getattr(found, name).dtype == getattr(wanted, name).dtype
    np.testing.assert_allclose(found.confidence, wanted.confidence, atol=1e-4)
    if len(images):
        pixels = torch.from_numpy(np.asarray(images)).reshape(-1, *model.card.shape)
        routed = run(model.net, normalised(pixels, model.card.mean, model.card.std), model.card.knob)
        np.testing.assert_allclose(found.logits, routed.logits.numpy(), atol=1e-4)
    return found


@pytest.mark.parametrize("case", ROUTES)
def test_predictions_equal_the_originals(
    case: str, make_model: Callable[[str], SavedModel], exported: Callable[..., Path], digits: Digits
) -> None:
    model, runner = make_model(case), Runner(exported(case), threads=1)
    found = same(model, runner, digits)
    assert set(found.route.tolist()) == set(range(ROUTES[case])) - NEVER.get(case, set())
    if found.ran.size:  # blocks that run for some images and not for others
        shares = found.ran.mean(0)
        assert ((shares > 0) & (shares < 1)).sum() >= 2
    for size in (0, 1, 17):
        same(model, runner, digits[:size])
        same(model, runner, np.random.default_rng(size).random((size, 8, 8, 1), np.float32))
    for alone in range(8):
        same(model, runner, digits[alone : alone + 1])


@pytest.mark.parametrize("case", ["dgate", "skipnet-rnngate"])
def test_torchs_own_files(
    case: str, make_model: Callable[[str], SavedModel], exported: Callable[..., Path], digits: Digits
) -> None:
    model, runner = make_model(case), Runner(exported(case, "torch"), threads=1)
    assert runner.program["engine"] == "torch"
    for size in (0, 1, 17, 64):
        same(model, runner, digits[:size])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.integers(0, 63), max_size=40), size=st.integers(1, 41))
def test_an_image_is_predicted_as_in_any_other_batch(
    rows: list[int], size: int, exported: Callable[..., Path], digits: Digits
) -> None:
    runner = Runner(exported("decisionet"), threads=1)
    whole, part = runner.predict(digits), runner.predict(digits[rows], batch_size=size)
    np.testing.assert_array_equal(part.route, whole.route[rows])
    np.testing.assert_array_equal(part.macs, whole.macs[rows])
    np.testing.assert_allclose(part.logits, whole.logits[rows], atol=1e-5)


def test_the_prices_are_the_plans(
    exported: Callable[..., Path], make_model: Callable[..., Any], digits: Digits
) -> None:
    net = make_model("decisionet").net
    prices = {
        route: price.min
        for route, price in price(type(net), net.config, net.backbone, net.trunk).routes.items()
    }
    found = Runner(exported("decisionet"), threads=1).predict(digits)
    assert len(set(prices.values())) > 1
    assert found.macs.tolist() == [prices[route] for route in found.route.tolist()]


@pytest.mark.parametrize("engine", ["onnx", "torch"])
def test_the_folder_runs_alone(
    engine: str, exported: Callable[..., Path], tmp_path: Path, digits: Digits
) -> None:
    folder = exported("dgate", engine)
    found = Runner(folder, threads=1).predict(digits)
    np.save(tmp_path / "images.npy", digits)
    banned = ["routesearch", "routesearch_dgate", *(["torch"] if engine == "onnx" else ["onnxruntime"])]
    code = f"""
import sys, runpy
for name in {banned}:
    sys.modules[name] = None  # whoever imports it fails
sys.argv = [sys.argv[1] + "/runner.py", "images.npy"]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
    command = [sys.executable, "-c", code, str(folder)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["route"] for line in lines] == found.route.tolist()
    assert [line["macs"] for line in lines] == found.macs.tolist()
    assert [line["label"] for line in lines] == ["abcdefghij"[label] for label in found.labels]


def test_one_graph_for_each_straight_line(exported: Callable[..., Path]) -> None:
    folder = exported("dgate")
    program = json.loads((folder / "program.json").read_text())
    assert [piece["file"] for piece in program["pieces"]] == [f"piece00{i}.onnx" for i in range(3)]
    names = sorted(file.name for file in folder.iterdir())
    assert names == ["piece000.onnx", "piece001.onnx", "piece002.onnx", "program.json", "runner.py"]


def test_an_older_export_is_replaced_and_nothing_else_is(
    make_model: Callable[[str], SavedModel], tmp_path: Path
) -> None:
    model, out = make_model("static"), tmp_path / "out"
    out.mkdir()
    for name in ("program.json", "piece000.onnx"):
        (out / name).write_text("older")
    export_model(model, out, "torch")
    assert sorted(file.name for file in out.iterdir()) == ["piece000.pt2", "program.json", "runner.py"]
    (out / "notes.txt").write_text("mine")
    with pytest.raises(Refusal, match=r"in place of an older export, got .* with notes\.txt in it"):
        export_model(model, out, "torch")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(Refusal, match="which is a file"):
        export_model(model, tmp_path / "file", "torch")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "out"]


def test_formats(
    make_model: Callable[[str], SavedModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Refusal, match="--format must be one of onnx, torch, got 'tflite'"):
        export_model(make_model("static"), tmp_path / "out", "tflite")
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    with pytest.raises(Refusal, match=r"got no onnx: pip install 'routesearch\[export\]'"):
        export_model(make_model("static"), tmp_path / "out")
    monkeypatch.undo()
    monkeypatch.setattr(engines, "MAX_BYTES", 100)
    with pytest.raises(Refusal, match="static cannot be exported: weights <= 100 bytes must hold"):
        export_model(make_model("static"), tmp_path / "out")
    assert not list(tmp_path.iterdir())


# ---- routes that cannot be exported ------------------------------------------------------------------


def _spends(block: Any, meter: Meter, images: Tensor) -> None:
    logits = meter.run(block, images)
    meter.finish(logits + meter.spent[:, None])


def _looks(block: Any, meter: Meter, images: Tensor) -> None:
    logits = meter.run(block, images)
    meter.finish(logits if float(logits.mean()) > 0 else -logits)


def _remembers(block: Any, meter: Meter, images: Tensor) -> None:
    logits = meter.run(block, images)
    for way, group, _ in meter.split(logits[:, 0] > 0, 2, logits):
        group.finish(logits * 2, route=way)


def _counts(block: Any, meter: Meter, images: Tensor) -> None:
    meter.finish(meter.run(block, images) * (1.0 / len(images)))


def _mixes(block: Any, meter: Meter, images: Tensor) -> None:
    logits = meter.run(block, images)
    for way, group, its, mean in meter.split(logits[:, 0] > 0, 2, logits, logits.mean(0)):
        group.finish(its - mean, route=way)


def _stops(block: Any, meter: Meter, images: Tensor) -> None:
    meter.run(block, images)


def _leaves(block: Any, meter: Meter, images: Tensor) -> None:
    logits = meter.run(block, images)
    for _way, group, its in meter.split(logits[:, 0] > 0, 2, logits):
        group.finish(its)
        group.finish(its)


@pytest.mark.parametrize(
    ("way", "rule"),
    [
        (_spends, "got AttributeError: 'TracingMeter' object has no attribute 'spent'"),
        (_looks, "every operation of a route must be one that torch can record"),
        (_remembers, "a way must read what its split or patch gives it"),
        (_counts, "the numbers of a route must not depend on how many images there are"),
        (_mixes, "what passes between blocks must have one row per image"),
        (_stops, "every image must finish exactly once"),
        (_leaves, "must not be used afterwards"),
    ],
)
def test_a_route_that_cannot_be_exported(
    way: Callable[..., None], rule: str, lone: Callable[..., SavedModel], tmp_path: Path
) -> None:
    with pytest.raises(Refusal, match=rule) as refused:
        export_model(lone(way), tmp_path / "out", "torch")
    assert str(refused.value).startswith("lone cannot be exported: ")
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_a_route_that_draws_is_not_exported(lone: Callable[..., SavedModel], tmp_path: Path) -> None:
    def draws(block: Any, meter: Meter, images: Tensor) -> None:
        meter.finish(meter.run(block, images) * torch.rand(len(images), 1))

    with pytest.raises(RunFailed, match="an export must give what its model gives"):
        export_model(lone(draws), tmp_path / "out", "torch")
    assert not list(tmp_path.iterdir())


def test_sizes_constants_and_work_for_nobody(
    lone: Callable[..., SavedModel], tmp_path: Path, digits: Digits
) -> None:
    """Numbers that grow with the batch, choices that read no image, and a patch that nobody reads."""

    def odd(block: Any, meter: Meter, images: Tensor) -> None:
        x = images.reshape(len(images) * 2, -1).view(images.shape) / len(images) * len(images)
        side = torch.zeros(len(images), 10)
        meter.patch(x[:, 0, 3, 3] > 0, block, x, into=side)
        for way, group, its in meter.split(torch.ones(len(images), dtype=torch.int64), 2, x):
            y = group.run(block, its)
            y += 1.0
            group.finish(y, route=way)

    model = lone(odd)
    export_model(model, tmp_path / "out", "onnx")
    runner = Runner(tmp_path / "out", threads=1)
    for size in (1, 2, 64):
        found = same(model, runner, digits[:size])
        assert set(found.route.tolist()) == {1}
    assert len(set(found.macs.tolist())) == 2


@pytest.mark.parametrize("exactly", [None, 1])
def test_experts_are_exported(
    exactly: int | None, lone: Callable[..., SavedModel], tmp_path: Path, digits: Digits
) -> None:
    """The units of the network as experts on its first unit's output, some for each image."""

    def mixture(block: Any, meter: Meter, images: Tensor) -> None:
        x = meter.run(block.units[0], images)
        scores = images[:, 0, 3, 2:5]
        mask = scores > 0.1
        if exactly is not None:
            mask = torch.zeros_like(mask).scatter(1, scores.topk(exactly, 1).indices, value=True)
        experts = [nn.Conv2d(x.shape[1], x.shape[1], size, padding=size // 2).eval() for size in (1, 3, 5)]
        experts = made.setdefault("experts", experts)
        y = meter.choose(mask, experts, x, weights=scores.softmax(1), into=x, exactly=exactly)
        for unit in block.units[1:]:
            y = meter.run(unit, y)
        meter.finish(meter.run(block.head, y))

    made: dict[str, Any] = {}
    model = lone(mixture)
    export_model(model, tmp_path / "out", "onnx")
    runner = Runner(tmp_path / "out", threads=1)
    for size in (1, 5, 64):
        found = same(model, runner, digits[:size])
        if exactly is not None:
            assert (found.ran.sum(1) == exactly).all()
    assert len(set(found.macs.tolist())) > 1
