"""Timing a routed network: ways follow the shares they are given, and the figures are of these ways."""

from __future__ import annotations

import os
from collections.abc import Callable
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from routesearch.backbones.base import Backbone
from routesearch.evaluation import latency
from routesearch.evaluation.latency import RouteSampler, time_network, time_points
from routesearch.methods.base import Knob, RoutedNet, Scores, Stage
from routesearch.methods.running import price, run
from routesearch.results.points import OperatingPoint
from routesearch.routing.cost import mult_adds
from routesearch.routing.meter import Meter
from routesearch.space.space import Space

CPU = torch.device("cpu")


class Tree(RoutedNet):
    """A three-way split, one of whose ways splits again: routes 2, 0, 1 and 3 in the order of the ways."""

    name = "tree"

    def __init__(self, config: Space, backbone: Backbone, trunk: Any = None) -> None:
        super().__init__(config, backbone, trunk)
        self.stem = backbone.unit(1)
        self.leaves = nn.ModuleList(backbone.exit(1) for _ in range(4))
        self.deep = nn.Sequential(backbone.unit(2))
        self.late = backbone.exit(2)

    def stages(self) -> list[Stage]:
        return []

    def route(self, meter: Meter, images: Tensor, knob: Knob) -> None:
        x = meter.run(self.stem, images)
        for way, group, y in meter.split(torch.zeros(len(x), dtype=torch.int64, device=x.device), 3, x):
            if way < 2:
                group.finish(group.run(self.leaves[way], y), route=(2, 0)[way])
                continue
            y = group.run(self.deep, y)
            for late, part, z in group.split(torch.zeros(len(y), dtype=torch.bool, device=y.device), 2, y):
                part.finish(part.run(self.late, z), route=3 if late else 1)

    def knobs(self, scores: Scores | None = None, labels: Tensor | None = None) -> list[Knob]:
        return [{}]


class Skips(RoutedNet):
    """Two blocks, skipped or not."""

    name = "skips"

    def __init__(self, config: Space, backbone: Backbone, trunk: Any = None) -> None:
        super().__init__(config, backbone, trunk)
        self.stem, self.late = backbone.unit(1), backbone.exit(1)
        channels = backbone.channels(1)
        self.blocks = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))

    def stages(self) -> list[Stage]:
        return []

    def route(self, meter: Meter, images: Tensor, knob: Knob) -> None:
        x = meter.run(self.stem, images)
        for block in self.blocks:
            x = meter.patch(torch.ones(len(x), dtype=torch.bool, device=x.device), block, x, into=x)
        meter.finish(meter.run(self.late, x))

    def knobs(self, scores: Scores | None = None, labels: Tensor | None = None) -> list[Knob]:
        return [{}]


def routed(net: RoutedNet, share: list[float], count: int = 4000) -> Any:
    images = torch.zeros(count, *net.backbone.image_shape)
    meter = RouteSampler(net, {}, share).draw(images, torch.Generator().manual_seed(0))
    with torch.inference_mode():
        net.eval().route(meter, images, {})
        return meter.bill()


def test_images_go_where_the_shares_send_them(pocket: Backbone) -> None:
    share = [0.1, 0.2, 0.3, 0.4]
    net = Tree(Tree.Config(), pocket)
    bill = routed(net, share)
    found = torch.bincount(bill.route, minlength=4) / len(bill.route)
    assert found.tolist() == pytest.approx(share, abs=0.03)
    prices = price(Tree, net.config, pocket).routes
    assert all(int(m) in prices[int(r)] for m, r in zip(bill.macs, bill.route, strict=True))


@pytest.mark.parametrize("share", [[1.0, 0, 0, 0], [0, 0, 0, 1.0], [0.5, 0, 0.5, 0]])
def test_ways_with_no_share_are_not_taken(pocket: Backbone, share: list[float]) -> None:
    bill = routed(Tree(Tree.Config(), pocket), share, 200)
    assert set(bill.route.tolist()) == {r for r, s in enumerate(share) if s}


def test_sites_run_as_often_as_their_shares_say(pocket: Backbone) -> None:
    bill = routed(Skips(Skips.Config(), pocket), [0.25, 0.9])
    assert bill.ran.double().mean(0).tolist() == pytest.approx([0.25, 0.9], abs=0.03)


class Detour(Skips):
    """Two ways to the one route, one of which runs more."""

    name = "detour"

    def route(self, meter: Meter, images: Tensor, knob: Knob) -> None:
        x = meter.run(self.stem, images)
        for way, group, y in meter.split(images[:, 0, 0, 0] > 0, 2, x):
            group.finish(group.run(self.late, group.run(self.blocks[0], y) if way else y), route=0)


def test_of_several_ways_to_a_route_the_network_takes_its_own(pocket: Backbone) -> None:
    net = Detour(Detour.Config(), pocket).eval()
    images = torch.randn(300, *pocket.image_shape)
    meter = RouteSampler(net, {}, [1.0]).draw(images, torch.Generator().manual_seed(0))
    with torch.inference_mode():
        net.route(meter, images, {})
        assert torch.equal(meter.bill().macs, run(net, images, {}).macs)


class Experts(Skips):
    """So many of four experts for each image, whoever they are."""

    name = "experts"
    exactly: int | None = 2

    def __init__(self, config: Space, backbone: Backbone, trunk: Any = None) -> None:
        super().__init__(config, backbone, trunk)
        channels = backbone.channels(1)
        self.blocks = nn.ModuleList(
            nn.Conv2d(channels, channels, size, padding="same") for size in (1, 3, 5, 7)
        )

    def route(self, meter: Meter, images: Tensor, knob: Knob) -> None:
        x = meter.run(self.stem, images)
        mask = torch.zeros(len(x), 4, dtype=torch.bool, device=x.device)
        mask[:, : self.exactly] = True
        weights = torch.ones(len(x), 4, device=x.device)
        x = meter.choose(mask, list(self.blocks), x, weights=weights, into=x, exactly=self.exactly)
        meter.finish(meter.run(self.late, x))


@pytest.mark.parametrize(
    "share", [[0.25, 0.75, 0.4, 0.6], [0.0, 1.0, 1.0, 0.0], [0.1, 0.9, 0.333333, 0.666667]]
)
def test_experts_run_as_often_as_their_shares_say(share: list[float], pocket: Backbone) -> None:
    bill = routed(Experts(Experts.Config(), pocket), share)
    assert set(bill.ran.sum(1).tolist()) == {2}
    assert bill.ran.double().mean(0).tolist() == pytest.approx(share, abs=0.03)


def test_experts_of_any_number_run_as_often_as_their_shares_say(pocket: Backbone) -> None:
    kind = type("Any", (Experts,), {"exactly": None})
    bill = routed(kind(kind.Config(), pocket), [0.25, 0.75, 0.4, 0.1])
    assert bill.ran.double().mean(0).tolist() == pytest.approx([0.25, 0.75, 0.4, 0.1], abs=0.03)


def test_a_share_for_each_route_is_needed(pocket: Backbone) -> None:
    net = Tree(Tree.Config(), pocket)
    for share in ([], [0.2] * 5, [0.0] * 4):
        with pytest.raises(ValueError, match=r"1 to 4 shares, one for each route, not all 0, got"):
            RouteSampler(net, {}, share)
    assert set(routed(net, [0.5, 0.5], 100).route.tolist()) == {0, 1}, "what is not named gets none"


def test_what_is_timed_is_what_the_shares_cost(pocket: Backbone) -> None:
    net, share = Tree(Tree.Config(), pocket), [0.0, 0.5, 0.5, 0.0]
    prices = price(Tree, net.config, pocket).routes
    one, many = time_network(net, {}, share, CPU, batches=(1, 64), seconds=0.05)
    assert (one.batch, many.batch) == (1, 64)
    expected = (prices[1].min + prices[2].min) / 2
    assert many.macs == pytest.approx(expected, rel=0.1)
    assert many.static_macs == mult_adds(pocket.plain(), torch.zeros(1, *pocket.image_shape))
    for timing in (one, many):
        assert 0 < timing.p50 <= timing.p95
        assert timing.static_p50 > 0


def test_a_plugins_network_can_be_timed(own_method: ModuleType, pocket: Backbone) -> None:
    method = next(m for m in own_method.routesearch_methods())
    net = method(method.space(pocket).default(), pocket)
    (timing,) = time_network(net, net.knobs()[0], [0.5, 0.5], CPU, batches=(4,), seconds=0.02)
    assert timing.macs in price(method, net.config, pocket).bounds


def test_all_blocks_may_be_skipped(pocket: Backbone) -> None:
    bill = routed(Skips(Skips.Config(), pocket), [0.0, 0.0], 50)
    assert not bill.ran.any()


@pytest.fixture
def ticks(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that says 1 ms, 2 ms, 3 ms and so on, whatever runs; what it said so far."""
    said: list[float] = []

    def clock(run: Callable[[], Any], device: torch.device) -> float:
        run()
        said.append(0.001 * (len(said) + 1))
        return said[-1]

    monkeypatch.setattr(latency, "clock", clock)
    monkeypatch.setattr(latency, "LEAST", 10)
    return said


def test_medians_and_tails_of_what_the_clock_said(pocket: Backbone, ticks: list[float]) -> None:
    net = Tree(Tree.Config(), pocket)
    (timing,) = time_network(net, {}, [1.0, 0, 0, 0], CPU, batches=(2,), seconds=0)
    counted = ticks[2 * latency.WARM_UP :]
    assert len(counted) == 20, "ten of each network, in turn"
    routed, static = counted[::2], counted[1::2]
    assert timing.p50 == pytest.approx((routed[4] + routed[5]) / 2)
    assert timing.static_p50 == pytest.approx((static[4] + static[5]) / 2)
    assert timing.p95 == pytest.approx(routed[8] + 0.55 * (routed[9] - routed[8]))


def test_points_are_timed_alone_and_keep_the_rest(pocket: Backbone, ticks: list[float]) -> None:
    points = [OperatingPoint({}, 0.5, 1.0, (1.0,)), OperatingPoint({}, 0.6, 2.0, (0, 0, 0.5, 0.5))]
    found = time_points(Tree(Tree.Config(), pocket), points, CPU, batch=3, seconds=0)
    assert len(ticks) == 2 * (latency.WARM_UP + latency.LEAST), "no static network beside them"
    assert [(p.accuracy, p.macs, p.route_share) for p in found] == [
        (p.accuracy, p.macs, p.route_share) for p in points
    ]
    middle = latency.WARM_UP + (latency.LEAST + 1) / 2
    whole = latency.WARM_UP + latency.LEAST
    assert [p.latency for p in found] == pytest.approx([0.001 * middle, 0.001 * (whole + middle)])


def test_no_two_timings_run_at_once(
    pocket: Backbone, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    taken: list[bool] = []

    def clock(run: Callable[[], Any], device: torch.device) -> float:
        (file,) = tmp_path.iterdir()
        other = os.open(file, os.O_RDONLY)
        try:
            flock(other, LOCK_EX | LOCK_NB)
            taken.append(False)
        except BlockingIOError:
            taken.append(True)
        finally:
            os.close(other)
        run()
        return 1.0

    monkeypatch.setattr(latency, "clock", clock)
    net, point = Tree(Tree.Config(), pocket), OperatingPoint({}, 0.5, 1.0, (1.0,))
    time_network(net, {}, [1.0], CPU, batches=(1,), seconds=0)
    time_points(net, [point], CPU, batch=1, seconds=0)
    assert taken
    assert all(taken)
    (file,) = tmp_path.iterdir()
    file.chmod(0o444)  # another user's
    time_points(net, [point], CPU, batch=1, seconds=0)
    with file.open("rb") as lock:
        flock(lock, LOCK_EX | LOCK_NB)  # free again
