"""What many tests need: small images with a pattern in them, a small backbone, a study file on disk."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from routesearch.backbones.base import Backbone
    from routesearch.data.base import Data, Images
    from routesearch.results.reader import StudyResults
    from routesearch.results.record import TrialRecord
    from routesearch.space.space import Space
    from routesearch.task.resolve import Task

# Where the tests run in the background, Ctrl-C is ignored there and in all that they start; some send it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Cores are shared: a slow example is no finding, and the same examples on every run are worth more here.
settings.register_profile(
    "calm", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("calm")


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """The folder of plain-file plugins: ``own_backbone.py`` and ``own_method.py``."""
    return Path(__file__).parent / "fixtures"


@pytest.fixture(scope="session")
def own_backbone(fixtures: Path) -> ModuleType:
    from routesearch.plugin.loader import load_file

    return load_file(fixtures / "own_backbone.py")


@pytest.fixture(scope="session")
def own_method(fixtures: Path) -> ModuleType:
    from routesearch.plugin.loader import load_file

    return load_file(fixtures / "own_method.py")


@pytest.fixture(scope="session")
def pocket(own_backbone: ModuleType) -> Backbone:
    """Four units with batch norm, for images of 1 x 8 x 8 in three classes."""
    backbone: Backbone = own_backbone.Pocket((1, 8, 8), 3)
    return backbone


@pytest.fixture(scope="session")
def make_data() -> Callable[..., Data]:
    """The kit's toy images, with three classes unless told otherwise."""
    from routesearch.testing import toy_data

    def make(classes: int = 3, size: int = 8, channels: int = 1, **changes: Any) -> Data:
        return toy_data(classes, (channels, size, size), **changes)

    return make


@pytest.fixture(scope="session")
def data(make_data: Callable[..., Data]) -> Data:
    """Three classes of 1 x 8 x 8 images: 96 to train, 60 to validate, 60 to test."""
    return make_data()


def _write_study(folder: Path, data: Data, fixtures: Path, /, **changes: Any) -> Path:
    import numpy as np

    arrays = {}
    for short, name in (("train", "train"), ("val", "validation"), ("test", "test")):
        images: Images = data.split(name)
        arrays[f"x_{short}"] = images.pixels.permute(0, 2, 3, 1).numpy()
        arrays[f"y_{short}"] = images.labels.numpy()
    np.savez(folder / "toy.npz", **arrays)
    raw: dict[str, Any] = {
        "data": {"name": "arrays", "path": "toy.npz"},
        "backbone": "pocket",
        "methods": ["static", "skipper"],
        "training": {"epochs": 2, "trunk_epochs": 2, "batch_size": 16},
        "plugins": [str(fixtures / "own_backbone.py"), str(fixtures / "own_method.py")],
    }
    raw |= changes
    if isinstance(raw["methods"], list):  # a trunk only where a test asks for one
        raw["methods"] = {m: {"start": "scratch"} if m == "static" else {} for m in raw["methods"]}
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump(raw, sort_keys=False))
    return path


@pytest.fixture
def write_study(tmp_path: Path, data: Data, fixtures: Path) -> Callable[..., Path]:
    """Writes a small study (static and skipper on pocket, the toy images) with some keys changed."""
    return lambda **changes: _write_study(tmp_path, data, fixtures, **changes)


@pytest.fixture(scope="session")
def trained_study(tmp_path_factory: pytest.TempPathFactory, data: Data, fixtures: Path) -> Path:
    """That study with two skippers really trained: weights, points, the front on test. Not to be changed."""
    import torch

    from routesearch import Study
    from routesearch.results.journal import Journal
    from routesearch.search.resume import open_trials
    from routesearch.search.trial_network import measure_on, run_trial
    from routesearch.search.trial_weights import weights_path
    from routesearch.utils.arrays import write_arrays

    cpu, threads = torch.device("cpu"), torch.get_num_threads()
    torch.set_num_threads(1)  # small steps on a busy machine: more threads wait for each other
    training = {"epochs": 8, "batch_size": 16}
    file = _write_study(
        tmp_path_factory.mktemp("trained"), data, fixtures, methods=["skipper"], training=training
    )
    task = Study.load(file).task
    records, weights = {}, {}
    with Journal.open_for_writing(task.dir) as journal:
        trials = open_trials(journal, task)[0]
        for _ in range(2):
            record = trials.ask("skipper")
            ((outcome, arrays),) = run_trial(record, task, task.data, None, cpu)
            write_arrays(weights_path(task.dir, record.number), arrays)
            trials.finish(record.number, outcome)
            records[record.number], weights[record.number] = record, arrays
        for point in trials.front:
            record, arrays = records[point.trial], weights[point.trial]
            again = measure_on(record, [point.knob], arrays, task, task.data, None, cpu, "test")
            trials.add_test_results(point.trial, again)
    torch.set_num_threads(threads)
    return file


@pytest.fixture(scope="session")
def trained_model(trained_study: Path) -> Path:
    """The most accurate point of ``trained_study``, saved. Not to be changed."""
    from routesearch import Study

    folder = trained_study.parent / "model"
    Study.load(trained_study).save(folder, "10x")
    return folder


@pytest.fixture
def make_task(write_study: Callable[..., Path]) -> Callable[..., Task]:
    """The study of ``write_study``, resolved."""
    from routesearch.study.config import load_study
    from routesearch.task.resolve import resolve

    return lambda **changes: resolve(load_study(write_study(**changes)))


@pytest.fixture
def config_of(make_task: Callable[..., Task]) -> Callable[[Task, str], Space]:
    """A method's default config in a task."""
    return lambda task, method: task.spaces[method].default()


@pytest.fixture(scope="session")
def make_records() -> Callable[..., list[TrialRecord]]:
    """Made-up trials of two methods on a backbone of 3.2 M MACs: a curve each, some failed, some refused."""
    import random

    from routesearch.results.points import Interval, OperatingPoint, thin
    from routesearch.results.record import Outcome, State, TrialRecord

    def gated(rng: random.Random) -> tuple[dict[str, Any], tuple[OperatingPoint, ...]]:
        places = sorted(rng.sample(range(1, 8), rng.randint(1, 3)))
        top, points = 0.9 + 0.075 * rng.random(), []
        for share in (k / 20 for k in range(rng.randint(5, 20))):
            accuracy = top - 0.45 * (1 - share) ** 3
            points.append(
                OperatingPoint({"thresholds": [share]}, accuracy, 3.2e6 * (0.15 + 0.9 * share), (1.0,))
            )
        loss = rng.choice(["hinge", "cross_entropy"])
        return {"positions": places, "gate_loss": loss, "features": 16}, tuple(thin(points))

    def plain(rng: random.Random) -> tuple[dict[str, Any], tuple[OperatingPoint, ...]]:
        width = round(rng.uniform(0.1, 1), 3)
        point = OperatingPoint({}, 0.7 + 0.25 * width**0.4 * rng.random() ** 0.05, 3.2e6 * width**1.5)
        return {"width_fraction": width, "depth": 8}, (point,)

    def make(count: int, seed: int = 0) -> list[TrialRecord]:
        rng, records = random.Random(seed), []
        for number in range(count):
            method = ("static", "dgate")[number % 2]
            config, points = plain(rng) if method == "static" else gated(rng)
            outcome = Outcome(State.FINISHED, points, params=1000 + number, training_macs=10**9, seconds=2.5)
            if number % 17 == 16:
                outcome = Outcome.failure("out of memory", "Traceback ...\nMemoryError", seconds=1.0)
            elif number % 23 == 22:
                outcome = Outcome(State.REFUSED, reason="the cheapest route is over the budget")
            records.append(
                TrialRecord(number, method, config, 7000 + number, Interval(100_000, 3_200_000), outcome)
            )
        return records

    return make


@pytest.fixture(scope="session")
def make_results() -> Callable[..., StudyResults]:
    """What a study called quickstart has found: these trials, and these points of them on test data."""
    from types import SimpleNamespace

    from routesearch.results.budget import Budget
    from routesearch.results.measurements import with_test_results
    from routesearch.results.points import OperatingPoint, Point
    from routesearch.results.reader import StudyResults
    from routesearch.results.replay import StoredTrial
    from routesearch.study.config import (
        BackboneConfig,
        BudgetConfig,
        StorageConfig,
        StudyConfig,
        TrackingConfig,
    )

    def make(
        records: Sequence[TrialRecord],
        test: Sequence[Point] = (),
        *,
        budget: Budget = Budget(1.6e6),  # noqa: B008 (frozen)
        backbone_macs: float = 3.2e6,
        study: str = "0123456789abcdef",
        uri: str | None = None,
        folder: Path | None = None,
    ) -> StudyResults:
        facts: dict[str, Any] = {"reference": backbone_macs}
        for p in test:
            measured = OperatingPoint(p.knob, p.accuracy, p.macs, p.route_share)
            facts |= [with_test_results(facts, p.trial, [measured])]
        stored = []
        for record in records:
            outcome = None if record.outcome is None else record.outcome.dumps()
            stored.append(StoredTrial(record.proposal(), outcome))
        journal: Any = SimpleNamespace(
            id=study, path=Path("journal.log"), facts=lambda: facts, proposed=lambda: stored
        )
        macs = None if budget.max_macs is None else f"{budget.max_macs:.12g}"
        config = StudyConfig(
            file=Path("/nowhere/quickstart.yaml"),
            name="quickstart",
            data={"name": "digits"},
            backbone=BackboneConfig(name="nin"),
            methods={"static": {}},
            budget=BudgetConfig(max_macs=macs, max_latency=budget.max_latency, batch=budget.batch),
            tracking=TrackingConfig(uri=uri),
            storage=StorageConfig(dir=None if folder is None else str(folder)),
        )
        return StudyResults(config, journal)

    return make


@pytest.fixture
def make_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """A file system of so many KiB, to fill; mounting one needs root."""
    path = tmp_path / "disk"

    def make(size: int) -> Path:
        if os.geteuid() != 0:
            pytest.skip("mounting a tmpfs needs root")
        path.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(path)]
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")
        return path

    yield make
    if path.is_mount():
        subprocess.run(["umount", "-l", str(path)], check=True)
