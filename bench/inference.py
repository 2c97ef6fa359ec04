"""What routing saves in time: measured speed-up over the static backbone / reduction of MACs (1 = all of it).

    .venv/bin/python bench/inference.py [--threads 2] [--batches 1 8 64 256] [--device cpu] [--only NAME]

Both networks in one process, in turn, channels_last, inference mode; medians. Ways are drawn at random, the
same for both columns: `given` leaves routers out, `computed` runs them as well and then follows the same
ways. `masked` is the usual published form: everything is computed and multiplied by 0 or 1; its speed
is over the static backbone's, with no reduction to divide by.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from routesearch import BatchMeter, Meter, RoutedNet, build, mult_adds
from routesearch.evaluation.latency import clock
from routesearch.routing.nested import map_tensors
from routesearch.search.ray_cluster import WORKER_ENV
from routesearch.training.loop import to_device

SHAPE, CLASSES = (3, 32, 32), 10
IMAGES = 64
"""A small batch is run for so many images in a row, each time with other ways."""


@dataclass(frozen=True)
class Prescribed:
    """Steering by tables.

    Attributes:
        ways: for each site the choice of each image, bool: at the first, second, ... decision on its way.
    """

    ways: Sequence[Tensor]

    def choose(self, rows: Tensor | None, path: tuple[int, ...], choice: Tensor, ways: int) -> Tensor:
        return self._at(len(path), rows)

    def mask(self, rows: Tensor | None, site: int, mask: Tensor) -> Tensor:
        return self._at(site, rows)

    def experts(self, rows: Tensor | None, site: int, mask: Tensor, exactly: int | None) -> Tensor:
        return mask

    def _at(self, site: int, rows: Tensor | None) -> Tensor:
        return self.ways[site] if rows is None else self.ways[site][rows]


@final
class Given(Meter):
    """A meter that does not run some modules; everything else is another meter's.

    Args:
        meter: of the same group.
        left_out: modules that are not run: what they would give is zeros, and costs nothing.
        known: (module, images) -> the zeros in the form of what it gave once.
    """

    def __init__(
        self, meter: Meter, left_out: Collection[nn.Module], known: dict[tuple[nn.Module, int], Any]
    ) -> None:
        self._meter, self._left_out, self._known = meter, left_out, known

    def __len__(self) -> int:
        return len(self._meter)

    def run(self, block: nn.Module, *inputs: Any) -> Any:
        if block not in self._left_out:
            return self._meter.run(block, *inputs)
        key = block, len(self)
        if key not in self._known:
            self._known[key] = map_tensors(block(*inputs), torch.zeros_like)
        return self._known[key]

    def split(self, choice: Tensor, ways: int, *state: Any) -> Iterator[tuple[Any, ...]]:
        for way, group, *parts in self._meter.split(choice, ways, *state):
            yield (way, Given(group, self._left_out, self._known), *parts)

    def patch(self, mask: Tensor, block: nn.Module, *inputs: Any, into: Tensor) -> Any:
        return self._meter.patch(mask, block, *inputs, into=into)

    def choose(self, mask: Tensor, blocks: Sequence[nn.Module], *inputs: Any, **options: Any) -> Tensor:
        return self._meter.choose(mask, blocks, *inputs, **options)

    def finish(self, logits: Tensor, route: int = 0) -> None:
        self._meter.finish(logits, route)


@dataclass(frozen=True)
class Case:
    """A routed network to time.

    Attributes:
        routers: the modules that a given route spares; none for exits, whose gates are their classifiers.
        masked: the forward pass that computes everything.
    """

    name: str
    method: str
    backbone: str
    fields: dict[str, Any]
    routers: Callable[[Any], Sequence[nn.Module]]
    masked: Callable[[Any, Tensor], Any]
    keep: float = 0.5
    """How likely an image takes way 1: leaves at an exit, goes right in a tree, runs a block."""


def _gates(net: Any) -> list[nn.Module]:
    return [*net.gates, *([net.controller] if net.controller is not None else [])]


def _multiplied(net: Any, images: Tensor) -> Any:
    return net._dense(images, lambda logits: (logits > 0).to(logits.dtype))


def _observed(net: RoutedNet, images: Tensor) -> Any:
    return net.observe(images)


CASES = (
    Case("tree", "decisionet", "nin", {"split_positions": [3]}, lambda net: net.routers, _observed),
    Case("tree of 4", "decisionet", "nin", {"split_positions": [3, 6]}, lambda net: net.routers, _observed),
    Case("exits", "dgate", "nin", {"positions": [3, 6]}, lambda net: [], _observed, 0.4),
    Case("skips, rnngate", "skipnet", "resnet110", {"gate_type": "rnngate"}, _gates, _multiplied),
    Case("skips, ffgate2", "skipnet", "resnet110", {"gate_type": "ffgate2"}, _gates, _multiplied),
    Case("skips, rnngate", "skipnet", "wrn28_10@0.25", {"gate_type": "rnngate"}, _gates, _multiplied),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 64, 256])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", default="", help="cases whose name or backbone has this in it")
    options = parser.parse_args()
    if any(os.environ.get(k) != v for k, v in WORKER_ENV.items()):  # glibc reads them at start only
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **WORKER_ENV})
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    print(f"{options.threads} thread(s) on {device}; medians of {options.repeats}; ms a batch")
    print(
        f"{'case':>16} {'backbone':>13} {'batch':>5} {'static':>9} {'routed':>9} {'MACs':>6} "
        f"{'given':>6} {'computed':>8} {'masked':>6}"
    )
    for case in CASES:
        if options.only not in f"{case.name} {case.method} {case.backbone}":
            continue
        for batch in options.batches:
            print(_row(case, batch, options.repeats, device), flush=True)


def _row(case: Case, batch: int, repeats: int, device: torch.device) -> str:
    torch.manual_seed(0)
    net: Any = build(case.method, backbone=case.backbone, shape=SHAPE, classes=CLASSES, **case.fields)
    to_device(net, device).eval()
    plain = to_device(net.backbone.plain(), device).eval()
    knob = net.knobs()[0]
    known: dict[tuple[nn.Module, int], Any] = {}
    images = torch.randn(batch, *SHAPE, device=device).to(memory_format=torch.channels_last)
    rounds = max(1, IMAGES // batch)
    ways = [list((torch.rand(128, batch, device=device) < case.keep).unbind()) for _ in range(rounds)]

    def routed(left_out: Collection[nn.Module]) -> float:
        macs = 0.0
        for drawn in ways:
            meter = BatchMeter(images, Prescribed(drawn))
            net.route(Given(meter, left_out, known) if left_out else meter, images, knob)
            macs += float(meter.bill().macs.double().mean())
        return macs / rounds

    routers = set(case.routers(net))
    runs: dict[str, Callable[[], Any]] = {
        "static": lambda: [plain(images) for _ in range(rounds)],
        "given": lambda: routed(routers),
        "computed": lambda: routed(()),
        "masked": lambda: [case.masked(net, images) for _ in range(rounds)],
    }
    with torch.inference_mode():
        spent = {name: runs[name]() for name in ("given", "computed")}
        times: dict[str, list[float]] = {name: [] for name in runs}
        for repeat in range(repeats + 1):  # the first is the warm-up
            for name, run in runs.items():
                seconds = clock(run, device)
                if repeat:
                    times[name].append(seconds / rounds)
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    whole = mult_adds(plain, images)
    ratio = {
        name: medians["static"] / medians[name] / (whole / spent[name]) for name in ("given", "computed")
    }
    return (
        f"{case.name:>16} {case.backbone:>13} {batch:5d} {medians['static'] * 1e3:9.2f} "
        f"{medians['computed'] * 1e3:9.2f} {whole / spent['computed']:6.2f} {ratio['given']:6.2f} "
        f"{ratio['computed']:8.2f} {medians['static'] / medians['masked']:6.2f}"
    )


if __name__ == "__main__":
    main()
