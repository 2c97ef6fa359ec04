# ruff: noqa: T201 (what it prints is what the tests read)
"""A search with real Ray and a real driver process, but trials that take as long as they are told.

Run as ``python fake_study.py FOLDER '{"trials": 8, "seconds": 0.1}'``; prints one line for each trial
that ended and ``ended`` at the end. What goes wrong is one line on stderr. Imported, it is the parts of that.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import numpy as np
from optuna.distributions import FloatDistribution

from routesearch.errors import Refusal, RouteSearchError
from routesearch.results.budget import Budget
from routesearch.results.calibrated import Calibration
from routesearch.results.confirmed import Retraining, Retuned, pack_right
from routesearch.results.journal import Journal
from routesearch.results.points import Interval, OperatingPoint
from routesearch.results.reader import StudyResults
from routesearch.results.record import Outcome, State, TrialRecord
from routesearch.results.timing import Timing
from routesearch.search.driver import run_search
from routesearch.search.worker import TrialRunner, WorkerResources
from routesearch.space.space import SearchSpace, Space
from routesearch.study.search_settings import SearchConfig
from routesearch.utils.arrays import Stored, read_arrays


class Config(Space):
    x: Annotated[float, FloatDistribution(0.0, 1.0)] = 0.25


@dataclass
class FakeTask:
    dir: Path
    trials: int = 8
    seconds: float = 0.05
    time_limit: float | None = None
    budget: Any = 600.0
    cpu: float = 1
    gpu: float = 0
    retries: int = 2
    trial_time: float | None = None
    trouble: Mapping[str, str] = field(default_factory=dict)  # trial number -> what goes wrong in it
    batches: Sequence[int] = ()
    seeds: int = 1
    calibration: int = 0  # images that are set aside for it
    needs_trunk: bool = False
    needs_confusion: bool = False
    starting: Sequence[str] = ("one", "two")
    backbone_macs: float = 1000.0
    methods: Sequence[str] = ("one", "two")
    search: Mapping[str, Any] = field(default_factory=dict)  # further settings: stop, training_macs, ...
    rungs: int = 0  # at which a trial waits before its end
    macs: int = 30  # that each part of a training takes, from rung to rung
    trunk_macs: int = 0

    def __post_init__(self) -> None:
        self.budget = Budget(self.budget)
        self.spaces = {name: SearchSpace(Config) for name in self.methods}
        limit = None if self.time_limit is None else f"{self.time_limit:f}s"
        asked = {"sampler": "tpe", "trials": self.trials, "time_limit": limit, **self.search}
        search = SearchConfig(**asked)
        resources = SimpleNamespace(
            cpu=self.cpu, gpu=self.gpu, retries=self.retries, trial_time=self.trial_time
        )
        latency = SimpleNamespace(batch=self.batches)
        confirm = SimpleNamespace(seeds=self.seeds)
        self.config = SimpleNamespace(
            search=search,
            resources=resources,
            latency=latency,
            confirm=confirm,
            warm_start_files=[],
        )

    def inputs(self) -> dict[str, Any]:
        facts = {"shape": [1, 8, 8], "classes": ["a", "b"], "mean": [0.5], "std": [0.25]}
        return facts | {"images": {"calibration": self.calibration}}

    def code(self) -> dict[str, str]:
        return {"method one": "fake 1"}

    def fingerprint(self) -> dict[str, str]:
        return {"data": "fake"}

    def bounds(self, method: str, config: Any) -> Interval:
        return Interval(int(1000 * config.x), 1000)

    def dependent(self, part: str) -> Sequence[str]:
        return self.starting

    def trunk_files(self) -> dict[str, Path]:
        parts = {"trunk": self.needs_trunk, "confusion": self.needs_confusion}
        return {part: self.dir / "trunks" / f"{part}.safetensors" for part, needed in parts.items() if needed}


spoiled: list[int] = []
"""Trials that failed in this process."""


class Bomb:
    """What cannot be unpickled."""

    def __reduce__(self) -> Any:
        return int, ("no number",)


class Odd(Outcome):
    """An outcome that is sent as something else, by a worker that checks nothing."""

    def validated(self) -> Outcome:
        return self

    def dumps(self) -> Any:
        return Bomb() if "bomb" in str(self.reason) else "{"


def curve_of(x: float) -> tuple[OperatingPoint, OperatingPoint]:
    """The whole network and a cheaper setting of it, as measured on validation."""
    return (
        OperatingPoint({"t": 1}, 0.5 + x / 3, 900 * x + 10),
        OperatingPoint({"t": 0}, x / 3, 500 * x + 5),
    )


class FakeRunner(TrialRunner):
    def __init__(self, packed: Any, trunk: Mapping[str, Any]) -> None:
        self.task, self.trunk, self.made = packed["task"], trunk, time.time()
        match self.task["trouble"].get("set-up"):
            case "raise":
                raise ModuleNotFoundError("No module named 'foo'")
            case "exit":
                sys.exit("not here")
            case "missing":
                self.missing = {"two": "plugin 'two.py': cannot be loaded"}
            case "die":
                os._exit(1)
        if os.environ.get("FAKE_MACHINE") == "broken":
            raise ModuleNotFoundError("No module named 'foo'")
        assert packed["array"].sum() == 45

    @classmethod
    def pack(cls, task: Any) -> Any:
        names = ("seconds", "trouble", "rungs", "macs", "trunk_macs", "calibration")
        settings = {name: getattr(task, name) for name in names} | {
            "once": str(task.dir / "once"),
            "passed": str(task.dir / "passed"),
        }
        return {"task": settings, "array": np.arange(10)}

    def train(
        self, trial: TrialRecord, resources: WorkerResources
    ) -> Iterator[tuple[Outcome, Mapping[str, Any]]]:
        assert not spoiled, "this process was used by a trial that failed"
        whole, weights = self._train(trial)
        rungs = self.task["rungs"]
        for rung in range(rungs if whole.state is State.FINISHED else 0):
            shown = replace(whole, state=State.STOPPED, training_macs=whole.training_macs * (rung + 1))
            match self.task["trouble"].get(f"{trial.number} at rung {rung}"):
                case "garbage" | "bomb" as answer:
                    shown = Odd(State.STOPPED, whole.points, reason=answer)
                case "nan":
                    shown = replace(shown, points=(OperatingPoint({}, float("nan"), 1.0),))
                case "finish":
                    shown = replace(shown, state=State.FINISHED)
            yield shown, weights | {"rung": np.array([rung])}
            self._pass(trial, rung)
            time.sleep(self.task["seconds"])
        yield replace(whole, training_macs=whole.training_macs * (rungs + 1)), weights

    def _pass(self, trial: TrialRecord, rung: int) -> None:
        """Go on after a rung; each time is one letter in a file."""
        file = Path(self.task["passed"]) / f"{trial.number}.{rung}"
        file.parent.mkdir(exist_ok=True)
        with file.open("a") as passed:
            passed.write("x")
        match self.task["trouble"].get(
            f"{trial.number} after rung {rung}", self.task["trouble"].get("rungs")
        ):
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "kill once" if not (once := Path(self.task["once"])).exists():
                once.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            case "raise":
                spoiled.append(trial.number)
                raise ValueError("the loss is no number")
            case "hang":
                time.sleep(3600)

    def _train(self, trial: TrialRecord) -> tuple[Outcome, Mapping[str, Any]]:
        time.sleep(self.task["seconds"])
        match self.task["trouble"].get(str(trial.number)):
            case "raise":
                spoiled.append(trial.number)
                raise ValueError("the method\nis broken")
            case "nan":
                return Outcome(State.FINISHED, (OperatingPoint({}, float("nan"), 1.0),)), {}
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "exit":
                sys.exit(3)
            case "leave":
                os._exit(3)
            case "crash":
                ctypes.string_at(0)
            case "hang":
                time.sleep(3600)
            case "eat":
                eaten = [bytearray(os.urandom(1 << 20) * 64) for _ in range(40)]  # 2.5 GiB
                time.sleep(20)
                del eaten
            case "kill once" if not (once := Path(self.task["once"])).exists():
                once.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            case "garbage" | "bomb" as answer:
                return Odd(State.FINISHED, (OperatingPoint({}, 0.5, 1.0),), reason=answer), {}
            case "worthless":
                return Outcome(State.FINISHED, (OperatingPoint({}, 17.0, 1.0),)), {}
        x = trial.config["x"]
        points = curve_of(x)
        if self.task["trouble"].get(str(trial.number)) == "poor":  # worse than any other, at any cost
            points = (OperatingPoint({"t": 1}, 0.001, 999.0), OperatingPoint({"t": 0}, 0.0005, 998.0))
        if self.task["trouble"].get(str(trial.number)) == "dear":  # good over the budget alone
            points = (OperatingPoint({"t": 1}, 0.99, 999.0), OperatingPoint({"t": 0}, 0.001, 550.0))
        shared = np.array([sum(int(arrays["number"]) for arrays, _ in self.trunk.values())])
        weights = {"x": np.array([x]), "pid": np.array([os.getpid()]), "trunk": shared}
        macs, seconds = self.task["macs"], self.task["seconds"]
        return Outcome(
            State.FINISHED, points, params=os.getpid(), training_macs=macs, seconds=seconds
        ), weights

    def measure_on_test(
        self,
        trial: TrialRecord,
        knobs: Sequence[Mapping[str, Any]],
        weights: Mapping[str, Any],
        resources: WorkerResources,
    ) -> list[OperatingPoint]:
        assert weights["x"][0] == trial.config["x"]
        if self.task["trouble"].get(str(trial.number)) == "measure":
            raise ValueError("cannot be measured")
        return [OperatingPoint(k, 0.4, 100.0 + k["t"]) for k in knobs]

    def retrain(
        self,
        trial: TrialRecord,
        members: Sequence[OperatingPoint],
        rung: int | None,
        resources: WorkerResources,
    ) -> tuple[Retraining, Mapping[str, Any]]:
        time.sleep(self.task["seconds"])
        match self.task["trouble"].get(f"retrain {trial.number}"):
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "fail":
                return Retraining(trial.seed, failed="the loss must stay finite"), {}
            case "nan":
                nan = Retuned({}, OperatingPoint({}, float("nan"), 1.0), OperatingPoint({}, 0.5, 1.0))
                return Retraining(trial.seed, images=(10, 10), points=(nan,)), {}
        luck = trial.seed % 1000 / 1e5
        points = [
            Retuned(
                p.knob, replace(p, accuracy=p.accuracy - luck), OperatingPoint(p.knob, 0.4 + luck, p.macs)
            )
            for p in members
        ]
        right = pack_right(np.arange(10) < 4 * np.ones((len(points), 1)))
        weights = {"seed": np.array([trial.seed])}
        return Retraining(trial.seed, 7, 30, 0.1, None, (10, 10), tuple(points), right), weights

    def calibrate(
        self,
        trial: TrialRecord,
        knobs: Sequence[Mapping[str, Any]],
        weights: Mapping[str, Any],
        resources: WorkerResources,
    ) -> Calibration:
        """The cheaper setting is wrong on every second image on which the whole network is right."""
        assert weights["x"][0] == trial.config["x"]
        whole, _ = curve_of(trial.config["x"])
        images = self.task["calibration"]
        lost = tuple(0 if k["t"] else images // 2 for k in knobs)
        gained = (0,) * len(knobs)
        match self.task["trouble"].get(f"calibrate {trial.number}"):
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "raise":
                raise ValueError("cannot be calibrated")
            case "worthless":
                gained = (images,) * len(knobs)
        return Calibration(whole, images, lost, gained)

    def time(
        self,
        trial: TrialRecord,
        point: OperatingPoint,
        weights: Mapping[str, Any],
        batches: Sequence[int],
        resources: WorkerResources,
    ) -> list[Timing]:
        assert weights["x"][0] == trial.config["x"]
        return [Timing(n, point.macs * n, point.macs * n, time.time(), point.macs, 1000.0) for n in batches]

    def train_trunk_part(self, part: str, seed: int, resources: WorkerResources) -> Any:
        if self.task["trouble"].get(part) == "slow":
            time.sleep(3600)
        if part in self.task["trouble"]:
            raise ValueError(f"no {part} today")
        facts = {"training_macs": str(self.task["trunk_macs"])} if part == "trunk" else {}
        return {"number": np.array(seed + (42 if part == "trunk" else 7))}, facts

    @classmethod
    def check_trunk(cls, part: str, stored: Stored) -> None:
        assert list(stored[0]) == ["number"]


class Printer:
    def search_started(self, results: StudyResults) -> None:
        pass

    def trial_ended(self, record: TrialRecord) -> None:
        print(record.number, record.state, flush=True)

    def search_ended(self, results: StudyResults) -> None:
        print("ended", flush=True)


def read(folder: Path) -> list[TrialRecord]:
    """What a study's folder holds of its trials."""
    config: Any = None  # of no matter for that
    with Journal.open_for_reading(folder) as journal:
        return StudyResults(config, journal).records


def stored(trunk: Path) -> int:
    """What a file of the trunk holds: 42 for the network, 7 for the confusion, by seed 0."""
    arrays, _ = read_arrays(trunk)
    return int(arrays["number"])


def main(folder: str, settings: str) -> int:
    values = json.loads(settings)
    address = values.pop("address", None)
    try:
        task: Any = FakeTask(Path(folder), **values)
        run_search(task, address=address, observers=[Printer()], runner=FakeRunner)
    except KeyboardInterrupt:
        return 130
    except RouteSearchError as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, Refusal) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
