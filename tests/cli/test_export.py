"""The command that writes a saved model for use without routesearch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from routesearch import load
from routesearch.export.runner import Runner


@pytest.fixture
def files(trained_model: Path) -> list[Path]:
    """The plain files that the model needs."""
    return sorted((trained_model / "plugins").iterdir())


@pytest.fixture
def allowed(files: list[Path]) -> list[Any]:
    """The options that let them run."""
    return [word for file in files for word in ("--plugin", file)]


def test_a_saved_model(
    run: Any, trained_model: Path, files: list[Path], allowed: list[Any], tmp_path: Path
) -> None:
    done = run("export", trained_model, tmp_path / "out", *allowed, "--json")
    assert (done.status, done.err) == (0, "")
    names = [file.name for file in (tmp_path / "out").iterdir()]
    size = sum(file.stat().st_size for file in (tmp_path / "out").iterdir())
    pieces = sum(name.endswith(".onnx") for name in names)
    folder = str(tmp_path / "out")
    assert done.json == {"folder": folder, "format": "onnx", "pieces": pieces, "bytes": size}
    assert {"program.json", "runner.py"} < set(names)
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8), np.uint8)
    wanted, found = load(trained_model, plugins=files).predict(images), Runner(folder).predict(images)
    for name in ("labels", "macs", "route", "ran"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
    again = run("export", trained_model, tmp_path / "out", *allowed, "--format", "torch")
    assert (again.status, again.err) == (0, "")
    assert again.out.startswith(f"{folder}: {pieces} graphs, ")
    assert again.out.endswith(f"python {folder}/runner.py IMAGES.npy\n")


def test_what_is_refused(run: Any, trained_model: Path, allowed: list[Any], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "notes.txt").write_text("mine")
    out = tmp_path / "out"
    for words, told in (
        ((tmp_path / "none", out), "a saved model is a folder, got"),
        ((tmp_path / "empty", out), "a saved model is a folder with model.json and model.safetensors"),
        ((trained_model, out), "which runs only where it is named"),
        ((trained_model, tmp_path / "taken", *allowed), "with notes.txt in it"),
        ((trained_model, trained_model, *allowed), "to a new folder or in place of an older export"),
        ((trained_model, out, "--format", "h5"), "--format must be one of onnx, torch, got 'h5'"),
    ):
        done = run("export", *words)
        assert (done.status, done.out, len(done.lines)) == (2, "", 1), words
        assert told in done.err
    assert sorted(each.name for each in tmp_path.iterdir()) == ["empty", "taken"]
    assert (trained_model / "model.json").is_file()
