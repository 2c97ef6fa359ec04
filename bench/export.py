"""Exported models against `predict`: milliseconds a batch of 1 and of 64, files, and time to export.

    .venv/bin/python bench/export.py [--threads 1]

Weights are drawn, thresholds are medians: of 64 random images, half leave at each exit, half run each unit.
The medians of repeated calls, the three ways to run taking turns.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from routesearch import Backbone, RoutedNet, Trunk, export_model
from routesearch.backbones import NiN, ResNet38
from routesearch.data.base import normalised
from routesearch.export.runner import Runner
from routesearch.plugin.loader import load_plugins
from routesearch.saved import Card, SavedModel
from routesearch.saved.card import Measured

SHAPE, CLASSES = (3, 32, 32), tuple("abcdefghij")
MEAN, STD = (0.5,) * 3, (0.25,) * 3
ROUNDS = 15


def model(method: str, backbone: Backbone, images: Any, **fields: Any) -> SavedModel:
    """A network with drawn weights, at a knob where images part."""
    cls = load_plugins().methods.find(method)
    config = cls.space(backbone).parse(fields)
    trunk = Trunk(backbone.plain().state_dict(), 0.5) if cls.uses_trunk(config) else None
    net: RoutedNet = cls(config, backbone, trunk).eval()
    with torch.inference_mode():
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
        scores = net.observe(normalised(pixels, MEAN, STD))
        assert scores is not None
        middle = scores.scores.median(0).values + 1e-6
    knob = (
        {"thresholds": middle.tolist()}
        if method == "dgate"
        else {"threshold": float(middle.median().sigmoid())}
    )
    card = Card(
        study="bench", trial=0, seed=0, method=method, config={}, knob=knob, backbone=backbone.name,
        shape=SHAPE, classes=CLASSES, mean=MEAN, std=STD, params=1, backbone_macs=1.0,
        validation=Measured(accuracy=0.5, macs=1.0), code={}, versions={},
    )  # fmt: skip
    return SavedModel(card, net, torch.device("cpu"))


def medians(ways: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Milliseconds of each."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for round_ in range(ROUNDS + 3):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            if round_ >= 3:  # the first calls find memory and kernels
                seconds[name].append(time.perf_counter() - start)
    return {name: 1000 * statistics.median(each) for name, each in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=1)
    threads = parser.parse_args().threads
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    logging.disable(logging.WARNING)
    images = np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3), np.uint8)
    cases = {
        "dgate on nin@0.25, 2 exits": model("dgate", NiN(SHAPE, 10, 0.25), images, positions=(2, 5)),
        "skipnet on resnet38, rnngate": model("skipnet", ResNet38(SHAPE, 10), images, gate_type="rnngate"),
    }
    for name, each in cases.items():
        with tempfile.TemporaryDirectory() as folder:
            runners = {}
            for engine in ("onnx", "torch"):
                start = time.perf_counter()
                done = export_model(each, Path(folder) / engine, engine)
                seconds = time.perf_counter() - start
                size = f"{done.pieces} graphs, {done.bytes / 1e6:.2f} MB"
                print(f"{name}: {engine}: {size}, written in {seconds:.1f} s")
                runners[engine] = Runner(Path(folder) / engine, threads=threads)
            for size in (1, 64):
                batch = images[:size]
                found = each.predict(batch)
                for runner in runners.values():
                    assert runner.predict(batch).macs.tolist() == found.macs.tolist()
                ways = {"predict": lambda b=batch, m=each: m.predict(b)} | {
                    engine: lambda b=batch, r=runner: r.predict(b) for engine, runner in runners.items()
                }
                times = ", ".join(f"{way} {ms:.2f} ms" for way, ms in medians(ways).items())
                print(f"{name}: {threads} threads, batch {size}: {times}")


if __name__ == "__main__":
    main()
