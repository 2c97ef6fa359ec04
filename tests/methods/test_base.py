"""The method interface: the example that its page shows, static prices, and one batch run for real."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Sequence
from types import ModuleType
from typing import Annotated, Any

import pytest
import torch
import torch.nn.functional as F
from optuna.distributions import IntDistribution
from torch import Tensor, nn

import routesearch
from routesearch.backbones import NiN
from routesearch.backbones.base import Backbone
from routesearch.data.base import Data
from routesearch.errors import Refusal
from routesearch.evaluation.measure import measure
from routesearch.methods import base as method_module
from routesearch.methods.base import Knob, RoutedNet, Scores, Stage, Trunk
from routesearch.methods.running import price, run
from routesearch.methods.schedules import balanced
from routesearch.results.points import Interval
from routesearch.routing.cost import mult_adds
from routesearch.routing.meter import Meter
from routesearch.space.space import Space
from routesearch.study.recipe import Recipe
from routesearch.training.loop import fit

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def example() -> type[RoutedNet]:
    """The class in the module's docstring, as it stands there."""
    text = inspect.cleandoc(method_module.__doc__ or "")
    start = text.index("    class OneExit")
    lines = text[start:].splitlines()
    end = next(i for i, line in enumerate(lines) if line and not line.startswith("    "))
    source = textwrap.dedent("\n".join(lines[:end]))
    offered = {name: getattr(routesearch, name) for name in routesearch.__all__}
    names = offered | {
        "nn": nn, "F": F, "Annotated": Annotated, "IntDistribution": IntDistribution, "__name__": "example",
    }  # fmt: skip
    exec(compile(source, "docstring", "exec", dont_inherit=True), names)
    kind: type[RoutedNet] = names["OneExit"]
    return kind


def test_the_example_trains_and_routes(example: type[RoutedNet], pocket: Backbone, data: Data) -> None:
    """Complete as it is: its space, its prices, its training and its curve."""
    space = example.space(pocket)
    config = space.narrow({"position": 2}).default()
    torch.manual_seed(0)
    net = example(config, pocket)
    recipe = Recipe(batch_size=16, learning_rate=0.01)
    fit(net, net.stages(), data, recipe, epochs=12, seed=0, device=CPU)
    points = measure(net, data, data.validation, CPU)
    assert len(points) == 21
    bounds = net.bounds()
    assert points[0].macs == bounds.max, "nothing is surer than 1: all go through"
    assert points[-1].macs == bounds.min, "everything is surer than 0: all leave"
    assert points[0].accuracy > 0.7
    assert len({p.macs for p in points}) > 2, "the knob must move images"
    for p in points:
        assert sum(p.route_share) == pytest.approx(1.0, abs=1e-5)


def test_the_examples_bill(example: type[RoutedNet], pocket: Backbone) -> None:
    net: Any = example(example.Config(position=2), pocket)  # type: ignore[call-arg]
    x = torch.rand(1, 1, 8, 8)
    front = mult_adds(net.front.eval(), x)
    early = mult_adds(net.early, torch.zeros(1, *pocket.shape(2)))
    rest = mult_adds(net.rest.eval(), torch.zeros(1, *pocket.shape(2)))
    assert net.bounds() == Interval(front + early, front + early + rest)
    assert price(example, net.config, pocket).routes == {
        0: Interval(front + early, front + early),
        1: Interval(front + early + rest, front + early + rest),
    }


def test_a_plan_touches_no_weights(example: type[RoutedNet], pocket: Backbone) -> None:
    state = torch.get_rng_state()
    made: list[str] = []

    class Spy(example):  # type: ignore[misc,valid-type]
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            made.extend({p.device.type for p in self.parameters()})

    price(Spy, Spy.Config(position=2), pocket)
    assert made == ["meta"]
    assert torch.equal(torch.get_rng_state(), state)


def test_a_plan_of_a_large_network(example: type[RoutedNet]) -> None:
    """Static bounds of a real backbone, by the reference figures: the dear way is nin with one exit more."""
    nin = NiN((3, 32, 32), 10)
    bounds = price(example, example.Config(position=3), nin).bounds  # type: ignore[call-arg]
    early = 10 * (96 + 1)
    assert bounds == Interval(14_942_208 + 31_621_120 + 15_826_944 + early, 223_117_952 + early)


def test_run_routes_a_batch_in_eval_mode(example: type[RoutedNet], pocket: Backbone, data: Data) -> None:
    net: Any = example(example.Config(position=2), pocket).train()  # type: ignore[call-arg]
    images = data.inputs(data.test.pixels[:20])
    usual = run(net, images)
    assert not net.training
    assert usual.macs.unique().tolist() == [net.bounds().max], "the default is the first knob"
    assert not usual.logits.requires_grad
    sure = net.early(net.front(images)).softmax(1).amax(1)
    middle = float(sure.detach().median())
    some = run(net, images, {"threshold": middle})
    assert torch.equal(some.route == 0, sure > middle)
    expected = torch.where(sure > middle, net.bounds().min, net.bounds().max)
    assert torch.equal(some.macs, expected)
    torch.testing.assert_close(some.logits[some.route == 1], usual.logits[some.route == 1])


def test_a_method_in_a_plain_file_skips_for_real(
    own_method: ModuleType, pocket: Backbone, data: Data
) -> None:
    net = own_method.Skipper(own_method.Skipper.Config(), pocket)
    images = data.inputs(data.test.pixels[:9])
    all_run, none_run = run(net, images, {"threshold": -1.0}), run(net, images, {"threshold": 2.0})
    assert all_run.ran.all()
    assert not none_run.ran.any()
    assert all_run.ran.shape == (9, 2)
    units = [mult_adds(net.plain.units[k - 1], torch.zeros(1, *pocket.shape(k - 1))) for k in (2, 4)]
    assert (all_run.macs - none_run.macs).unique().tolist() == [sum(units)]
    assert net.bounds() == Interval(int(none_run.macs[0]), int(all_run.macs[0]))


class Bare(RoutedNet):
    """The least that a method is."""

    name = "bare"

    class Config(Space):
        pass

    def stages(self) -> Sequence[Stage]:
        return []

    def __init__(self, config: Space, backbone: Backbone, trunk: Trunk | None = None) -> None:
        super().__init__(config, backbone, trunk)
        self.plain = backbone.plain()

    def route(self, meter: Meter, images: Tensor, knob: Knob) -> None:
        meter.finish(meter.run(self.plain, images))

    def knobs(self, scores: Scores | None = None, labels: Tensor | None = None) -> Sequence[Knob]:
        return [{}]


def test_what_a_method_need_not_say(pocket: Backbone) -> None:
    net = Bare(Bare.Config(), pocket)
    assert net.observe(torch.zeros(1, 1, 8, 8)) is None
    assert Bare.space(pocket).domains == {}
    price = mult_adds(pocket.plain(), torch.zeros(1, 1, 8, 8))
    assert net.bounds() == Interval(price, price)
    with pytest.raises(TypeError, match="bare offers scores, so it must say how it decides"):
        net.decide(torch.zeros(1, 1), {})


def test_what_it_must_say(pocket: Backbone) -> None:
    class Mute(RoutedNet):
        name = "mute"

    with pytest.raises(TypeError, match="abstract"):
        Mute(Mute.Config(), pocket)  # type: ignore[abstract]


class Unmetered(Bare):
    """Runs its network for nothing."""

    def route(self, meter: Meter, images: Tensor, knob: Knob) -> None:
        meter.finish(self.plain(images))


class Endless(Bare):
    def route(self, meter: Meter, images: Tensor, knob: Knob) -> None:
        meter.run(self.plain, images)


class Knobless(Bare):
    def knobs(self, scores: Scores | None = None, labels: Tensor | None = None) -> Sequence[Knob]:
        return []


class Branching(Bare):
    def route(self, meter: Meter, images: Tensor, knob: Knob) -> None:
        logits = meter.run(self.plain, images)
        if logits.sum() > 0:
            meter.finish(logits)


class Misfit(Bare):
    def route(self, meter: Meter, images: Tensor, knob: Knob) -> None:
        meter.finish(meter.run(self.plain.units[1], images))


class Crowd(Bare):
    def route(self, meter: Meter, images: Tensor, knob: Knob) -> None:
        logits = meter.run(self.plain, images)
        for _, group, own in meter.split(logits.argmax(1, keepdim=True), 3, logits):
            group.finish(own)


@pytest.mark.parametrize(
    ("method", "told"),
    [
        (Unmetered, "a route must run some block through the meter, route 0 ran none"),
        (Endless, "a route must end in meter.finish"),
        (Knobless, "knobs\\(\\) must give one setting or more"),
        (Branching, "route may branch through the meter only"),
        (Misfit, "Invalid channel dimensions"),
        (Crowd, "a choice must be one integer or bool per image"),
    ],
)
def test_a_mistake_in_a_method_is_one_line_that_names_it(
    method: type[RoutedNet], told: str, pocket: Backbone
) -> None:
    with pytest.raises(Refusal, match=told) as refused:
        price(method, method.Config(), pocket)
    assert str(refused.value).startswith("bare: ")
    assert "\n" not in str(refused.value)


def test_a_mistake_is_placed_where_the_author_made_it(pocket: Backbone) -> None:
    with pytest.raises(Refusal, match=r"\(test_base\.py:\d+\)$"):
        price(Misfit, Misfit.Config(), pocket)


def test_balanced_batches_have_equally_many_of_each_class() -> None:
    labels = torch.tensor([0] * 50 + [1] * 7 + [2] * 20)
    batches = list(balanced(labels, 13, torch.Generator().manual_seed(0)))
    assert len(batches) == len(labels) // 12
    assert all(torch.bincount(labels[rows]).tolist() == [4, 4, 4] for rows in batches)
    drawn = torch.cat(batches)
    assert set(drawn[labels[drawn] == 1].tolist()) == set(range(50, 57)), "rare classes come round again"
    assert len(drawn[labels[drawn] == 0].unique()) == 24, "common ones not before all others came"
    small = next(balanced(labels, 2, torch.Generator().manual_seed(0)))
    assert len(small) == 3, "one of each at least"


def test_a_structure_that_waits_for_a_trunk_is_priced_over_all_cases(pocket: Backbone) -> None:
    class Waits(RoutedNet):
        """As deep as the trunk's confusion says."""

        name = "waits"
        needs_confusion = True

        @classmethod
        def cases(cls, config: Space, backbone: Backbone) -> list[Trunk]:
            return [Trunk({}, 0.0, [[float(depth)]]) for depth in (1, 3)]

        def __init__(self, config: Space, backbone: Backbone, trunk: Trunk | None = None) -> None:
            super().__init__(config, backbone, trunk)
            assert trunk is not None
            assert not trunk.state, "a price needs no weights"
            self.net = backbone.plain(depth=int(trunk.confusion[0][0]))

        def stages(self) -> list[Stage]:
            return []

        def route(self, meter: Meter, images: Tensor, knob: Knob) -> None:
            meter.finish(meter.run(self.net, images))

        def knobs(self, scores: Scores | None = None, labels: Tensor | None = None) -> list[Knob]:
            return [{}]

    config = Waits.Config()
    one, two, three = (
        price(Waits, config, pocket, Trunk({"w": torch.zeros(1)}, 0.5, [[float(d)]])) for d in (1, 2, 3)
    )
    both = price(Waits, config, pocket)
    assert (one.exact, both.exact) == (True, False)
    assert one.bounds.max < two.bounds.max < three.bounds.max
    assert both.bounds == Interval(one.bounds.min, three.bounds.max)
    assert both.params == max(one.params, three.params)
    assert both.routes == {0: both.bounds}
    assert Waits(config, pocket, Trunk({}, 0.0, [[2.0]])).bounds() == two.bounds
