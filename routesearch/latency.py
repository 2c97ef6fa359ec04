"""Time, measured: what a routed network's saved multiply-adds are worth on a machine.

The routed network and the static backbone run in one process, in turn. Images are random, but each goes a
way that is drawn so that exits, leaves and units have the shares that they had on real images: groups,
gathers and routers cost what they cost in use, and the MACs are those of the operating point.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from routesearch.backbones.base import Backbone
from routesearch.fit import place
from routesearch.meta import shapes_only
from routesearch.method import Knob, RoutedNet
from routesearch.pricing import Tensors, mult_adds
from routesearch.routing import Meter, Plan

BATCHES = (1, 8, 64, 256)
SECONDS = 2.0
"""What one batch size may take, roughly, both networks together."""

LEAST, MOST, WARM_UP = 10, 500, 3
"""Runs of each network that are timed, at one batch size; and runs before these."""

Path = tuple[int, ...]
"""The ways taken at the splits so far."""


@dataclass(frozen=True)
class Timing:
    """A routed network and its static backbone at one batch size.

    Attributes:
        batch: images.
        p50, p95: seconds that the routed network takes for a batch.
        static_p50: seconds that the static one takes.
        macs: mean MACs per image of the ways that were timed.
        static_macs: of the static network.
    """

    batch: int
    p50: float
    p95: float
    static_p50: float
    macs: float
    static_macs: float

    @property
    def images_per_second(self) -> float:
        return self.batch / self.p50

    @property
    def mac_saving(self) -> float:
        """Share of the static network's MACs that routing saves."""
        return 1 - self.macs / self.static_macs

    @property
    def time_saving(self) -> float:
        """Share of the static network's time that routing saves; below 0 where it costs time."""
        return 1 - self.p50 / self.static_p50

    def as_dict(self) -> dict[str, Any]:
        """What ``--json`` shows: times in milliseconds."""
        return {
            "batch": self.batch,
            "p50_ms": self.p50 * 1e3,
            "p95_ms": self.p95 * 1e3,
            "images_per_second": self.images_per_second,
            "static_p50_ms": self.static_p50 * 1e3,
            "macs": self.macs,
            "mac_saving": self.mac_saving,
            "time_saving": self.time_saving,
        }


class Traffic:
    """Which images go which way: draws batches of ways with given shares.

    Args:
        net: the network; its ways are found on the meta device.
        knob: the operating point's.
        share: per route (exit, leaf), or where blocks are skipped per site: what
            ``OperatingPoint.route_share`` has.
    """

    def __init__(self, net: RoutedNet, knob: Knob, share: Sequence[float]) -> None:
        ways = _Ways()
        with shapes_only():
            twin = type(net)(net.config, net.backbone, _structure(net)).eval()
            twin.route(ways, torch.empty(1, *net.backbone.image_shape), knob)
        self._sites = ways.sites
        expected = ways.sites or max(ways.routes) + 1
        if not 0 < len(share) <= expected or sum(share) <= 0:
            law = f"a share for each of {expected} routes or sites"
            raise ValueError(f"there must be {law}, one of them over 0, got {list(share)}")
        self._share = torch.zeros(expected, dtype=torch.float64)
        self._share[: len(share)] = torch.tensor(share, dtype=torch.float64)
        self._turns = {} if ways.sites else _turns(ways.reached, expected)

    def draw(self, images: Tensor, random: torch.Generator) -> Meter:
        """A meter on these images that follows drawn ways, whatever the network's own decisions are."""
        count = len(images)
        if self._sites:
            ran = torch.rand(self._sites, count, generator=random, dtype=torch.float64)
            return _Drawn(images, None, {}, (ran < self._share[:, None]).to(images.device))
        route = torch.multinomial(self._share, count, replacement=True, generator=random) if count else None
        at = torch.zeros(0, dtype=torch.int64) if route is None else route
        turns = {path: table.to(images.device) for path, table in self._turns.items()}
        return _Drawn(images, at.to(images.device), turns, None)


class _Ways(Plan):
    """A plan that notes which routes can be reached from where."""

    def __init__(self) -> None:
        super().__init__()
        self.path: Path = ()
        self.reached: dict[Path, set[int]] = {}

    def split(self, choice: Tensor, ways: int, *state: Tensors) -> Iterator[tuple[Any, ...]]:
        path = self.path
        for way, group, *parts in super().split(choice, ways, *state):
            group.path = (*path, way)
            yield (way, group, *parts)

    def finish(self, logits: Tensor, route: int = 0) -> None:
        super().finish(logits, route)
        for end in range(len(self.path) + 1):
            self.reached.setdefault(self.path[:end], set()).add(route)


class _Drawn(Meter):
    """A meter whose images go where they were told.

    Args:
        route: N, where each image is to finish; None where sites decide.
        turns: path -> table from route to the way that leads there.
        ran: sites x N, bool: which blocks each image runs.
    """

    def __init__(
        self, images: Tensor, route: Tensor | None, turns: dict[Path, Tensor], ran: Tensor | None
    ) -> None:
        super().__init__(images)
        self.path: Path = ()
        self.site = 0
        self.route, self.turns, self.ran = route, turns, ran

    def split(self, choice: Tensor, ways: int, *state: Tensors) -> Iterator[tuple[Any, ...]]:
        path = self.path
        if self.route is not None and path in self.turns:
            choice = self.turns[path][self._own(self.route)]
        for way, group, *parts in super().split(choice, ways, *state):
            group.path = (*path, way)
            yield (way, group, *parts)

    def patch(self, mask: Tensor, block: nn.Module, *inputs: Tensors, into: Tensor) -> Tensor:
        if self.ran is not None:
            mask = self._own(self.ran[self.site])
            self.site += 1
        return super().patch(mask, block, *inputs, into=into)

    def _own(self, values: Tensor) -> Tensor:
        return values if self.rows is None else values[self.rows]


def _turns(reached: dict[Path, set[int]], routes: int) -> dict[Path, Tensor]:
    turns: dict[Path, Tensor] = {}
    for path, ends in reached.items():
        if path:
            table = turns.setdefault(path[:-1], torch.zeros(routes, dtype=torch.int64))
            table[sorted(ends)] = path[-1]
    return turns


def _structure(net: RoutedNet) -> Any:
    """The trunk as far as the structure depends on it."""
    if net.trunk is None or not type(net).needs_confusion:
        return None
    slim = copy.copy(net.trunk)
    object.__setattr__(slim, "state", {})
    return slim


def time_network(
    net: RoutedNet,
    knob: Knob,
    share: Sequence[float],
    device: torch.device,
    batches: Sequence[int] = BATCHES,
    seconds: float = SECONDS,
) -> list[Timing]:
    """Time a trained network at an operating point beside its static backbone.

    Args:
        share: the point's ``route_share``.
        device: where; the network is moved there, in channels_last form.
        batches: sizes, one timing each.
        seconds: what a size may take, roughly.
    """
    random = torch.Generator().manual_seed(0)
    net = place(net, device).eval()
    plain = place(_plain(net.backbone), device).eval()
    traffic = Traffic(net, knob, share)
    found = []
    with torch.inference_mode():
        for batch in batches:
            images = torch.randn(batch, *net.backbone.image_shape, generator=random)
            images = images.to(device, memory_format=torch.channels_last)
            found.append(_time(net, plain, knob, traffic, images, random, seconds))
    return found


def _plain(backbone: Backbone) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        return backbone.plain()


def _time(
    net: RoutedNet,
    plain: nn.Module,
    knob: Knob,
    traffic: Traffic,
    images: Tensor,
    random: torch.Generator,
    seconds: float,
) -> Timing:
    routed, static, macs = list[float](), list[float](), list[float]()
    ends = 0.0
    for turn in range(WARM_UP + MOST):
        if turn == WARM_UP:
            ends = time.perf_counter() + seconds
        if turn >= WARM_UP + LEAST and time.perf_counter() > ends:
            break
        meter = traffic.draw(images, random)
        spent = clock(lambda: (net.route(meter, images, knob), meter.bill()), images.device)  # noqa: B023
        alone = clock(lambda: plain(images), images.device)
        if turn >= WARM_UP:
            routed.append(spent)
            static.append(alone)
            macs.append(float(meter.bill().macs.double().mean()))
    cuts = statistics.quantiles(routed, n=20, method="inclusive")
    return Timing(
        batch=len(images),
        p50=statistics.median(routed),
        p95=cuts[-1],
        static_p50=statistics.median(static),
        macs=statistics.fmean(macs),
        static_macs=float(mult_adds(plain, images)),
    )


def clock(run: Callable[[], Any], device: torch.device) -> float:
    """Seconds that a call takes, the device's work included."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started
