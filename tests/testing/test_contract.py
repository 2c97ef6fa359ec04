"""The conformance kit: sound methods pass, and each planted fault is caught by the invariant meant for it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from optuna.distributions import FloatDistribution, IntDistribution
from pydantic import field_serializer
from torch import Tensor, nn

from routesearch import Backbone, Batch, Knob, Meter, Refusal, RoutedNet, Scores, SearchSpace, Space, Stage
from routesearch.backbones import NiN
from routesearch.methods.static import Static
from routesearch.testing import (
    CHAIN,
    SCALES,
    BackboneContract,
    MethodContract,
    ToyChain,
    ToyResidual,
    ToyScales,
    examine,
)

WAYS = "claimed_macs_are_what_runs"
BATCHES = "whole_batches_are_charged_for_what_ran"
BOUNDS = "macs_lie_in_bounds_and_reach_both_ends"
MATES = "a_route_does_not_depend_on_batch_mates"
STORED = "stored_decisions_are_the_routes"
TRACE = "running_leaves_no_trace"
KNOBS = "knobs_are_json_and_the_default_first"
REACHES = "the_loss_reaches_every_parameter"
SEED = "same_seed_same_weights"
STATE = "state_round_trips"
MIXED = "the_loss_is_finite_in_bfloat16"
BUILDS = "every_draw_builds"
JSON = "configs_survive_json"
ROUTES = "it_routes"
FEW = "batches_of_none_and_of_one"
SINGLY = "one_image_at_a_time_trains"


# ---- a sound method, to plant faults in --------------------------------------------------------------


class Exit(RoutedNet):
    """A gate after a few units sends an image to an early exit or through the rest."""

    name: ClassVar[str] = "exit"

    class Config(Space):
        position: Annotated[int, IntDistribution(1, 3)] = 2

    def __init__(self, config: Space, backbone: Backbone, trunk: Any = None) -> None:
        super().__init__(config, backbone, trunk)
        k, last = self.config.position, len(backbone)
        self.front = nn.Sequential(*[backbone.unit(i) for i in range(1, k + 1)])
        self.gate = nn.Sequential(backbone.neck(k), nn.Linear(backbone.channels(k), 1))
        self.early = backbone.exit(k)
        self.rest = nn.Sequential(*[backbone.unit(i) for i in range(k + 1, last + 1)], backbone.head())

    def stages(self) -> Sequence[Stage]:
        return [Stage(self.loss)]

    def loss(self, batch: Batch) -> Tensor:
        x = self.front(batch.inputs)
        share = self.score(x).sigmoid()[:, None]
        mixed = share * self.early(x).float().softmax(1) + (1 - share) * self.rest(x).float().softmax(1)
        return F.nll_loss(mixed.clamp_min(1e-6).log(), batch.labels)

    def score(self, x: Tensor) -> Tensor:
        score: Tensor = self.gate(x).squeeze(1)
        return score.float() if score.dtype == torch.bfloat16 else score

    def choose(self, score: Tensor, knob: Knob) -> Tensor:
        return score > knob["threshold"]

    def route(self, meter: Meter, images: Tensor, knob: Knob) -> None:
        x = meter.run(self.front, images)
        score = meter.run(self.gate, x).squeeze(1)
        for leaves, group, part in meter.split(self.choose(score, knob), 2, x):
            group.finish(group.run(self.early if leaves else self.rest, part), route=0 if leaves else 1)

    def knobs(self, scores: Scores | None = None, labels: Tensor | None = None) -> Sequence[Knob]:
        thresholds = [0.0, -1e9, 1e9]
        if scores is not None:
            thresholds += scores.scores.double().quantile(torch.tensor([0.31, 0.52, 0.73]).double()).tolist()
        return [{"threshold": t} for t in dict.fromkeys(thresholds)]

    def observe(self, images: Tensor) -> Scores | None:
        x = self.front(images)
        labels = [self.early(x).argmax(1), self.rest(x).argmax(1)]
        return Scores(self.gate(x), torch.stack(labels, 1))

    def decide(self, scores: Tensor, knob: Knob) -> Tensor:
        return (scores[:, 0] <= knob["threshold"]).long()


# ---- faults ------------------------------------------------------------------------------------------


class Uncharged(Exit):
    """The router runs beside the meter."""

    def route(self, meter: Meter, images: Tensor, knob: Knob) -> None:
        x = meter.run(self.front, images)
        score = self.gate(x).squeeze(1)
        for leaves, group, part in meter.split(self.choose(score, knob), 2, x):
            group.finish(group.run(self.early if leaves else self.rest, part), route=0 if leaves else 1)


class RunForAll(Exit):
    """Where images part, the rest runs for all of them, and is charged to those that needed it."""

    def route(self, meter: Meter, images: Tensor, knob: Knob) -> None:
        x = meter.run(self.front, images)
        score = meter.run(self.gate, x).squeeze(1)
        for leaves, group, part in meter.split(self.choose(score, knob), 2, x):
            if leaves and len(group) < len(images):
                self.rest(part)
            group.finish(group.run(self.early if leaves else self.rest, part), route=0 if leaves else 1)


class Vote(Exit):
    """The batch decides by majority."""

    def choose(self, score: Tensor, knob: Knob) -> Tensor:
        over = score > knob["threshold"]
        return (over.sum() * 2 > len(over)).expand(len(over)) if not over.is_meta else over


class Mixed(Exit):
    """Decisions are each image's own; what it is compared with is the batch's mean."""

    def observe(self, images: Tensor) -> Scores | None:
        return None

    def choose(self, score: Tensor, knob: Knob) -> Tensor:
        return score - score.mean() > knob["threshold"] - 0.1


class Detached(Exit):
    """No gradient comes to the gate."""

    def score(self, x: Tensor) -> Tensor:
        return super().score(x).detach()


class TrainMode(Exit):
    """Norms take the batch's own statistics while routing."""

    def route(self, meter: Meter, images: Tensor, knob: Knob) -> None:
        self.rest.train()
        super().route(meter, images, knob)


class StatisticsMove(Exit):
    """The mode is set back, but the statistics moved."""

    def observe(self, images: Tensor) -> Scores | None:
        self.rest.train()
        try:
            return super().observe(images)
        finally:
            self.eval()


class TooTight(Exit):
    """A method that leaves its gate out on the meta device."""

    def route(self, meter: Meter, images: Tensor, knob: Knob) -> None:
        if not images.is_meta:
            super().route(meter, images, knob)
            return
        x = meter.run(self.front, images)
        for leaves, group, part in meter.split(x.amax((1, 2, 3)) > 0, 2, x):
            group.finish(group.run(self.early if leaves else self.rest, part), route=0 if leaves else 1)


class TooWide(Exit):
    """A method with a block to skip on the meta device that no image ever runs."""

    def observe(self, images: Tensor) -> Scores | None:
        return None

    def route(self, meter: Meter, images: Tensor, knob: Knob) -> None:
        if images.is_meta:
            x = meter.run(self.front, images)
            meter.patch(x.amax((1, 2, 3)) > 0, self.early, x, into=self.early(x))
        super().route(meter, images, knob)


class Kernel(nn.Module):
    """A convolution that torchinfo sees no weights of."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(channels, channels, 3, 3) * 0.1)

    def forward(self, x: Tensor) -> Tensor:
        return x + F.conv2d(x, self.kernel, padding=1)


class Invisible(Exit):
    """A functional convolution inside of a module."""

    def __init__(self, config: Space, backbone: Backbone, trunk: Any = None) -> None:
        super().__init__(config, backbone, trunk)
        self.front.append(Kernel(backbone.channels(self.config.position)))


class Loose(Exit):
    """A functional convolution in the open, with a proper layer's weights."""

    def __init__(self, config: Space, backbone: Backbone, trunk: Any = None) -> None:
        super().__init__(config, backbone, trunk)
        channels = backbone.channels(self.config.position)
        self.mix = nn.Conv2d(channels, channels, 3, padding=1)
        self.front = nn.Sequential(*self.front)

    def loss(self, batch: Batch) -> Tensor:
        x = self.front(batch.inputs)
        return super().loss(batch) + self.mix(x).square().mean()

    def route(self, meter: Meter, images: Tensor, knob: Knob) -> None:
        x = meter.run(self.front, images)
        y = F.conv2d(x, self.mix.weight, self.mix.bias, padding=1)
        score = meter.run(self.gate, x).squeeze(1)
        for leaves, group, part, extra in meter.split(self.choose(score, knob), 2, x, y):
            logits = group.run(self.early if leaves else self.rest, part)
            group.finish(logits + 0 * extra.mean((1, 2, 3))[:, None], route=0 if leaves else 1)


class Contrary(Exit):
    """``decide`` says the opposite."""

    def decide(self, scores: Tensor, knob: Knob) -> Tensor:
        return 1 - super().decide(scores, knob)


class WrongLabels(Exit):
    """Predictions stand in the wrong order."""

    def observe(self, images: Tensor) -> Scores | None:
        seen = super().observe(images)
        assert seen is not None
        return Scores(seen.scores, seen.predictions.flip(1))


class NeverParts(Exit):
    """All images go on, whatever the gate says."""

    def observe(self, images: Tensor) -> Scores | None:
        return None

    def choose(self, score: Tensor, knob: Knob) -> Tensor:
        return torch.zeros_like(score, dtype=torch.bool)


class OneWay(Exit):
    """There is nothing to choose between."""

    def observe(self, images: Tensor) -> Scores | None:
        return None

    def route(self, meter: Meter, images: Tensor, knob: Knob) -> None:
        x = meter.run(self.front, images)
        meter.run(self.gate, x)
        meter.run(self.early, x)
        meter.finish(meter.run(self.rest, x))


class Unseeded(Exit):
    """Some weights are drawn by a generator that nobody seeds."""

    def __init__(self, config: Space, backbone: Backbone, trunk: Any = None) -> None:
        super().__init__(config, backbone, trunk)
        weight = self.gate[-1].weight
        if not weight.is_meta:
            drawn = np.random.default_rng().normal(size=tuple(weight.shape))
            weight.data.copy_(torch.from_numpy(drawn))


class UnseededLoss(Exit):
    """Training draws noise by a generator that nobody seeds."""

    def loss(self, batch: Batch) -> Tensor:
        rng = torch.Generator()
        rng.seed()
        noise = torch.rand(1, generator=rng)[0]
        return super().loss(batch) * (0.9 + 0.2 * noise)


class Forgetful(Exit):
    """The gate's offset is learned, and is no part of the state."""

    offset = 0.0

    def loss(self, batch: Batch) -> Tensor:
        self.offset = float(batch.inputs.abs().max())
        return super().loss(batch)

    def observe(self, images: Tensor) -> Scores | None:
        return None

    def route(self, meter: Meter, images: Tensor, knob: Knob) -> None:
        super().route(meter, images + self.offset, knob)


class Drawing(Exit):
    """Routing draws at random."""

    def observe(self, images: Tensor) -> Scores | None:
        return None

    def choose(self, score: Tensor, knob: Knob) -> Tensor:
        return score + 0.1 * torch.rand(score.shape, device=score.device) > knob["threshold"]


class Scribbling(Exit):
    """Routing changes the images that it is given."""

    def route(self, meter: Meter, images: Tensor, knob: Knob) -> None:
        super().route(meter, images.clamp_(-1, 1), knob)


class OddKnob(Exit):
    """A knob holds a tensor."""

    def knobs(self, scores: Scores | None = None, labels: Tensor | None = None) -> Sequence[Knob]:
        return [{"threshold": torch.tensor(t)} for t in (0.0, -1e9, 1e9)]


class DefaultLast(Exit):
    """A method whose first setting is another one with scores."""

    def knobs(self, scores: Scores | None = None, labels: Tensor | None = None) -> Sequence[Knob]:
        found = list(super().knobs(scores, labels))
        return found if scores is None else found[::-1]


class Saturated(Exit):
    """The logarithm of 1 less a probability that rounds to 1 in bfloat16."""

    def loss(self, batch: Batch) -> Tensor:
        gate = self.gate(self.front(batch.inputs)).tanh()
        return super().loss(batch) - 0.01 * torch.log(1 - (gate + 7).sigmoid()).mean()


class NeedsTwo(Exit):
    """A spread over the batch, which one image does not have."""

    def loss(self, batch: Batch) -> Tensor:
        gate = self.gate(self.front(batch.inputs)).float()
        return super().loss(batch) + 0.01 * (gate - gate.mean()).square().sum() / (len(gate) - 1)


class Crashing(Exit):
    """The range is wider than what can be built."""

    class Config(Space):
        position: Annotated[int, IntDistribution(1, 9)] = 2

    def __init__(self, config: Any, backbone: Backbone, trunk: Any = None) -> None:
        if config.position >= len(backbone):
            raise IndexError(f"no unit {config.position}")
        super().__init__(config, backbone, trunk)


class Picky(Exit):
    """Most of what may be drawn is refused."""

    class Config(Space):
        position: Annotated[int, IntDistribution(1, 30)] = 2

    def __init__(self, config: Any, backbone: Backbone, trunk: Any = None) -> None:
        if config.position > 3:
            raise Refusal(f"picky: position <= 3 must hold, got {config.position}")
        super().__init__(config, backbone, trunk)


class Rounded(Exit):
    """What is written of a config is not all of it."""

    class Config(Space):
        position: Annotated[int, IntDistribution(1, 3)] = 2
        beta: Annotated[float, FloatDistribution(0.0, 1.0)] = 0.5

        @field_serializer("beta")
        def _short(self, value: float) -> float:
            return round(value, 1)


class NoEmptyBatch(Exit):
    """The largest of no scores is asked for."""

    def choose(self, score: Tensor, knob: Knob) -> Tensor:
        if not score.is_meta and math.isnan(float(score.max())):
            raise ValueError("no number")
        return score > knob["threshold"]


FAULTS: list[tuple[type[RoutedNet], str]] = [
    (Uncharged, WAYS),
    (RunForAll, BATCHES),
    (Vote, MATES),
    (Mixed, MATES),
    (Detached, REACHES),
    (TrainMode, TRACE),
    (StatisticsMove, TRACE),
    (Drawing, TRACE),
    (Scribbling, TRACE),
    (TooTight, BOUNDS),
    (TooWide, BOUNDS),
    (Loose, WAYS),
    (Contrary, STORED),
    (WrongLabels, STORED),
    (NeverParts, ROUTES),
    (OneWay, ROUTES),
    (Unseeded, SEED),
    (UnseededLoss, SEED),
    (Forgetful, STATE),
    (OddKnob, KNOBS),
    (DefaultLast, KNOBS),
    (Saturated, MIXED),
    (NeedsTwo, SINGLY),
    (Crashing, BUILDS),
    (Picky, BUILDS),
    (Rounded, JSON),
    (NoEmptyBatch, FEW),
]

SIDE_EFFECTS: dict[type[RoutedNet], set[str]] = {
    Uncharged: {BATCHES},
    Loose: {BATCHES},
    TrainMode: {MATES, STORED},
    StatisticsMove: {STATE, STORED},
    Drawing: {MATES},
    OddKnob: {BUILDS, BOUNDS, ROUTES, STORED, WAYS, BATCHES, STATE, MATES, TRACE, FEW},
}
"""Invariants that a fault may break beside the one that it is about."""


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def contract(kind: type[RoutedNet], **declared: Any) -> type[MethodContract]:
    body = {"method": kind, "backbones": [CHAIN], "configs": [{}], **declared}
    return type("Tried", (MethodContract,), body)


def broken(kind: type[MethodContract] | type[BackboneContract], *only: str) -> dict[str, str]:
    """Reasons of the invariants that are broken; of some only, or of all."""
    return {v.law: v.reason for v in examine(kind, only or None) if v.state == "failed"}


class TestSound(MethodContract):
    method = Exit
    most_configs = 3


class TestListsOfMaps(MethodContract):
    method = Exit
    backbones: ClassVar = [SCALES]
    configs: ClassVar = [{}]


@pytest.mark.parametrize(("kind", "rule"), FAULTS, ids=[kind.__name__ for kind, _ in FAULTS])
def test_a_fault_is_caught_by_its_invariant(kind: type[RoutedNet], rule: str) -> None:
    found = broken(contract(kind))
    assert rule in found
    assert set(found) <= {rule} | SIDE_EFFECTS.get(kind, set()), found
    assert re.match(r"^exit.*(must|may) .*, got .+", found[rule]), "the invariant and the values"
    assert "\n" not in found[rule]


# ---- what is declared --------------------------------------------------------------------------------


def test_a_reason_excuses_a_parameter() -> None:
    excuse = {r"gate\..*": "trained by hand"}
    assert broken(contract(Detached, without_gradient=excuse), REACHES) == {}
    by_config = staticmethod(lambda config, backbone: excuse if config.position == 2 else {})
    assert broken(contract(Detached, without_gradient=by_config), REACHES) == {}
    assert broken(contract(Detached, without_gradient={"early.*": "no"}), REACHES)


def test_a_static_method_says_so() -> None:
    verdicts = {v.law: v for v in examine(contract(Static), [ROUTES, STORED, WAYS])}
    assert [v.state for v in verdicts.values()] == ["skipped", "skipped", "ok"]
    assert "routes = False" in verdicts[ROUTES].reason
    assert broken(contract(Static, routes=True), ROUTES)


def test_a_method_declares_for_itself() -> None:
    class Excused(Detached):
        contract: ClassVar = {"without_gradient": lambda config, backbone: {r"gate\..*": "trained by hand"}}

    assert broken(contract(Excused), REACHES) == {}
    with pytest.raises(TypeError, match=r"^exit: contract may declare backbones, .*, got 'nonsense'$"):
        contract(type("Odd", (Exit,), {"contract": {"nonsense": 1}}))


def test_a_function_within_a_block_is_charged() -> None:
    assert broken(contract(Invisible), WAYS, BATCHES, BOUNDS) == {}


class Demanding(Exit):
    class Config(Space):
        position: int


def test_a_field_without_a_default_must_be_fixed() -> None:
    with pytest.raises(Refusal, match=r"^exit: a field without a default must be fixed .*position"):
        contract(Demanding).cases()
    assert broken(contract(Demanding, fixed={"position": 2}), BUILDS, WAYS) == {}


def test_toy_backbones_are_chosen_by_what_the_method_takes() -> None:
    class Whole(Exit):
        @classmethod
        def space(cls, backbone: Backbone) -> SearchSpace:
            if backbone.name != "toy_residual":
                raise Refusal(f"exit: residual units are needed, {backbone.name} has none")
            return super().space(backbone)

    class Nowhere(Exit):
        @classmethod
        def space(cls, backbone: Backbone) -> SearchSpace:
            raise Refusal("exit: too small")

    def names(kind: type[RoutedNet]) -> list[str]:
        return [target.name for target, _ in contract(kind, backbones=None).suitable()]

    assert names(Exit) == ["toy_chain", "toy_residual"]
    assert names(Whole) == ["toy_residual"]
    with pytest.raises(Refusal, match=r"^no toy backbone suits, so `backbones` must name one: exit: too"):
        names(Nowhere)


def test_a_trunk_that_is_trained_on_demand_leaves_the_seed_as_it_was() -> None:
    """The first network of a process trains the trunk, a later one finds it: their weights are the same."""
    from routesearch.testing import cases

    class Warm(Exit):
        name = "warm"
        needs_trunk = True

    case = contract(Warm).cases()[0]
    cases._trunk.cache_clear()
    first, second = case.build().state_dict(), case.build().state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_few_cases_are_quick_and_all_are_tried() -> None:
    """Two configs and each other backbone's own; who leaves out the rest does so by its own marks."""
    kind = contract(Exit, backbones=None, configs=None)
    assert [c.backbone.name for c in kind.cases()] == ["toy_chain"] * 3 + ["toy_residual"]
    assert [c.quick for c in kind.cases()] == [True, True, False, True]
    [verdict] = examine(kind, [KNOBS])
    assert (verdict.state, verdict.tried) == ("ok", 4)


def test_a_method_that_raises_is_told_with_its_line() -> None:
    class Raising(Exit):
        def stages(self) -> Sequence[Stage]:
            raise KeyError("nothing here")

    found = broken(contract(Raising), REACHES)
    assert re.search(r"KeyError: 'nothing here' \(test_contract\.py:\d+\)$", found[REACHES])


# ---- backbones ---------------------------------------------------------------------------------------


class TestToyChain(BackboneContract):
    backbone = ToyChain


class TestToyResidual(BackboneContract):
    backbone = ToyResidual


class TestToyScales(BackboneContract):
    backbone = ToyScales


class TestNiN(BackboneContract):
    backbone = NiN
    width = 0.1


class SharedUnit(ToyChain):
    """The same module in every call."""

    def unit(self, k: int, width: float = 1.0, width_in: float | None = None) -> nn.Module:
        key = (k, width, width_in)
        made: dict[Any, nn.Module] = self.__dict__.setdefault("made", {})
        return made.setdefault(key, super().unit(k, width, width_in))


class WrongChannels(ToyChain):
    def channels(self, k: int, width: float = 1.0) -> int:
        return super().channels(k, width)

    def neck(self, k: int) -> nn.Module:
        return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())


class WrongShape(ToyChain):
    def shape(self, k: int, width: float = 1.0) -> tuple[int, ...]:
        return (self.channels(k, width), 5, 5)


class IgnoresWidthIn(ToyChain):
    def unit(self, k: int, width: float = 1.0, width_in: float | None = None) -> nn.Module:
        return super().unit(k, width)


class InPlace(ToyChain):
    def unit(self, k: int, width: float = 1.0, width_in: float | None = None) -> nn.Module:
        return nn.Sequential(nn.Hardtanh(-0.5, 0.5, inplace=True), super().unit(k, width, width_in))


class BatchNormAlways(ToyChain):
    def unit(self, k: int, width: float = 1.0, width_in: float | None = None) -> nn.Module:
        unit = super().unit(k, width, width_in)
        unit[1] = nn.BatchNorm2d(self.channels(k, width), track_running_stats=False)  # type: ignore[operator]
        return unit


class DeadBranch(ToyChain):
    def head(self, width: float = 1.0) -> nn.Module:
        head = super().head(width)
        head.unused = nn.Linear(2, 2)
        return head


class AnyPosition(ToyChain):
    def check(self, k: int) -> None:
        pass

    def unit(self, k: int, width: float = 1.0, width_in: float | None = None) -> nn.Module:
        return super().unit(min(max(k, 1), 6), width, width_in)


@pytest.mark.parametrize(
    ("kind", "rule"),
    [
        (SharedUnit, "modules_are_fresh"),
        (WrongChannels, "units_fit_and_are_as_told"),
        (WrongShape, "units_fit_and_are_as_told"),
        (IgnoresWidthIn, "a_branch_reads_a_wider_trunk"),
        (InPlace, "inputs_stay_as_they_are"),
        (BatchNormAlways, "images_are_independent"),
        (DeadBranch, "every_parameter_learns"),
        (AnyPosition, "positions_and_widths_out_of_range_are_refused"),
    ],
)
def test_a_backbones_fault_is_caught(kind: type[Backbone], rule: str) -> None:
    assert rule in broken(type("Tried", (BackboneContract,), {"backbone": kind}))


class NarrowsOnce(ToyChain):
    """Only unit 3 may be narrower than the one before it."""

    def unit(self, k: int, width: float = 1.0, width_in: float | None = None) -> nn.Module:
        if k != 3 and width_in not in (None, width):
            raise Refusal(f"width must change at unit 3, got {k}")
        return super().unit(k, width, width_in)


class Unread(ToyChain):
    """Its last unit has a layer that nobody calls."""

    def unit(self, k: int, width: float = 1.0, width_in: float | None = None) -> nn.Module:
        unit = super().unit(k, width, width_in)
        if k == len(self):
            unit[0].unread = nn.Linear(2, 2)  # type: ignore[index]
        return unit


@pytest.mark.parametrize(
    ("kind", "declared", "rule"),
    [
        (NarrowsOnce, {}, "a_branch_reads_a_wider_trunk"),
        (NarrowsOnce, {"narrows_at": (3,)}, None),
        (NarrowsOnce, {"narrows_at": (2, 3)}, "a_branch_reads_a_wider_trunk"),
        (ToyChain, {"narrows_at": (3,)}, "a_branch_reads_a_wider_trunk"),
        (Unread, {"without_gradient": {r"units\.5\.0\.unread\..*": "nobody calls it"}}, None),
        (Unread, {"without_gradient": {r"units\.5\.0\.unread\.bias": "half"}}, "every_parameter_learns"),
    ],
)
def test_a_backbone_declares_what_it_does_not_do(
    kind: type[Backbone], declared: dict[str, Any], rule: str | None
) -> None:
    found = broken(type("Tried", (BackboneContract,), {"backbone": kind, **declared}))
    assert set(found) == ({rule} if rule else set())
