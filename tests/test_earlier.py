"""What an earlier version stored (tests/fixtures/earlier) opens in this one and gives the same numbers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from routesearch import Study, load
from routesearch.cli import main
from routesearch.data import Digits

STUDIES = ("earlier", "trees")
MODELS = ("static", "dgate", "decisionet", "jungle")


@pytest.fixture(scope="module")
def expected(fixtures: Path) -> dict[str, Any]:
    """What that version said of its files."""
    found: dict[str, Any] = json.loads((fixtures / "earlier" / "expected.json").read_text())
    return found


@pytest.fixture(scope="module")
def images() -> npt.NDArray[np.uint8]:
    pixels = Digits().load(Path()).test.pixels[:40]
    return pixels.permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("study", STUDIES)
@pytest.mark.parametrize("what", ["front", "front-test", "trials"])
def test_a_study_says_the_same(
    study: str, what: str, fixtures: Path, expected: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    command, *split = what.split("-")
    options = ["--split", *split] if split else []
    assert main([command, str(fixtures / "earlier" / f"{study}.yaml"), "--json", *options]) == 0
    assert json.loads(capsys.readouterr().out) == expected[study][what]


@pytest.mark.parametrize("study", STUDIES)
def test_a_study_has_the_same_best_within_any_budget(
    study: str, fixtures: Path, expected: dict[str, Any]
) -> None:
    opened = Study.load(fixtures / "earlier" / f"{study}.yaml")
    for budget, best in expected[study]["best"].items():
        assert json.loads(json.dumps(opened.best(budget).as_dict())) == best


@pytest.mark.parametrize("name", MODELS)
def test_a_model_predicts_the_same(
    name: str, fixtures: Path, expected: dict[str, Any], images: npt.NDArray[np.uint8]
) -> None:
    found, before = load(fixtures / "earlier" / "models" / name).predict(images), expected["models"][name]
    other = [np.not_equal(getattr(found, column), before[column]) for column in ("labels", "macs", "route")]
    other.append(np.not_equal(found.ran, before["ran"]).any(1))
    other.append(~np.isclose(found.confidence, before["confidence"], atol=1e-4))
    assert np.any(other, axis=0).sum() <= 1, "another processor may round one image over a threshold"


@pytest.mark.parametrize(("study", "macs"), [("earlier", "0.4x"), ("trees", "0.7x")])
def test_a_model_can_still_be_saved(
    study: str, macs: str, fixtures: Path, images: npt.NDArray[np.uint8], tmp_path: Path
) -> None:
    """The trunk's files of that version are used: weights and confusion."""
    folder = tmp_path / "earlier"
    shutil.copytree(fixtures / "earlier", folder)
    point = Study.load(folder / f"{study}.yaml").save(tmp_path / "model", macs)
    model = load(tmp_path / "model")
    assert model.card.validation.accuracy == point.accuracy
    assert len(model.predict(images)) == len(images)
