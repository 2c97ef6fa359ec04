"""Training throughput: the loop against one written by hand, and routed networks against their dense work.

    .venv/bin/python bench/training.py [--threads 1] [--repeats 7] [--only loop|routed]

The hand-written loop has everything that made it fast here: images normalised once beforehand,
channels_last, one fused optimizer kernel, no checks and no bill. Both train the same network on the
same 3 x 32 x 32 images in batches of 128, in turn, and the ratio of the medians is printed.

A routed network's dense work: each block that its loss runs (units, routers, heads), run forward and
backward on its own with the inputs that it had, nothing between them. What the step takes beyond that is
the price of routing in training: mixing branches, drawing noise, the losses.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from routesearch.backbones import NiN, ResNet38
from routesearch.data import Data, Images
from routesearch.data.base import moments
from routesearch.methods.base import Batch, Stage, Trunk
from routesearch.methods.schedules import cosine
from routesearch.routing.nested import map_tensors, tensors
from routesearch.search.ray_cluster import WORKER_ENV
from routesearch.study.recipe import Recipe
from routesearch.task.blueprint import Blueprint
from routesearch.training.loop import fit, to_device
from routesearch.training.optimizers import make_optimizer
from routesearch.training.state_arrays import states

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
    parser.add_argument("--only", choices=("loop", "routed"))
    options = parser.parse_args()
    if any(os.environ.get(k) != v for k, v in WORKER_ENV.items()):  # glibc reads them at start only
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **WORKER_ENV})
    torch.set_num_threads(options.threads)
    if options.only != "routed":
        loop(options.repeats, options.threads)
    if options.only != "loop":
        routed(options.repeats)


def loop(repeats: int, threads: int) -> None:
    recipe = Recipe(batch_size=BATCH)
    print(f"{'backbone':>10} {'fit':>10} {'by hand':>10}   ratio (images/s; {threads} thread(s))")
    for name, steps in STEPS.items():
        split = images(BATCH * steps)
        mean, std = moments(split.pixels)
        data = Data("random", tuple("0123456789"), (3, 32, 32), split, split, split, mean, std)
        inputs = data.inputs(split.pixels)
        make = {"nin": NiN, "nin@0.25": NiN, "resnet38": ResNet38}[name]
        net = to_device(make((3, 32, 32), 10, 0.25 if "@" in name else 1.0).plain(), CPU)
        ours, hand = [], []
        for repeat in range(repeats + 1):  # the first is the warm-up
            one, two = by_fit(net, data, recipe), by_hand(net, inputs, split.labels, recipe, steps)
            if repeat:
                ours.append(len(split) / one)
                hand.append(len(split) / two)
        fast, best = statistics.median(ours), statistics.median(hand)
        print(f"{name:>10} {fast:10.0f} {best:10.0f}   {fast / best:.3f}", flush=True)


ROUTED: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("decisionet", "nin", {"split_positions": [3, 6]}),
    ("decisionet", "resnet38", {"split_positions": [6, 12]}),
    ("actor", "nin@0.25", {"positions": [3, 6]}),
    ("critic", "pyramid8", {"positions": [1, 2, 3, 4, 5, 6, 7]}),
    ("jungle", "nin", {}),
    ("dgate", "nin", {"positions": [3, 6]}),
    ("skipnet", "resnet38", {"gate_type": "rnngate", "schedule": "supervised"}),
    ("skipnet", "resnet38", {"gate_type": "rnngate", "schedule": "hybrid"}),
    ("skipnet", "resnet38", {"gate_type": "ffgate2", "schedule": "supervised"}),
)


def routed(repeats: int) -> None:
    print(f"{'method':>10} {'backbone':>10} {'step':>9} {'dense':>9}   ratio (ms, batches of {BATCH})")
    torch.manual_seed(0)
    images = torch.randn(BATCH, 3, 32, 32).to(memory_format=torch.channels_last)
    labels = torch.arange(BATCH) % 10
    for method, backbone, fields in ROUTED:
        plan = Blueprint.of(method, backbone, None, (3, 32, 32), 10, fields)
        confusion = torch.rand(10, 10).softmax(1).tolist()
        trunk = (
            Trunk(states(plan.backbone.plain()), 0.0, confusion)
            if plan.method.uses_trunk(plan.config)
            else None
        )
        net = to_device(plan.method(plan.config, plan.backbone, trunk), CPU).train()
        stage = net.stages()[-1]  # of a hybrid training the second: it runs what was drawn
        for part in stage.eval_modules:
            part.eval()
        with torch.no_grad():
            inputs = stage.cache(images) if stage.cache else images
        batch = Batch(inputs, labels, 0.5)
        steps, blocks = [], []
        for repeat in range(repeats + 1):
            steps.append(_seconds(lambda: stage.loss(batch).backward()))  # noqa: B023
            calls = _blocks(net, lambda: stage.loss(batch))  # noqa: B023
            blocks.append(sum(_seconds(lambda: _alone(*call)) for call in calls))  # noqa: B023
            net.zero_grad(set_to_none=True)
            if not repeat:
                steps.clear()
                blocks.clear()
        step, dense = statistics.median(steps), statistics.median(blocks)
        ratio = f"{step * 1e3:9.1f} {dense * 1e3:9.1f}   {step / dense:.2f}"
        print(f"{method:>10} {backbone:>10} {ratio}  {fields}", flush=True)


def _blocks(net: nn.Module, run: Callable[[], Any]) -> list[tuple[nn.Module, tuple[Any, ...]]]:
    """The outermost modules that a call runs, with their inputs."""
    calls: list[tuple[nn.Module, tuple[Any, ...]]] = []
    depth = 0

    def enter(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        nonlocal depth
        if not depth:
            calls.append((module, inputs))
        depth += 1

    def leave(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        nonlocal depth
        depth -= 1

    handles = [m.register_forward_pre_hook(enter) for m in net.modules()]
    handles += [m.register_forward_hook(leave) for m in net.modules()]
    run()
    for handle in handles:
        handle.remove()
    return calls


def _alone(module: nn.Module, inputs: tuple[Any, ...]) -> None:
    """A block forward and backward, cut off from what was before it."""
    fresh = map_tensors(inputs, lambda t: t.detach().requires_grad_(t.requires_grad))
    outputs = [t for t in tensors(module(*fresh)) if t.requires_grad]
    torch.autograd.backward(outputs, [torch.ones_like(t) for t in outputs])


def _seconds(run: Callable[[], Any]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
