"""Time, measured: what a routed network's saved multiply-adds are worth on a machine.

The routed network and the static backbone run in one process, in turn. Images are random, but each goes a
way that is drawn so that exits, leaves and units have the shares that they had on real images: groups,
gathers and routers cost what they cost in use, and the MACs are those of the operating point.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fcntl import LOCK_EX, flock
from typing import Any

import torch
from torch import Tensor, nn

from routesearch.backbones.base import Backbone
from routesearch.methods.base import Knob, RoutedNet
from routesearch.methods.running import price_ways, without_weights
from routesearch.results.points import OperatingPoint
from routesearch.results.timing import Timing
from routesearch.routing.billing import BatchMeter, BranchPath
from routesearch.routing.cost import mult_adds
from routesearch.training.loop import to_device

BATCHES = (1, 8, 64, 256)
SECONDS = 2.0
"""What one batch size may take, roughly, both networks together."""

POINT_SECONDS = 0.2
"""What one point of a trial's curve may take, where latency is the budget."""

MAX_TIMED = 12
"""Points of a trial's curve that are timed, and kept, where latency is the budget."""

LEAST, MOST, WARM_UP = 10, 500, 3
"""Runs of each network that are timed, at one batch size; and runs before these."""


class RouteSampler:
    """Which images go which way: draws batches of ways with given shares.

    Args:
        net: the network; its ways are found on the meta device.
        knob: the operating point's.
        share: per route (exit, leaf), or where blocks are skipped per site: what
            ``OperatingPoint.route_share`` has.
    """

    def __init__(self, net: RoutedNet, knob: Knob, share: Sequence[float]) -> None:
        ways = price_ways(without_weights(net), [knob])
        self._sites = ways.sites
        expected = ways.sites or max(ways.routes) + 1
        if not 0 < len(share) <= expected or (not ways.sites and sum(share) <= 0):
            rule = f"1 to {expected} shares, one for each {'site' if ways.sites else 'route'}, not all 0"
            raise ValueError(f"there must be {rule}, got {list(share)}")
        self._share = torch.zeros(expected, dtype=torch.float64)
        self._share[: len(share)] = torch.tensor(share, dtype=torch.float64)
        self._turns = {} if ways.sites else _turns(ways.reached, expected)

    def draw(self, images: Tensor, random: torch.Generator) -> BatchMeter:
        """A meter on these images that follows drawn ways, whatever the network's own decisions are."""
        count = len(images)
        if self._sites:
            drawn = torch.rand(self._sites, count, generator=random, dtype=torch.float64)
            return BatchMeter(images, _DrawnSites(drawn.to(images.device), self._share.to(images.device)))
        route = torch.multinomial(self._share, count, replacement=True, generator=random) if count else None
        at = torch.zeros(0, dtype=torch.int64) if route is None else route
        turns = {path: table.to(images.device) for path, table in self._turns.items()}
        return BatchMeter(images, _DrawnRoutes(at.to(images.device), turns))


@dataclass(frozen=True)
class _DrawnRoutes:
    """Steering by the route that each image is to finish at.

    Attributes:
        route: N, int64.
        turns: path -> ways x routes, bool: whether a way leads to a route.
    """

    route: Tensor
    turns: dict[BranchPath, Tensor]

    def choose(self, rows: Tensor | None, path: BranchPath, choice: Tensor, ways: int) -> Tensor:
        if path not in self.turns:
            return choice
        route = self.route if rows is None else self.route[rows]
        leads = self.turns[path]
        # Where several ways lead to the route, the network's own decision among them stands.
        way = choice.long().clamp(0, len(leads) - 1)
        return torch.where(leads[way, route], way, leads.long().argmax(0)[route])

    def mask(self, rows: Tensor | None, site: int, mask: Tensor) -> Tensor:
        return mask

    def experts(self, rows: Tensor | None, site: int, mask: Tensor, exactly: int | None) -> Tensor:
        return mask


@dataclass(frozen=True)
class _DrawnSites:
    """Steering by how often each block runs.

    Attributes:
        drawn: sites x N, uniform in [0, 1).
        share: sites, the share of images that run each.
    """

    drawn: Tensor
    share: Tensor

    def choose(self, rows: Tensor | None, path: BranchPath, choice: Tensor, ways: int) -> Tensor:
        return choice

    def mask(self, rows: Tensor | None, site: int, mask: Tensor) -> Tensor:
        ran = self.drawn[site] < self.share[site]
        return ran if rows is None else ran[rows]

    def experts(self, rows: Tensor | None, site: int, mask: Tensor, exactly: int | None) -> Tensor:
        sites = slice(site, site + mask.shape[1])
        if exactly is None:
            ran = (self.drawn[sites] < self.share[sites, None]).T
        else:
            ran = _exactly(exactly, self.share[sites], self.drawn[site])
        return ran if rows is None else ran[rows]


def _exactly(count: int, share: Tensor, drawn: Tensor) -> Tensor:
    """So many of E for each of N images, each as often as its share says: systematic sampling; N x E, bool.

    The shares laid end to end are as long as the count; an image takes what lies at steps of 1 from a
    random start.
    """
    if not count or not share.sum() > 0:
        share = torch.ones_like(share)
    ends = (share * (count / share.sum())).cumsum(0)
    begins = torch.cat([ends.new_zeros(1), ends[:-1]])
    taken = torch.ceil(ends - drawn[:, None]) > torch.ceil(begins - drawn[:, None])
    # Rounded shares may leave an image one short: the likeliest of the others then joins.
    order = (2.0 * taken + share / share.max()).topk(count, 1).indices
    return torch.zeros_like(taken).scatter_(1, order, value=True)


def _turns(reached: dict[BranchPath, set[int]], routes: int) -> dict[BranchPath, Tensor]:
    turns: dict[BranchPath, Tensor] = {}
    ways = Counter(path[:-1] for path in reached if path)
    for path, ends in reached.items():
        if path:
            empty = torch.zeros(ways[path[:-1]], routes, dtype=torch.bool)
            turns.setdefault(path[:-1], empty)[path[-1], sorted(ends)] = True
    return turns


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
    net, plain = to_device(net, device).eval(), to_device(_plain(net.backbone), device).eval()
    traffic, found = RouteSampler(net, knob, share), []
    for batch in batches:
        with _timing():
            images, random = _images(net, batch, device)
            routed = _Routed(net, knob, traffic, images, random)
            spent, static = _in_turn((routed, lambda: clock(lambda: plain(images), device)), seconds)  # noqa: B023
            timing = Timing(
                batch=batch,
                p50=statistics.median(spent),
                p95=statistics.quantiles(spent, n=20, method="inclusive")[-1],
                static_p50=statistics.median(static),
                macs=statistics.fmean(routed.macs[WARM_UP:]),
                static_macs=float(mult_adds(plain, images)),
            )
        found.append(timing)
    return found


def time_points(
    net: RoutedNet,
    points: Sequence[OperatingPoint],
    device: torch.device,
    batch: int,
    seconds: float = POINT_SECONDS,
) -> list[OperatingPoint]:
    """The points with the median time of a batch as their ``latency``; of the routed network alone.

    Args:
        points: of this network.
        seconds: what a point may take, roughly.
    """
    net, found = to_device(net, device).eval(), []
    for point in points:
        traffic = RouteSampler(net, point.knob, point.route_share)
        with _timing():
            (spent,) = _in_turn((_Routed(net, point.knob, traffic, *_images(net, batch, device)),), seconds)
        found.append(replace(point, latency=statistics.median(spent)))
    return found


@contextmanager
def _timing() -> Iterator[None]:
    """No gradients, and nobody else on this machine who times: they would slow each other down."""
    with torch.inference_mode(), open(_lock(), "rb") as lock:
        flock(lock, LOCK_EX)  # gone with the file
        yield


def _lock() -> int:
    """The file that all users of this machine lock, opened; it is never written, and never deleted."""
    path = f"{tempfile.gettempdir()}/routesearch-timing.lock"
    try:
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW)  # not to be created again: it may be another's
    except FileNotFoundError:
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CREAT, 0o644)


def _images(net: RoutedNet, batch: int, device: torch.device) -> tuple[Tensor, torch.Generator]:
    """A batch of noise, and the source of its ways: the same ones at every call."""
    random = torch.Generator().manual_seed(0)
    images = torch.randn(batch, *net.backbone.image_shape, generator=random)
    return images.to(device, memory_format=torch.channels_last), random


def _plain(backbone: Backbone) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        return backbone.plain()


class _Routed:
    """Clocks a routed network, on other ways at every call, and keeps their mean MACs."""

    def __init__(
        self, net: RoutedNet, knob: Knob, traffic: RouteSampler, images: Tensor, random: torch.Generator
    ) -> None:
        self.net, self.knob, self.traffic = net, knob, traffic
        self.images, self.random = images, random
        self.macs: list[float] = []

    def __call__(self) -> float:
        meter = self.traffic.draw(self.images, self.random)
        spent = clock(
            lambda: (self.net.route(meter, self.images, self.knob), meter.bill()), self.images.device
        )
        self.macs.append(float(meter.bill().macs.double().mean()))
        return spent


def _in_turn(watches: Sequence[Callable[[], float]], seconds: float) -> list[list[float]]:
    """What each watch says, one after the other again and again: what slows the machine slows all of them."""
    for _ in range(WARM_UP):
        for watch in watches:
            watch()
    ends, found = time.perf_counter() + seconds, [list[float]() for _ in watches]
    for turn in range(MOST):
        if turn >= LEAST and time.perf_counter() > ends:
            break
        for watch, times in zip(watches, found, strict=True):
            times.append(watch())
    return found


def clock(run: Callable[[], Any], device: torch.device) -> float:
    """Seconds that a call takes, the device's work included."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started
