"""A confirmed point as a model: the best of its retrainings, with its own numbers and the means."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from routesearch import Refusal, Study, load
from routesearch.results.confirmed import fact_name
from routesearch.results.journal import Journal
from routesearch.results.points import OperatingPoint
from routesearch.search.trial_network import retrain
from routesearch.search.trial_weights import confirmed_path
from routesearch.utils.arrays import write_arrays


@pytest.fixture
def study(trained_study: Path, tmp_path: Path) -> Study:
    """The trained study, copied, the trial of its best point retrained with two seeds."""
    shutil.copytree(trained_study.parent / ".routesearch", tmp_path / ".routesearch")
    shutil.copy(trained_study, tmp_path)
    shutil.copy(trained_study.with_name("toy.npz"), tmp_path)
    study = Study.load(tmp_path / trained_study.name)
    task, best = study.task, study.best("10x")
    points = [p for p in study.front() if p.trial == best.trial]
    members = [OperatingPoint(p.knob, p.accuracy, p.macs, p.route_share) for p in points]
    record = study.results().records[best.trial].without_outcome()
    with Journal.open_for_writing(task.dir) as journal:
        for number in range(2):
            again = replace(record, seed=100 + number)
            found, weights = retrain(again, members, None, task, task.data, None, torch.device("cpu"))
            write_arrays(confirmed_path(task.dir, best.trial, number), weights)
            journal.set(fact_name(best.trial, number), found.as_fact())
    return study


def test_the_model_is_the_best_retraining_and_does_what_its_card_says(study: Study, tmp_path: Path) -> None:
    point = study.save(tmp_path / "model", "10x")
    card = json.loads((tmp_path / "model" / "model.json").read_text())
    confirmed = study.results().confirmed[point.key]
    assert card["seed"] == confirmed.chosen.seed in (100, 101)
    assert card["validation"]["accuracy"] == confirmed.point.validation.accuracy
    assert card["confirmed"]["test"]["accuracy_mean"] == pytest.approx(confirmed.test.mean)
    assert card["confirmed"]["validation"]["interval"] == list(confirmed.validation.interval())
    images = study.task.data.test
    found = load(tmp_path / "model", plugins=sorted((tmp_path / "model" / "plugins").glob("*.py"))).predict(
        images.pixels.permute(0, 2, 3, 1).numpy()
    )
    assert (found.labels == images.labels.numpy()).mean() == pytest.approx(card["test"]["accuracy"])
    assert found.macs.mean() == pytest.approx(card["test"]["macs"])


def test_weights_of_a_retraining_that_are_gone_are_one_line(study: Study, tmp_path: Path) -> None:
    shutil.rmtree(study.config.dir / "confirmed")
    with pytest.raises(Refusal, match=r"must be in .*confirmed.*got no such file"):
        study.save(tmp_path / "model", "10x")
