"""The runner says what is wrong with what it is given, in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from routesearch import export_model
from routesearch.export import runner
from routesearch.export.runner import Runner
from routesearch.saved import SavedModel


@pytest.fixture(scope="module")
def folder(make_model: Callable[[str], SavedModel], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported static network."""
    out = tmp_path_factory.mktemp("runner") / "out"
    export_model(make_model("static"), out)
    return out


@pytest.mark.parametrize(
    ("images", "told"),
    [
        (np.zeros((2, 9, 8), np.uint8), r"images must be N,8,8,1, got shape \(2, 9, 8\)"),
        (np.zeros((8, 8), np.uint8), r"got shape \(8, 8\)"),
        (np.zeros((2, 8, 8, 3), np.uint8), r"got shape \(2, 8, 8, 3\)"),
        (np.zeros((2, 8, 8), np.int64), "must be uint8, or floats in .0, 1., got int64"),
        (np.full((2, 8, 8), 1.5, np.float32), "must lie in .0, 1., got 1.5 to 1.5"),
        (np.full((2, 8, 8), np.nan, np.float32), "must lie in"),
    ],
)
def test_images_of_another_kind(folder: Path, images: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Runner(folder, threads=1).predict(images)


def test_pixels_are_taken_as_far_as_the_data_declared_them(folder: Path, tmp_path: Path) -> None:
    noisy = np.random.default_rng(0).normal(size=(5, 8, 8)).astype(np.float32)
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        Runner(folder, threads=1).predict(noisy)
    wider = Path(shutil.copytree(folder, tmp_path / "wider"))
    program = json.loads((wider / "program.json").read_text())
    assert program["pixel_range"] == [0, 1]
    (wider / "program.json").write_text(json.dumps(program | {"pixel_range": [-9, 9]}))
    assert len(Runner(wider, threads=1).predict(noisy)) == 5
    with pytest.raises(ValueError, match=r"must lie in \[-9, 9\], got"):
        Runner(wider, threads=1).predict(noisy * 255)
    (wider / "program.json").write_text(json.dumps({k: v for k, v in program.items() if k != "pixel_range"}))
    assert len(Runner(wider, threads=1).predict(noisy.clip(0, 1))) == 5


def test_batches_of_none(folder: Path) -> None:
    with pytest.raises(ValueError, match="batch_size >= 1 must hold, got 0"):
        Runner(folder, threads=1).predict(np.zeros((1, 8, 8), np.uint8), batch_size=0)


def test_floats_of_any_width_are_pixels(folder: Path) -> None:
    ours = Runner(folder, threads=1)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 8), np.uint8)
    wanted = ours.predict(pixels).logits
    for kind in (np.float32, np.float64):
        np.testing.assert_allclose(ours.predict((pixels / 255).astype(kind)).logits, wanted, atol=1e-5)


def test_a_folder_of_another_kind(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must hold an exported model's program\.json"):
        Runner(tmp_path)
    newer = Path(shutil.copytree(folder, tmp_path / "newer"))
    program = json.loads((newer / "program.json").read_text())
    (newer / "program.json").write_text(json.dumps(program | {"format": runner.FORMAT + 1}))
    with pytest.raises(ValueError, match="format 1 must hold, got 'routesearch program', 2"):
        Runner(newer)


def test_its_command_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "images.npy", np.zeros((3, 8, 8), np.uint8))
    assert runner.main([str(tmp_path / "images.npy"), "--model", str(folder)]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [set(line) for line in lines] == [{"label", "confidence", "macs", "route"}] * 3
    np.save(tmp_path / "images.npy", np.zeros((3, 9, 8), np.uint8))
    for file in (tmp_path / "images.npy", tmp_path / "none.npy"):
        assert runner.main([str(file), "--model", str(folder)]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert len(captured.err.splitlines()) == 1


def reached(value: Any) -> list[tuple[Any, Any]]:
    """Every container of a document with every key of it."""
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    below = [pair for key in keys for pair in reached(value[key])]
    return [(value, key) for key in keys] + below


@pytest.mark.parametrize("other", [None, -1, "x", "../x", [], {}, [[1]], "gone"])
def test_a_damaged_program_is_told(folder: Path, tmp_path: Path, other: Any) -> None:
    """Whichever of its fields it is: a ValueError, or a program that runs to its end."""
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    text = (folder / "program.json").read_text()
    images = np.zeros((2, *json.loads(text)["shape"][1:], json.loads(text)["shape"][0]), np.uint8)
    refused = 0
    for number in range(len(reached(json.loads(text)))):
        values = json.loads(text)
        container, key = reached(values)[number]
        if other == "gone":
            del container[key]
        else:
            container[key] = other
        (copy / "program.json").write_text(json.dumps(values))
        try:
            Runner(copy).predict(images)
        except ValueError:
            refused += 1
    assert refused > number / 3


def test_damaged_graphs_are_told(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    piece = next(copy.glob("piece*"))
    piece.write_bytes(piece.read_bytes()[:100])
    with pytest.raises(ValueError, match="its graphs cannot be loaded"):
        Runner(copy)
