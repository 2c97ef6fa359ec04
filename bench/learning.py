"""What a trial learns in few epochs: from scratch or from the trunk, with and without distillation, and more.

    .venv/bin/python bench/learning.py --out learning.jsonl   # the grid of start and distill
    .venv/bin/python bench/learning.py --out learning.jsonl --arms ema smoothing
    .venv/bin/python bench/learning.py --out learning.jsonl --table   # what is there
    .venv/bin/python bench/learning.py --out rungs.jsonl --ranks   # curves in mid-schedule

Each run is what a trial of a search is, on the trunk of its seed. A line of the file is a run; what is there
is not run again. The table: the best validation accuracy within some fractions of the backbone's MACs over a
method's configs, mean and spread over seeds. ``--ranks``: how well hypervolume at the rungs orders trials as
at the end does.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import yaml

from routesearch.results.points import OperatingPoint, hypervolume
from routesearch.results.record import Outcome, State, TrialRecord
from routesearch.search.trial_network import run_trial
from routesearch.study.config import load_study
from routesearch.study.recipe import Recipe
from routesearch.task.resolve import Task, resolve
from routesearch.training.confusion import Confusion, measure_confusion
from routesearch.training.trunk import TrainedTrunk, train_trunk
from routesearch.utils.arrays import read_arrays, write_arrays

CPU = torch.device("cpu")
FRACTIONS = (0.3, 0.5, 0.8, 1.0)

PROBLEMS: Mapping[str, Mapping[str, Any]] = {
    "digits": {
        "data": {"name": "digits", "noise": 0.5},
        "backbone": "nin@0.25",
        "training": {"epochs": 25, "trunk_epochs": 25, "batch_size": 32, "learning_rate": 0.005},
    },
    "residual": {
        "data": {"name": "digits", "noise": 0.5},
        "backbone": "resnet38@0.25",
        "training": {"epochs": 8, "trunk_epochs": 8, "batch_size": 32, "learning_rate": 0.003},
    },
    "fashion": {
        "data": {"name": "fashion_mnist", "train": 2000, "validation": 1000, "test": 1000},
        "backbone": "resnet38@0.25",
        "training": {"epochs": 5, "trunk_epochs": 6, "batch_size": 64, "learning_rate": 0.003},
    },
}
"""Studies, but for their methods."""

CONFIGS: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "static": [{"width_fraction": w} for w in (0.5, 0.7, 0.87)],
    "skipnet": [{"alpha": a} for a in (0.1, 1.0, 3.0)],
    "actor": [{"k_cpt": k} for k in (0.05, 0.5)],
    "critic": [{"k_cpt": k} for k in (0.05, 0.5)],
    "decisionet": [{}],
    "dgate": [{}],
    "exits": [{}],
    "aig": [{"target": t} for t in (0.2, 0.4, 0.6)],
}
"""Configs of each method whose points cover the fractions."""

PLAIN: Mapping[str, Any] = {"distill": None, "label_smoothing": 0.0, "ema": None}
TAUGHT: Mapping[str, Any] = {**PLAIN, "distill": {"share": 0.5, "temperature": 2.0}}


def arm(start: str, training: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
    return {"fields": {"start": start, **fields}, "training": dict(training)}


ARMS: Mapping[str, Mapping[str, Any]] = {
    "scratch": arm("scratch", PLAIN),
    "scratch+distill": arm("scratch", TAUGHT),
    "trunk": arm("trunk", PLAIN),
    "trunk+distill": arm("trunk", TAUGHT),
    **{f"rate {r:g}": arm("trunk", TAUGHT, trunk_rate=r) for r in (0.1, 0.3)},
    **{
        f"share {s:g}, T {t:g}": arm("trunk", {**PLAIN, "distill": {"share": s, "temperature": t}})
        for s in (0.3, 0.5, 0.7, 0.9)
        for t in (1.0, 2.0, 4.0)
    },
    **{f"smoothing {s:g}": arm("trunk", {**TAUGHT, "label_smoothing": s}) for s in (0.05, 0.1)},
    **{f"ema {d:g}": arm("trunk", {**TAUGHT, "ema": d}) for d in (0.9, 0.99, 0.999)},
    **{f"gate bias {b:g}": arm("trunk", TAUGHT, gate_bias=b) for b in (0.0, 2.0, 3.0)},
    "aig as published": arm("trunk", PLAIN, gated="all", target_of="block", opened=0.85, rate_weight=2.0),
    **{f"rl share {s:g}": arm("trunk", TAUGHT, rl_share=s) for s in (0.25, 0.5, 0.75, 0.9)},
    **{f"labels, rl {s:g}": arm("trunk", PLAIN, rl_share=s) for s in (0.75, 0.9)},
}
"""What is compared: fields of methods that have them, and settings of training."""

GRID = ("scratch", "scratch+distill", "trunk", "trunk+distill")

RANKED: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "static": [
        {"width_fraction": w, "depth": d} for w, d in ((0.4, 1), (0.6, 1), (0.8, 1), (1, 0.5), (0.7, 0.7))
    ],
    "skipnet": [{"alpha": a, "gate_type": g} for a, g in ((0.1, "rnngate"), (1, "rnngate"), (3, "ffgate2"))]
    + [{"schedule": s} for s in ("supervised", "soft")],
    "actor": [
        {"k_cpt": k, "tau": t} for k, t in ((0.01, 1.0), (0.1, 1.0), (1.0, 1.0), (0.1, 0.1), (0.3, 5.0))
    ],
}
"""Trials that are ordered by their curves."""


class Bench:
    """Runs of one problem, and the trunks that they start from.

    Args:
        folder: where trunks are kept, so that a run that goes on has them.
    """

    def __init__(self, problem: str, folder: Path) -> None:
        self.problem, self.folder = problem, folder
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / f"{problem}.yaml"
            file.write_text(yaml.safe_dump({**PROBLEMS[problem], "methods": self.methods()}))
            self.task = resolve(load_study(file))
            _ = self.task.data

    def methods(self) -> list[str]:
        fits = PROBLEMS[self.problem]["backbone"].startswith("resnet")
        return [name for name in CONFIGS if fits or name not in ("skipnet", "aig")]

    def with_training(self, training: Mapping[str, Any]) -> Task:
        given = PROBLEMS[self.problem]["training"]
        recipe = Recipe.model_validate({**given, **training})
        config = self.task.config.model_copy(update={"training": recipe})
        return dataclasses.replace(self.task, config=config)

    def trunk(self, seed: int) -> TrainedTrunk:
        """Trained as it always was, its logits kept."""
        path = self.folder / f"{self.problem}-{seed}.safetensors"
        if not path.exists():
            recipe = self.with_training(TAUGHT).config.training
            trained = train_trunk(self.task.backbone, self.task.data, recipe, seed=seed, device=CPU)
            write_arrays(path, *trained.pack())
        return TrainedTrunk.unpack(*read_arrays(path))

    def confusion(self, seed: int) -> Confusion:
        path = self.folder / f"{self.problem}-{seed}.confusion.safetensors"
        if not path.exists():
            recipe = self.with_training(PLAIN).config.training
            found = measure_confusion(self.task.backbone, self.task.data, recipe, seed=seed, device=CPU)
            write_arrays(path, *found.pack())
        return Confusion.unpack(*read_arrays(path))

    def run(
        self,
        method: str,
        fields: Mapping[str, Any],
        training: Mapping[str, Any],
        seed: int,
        rungs: Sequence[int],
    ) -> Iterator[Outcome]:
        """One trial, with the outcome at each rung and at the end."""
        task, trained = self.with_training(training), self.trunk(seed)
        rows = self.confusion(seed).rows if task.methods[method].needs_confusion else ()
        known = task.methods[method].Config.model_fields
        config = task.spaces[method].narrow({k: v for k, v in fields.items() if k in known}).default()
        record = TrialRecord(0, method, config.model_dump(mode="json"), seed)
        for outcome, _ in run_trial(record, task, task.data, trained.trunk(rows), CPU, rungs):
            if outcome.state is State.FAILED:
                raise SystemExit(f"{method}: {outcome.traceback}")
            yield outcome


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def measure(
    args: argparse.Namespace, arms: Mapping[str, Mapping[str, Any]], configs: Mapping[str, Any]
) -> None:
    """Run what is not there yet, all arms of a seed before the next seed."""
    keys = ("problem", "method", "arm", "config", "seed")
    have = {json.dumps([row[key] for key in keys], sort_keys=True) for row in read(args.out)}
    for problem in args.problems:
        bench = Bench(problem, args.out.with_suffix(".trunks"))
        epochs = bench.task.config.training.epochs
        rungs = sorted({max(1, round(epochs / 9)), max(1, round(epochs / 3))}) if args.ranks else []
        for seed in range(args.seeds):
            for method in [m for m in args.methods or configs if m in bench.methods()]:
                for name, settings in arms.items():
                    own = {k: v for k, v in settings["fields"].items() if k != "start"}
                    if not own.keys() <= bench.task.methods[method].Config.model_fields.keys():
                        continue
                    for config in configs[method]:
                        key = dict(zip(keys, (problem, method, name, config, seed), strict=True))
                        if json.dumps(list(key.values()), sort_keys=True) in have:
                            continue
                        fields, started = {**settings["fields"], **config}, time.monotonic()
                        outcomes = list(bench.run(method, fields, settings["training"], seed, rungs))
                        whole = bench.task.backbone_macs
                        areas = [hypervolume(o.points, whole) for o in outcomes]
                        row = key | {
                            "areas": areas,
                            "macs": outcomes[-1].training_macs,
                            "seconds": round(time.monotonic() - started, 1),
                            "trunk": bench.trunk(seed).accuracy,
                            "curve": [[p.macs / whole, p.accuracy] for p in outcomes[-1].points],
                        }
                        with args.out.open("a") as file:
                            file.write(json.dumps(row) + "\n")
                        print(
                            f"{problem} {method} {name} {config} seed {seed}: {row['seconds']} s", flush=True
                        )


def table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Mean and spread over seeds of the best accuracy within each fraction of MACs, and of hypervolume."""
    groups = dict.fromkeys((r["problem"], r["method"], r["arm"]) for r in rows)
    print(
        f"{'problem':9} {'method':11} {'arm':18} seeds " + " ".join(f"{f'<= {f:g}x':>13}" for f in FRACTIONS),
        end="",
    )
    print(f" {'front':>15} {'GMACs':>8}")
    for problem, method, name in sorted(groups):
        own = [r for r in rows if (r["problem"], r["method"], r["arm"]) == (problem, method, name)]
        seeds = sorted({r["seed"] for r in own})
        cells = []
        for fraction in FRACTIONS:
            best = [
                max(
                    (a for r in own if r["seed"] == s for m, a in r["curve"] if m <= fraction + 1e-9),
                    default=None,
                )
                for s in seeds
            ]
            cells.append(_spread([b for b in best if b is not None]))
        area = _spread([_area([p for r in own if r["seed"] == s for p in r["curve"]]) for s in seeds])
        work = statistics.mean(r["macs"] for r in own) / 1e9
        print(
            f"{problem:9} {method:11} {name:18} {len(seeds):5} " + " ".join(f"{c:>13}" for c in cells), end=""
        )
        print(f" {area:>15} {work:8.1f}")


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    each = f"{100 * statistics.mean(values):.1f}"
    return each if len(values) < 2 else f"{each} +- {100 * statistics.stdev(values):.1f}"


def _area(curve: Sequence[Sequence[float]]) -> float:
    """Hypervolume of points, each a fraction of the backbone's MACs and an accuracy."""
    return hypervolume([OperatingPoint({}, accuracy, macs) for macs, accuracy in curve], 1.0)


def ranks(rows: Sequence[Mapping[str, Any]]) -> None:
    """Kendall's tau of trials' hypervolume at each rung with that at the end."""
    from scipy.stats import kendalltau

    print(f"{'problem':9} {'weights':9} {'trials':16} at 1/9, 1/3 of the epochs, one a seed")
    for problem, name in sorted({(r["problem"], r["arm"]) for r in rows}):
        own = [r for r in rows if (r["problem"], r["arm"]) == (problem, name)]
        for methods in (list(RANKED), *([method] for method in RANKED)):
            ranked = [r for r in own if r["method"] in methods]
            cells = []
            for rung in range(2):
                taus = []
                for seed in sorted({r["seed"] for r in ranked}):
                    areas = [r["areas"] for r in ranked if r["seed"] == seed]
                    taus.append(kendalltau([a[rung] for a in areas], [a[-1] for a in areas]).statistic)
                cells.append(" ".join(f"{tau:5.2f}" for tau in taus))
            who = f"{len(ranked)} {'of all' if len(methods) > 1 else methods[0]}"
            print(f"{problem:9} {name:9} {who:16} {'; '.join(cells)}")


def chosen_arms(names: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """The arms of these names; of a name that no arm has, those that begin with it."""
    starts = tuple(name for name in names if name not in ARMS)
    found = {name: settings for name, settings in ARMS.items() if name in names or name.startswith(starts)}
    if not found:
        raise SystemExit(f"--arms must name some of {', '.join(ARMS)}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="file of JSON lines, gone on with")
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=["residual"])
    parser.add_argument("--methods", nargs="+", choices=CONFIGS)
    parser.add_argument("--arms", nargs="+", default=list(GRID), help="names of arms, or how they begin")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--table", action="store_true", help="run nothing")
    parser.add_argument("--ranks", action="store_true", help="order trials by their curves at rungs")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.ranks:
        arms = {
            "last": arm("trunk", PLAIN),
            **{f"ema {d}": arm("trunk", {**PLAIN, "ema": d}) for d in (0.9, 0.99)},
        }
        if not args.table:
            measure(args, arms, RANKED)
        ranks(read(args.out))
        return
    if not args.table:
        measure(args, chosen_arms(args.arms), CONFIGS)
    table(read(args.out))


if __name__ == "__main__":
    main()
