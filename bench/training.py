"""Training throughput: `routesearch.fit` against the best loop written by hand, in the same process.

    .venv/bin/python bench/training.py [--threads 1] [--repeats 7]

The hand-written loop has everything that made it fast here: images normalised once beforehand,
channels_last, one fused optimizer kernel, no checks and no bill. Both train the same network on the
same 3 x 32 x 32 images in batches of 128, in turn, and the ratio of the medians is printed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time

import torch
import torch.nn.functional as F
from torch import Tensor

from routesearch.backbones import NiN, ResNet38
from routesearch.data import Data, Images
from routesearch.data.base import moments
from routesearch.fit import fit, make_optimizer, place
from routesearch.method import Batch, Stage, cosine
from routesearch.recipe import Recipe
from routesearch.search.cluster import WORKER_ENV

STEPS = {"nin": 4, "nin@0.25": 16, "resnet38": 8}
BATCH = 128
CPU = torch.device("cpu")


def images(count: int) -> Images:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (count, 32, 32, 3), generator=generator, dtype=torch.uint8).permute(
        0, 3, 1, 2
    )
    return Images(pixels, torch.randint(10, (count,), generator=generator))


def by_hand(net: torch.nn.Module, inputs: Tensor, labels: Tensor, recipe: Recipe, steps: int) -> float:
    optimizer = make_optimizer(recipe, list(net.parameters()))
    net.train()
    order = torch.randperm(len(labels))
    started = time.perf_counter()
    for step in range(steps):
        rows = order[step * BATCH : (step + 1) * BATCH]
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * cosine(step / steps)
        loss = F.cross_entropy(net(inputs[rows]), labels[rows])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), recipe.clip_norm)
        optimizer.step()
    return time.perf_counter() - started


def by_fit(net: torch.nn.Module, data: Data, recipe: Recipe) -> float:
    def loss(batch: Batch) -> Tensor:
        return F.cross_entropy(net(batch.inputs), batch.labels)

    started = time.perf_counter()
    fit(net, [Stage(loss)], data, recipe, epochs=1, seed=0, device=CPU)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    if any(os.environ.get(k) != v for k, v in WORKER_ENV.items()):  # glibc reads them at start only
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **WORKER_ENV})
    torch.set_num_threads(options.threads)
    recipe = Recipe(batch_size=BATCH)
    print(f"{'backbone':>10} {'fit':>10} {'by hand':>10}   ratio (images/s; {options.threads} thread(s))")
    for name, steps in STEPS.items():
        split = images(BATCH * steps)
        mean, std = moments(split.pixels)
        data = Data("random", tuple("0123456789"), (3, 32, 32), split, split, split, mean, std)
        inputs = data.inputs(split.pixels)
        make = {"nin": NiN, "nin@0.25": NiN, "resnet38": ResNet38}[name]
        net = place(make((3, 32, 32), 10, 0.25 if "@" in name else 1.0).plain(), CPU)
        ours, hand = [], []
        for repeat in range(options.repeats + 1):  # the first is the warm-up
            one, two = by_fit(net, data, recipe), by_hand(net, inputs, split.labels, recipe, steps)
            if repeat:
                ours.append(len(split) / one)
                hand.append(len(split) / two)
        fast, best = statistics.median(ours), statistics.median(hand)
        print(f"{name:>10} {fast:10.0f} {best:10.0f}   {fast / best:.3f}", flush=True)


if __name__ == "__main__":
    main()
