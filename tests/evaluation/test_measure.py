"""Looked-up points are executed points, and no method can report its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from routesearch.backbones.base import Backbone
from routesearch.data.base import Data
from routesearch.errors import Refusal, RunFailed, described
from routesearch.evaluation.measure import measure
from routesearch.methods.base import Knob, RoutedNet, Scores, Stage
from routesearch.methods.running import price, run
from routesearch.results.points import Interval
from routesearch.routing.cost import mult_adds
from routesearch.routing.meter import Meter
from routesearch.space.space import Space

CPU = torch.device("cpu")


class Thirds(RoutedNet):
    """Two exits and an end whose decisions are the image's own pixels: no training needed."""

    name = "thirds"

    class Config(Space):
        pass

    def __init__(self, config: Space, backbone: Backbone, trunk: Any = None) -> None:
        super().__init__(config, backbone, trunk)
        self.units = torch.nn.ModuleList(backbone.unit(k) for k in (1, 2, 3))
        self.exits = torch.nn.ModuleList(backbone.exit(k) for k in (1, 2, 3))

    def stages(self) -> Sequence[Stage]:
        return []

    def score(self, images: Tensor) -> Tensor:
        return images[:, 0, :2, 0]

    def route(self, meter: Meter, images: Tensor, knob: Knob) -> None:
        self._from(meter, 0, images, self.score(images), knob)

    def _from(self, meter: Meter, k: int, x: Tensor, scores: Tensor, knob: Knob) -> None:
        x = meter.run(self.units[k], x)
        if k == 2:
            meter.finish(meter.run(self.exits[2], x), route=2)
            return
        for leaves, group, x_of, s in meter.split(scores[:, k] > knob["t"], 2, x, scores):
            if leaves:
                group.finish(group.run(self.exits[k], x_of), route=k)
            else:
                self._from(group, k + 1, x_of, s, knob)

    def knobs(self, scores: Scores | None = None, labels: Tensor | None = None) -> Sequence[Knob]:
        return [{"t": t / 4} for t in range(-8, 9)]


class Looked(Thirds):
    """The same with stored scores."""

    name = "looked"

    def observe(self, images: Tensor) -> Scores:
        labels, x = [], images
        for unit, leave in zip(self.units, self.exits, strict=True):
            x = unit(x)
            labels.append(leave(x).argmax(1))
        return Scores(self.score(images), torch.stack(labels, 1))

    def decide(self, scores: Tensor, knob: Knob) -> Tensor:
        leaves = scores > knob["t"]
        return torch.cat([leaves, torch.ones(len(scores), 1, dtype=torch.bool)], 1).long().argmax(1)


@pytest.fixture
def looked(pocket: Backbone) -> Looked:
    torch.manual_seed(0)
    return Looked(Looked.Config(), pocket)


def same_weights(net: RoutedNet, kind: type[RoutedNet]) -> RoutedNet:
    twin = kind(net.config, net.backbone)
    twin.load_state_dict(net.state_dict())
    return twin


def test_looked_up_is_executed(looked: Looked, make_data: Callable[..., Data]) -> None:
    """More images than a batch holds, so that groups are cut anew; a few roundings may differ."""
    data = make_data(counts=(12, 600, 12))
    points = measure(looked, data, data.validation, CPU)
    really = measure(same_weights(looked, Thirds), data, data.validation, CPU)
    assert [p.knob for p in points] == [p.knob for p in really] == list(looked.knobs())
    assert [p.macs for p in points] == pytest.approx([p.macs for p in really])
    assert [p.accuracy for p in points] == pytest.approx([p.accuracy for p in really], abs=2 / 600)
    assert [p.route_share for p in points] == [p.route_share for p in really]
    assert len({p.route_share for p in points}) > 5
    for p in points:
        assert sum(p.route_share) == pytest.approx(1.0, abs=1e-5)


def test_points_by_hand(looked: Looked, data: Data) -> None:
    knob = {"t": 0.0}
    [point] = measure(looked, data, data.test, CPU, [knob])
    billed = run(looked, data.inputs(data.test.pixels), knob)
    assert point.knob == knob
    assert point.macs == pytest.approx(sum(billed.macs.tolist()) / 60)
    assert point.accuracy == pytest.approx(
        float(billed.logits.argmax(1).eq(data.test.labels).double().mean())
    )
    counts = torch.bincount(billed.route, minlength=3).tolist()
    assert point.route_share == pytest.approx([c / 60 for c in counts], abs=1e-6)


def test_a_route_that_nobody_takes_has_share_0(pocket: Backbone, data: Data) -> None:
    net = Thirds(Thirds.Config(), pocket)
    [point] = measure(net, data, data.test, CPU, [{"t": -100.0}])
    assert point.route_share == (1.0, 0.0, 0.0)


def test_skips_report_who_ran_what(own_method: ModuleType, pocket: Backbone, data: Data) -> None:
    net = own_method.Skipper(own_method.Skipper.Config(), pocket)
    points = {p.knob["threshold"]: p for p in measure(net, data, data.validation, CPU)}
    assert points[-1.0].route_share == (1.0, 1.0)
    assert points[2.0].route_share == (0.0, 0.0)
    assert (points[2.0].macs, points[-1.0].macs) == (net.bounds().min, net.bounds().max)


class Detour(Thirds):
    """Images above the threshold meet one block that may be skipped; the others meet none."""

    name = "detour"

    def route(self, meter: Meter, images: Tensor, knob: Knob) -> None:
        x = meter.run(self.units[0], images)
        for way, group, x_of, image in meter.split(images[:, 0, 0, 0] > knob["t"], 2, x, images):
            if way:
                mask = image[:, 0, 0, 1] > 0
                x_of = group.patch(mask, self.units[1], x_of, into=x_of)
            group.finish(group.run(self.exits[0], x_of), route=way)


def test_a_batch_where_nobody_meets_a_skip_is_measured_too(
    pocket: Backbone, make_data: Callable[..., Data]
) -> None:
    """Only images of the second batch go where something can be skipped."""
    data = make_data(counts=(12, 300, 12))
    data.validation.pixels[:, 0, 0, 0] = 0.0
    data.validation.pixels[290:, 0, 0, 0] = 1.0
    net = Detour(Detour.Config(), pocket)
    [point] = measure(net, data, data.validation, CPU, [{"t": 0.0}])
    ran = run(net, data.inputs(data.validation.pixels[256:]), {"t": 0.0}).ran
    assert point.route_share == pytest.approx([float(ran.sum()) / 300], abs=1e-6)
    assert point.route_share[0] > 0


# ---- nobody can lie to it ----------------------------------------------------------------------------


class Liar(Looked):
    """Says that hard images leave early, sends them on."""

    name = "liar"

    def decide(self, scores: Tensor, knob: Knob) -> Tensor:
        return torch.zeros(len(scores), dtype=torch.int64)


class Braggart(Looked):
    """Decides as it routes, but claims other labels."""

    name = "braggart"

    def observe(self, images: Tensor) -> Scores:
        found = super().observe(images)
        return Scores(found.scores, (found.predictions + 1) % 3)


class Late(Looked):
    """Lies in the middle of its knobs only; the default and the ends are honest."""

    name = "late"

    def decide(self, scores: Tensor, knob: Knob) -> Tensor:
        honest = super().decide(scores, knob)
        return honest if abs(knob["t"]) > 1.2 else 2 - honest


@pytest.mark.parametrize("kind", [Liar, Braggart, Late])
def test_a_lie_about_decisions_is_caught(kind: type[Looked], looked: Looked, data: Data) -> None:
    net = same_weights(looked, kind)
    with pytest.raises(
        RunFailed, match=rf"^{kind.name}: decide\(observe\(x\)\) must agree with route\(x\), got "
    ):
        measure(net, data, data.validation, CPU)


class Smuggler(Thirds):
    """Runs its first unit beside the meter."""

    name = "smuggler"

    def _from(self, meter: Meter, k: int, x: Tensor, scores: Tensor, knob: Knob) -> None:
        if k == 0:
            self.units[0](x)
        super()._from(meter, k, x, scores, knob)


class LookedSmuggler(Looked):
    """The same, hidden behind stored scores."""

    name = "looked_smuggler"

    def route(self, meter: Meter, images: Tensor, knob: Knob) -> None:
        self.units[0](images)
        super().route(meter, images, knob)


@pytest.mark.parametrize("kind", [Smuggler, LookedSmuggler])
def test_work_beside_the_meter_is_caught(kind: type[Thirds], pocket: Backbone, data: Data) -> None:
    with pytest.raises(
        RunFailed, match=r"every block must run through the meter, .*, got [\d,]+ multiply-adds of work"
    ):
        measure(kind(kind.Config(), pocket), data, data.validation, CPU)


@pytest.mark.parametrize("kind", [Thirds, Looked])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_fail_the_run(
    kind: type[RoutedNet], bad: float, pocket: Backbone, data: Data
) -> None:
    net: Any = kind(kind.Config(), pocket)
    with torch.no_grad():
        net.exits[0][-1].bias[0] = bad
    with pytest.raises(RunFailed, match=rf"^{kind.name}: logits must be finite, got NaN or infinity at knob"):
        measure(net, data, data.validation, CPU)


@pytest.mark.parametrize(
    ("answer", "got"),
    [
        (lambda n: torch.full((n,), 3), r"decide must give routes 0\.\.2, got 3\.\.3"),
        (lambda n: torch.full((n,), -1), r"decide must give routes 0\.\.2, got -1\.\.-1"),
        (
            lambda n: torch.zeros(n),
            r"one int64 route for each of \d+ images, got torch.float32 of shape \(\d+,\)",
        ),
        (
            lambda n: torch.zeros(n, 1).long(),
            r"one int64 route for each of \d+ images, got torch.int64 of shape",
        ),
    ],
)
def test_decisions_that_are_no_routes_fail_the_run(
    answer: Callable[[int], Tensor], got: str, looked: Looked, data: Data
) -> None:
    class Lost(Looked):
        name = "lost"

        def decide(self, scores: Tensor, knob: Knob) -> Tensor:
            return answer(len(scores))

    with pytest.raises(RunFailed, match=rf"^lost: .*{got}"):
        measure(same_weights(looked, Lost), data, data.validation, CPU)


class Rarely(Looked):
    """Lies at one knob only: where images part most evenly."""

    name = "rarely"

    def decide(self, scores: Tensor, knob: Knob) -> Tensor:
        honest = super().decide(scores, knob)
        return honest if knob["t"] != 0.5 else (honest + 1) % 3

    def knobs(self, scores: Scores | None = None, labels: Tensor | None = None) -> Sequence[Knob]:
        return [{"t": t} for t in (-9.0, -8.0, -7.0, 0.5, 8.0, 9.0, 10.0)]


def test_a_lie_where_images_part_is_caught(looked: Looked, data: Data) -> None:
    with pytest.raises(RunFailed, match=r"^rarely: decide\(observe\(x\)\) must agree with route\(x\), got "):
        measure(same_weights(looked, Rarely), data, data.validation, CPU)


def test_knobs_are_told_what_routes_cost(looked: Looked, data: Data) -> None:
    seen: list[Scores | None] = []

    class Asking(Looked):
        name = "asking"

        def knobs(self, scores: Scores | None = None, labels: Tensor | None = None) -> Sequence[Knob]:
            seen.append(scores)
            return [{"t": 0.0}]

    measure(same_weights(looked, Asking), data, data.validation, CPU)
    [told] = [scores.prices for scores in seen if scores is not None]
    routes = price(Looked, looked.config, looked.backbone).routes
    assert told is not None
    assert (told.dtype, told.tolist()) == (torch.float64, [routes[r].min for r in range(3)])


def test_many_knobs_are_looked_up_in_parts(
    looked: Looked, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = measure(looked, data, data.validation, CPU)
    monkeypatch.setattr("routesearch.evaluation.measure.LOOKED_UP", 3 * len(data.validation.labels))
    assert measure(looked, data, data.validation, CPU) == whole


def test_scores_that_are_nan_fail_the_run(looked: Looked, data: Data) -> None:
    class Lost(Looked):
        name = "lost"

        def observe(self, images: Tensor) -> Scores:
            found = super().observe(images)
            return Scores(found.scores * float("nan"), found.predictions)

    with pytest.raises(RunFailed, match=r"^lost: scores must be numbers, got NaN$"):
        measure(same_weights(looked, Lost), data, data.validation, CPU)


def test_a_route_without_one_price_cannot_be_looked_up(looked: Looked, data: Data) -> None:
    class Vague(Looked):
        name = "vague"

        def route(self, meter: Meter, images: Tensor, knob: Knob) -> None:
            everybody = torch.ones(len(images), dtype=torch.bool, device=images.device)
            again = torch.nn.Identity()
            meter.run(self.units[0], images)
            x = meter.patch(everybody, self.units[0], images, into=meter.run(self.units[0], images))
            meter.finish(meter.run(self.exits[0], again(x)), route=0)

        def observe(self, images: Tensor) -> Scores:
            found = super().observe(images)
            return Scores(found.scores, found.predictions[:, :1])

        def decide(self, scores: Tensor, knob: Knob) -> Tensor:
            return torch.zeros(len(scores), dtype=torch.int64)

    with pytest.raises(RunFailed, match="vague: a route that can be looked up must have one price"):
        measure(same_weights(looked, Vague), data, data.validation, CPU)


def test_measuring_changes_nothing(looked: Looked, data: Data) -> None:
    before = {name: value.clone() for name, value in looked.train().state_dict().items()}
    measure(looked, data, data.validation, CPU)
    assert all(torch.equal(value, before[name]) for name, value in looked.state_dict().items())


def test_a_method_without_a_knob_fails_the_run(looked: Looked, data: Data) -> None:
    class Wordless(Looked):
        def knobs(self, scores: Scores | None = None, labels: Tensor | None = None) -> list[Knob]:
            return [] if scores is not None else super().knobs()

    with pytest.raises(RunFailed, match=r"knobs must give one setting or more with scores, got none"):
        measure(same_weights(looked, Wordless), data, data.validation, CPU)


# ---- knobs that set the cost -------------------------------------------------------------------------


class Doubled(nn.Module):
    """A convolution that runs so many times."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layer = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, times: int) -> Tensor:
        for _ in range(times):
            x = self.layer(x).relu()
        return x


class Repeats(RoutedNet):
    """How often a unit runs is a knob."""

    name = "repeats"
    times: tuple[int, ...] = (2, 1, 4)
    informed: tuple[int, ...] = ()

    def __init__(self, config: Space, backbone: Backbone, trunk: Any = None) -> None:
        super().__init__(config, backbone, trunk)
        self.stem, self.late = backbone.unit(1), backbone.exit(1)
        self.unit = Doubled(backbone.channels(1))

    def stages(self) -> list[Stage]:
        return []

    def route(self, meter: Meter, images: Tensor, knob: Knob) -> None:
        x = meter.run(self.unit, meter.run(self.stem, images), knob["times"])
        meter.finish(meter.run(self.late, x))

    def knobs(self, scores: Scores | None = None, labels: Tensor | None = None) -> list[Knob]:
        return [{"times": times} for times in (*self.times, *(() if labels is None else self.informed))]


class Stateful(Repeats):
    """The same, but the block learns of the knob behind the meter's back."""

    name = "stateful"

    def __init__(self, config: Space, backbone: Backbone, trunk: Any = None) -> None:
        super().__init__(config, backbone, trunk)
        unit = self.unit
        self.told = 1
        self.block = Told(unit, self)

    def route(self, meter: Meter, images: Tensor, knob: Knob) -> None:
        self.told = knob["times"]
        meter.finish(meter.run(self.late, meter.run(self.block, meter.run(self.stem, images))))


class Told(nn.Module):
    def __init__(self, unit: nn.Module, owner: Any) -> None:
        super().__init__()
        self.unit, self.owner = unit, [owner]

    def forward(self, x: Tensor) -> Tensor:
        return self.unit(x, self.owner[0].told)  # type: ignore[no-any-return]


def test_bounds_range_over_all_knobs(pocket: Backbone, data: Data) -> None:
    net = Repeats(Repeats.Config(), pocket)
    once = mult_adds(net.unit, torch.zeros(1, *pocket.shape(1)), 1)
    rest = mult_adds(net.stem, torch.zeros(1, *pocket.image_shape)) + mult_adds(
        net.late, torch.zeros(1, *pocket.shape(1))
    )
    assert net.bounds() == Interval(rest + once, rest + 4 * once)
    points = measure(net, data, data.validation, CPU)
    assert [p.macs for p in points] == [rest + times * once for times in (2, 1, 4)]


def test_a_knob_beyond_the_price_fails_the_run(pocket: Backbone, data: Data) -> None:
    kind = type("Beyond", (Repeats,), {"informed": (5,)})
    told = (
        r"^repeats: what images cost must lie within the price over knobs\(\) without scores, got [\d,]+ to"
    )
    with pytest.raises(RunFailed, match=told):
        measure(kind(kind.Config(), pocket), data, data.validation, CPU)


def test_a_cost_that_no_input_shows_is_caught(pocket: Backbone, data: Data) -> None:
    with pytest.raises(RunFailed, match="its price must follow from its inputs, got"):
        measure(Stateful(Stateful.Config(), pocket), data, data.validation, CPU)


@pytest.mark.parametrize("name", ["bounds", "build_plain", "starts_trained", "uses_trunk", "uses_weights"])
def test_what_the_core_computes_cannot_be_overridden(name: str) -> None:
    with pytest.raises(TypeError, match=rf"^Mine\.{name} must not be overridden: the core computes it"):
        type("Mine", (Repeats,), {name: lambda self: Interval(0, 1)})


def test_a_knob_that_is_no_json_value_is_named(pocket: Backbone, data: Data) -> None:
    class Tensors(Repeats):
        name = "tensors"

        def knobs(self, scores: Scores | None = None, labels: Tensor | None = None) -> list[Knob]:
            return [{"times": 1}, *([{"times": torch.tensor(2)}] if labels is not None else [])]

    told = r"^tensors: a knob must be made of JSON values: numbers, texts, lists; got times=.*, a Tensor$"
    with pytest.raises(Refusal, match=told):
        measure(Tensors(Tensors.Config(), pocket), data, data.validation, CPU)

    class Always(Tensors):
        def knobs(self, scores: Scores | None = None, labels: Tensor | None = None) -> list[Knob]:
            return [{"times": torch.tensor(2)}]

    with pytest.raises(Refusal, match=told):
        Always(Always.Config(), pocket).bounds()


class Forgetful(Looked):
    """Scores for all, and a route that loses those who stay."""

    name = "forgetful"

    def route(self, meter: Meter, images: Tensor, knob: Knob) -> None:
        if images.is_meta:
            super().route(meter, images, knob)
            return
        scores = images.flatten(1)[:, 0]
        for way, group, x in meter.split(scores > scores.median(), 2, images):
            if way:
                super().route(group, x, knob)


def test_an_image_that_never_finishes_is_said_plainly(pocket: Backbone, data: Data) -> None:
    with pytest.raises(
        ValueError, match=r"^every image must finish exactly once, got \d+ finishes for"
    ) as caught:
        measure(Forgetful(Forgetful.Config(), pocket), data, data.validation, CPU)
    assert ", at knob {" in described(caught.value)
