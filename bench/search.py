"""What the search itself costs: Ray for each trial, asking and telling, memory, and reading it afterwards.

    .venv/bin/python bench/search.py            # all of these
    .venv/bin/python bench/search.py ray        # 200 empty trials on warm workers: seconds each
    .venv/bin/python bench/search.py ask        # ask + tell beside 1,000 stored trials, refused ones too
    .venv/bin/python bench/search.py memory     # the driver from trial 50 to trial 1,000, MLflow included
    .venv/bin/python bench/search.py read       # front, best and trials of a study of 1,000 trials
    .venv/bin/python bench/search.py open       # front, best and a search that goes on, of 8,000 trials
    .venv/bin/python bench/search.py feasible   # proposals within a budget that 3 % of all configs meet

Goals: under 0.3 s of Ray for a trial; under 50 ms for ask + tell; at most 150 MB more from trial 50 to
1,000, and under 1.2 GB in all; 8,000 trials open in under 3 s; 40 % of proposals feasible after the start.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from routesearch.results.calibrated import Calibration
from routesearch.results.confirmed import Retraining
from routesearch.results.journal import LOG, Journal
from routesearch.results.journal_file import JournalFile
from routesearch.results.points import OperatingPoint
from routesearch.results.record import Outcome, State, TrialRecord
from routesearch.results.timing import Timing
from routesearch.search.dispatcher import Snapshot
from routesearch.search.driver import run_search
from routesearch.search.resume import open_trials
from routesearch.search.worker import Knobs, Points, TrialRunner, WorkerResources
from routesearch.study.config import load_study
from routesearch.task.resolve import Task, resolve

WHAT = ("ray", "ask", "memory", "read", "open", "feasible")
ROUTESEARCH = str(Path(sys.executable).with_name("routesearch"))
STUDY = Path(__file__).parents[1] / "studies" / "quickstart.yaml"
PEAK = """
import os, subprocess, sys, time
started = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, used = os.wait4(process.pid, 0)
assert status == 0
print(time.perf_counter() - started, used.ru_maxrss / 1000, used.ru_utime + used.ru_stime)
"""
"""Seconds, peak MB and seconds of processor time of a command, from a small process: a child's peak starts at
its parent's size."""
GO_ON = """
import sys, time
from pathlib import Path
from routesearch.results.journal import LOG, Journal
from routesearch.results.journal_file import JournalFile
from routesearch.search.resume import open_trials
from routesearch.study.config import load_study
from routesearch.task.resolve import resolve
task = resolve(load_study(Path(sys.argv[1]), {"storage.dir": sys.argv[2], "search.trials": 1_000_000}))
task.fingerprint()
clocks = time.perf_counter(), time.process_time()
with Journal.open_for_writing(task.dir) as journal:
    open_trials(journal, task)
    print(time.perf_counter() - clocks[0], time.process_time() - clocks[1])
"""
"""Seconds and seconds of processor time until a search that is continued has its trials."""


class EmptyRunner(TrialRunner):
    """Trials that take no time and bring a full curve of 256 points."""

    def __init__(self, packed: Any, trunk: Any) -> None:
        import torch  # noqa: F401 (a real worker has it too)

    @classmethod
    def pack(cls, task: Task) -> Any:
        return {}

    def train(
        self, trial: TrialRecord, resources: WorkerResources
    ) -> Iterator[tuple[Outcome, Mapping[str, Any]]]:
        yield curve(trial), {}

    def measure_on_test(
        self,
        trial: TrialRecord,
        knobs: Sequence[Mapping[str, Any]],
        weights: Any,
        resources: WorkerResources,
    ) -> list[OperatingPoint]:
        return []

    def retrain(
        self, trial: TrialRecord, members: Points, rung: int | None, resources: WorkerResources
    ) -> tuple[Retraining, Mapping[str, Any]]:
        return Retraining(trial.seed, failed="nothing is trained"), {}

    def calibrate(
        self, trial: TrialRecord, knobs: Knobs, weights: Any, resources: WorkerResources
    ) -> Calibration:
        none = (0,) * len(knobs)
        return Calibration(OperatingPoint({}, 0.0, 1.0), 0, none, none)

    def time(
        self,
        trial: TrialRecord,
        point: OperatingPoint,
        weights: Any,
        batches: Sequence[int],
        resources: WorkerResources,
    ) -> list[Timing]:
        return []

    def train_trunk_part(self, part: str, seed: int, resources: WorkerResources) -> Any:
        return {}, {}

    @classmethod
    def check_trunk(cls, part: str, stored: Any) -> None:
        pass


def curve(trial: TrialRecord, sizes: tuple[int, int] = (256, 256)) -> Outcome:
    rng = random.Random(trial.seed)
    count = rng.randint(*sizes)
    low, high = (0, 1) if trial.bounds is None else (trial.bounds.min, trial.bounds.max)
    top = rng.uniform(0.5, 0.95)
    points = tuple(
        OperatingPoint(
            {"thresholds": [rng.random(), rng.random()]},
            top * i / count,
            low + (high - low) * i / count,
            (rng.random(), rng.random(), rng.random()),
        )
        for i in range(1, count + 1)
    )
    return Outcome(State.FINISHED, points, params=100_000, training_macs=10**12, seconds=1.0)


def task_in(folder: str, trials: int, sampler: str = "auto") -> Task:
    changed = {"storage.dir": folder, "search.trials": trials, "search.sampler": sampler}
    return resolve(load_study(STUDY, changed))


def bench_ray(trials: int) -> None:
    """Seconds per empty trial, from the first result (workers warm, trunk there) to the last."""
    with tempfile.TemporaryDirectory() as folder:
        task = task_in(folder, trials)
        done: dict[int, float] = {}

        def note(now: Snapshot) -> None:
            done.setdefault(now.finished, time.perf_counter())

        run_search(task, on_progress=note, runner=EmptyRunner)
        warm = 10
        per_trial = (done[trials] - done[warm]) / (trials - warm)
        print(f"{trials} empty trials on {os.cpu_count()} cores: {per_trial:.3f} s a trial of wall time")


def fill(folder: str, stored: int, refused: int, points: tuple[int, int] = (256, 256)) -> None:
    """Write a history, as random draws make it: what counts is how much there is."""
    rng = random.Random(0)
    task = task_in(folder, 10 * stored, "random")
    with Journal.open_for_writing(task.dir) as journal:
        trials = open_trials(journal, task)[0]
        while trials.spent < stored or trials.counts[State.REFUSED] < refused:
            record = trials.ask(rng.choice(list(task.spaces)))
            if record.state is State.RUNNING:
                if trials.spent < stored:
                    trials.finish(record.number, curve(record, points))
                else:
                    trials.finish(record.number, Outcome.failure("enough"))


def bench_ask(stored: int, refused: int, asks: int) -> None:
    """Milliseconds of ask + tell beside ``stored`` finished trials and about ``refused`` refused ones."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for sampler in ("auto", "tpe"):
        with tempfile.TemporaryDirectory() as folder:
            task = task_in(folder, 10 * stored, sampler)
            fill(folder, stored, refused)
            with Journal.open_for_writing(task.dir) as journal:
                trials = open_trials(journal, task)[0]
                before, times = trials.counts[State.REFUSED], []
                for _ in range(asks):
                    started = time.perf_counter()
                    method = trials.next_method()
                    assert method is not None
                    record = trials.ask(method)
                    if record.state is State.RUNNING:
                        trials.finish(record.number, curve(record))
                    times.append(1000 * (time.perf_counter() - started))
        print(
            f"{sampler}, {stored} finished and {before} refused trials stored: ask + tell "
            f"{statistics.median(times):.1f} ms, 95 % {statistics.quantiles(times, n=20)[-1]:.1f} ms, "
            f"worst {max(times):.1f} ms"
        )


def bench_feasible(proposals: int, share: float = 0.03, drawn: int = 400) -> None:
    """Share of proposals that may be trained, where only ``share`` of a space's random configs may."""
    for method in ("decisionet", "static"):
        with tempfile.TemporaryDirectory() as folder:
            changed = {"methods": [method], "budget.max_macs": None, "search.sampler": "random"}
            cheapest = sorted(
                record.bounds.min for record in asked(folder, changed, drawn) if record.bounds is not None
            )
            budget = cheapest[max(0, round(share * drawn) - 1)]
        for sampler in ("random", "auto", "tpe"):
            with tempfile.TemporaryDirectory() as folder:
                changed = {"methods": [method], "budget.max_macs": budget, "search.sampler": sampler}
                states = [record.state for record in asked(folder, changed, proposals)]
            late = states[proposals // 4 :]
            admitted = sum(state is not State.REFUSED for state in late) / len(late)
            print(
                f"{method} within {budget / 1e6:.3f} M MACs, {sampler}: {admitted:.0%} of proposals "
                f"{proposals // 4 + 1} to {proposals} may be trained"
            )


def asked(folder: str, changed: Mapping[str, Any], proposals: int) -> list[TrialRecord]:
    """Proposals of a new study, each trained at once to a curve of no cost."""
    settings = {"storage.dir": folder, "search.trials": proposals, **changed}
    task, found = resolve(load_study(STUDY, settings)), []
    with Journal.open_for_writing(task.dir) as journal:
        trials = open_trials(journal, task)[0]
        for _ in range(proposals):
            method = trials.next_method()
            assert method is not None
            found.append(trials.ask(method))
            if found[-1].state is State.RUNNING:
                trials.finish(found[-1].number, curve(found[-1], (10, 30)))
    return found


def bench_memory(trials: int) -> None:
    """Resident memory of the driver while MLflow follows along."""
    from routesearch.tracking import Tracker, tracking_uri

    with tempfile.TemporaryDirectory() as folder:
        task = task_in(folder, trials)
        marks: dict[int, float] = {}

        def note(now: Snapshot) -> None:
            for mark in (50, trials):
                if now.finished >= mark:
                    marks.setdefault(mark, resident())

        tracker = Tracker(tracking_uri(task.config))
        run_search(task, observers=[tracker], on_progress=note, runner=EmptyRunner)
        tracker.close()
        print(
            f"driver at trial 50: {marks[50]:.0f} MB; at trial {trials}: {marks[trials]:.0f} MB "
            f"({marks[trials] - marks[50]:+.0f} MB); at the end {resident():.0f} MB"
        )


def bench_read(stored: int, repeats: int = 5) -> None:
    """Seconds and peak memory of whole processes that show a study of ``stored`` trials, 256 points each."""
    with tempfile.TemporaryDirectory() as folder:
        fill(folder, stored, 0)
        for command in ("front", "best", "trials"):
            seconds, peaks = [], []
            for _ in range(repeats):
                words = [ROUTESEARCH, command, str(STUDY), "--set", f"storage.dir={folder}", "--json"]
                done = subprocess.run([sys.executable, "-c", PEAK, *words], capture_output=True, check=True)
                taken, peak, _ = map(float, done.stdout.split())
                seconds.append(taken)
                peaks.append(peak)
            print(f"{command:>6} of {stored} trials: {statistics.median(seconds):.2f} s, {max(peaks):.0f} MB")


def bench_open(stored: int, repeats: int = 5) -> None:
    """Seconds until a study of ``stored`` trials is open: of whole commands, and in a search that goes on."""
    for points in ((1, 5), (20, 60)):
        with tempfile.TemporaryDirectory() as folder:
            base = min(stored, 200)
            fill(folder, base, 0, points)
            multiply(Path(folder), stored // base)
            size = (Path(folder) / LOG).stat().st_size / 1e6
            print(f"{stored} trials of {points[0]} to {points[1]} points, {size:.0f} MB:")
            commands = {
                name: [
                    sys.executable,
                    "-c",
                    PEAK,
                    ROUTESEARCH,
                    name,
                    str(STUDY),
                    "--set",
                    f"storage.dir={folder}",
                ]
                for name in ("front", "best")
            }
            for name, words in (
                commands | {"search": [sys.executable, "-c", GO_ON, str(STUDY), folder]}
            ).items():
                rows = []
                for _ in range(repeats):
                    done = subprocess.run(words, capture_output=True, check=True, text=True)
                    found = [*map(float, done.stdout.split())]
                    rows.append((found[0], found[-1]))
                wall, processor = map(statistics.median, zip(*rows, strict=True))
                print(f"  {name:>6}: {wall:.2f} s, {processor:.2f} s of processor time")


def multiply(folder: Path, times: int) -> None:
    """Make a study ``times`` as large: its trials again and again, with new numbers."""
    path = folder / LOG
    entries = [json.loads(line) for line in path.read_bytes().splitlines()]
    for entry in entries:
        del entry["check"]
    own = [entry for entry in entries if "trial_id" in entry or entry["op_code"] == 4]
    begun = sum(entry["op_code"] == 4 for entry in own)
    asked = sum("asked" in entry.get("user_attr", {}) for entry in own)
    for again in range(1, times):
        for entry in own:
            copy = dict(entry)
            if "trial_id" in entry:
                copy["trial_id"] = entry["trial_id"] + again * begun
            if "asked" in entry.get("user_attr", {}):
                old = entry["user_attr"]["asked"]
                copy["user_attr"] = {"asked": old | {"number": old["number"] + again * asked}}
            entries.append(copy)
    path.write_bytes(b"")
    JournalFile(path).append(entries)


def resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="?", choices=WHAT, help="default: one after the other")
    parser.add_argument(
        "--trials",
        type=int,
        help="default: 200 for ray, 8,000 for open, 160 for feasible, 1,000 for the others",
    )
    options = parser.parse_args()
    if options.what is None:
        for what in WHAT:  # a process each: memory is measured from a fresh start
            subprocess.run([sys.executable, __file__, what], check=True)
    elif options.what == "ray":
        bench_ray(options.trials or 200)
    elif options.what == "ask":
        bench_ask(options.trials or 1000, options.trials or 1000, 25)
    elif options.what == "memory":
        bench_memory(options.trials or 1000)
    elif options.what == "feasible":
        bench_feasible(options.trials or 160)
    elif options.what == "read":
        bench_read(options.trials or 1000)
    else:
        bench_open(options.trials or 8000)


if __name__ == "__main__":
    main()
