"""Real trainings, recorded: the curve of each at its rungs and at its end, and the MACs spent until then.

One line of JSON a training, appended when it is over: a recording that was cut off goes on where it was, and
several may append to one file, each with a part of the work.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from comparison.design import spread_configs
from comparison.problems import Problem
from routesearch.results.points import HasCost, Interval, thin
from routesearch.results.record import Outcome, TrialRecord
from routesearch.search.worker import NetworkRunner, WorkerResources
from routesearch.space.space import Space
from routesearch.task.resolve import Task
from routesearch.utils.arrays import read_arrays, write_arrays

MAX_POINTS = 32
"""Points of a recorded curve."""

REPEATED = 8
"""Configs of each method that are trained twice, with another seed: how far do two trainings differ?"""

Job = tuple[str, int, int]
"""A method, which of its configs, and how often that was trained before."""


class Recorder:
    """Trains what a table lacks.

    Args:
        file: JSON lines, made where it is missing; trunks lie in a folder beside it.
        minutes: when to begin no further training.
        part: which of how many recorders that share the work this one is.
    """

    def __init__(self, problem: Problem, file: Path, minutes: float, part: tuple[int, int]) -> None:
        self.problem = problem
        self.file = file
        self.part = part
        self.end = time.monotonic() + 60 * minutes
        self.task = problem.task({"storage.dir": str(file.resolve().parent / problem.name)})
        self.resources = WorkerResources(1, 0)
        self.packed = NetworkRunner.pack(self.task)

    def run(self) -> None:
        """Record until all is there or the time is over."""
        trunk = self._trunk()
        runner = NetworkRunner(self.packed, trunk)
        lines = [line for line in _lines(self.file) if "method" in line]
        known = {(line["method"], line["index"], line["repeat"]) for line in lines}
        configs = _configs(self.task, self.problem)
        jobs = [job for job in _in_turn({m: len(c) for m, c in configs.items()}) if job not in known]
        first, parts = self.part
        for number, (method, index, repeat) in enumerate(jobs):
            if number % parts != first:
                continue
            if time.monotonic() > self.end:
                print(f"{self.problem.name}: the time is over, {len(jobs) - number} trainings are left")
                return
            config, bounds = configs[method][index]
            seed = 10_000 * (repeat + 1) + index
            record = TrialRecord(index, method, config.model_dump(mode="json"), seed, bounds)
            line = {"method": method, "index": index, "repeat": repeat} | _measured(
                runner, record, self.resources
            )
            _append(self.file, line)
            best = max((a for a, _ in line["rungs"][-1]["points"]), default=0.0) if line["rungs"] else 0.0
            said = line.get("reason") or f"best {best:.3f}"
            print(f"{self.problem.name} {method} {index}: {line['seconds']:.1f} s, {said}", flush=True)
        print(f"{self.problem.name}: all trainings are recorded")

    def _trunk(self) -> dict[str, Any]:
        """What trials share, trained where it is not there."""
        maker = NetworkRunner(self.packed, {})
        found, macs = {}, {}
        for part, path in self.task.trunk_files().items():
            if not path.exists():
                seed = self.task.config.search.seed
                write_arrays(path, *maker.train_trunk_part(part, seed, self.resources))
            found[part] = read_arrays(path)
            macs[part] = int(found[part][1]["training_macs"])
        if not any("trunk" in line for line in _lines(self.file)):
            facts = {part: dict(stored[1]) for part, stored in found.items()}
            _append(self.file, {"trunk": facts, "backbone_macs": self.task.backbone_macs})
        return found


def _configs(task: Task, problem: Problem) -> dict[str, list[tuple[Space, Interval]]]:
    return {m: list(islice(spread_configs(task, m), problem.counts.get(m, 0))) for m in task.spaces}


def _in_turn(counts: dict[str, int]) -> list[Job]:
    """All trainings, so ordered that a table has all methods wherever its recording is cut off."""
    jobs: list[tuple[float, Job]] = []
    for method, count in counts.items():
        jobs += [(index / count, (method, index, 0)) for index in range(count)]
        jobs += [((index + 1) / REPEATED, (method, index, 1)) for index in range(min(REPEATED, count))]
    return [job for _, job in sorted(jobs)]


def _measured(runner: NetworkRunner, record: TrialRecord, resources: WorkerResources) -> dict[str, Any]:
    """A training as it is recorded."""
    outcomes = [outcome for outcome, _ in runner.train(record, resources)]
    last = outcomes[-1]
    assert record.bounds is not None
    return {
        "config": dict(record.config),
        "seed": record.seed,
        "bounds": [record.bounds.min, record.bounds.max],
        "params": last.params,
        "seconds": round(last.seconds, 2),
        "reason": last.reason,
        "rungs": [] if last.reason else [_rung(outcome) for outcome in outcomes],
    }


def _rung(outcome: Outcome) -> dict[str, Any]:
    return {"macs": outcome.training_macs, "points": _rounded(outcome.points)}


def _rounded(points: Sequence[HasCost]) -> list[list[float]]:
    """A thinned curve of accuracy and MACs."""
    return [[round(p.accuracy, 4), round(p.macs)] for p in thin(points, MAX_POINTS)]


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    if file.exists():
        for text in file.read_text().splitlines():
            yield json.loads(text)


def _append(file: Path, line: dict[str, Any]) -> None:
    """One write, which other recorders' lines do not mix with."""
    file.parent.mkdir(parents=True, exist_ok=True)
    data = (json.dumps(line, separators=(",", ":")) + "\n").encode()
    handle = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(handle, data)
    finally:
        os.close(handle)
