"""A study's best as a model folder, in MLflow's registry, and on image files."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from routesearch import Study
from routesearch.cli import models
from routesearch.results.reader import StudyResults


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """Four pictures of 8 x 8."""
    random = np.random.default_rng(0)
    paths = [tmp_path / f"{i}.png" for i in range(4)]
    for path in paths:
        Image.fromarray(random.integers(0, 255, (8, 8), np.uint8)).save(path)
    return paths


@pytest.fixture
def allowed(trained_model: Path) -> list[Any]:
    """The options that let the model's plain files run."""
    return [word for file in sorted((trained_model / "plugins").iterdir()) for word in ("--plugin", file)]


def test_best_saved(run: Any, trained_study: Path, tmp_path: Path) -> None:
    point = run("best", trained_study, "--max-macs", "10x", "--json").json
    done = run("best", trained_study, "--max-macs", "10x", "--save", tmp_path / "model", "--json")
    assert (done.status, done.json) == (0, point)
    assert done.lines == [f"routesearch: saved trial {point['trial']} (skipper) in {tmp_path / 'model'}"]
    assert (tmp_path / "model" / "model.json").is_file()
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "notes.txt").write_text("mine")
    refused = run("best", trained_study, "--max-macs", "10x", "--save", tmp_path / "taken")
    assert (refused.status, refused.out, len(refused.lines)) == (2, "", 1)
    assert "notes.txt in it" in refused.err
    nothing = run("best", trained_study, "--max-macs", "1", "--save", tmp_path / "none")
    assert (nothing.status, nothing.out) == (2, "")
    assert not (tmp_path / "none").exists()


def test_best_without_weights(run: Any, stored: Path, tmp_path: Path) -> None:
    """A study whose trials were stored without them."""
    done = run("best", stored, "--save", tmp_path / "model")
    assert (done.status, done.out, len(done.lines)) == (2, "", 1)
    assert "only trials on the front keep theirs" in done.err


def test_predict_as_json(
    run: Any, trained_model: Path, pictures: list[Path], allowed: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from routesearch import load

    done = run("predict", trained_model, *pictures, *allowed, "--json")
    assert (done.status, done.err) == (0, "")
    assert set(done.json) == {"predictions", "unreadable"}
    assert done.json["unreadable"] == []
    rows = done.json["predictions"]
    assert [row["file"] for row in rows] == [str(path) for path in pictures]
    model = load(trained_model, plugins=[word for word in allowed if word != "--plugin"])
    found = model.predict(np.stack([np.asarray(Image.open(path)) for path in pictures]))
    for i, row in enumerate(rows):
        assert set(row) == {"file", "label", "confidence", "macs", "route", "ran"}
        assert (row["label"], row["macs"], row["route"]) == (str(found.labels[i]), found.macs[i], 0)
        assert row["confidence"] == pytest.approx(float(found.confidence[i]), abs=1e-6)
        assert row["ran"] == found.ran[i].tolist()
    monkeypatch.setattr(models, "CHUNK", 3)
    again = run("predict", trained_model, *pictures, *allowed, "--json").json["predictions"]
    assert [(row["file"], row["label"], row["macs"]) for row in again] == [
        (row["file"], row["label"], row["macs"]) for row in rows
    ]


def test_predict_for_people(run: Any, trained_model: Path, pictures: list[Path], allowed: list[Any]) -> None:
    done = run("predict", trained_model, *pictures, *allowed)
    assert (done.status, done.err) == (0, "")
    head, *rows = done.out.splitlines()
    assert head.split() == ["file", "label", "confidence", "M", "MACs", "route"]
    assert [row.split()[0] for row in rows] == [str(path) for path in pictures]
    assert all(row.endswith("of 2 blocks") for row in rows)


def test_unreadable_files_among_good_ones(
    run: Any, trained_model: Path, pictures: list[Path], allowed: list[Any], tmp_path: Path
) -> None:
    pictures[1].write_bytes(pictures[1].read_bytes()[:40])
    os.mkfifo(tmp_path / "pipe.png")  # opening it would wait for ever
    bad = [pictures[1], tmp_path / "missing.png", tmp_path / "pipe.png"]
    done = run("predict", trained_model, *pictures, *bad[1:], *allowed, "--json")
    assert done.status == 1
    good = [pictures[0], *pictures[2:]]
    assert [row["file"] for row in done.json["predictions"]] == [str(path) for path in good]
    assert [each["file"] for each in done.json["unreadable"]] == [str(path) for path in bad]
    *named, last = done.lines
    assert len(named) == 3
    assert all(f"{path} cannot be read as an image" in line for path, line in zip(bad, named, strict=True))
    assert last == "routesearch: every file must be a readable image, got 3 of 6 that are not"


def test_images_in_an_array(run: Any, trained_model: Path, allowed: list[Any], tmp_path: Path) -> None:
    """What no image file holds: a study's own noisy images."""
    from routesearch import load

    noisy = np.random.default_rng(0).normal(0.5, 1, (5, 8, 8)).clip(-4, 5)
    model = Path(shutil.copytree(trained_model, tmp_path / "model"))
    card = model / "model.json"
    assert '"pixel_range": [0.0, 1.0]' in card.read_text()
    card.write_text(card.read_text().replace('"pixel_range": [0.0, 1.0]', '"pixel_range": [-4.0, 5.0]'))
    np.save(tmp_path / "noisy.npy", noisy)
    done = run("predict", model, tmp_path / "noisy.npy", *allowed, "--json")
    assert (done.status, done.err) == (0, "")
    rows = done.json["predictions"]
    assert [row["file"] for row in rows] == [f"{tmp_path / 'noisy.npy'}[{i}]" for i in range(5)]
    found = load(model, plugins=[word for word in allowed if word != "--plugin"]).predict(noisy)
    assert [row["label"] for row in rows] == [str(label) for label in found.labels]
    np.save(tmp_path / "bright.npy", noisy.clip(0) * 255)
    np.save(tmp_path / "objects.npy", np.array([None]))
    (tmp_path / "torn.npy").write_bytes((tmp_path / "noisy.npy").read_bytes()[:200])
    bad = [tmp_path / f"{name}.npy" for name in ("bright", "objects", "torn", "missing")]
    done = run("predict", model, *bad, tmp_path / "noisy.npy", *allowed, "--json")
    assert (done.status, len(done.json["predictions"])) == (1, 5)
    reasons = [each["reason"] for each in done.json["unreadable"]]
    for path, reason, told in zip(
        bad,
        reasons,
        (
            "images must lie in [-4, 5]",
            "cannot be read as an array",
            "cannot be read as an array",
            "No such file",
        ),
        strict=True,
    ):
        assert reason.startswith(str(path))
        assert told in reason
        assert "\n" not in reason


def test_a_folder_of_pictures(
    run: Any, trained_model: Path, pictures: list[Path], allowed: list[Any], tmp_path: Path
) -> None:
    """As its images would be read for a search: sorted, and what is passed over is told."""
    folder = tmp_path / "new"
    (folder / "deep").mkdir(parents=True)
    strange = os.fsdecode(b"\xff.png")
    for picture, name in zip(pictures, ("b.PNG", "deep/a.png", "a.png", strange), strict=True):
        picture.rename(folder / name)
    (folder / "notes.txt").write_text("x")
    (folder / ".DS_Store").write_text("x")
    done = run("predict", trained_model, folder, *allowed, "--json")
    assert done.status == 0
    names = ["a.png", "b.PNG", "deep/a.png", strange]
    assert [row["file"] for row in done.json["predictions"]] == [str(folder / name) for name in names]
    assert done.lines == [
        f"routesearch: {folder}: passed over 1: made by a system or program (.DS_Store)",
        f"routesearch: {folder}: passed over 1: no image by its suffix (notes.txt)",
    ]
    rows = run("predict", trained_model, folder, *allowed).out.splitlines()[1:]
    assert rows[-1].split()[0] == f"{folder}/\\xff.png"


def test_a_folder_without_pictures(
    run: Any, trained_model: Path, pictures: list[Path], allowed: list[Any], tmp_path: Path
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    done = run("predict", trained_model, empty, pictures[0], *allowed, "--json")
    assert done.status == 1
    assert len(done.json["predictions"]) == 1
    assert done.json["unreadable"] == [{"file": str(empty), "reason": f"{empty} is a folder without images"}]
    assert done.lines[-1] == "routesearch: every file must be a readable image, got 1 of 2 that are not"


def test_only_unreadable_files(run: Any, trained_model: Path, allowed: list[Any], tmp_path: Path) -> None:
    done = run("predict", trained_model, tmp_path / "none.png", *allowed)
    assert (done.status, done.out, len(done.lines)) == (1, "", 2)


def test_what_predict_refuses(
    run: Any, trained_model: Path, pictures: list[Path], allowed: list[Any], tmp_path: Path
) -> None:
    for words, told in (
        ([tmp_path / "nowhere", pictures[0]], "which does not exist"),
        ([trained_model, pictures[0]], "runs only where it is named"),
        ([trained_model, pictures[0], *allowed, "--device", "cuda:99"], "device must be there"),
        ([trained_model], "Missing argument 'IMAGES...'"),
    ):
        done = run("predict", *words, "--json")
        assert (done.status, done.out, len(done.lines)) == (2, "", 1)
        assert told in done.err


def test_best_registered(
    run: Any, trained_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for MLflow notes what it is given, with and without a folder to keep."""
    given: list[Any] = []

    def register(results: StudyResults, name: str, folder: Path) -> str:
        given.append((results.config.name, name, (folder / "model.json").is_file(), folder))
        return f"models:/{name}/{len(given)}"

    monkeypatch.setattr("routesearch.tracking.registry.register", register)
    done = run("best", trained_study, "--max-macs", "10x", "--register", "toys")
    assert done.status == 0
    (*told, folder), *_ = given
    assert told == ["toy", "toys", True]
    assert not folder.exists()
    database = Study.load(trained_study).config.dir / "mlflow.db"
    assert done.lines == [f"routesearch: registered as models:/toys/1 in sqlite:///{database}"]
    words = ["best", trained_study, "--max-macs", "10x", "--register", "toys", "--save", tmp_path / "kept"]
    assert run(*words).status == 0
    assert given[1][-1] == tmp_path / "kept"
    assert (tmp_path / "kept").is_dir()


def test_registering_where_mlflow_does_not_answer(run: Any, trained_study: Path, tmp_path: Path) -> None:
    words = ["best", trained_study, "--max-macs", "10x", "--register", "toys"]
    done = run(*words, "--set", "tracking.uri=nowhere://x")
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith("routesearch: could not register the model in MLflow at nowhere://x: ")
    assert len(done.lines) == 1
    bad = run(*words[:-1], "../toys")
    assert (bad.status, bad.out, len(bad.lines)) == (2, "", 1)
    assert "a registered model's name must be letters" in bad.err
    shutil.rmtree(tmp_path)
