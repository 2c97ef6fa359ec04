"""Trials of earlier studies, as a search learns from them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from routesearch.cli import main
from routesearch.errors import Refusal
from routesearch.results.journal import Journal
from routesearch.results.points import OperatingPoint
from routesearch.results.reader import StudyResults
from routesearch.results.record import Outcome, State, TrialRecord
from routesearch.search.resume import open_trials
from routesearch.search.warm_start import earlier_trials
from routesearch.study.config import load_study
from routesearch.task.resolve import Task, resolve

PRICES = (0.9, 0.02, 0.3, 0.6)
"""Of skippers in the earlier study: none is the default's."""


@pytest.fixture
def earlier(write_study: Callable[..., Path]) -> Callable[..., Path]:
    """A study with some trials of skipper, the third the best; without any where it has no prices."""

    def make(prices: tuple[float, ...] = PRICES, name: str = "earlier", **changes: Any) -> Path:
        written = write_study(**changes)
        file = written.rename(written.with_name(f"{name}.yaml"))
        task = resolve(load_study(file))
        if prices:
            with Journal.open_for_writing(task.dir) as journal:
                trials = open_trials(journal, task)[0]
                while trials.spent < len(prices):
                    _store(trials, task, prices[trials.spent])
        return file

    return make


def _store(trials: Any, task: Task, price: float) -> None:
    """A skipper of a price, whatever would have been drawn."""
    space = task.spaces["skipper"].narrow({"price": price})
    whole, trials.task.spaces["skipper"] = task.spaces["skipper"], space
    record = trials.ask("skipper")
    trials.task.spaces["skipper"] = whole
    assert record.config["price"] == price
    accuracy = 0.9 - abs(price - PRICES[2])
    points = tuple(
        OperatingPoint({"threshold": t}, accuracy - 0.1 * t, task.backbone_macs * (0.6 - 0.1 * t))
        for t in range(3)
    )
    rungs = ((400, ((0.3, task.backbone_macs / 2),)),)
    trials.finish(record.number, Outcome(State.FINISHED, points, 7, 1001, 1.5, rungs=rungs))


@pytest.fixture
def study(write_study: Callable[..., Path]) -> Callable[..., Path]:
    """A study that learns from others; their names as its file has them."""

    def make(*others: str, **changes: Any) -> Path:
        return write_study(**{"search": {"warm_start": list(others)}} | changes)

    return make


def learnt(file: Path) -> list[TrialRecord]:
    return earlier_trials(resolve(load_study(file)))


def test_trials_on_the_same_backbone_are_as_they_were(
    earlier: Callable[..., Path], study: Callable[..., Path]
) -> None:
    before = resolve(load_study(earlier()))
    with Journal.open_for_reading(before.dir) as journal:
        stored = StudyResults(before.config, journal).records
    assert [record.config["price"] for record in stored] == list(PRICES)
    assert learnt(study("earlier.yaml")) == stored


def test_macs_are_shares_of_the_backbone_s_whatever_its_size(
    earlier: Callable[..., Path], study: Callable[..., Path]
) -> None:
    small = resolve(load_study(earlier(backbone="pocket@0.5")))
    file = study("earlier.yaml")
    large = resolve(load_study(file))
    ratio = large.backbone_macs / small.backbone_macs
    assert ratio > 2
    found = learnt(file)
    assert [record.config["price"] for record in found] == list(PRICES)
    default = small.bounds("skipper", small.spaces["skipper"].default())
    for record in found:
        assert record.outcome is not None
        assert record.bounds is not None
        shares = [p.macs / large.backbone_macs for p in record.outcome.points]
        assert shares == pytest.approx([0.6, 0.5, 0.4])
        assert record.outcome.points[0].accuracy == pytest.approx(0.9 - abs(record.config["price"] - 0.3))
        assert record.outcome.training_macs == round(1001 * ratio)
        assert (record.bounds.min, record.bounds.max) == pytest.approx(
            (default.min * ratio, default.max * ratio), abs=1
        )
        [[macs, [[accuracy, cost]]]] = record.outcome.rungs
        assert (macs, accuracy) == (round(400 * ratio), 0.3)
        assert cost == pytest.approx(large.backbone_macs / 2)


def test_of_a_study_with_other_rungs_only_what_was_trained_to_its_end_is_learnt(
    earlier: Callable[..., Path], study: Callable[..., Path]
) -> None:
    before = resolve(load_study(earlier()))
    with Journal.open_for_writing(before.dir) as journal:
        trials = open_trials(journal, before)[0]
        stopped = trials.ask("skipper")
        points = (OperatingPoint({"threshold": 0}, 0.5, before.backbone_macs * 0.6),)
        trials.finish(stopped.number, Outcome(State.STOPPED, points, 7, 300, 1.5))
    longer = {"training": {"epochs": 9, "batch_size": 64}}
    alike, other = learnt(study("earlier.yaml")), learnt(study("earlier.yaml", **longer))
    assert alike[-1].state is State.STOPPED
    assert [record.number for record in other] == [record.number for record in alike[:-1]]
    assert all(record.outcome is not None and record.outcome.rungs == () for record in other)


def test_several_studies_are_learnt_from_in_their_order_and_only_of_this_study_s_methods(
    earlier: Callable[..., Path], study: Callable[..., Path]
) -> None:
    earlier((0.7, 0.8), name="second")
    earlier((0.1,), name="first")
    found = learnt(study("first.yaml", "second.yaml", methods=["skipper"]))
    assert [record.config["price"] for record in found] == [0.1, 0.7, 0.8]
    assert learnt(study()) == []


@pytest.mark.parametrize("sampler", ["auto", "tpe", "random"])
def test_a_study_that_learns_tries_the_best_of_the_earlier_one_after_its_default(
    earlier: Callable[..., Path], study: Callable[..., Path], sampler: str
) -> None:
    file, prices = earlier(), {}
    for name, others in (("cold", []), ("warm", ["earlier.yaml"])):
        search = {"sampler": sampler, "trials": 9, "warm_start": others}
        task = resolve(load_study(study(methods=["skipper"], search=search)))
        with Journal.open_for_writing(file.parent / name) as journal:
            trials, prices[name] = open_trials(journal, task)[0], []
            for _ in range(4):
                record = trials.ask("skipper")
                prices[name].append(record.config["price"])
                trials.finish(record.number, Outcome(State.FINISHED, _points(task), 7, 1001, 1.5))
            assert trials.spent == 4, "the earlier study's trials are not this study's"
            assert {point.trial for point in trials.front} <= set(range(4))
    assert prices["warm"] == [0.05, 0.3, 0.02, 0.6]
    assert prices["cold"][0] == 0.05
    assert not set(prices["cold"]) & set(PRICES)


def _points(task: Task) -> tuple[OperatingPoint, ...]:
    return (OperatingPoint({"threshold": 0}, 0.5, task.backbone_macs / 2),)


# ---- what cannot be learnt from ----------------------------------------------------------------------


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[[Path], str]:
    """The one line that a search says of a study: the same from within and on the command line."""

    def line(file: Path) -> str:
        with pytest.raises(Refusal) as refusal:
            learnt(file)
        capsys.readouterr()
        status = main(["search", str(file)])
        captured = capsys.readouterr()
        assert (status, captured.out) == (2, ""), captured.err
        assert captured.err == f"routesearch: {refusal.value}\n"
        assert captured.err.count("\n") == 1
        assert not load_study(file).dir.exists(), "nothing was begun"
        return str(refusal.value)

    return line


def test_a_study_that_does_not_exist(refused: Callable[[Path], str], study: Callable[..., Path]) -> None:
    file = study("none.yaml")
    told = (
        f"{file}: search.warm_start: none.yaml: {file.parent / 'none.yaml'}: a study must be a readable YAML"
    )
    assert refused(file).startswith(told)


def test_a_study_without_a_search(
    refused: Callable[[Path], str], earlier: Callable[..., Path], study: Callable[..., Path]
) -> None:
    earlier(())
    line = refused(study("earlier.yaml"))
    assert "search.warm_start: earlier.yaml: " in line
    assert "run `routesearch search` first" in line


def test_a_study_with_no_trials(
    refused: Callable[[Path], str], earlier: Callable[..., Path], study: Callable[..., Path]
) -> None:
    task = resolve(load_study(earlier(())))
    with Journal.open_for_writing(task.dir) as journal:
        open_trials(journal, task)
    told = "search.warm_start: earlier.yaml: must have trials of static, skipper, got no trials"
    assert refused(study("earlier.yaml")).endswith(told)


def test_a_study_with_other_methods(
    refused: Callable[[Path], str], earlier: Callable[..., Path], study: Callable[..., Path]
) -> None:
    earlier()
    line = refused(study("earlier.yaml", methods=["static"]))
    assert line.endswith("search.warm_start: earlier.yaml: must have trials of static, got skipper")


def test_a_study_with_other_classes(
    refused: Callable[[Path], str], earlier: Callable[..., Path], study: Callable[..., Path]
) -> None:
    file = earlier()
    arrays = dict(np.load(file.parent / "toy.npz"))
    names = np.array(["cat", "dog", "emu"])
    np.savez(file.parent / "named.npz", **arrays, class_names=names)
    line = refused(study("earlier.yaml", data={"name": "arrays", "path": "named.npz"}))
    assert "search.warm_start: earlier.yaml: must have the classes ['cat', 'dog', 'emu'], got [" in line
