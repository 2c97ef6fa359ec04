"""Decision gates: the paper's loss and rule, on a trunk that stays as it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from routesearch import (
    Backbone,
    Batch,
    Data,
    Refusal,
    Scores,
    Trunk,
    run,
    sequential_thresholds,
)
from routesearch.backbones import DenseNet201Cifar, NiN, Pyramid8, ResNet38, ResNet101Cifar
from routesearch.evaluation.measure import measure
from routesearch.methods.running import price
from routesearch.methods.thresholds import exit_front
from routesearch.plugin.loader import load_plugins
from routesearch.results.points import best
from routesearch.study.recipe import Recipe
from routesearch.testing import CHAIN, SCALES, MethodContract, toy_data
from routesearch.training.loop import fit
from routesearch.training.trunk import train_trunk
from routesearch_dgate import DGate

CPU = torch.device("cpu")
RECIPE = Recipe(batch_size=16, epochs=8, trunk_epochs=5, learning_rate=0.01)
LOSSES = ["hinge", "cross_entropy"]
SEARCHES = ["front", "sequential", "shared"]


@pytest.fixture(scope="module")
def data() -> Data:
    """Three patterns of 1 x 8 x 8, every second image under noise."""
    return toy_data(3, counts=(96, 90, 60))


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return ResNet38((1, 8, 8), 3, 0.25)


@pytest.fixture(scope="module")
def trunk(backbone: Backbone, data: Data) -> Trunk:
    return train_trunk(backbone, data, RECIPE, seed=0, device=CPU).trunk()


def make(backbone: Backbone, trunk: Trunk | None = None, /, seed: int = 0, **fields: Any) -> DGate:
    torch.manual_seed(seed)
    return DGate(DGate.Config(**fields), backbone, trunk)


def train(net: DGate, data: Data) -> DGate:
    fit(net, net.stages(), data, RECIPE, epochs=RECIPE.epochs, seed=0, device=CPU)
    return net


@pytest.fixture(scope="module", params=LOSSES)
def trained(request: pytest.FixtureRequest, backbone: Backbone, trunk: Trunk, data: Data) -> DGate:
    return train(make(backbone, trunk, positions=(3, 9), gate_loss=request.param), data)


class TestContract(MethodContract):
    method = DGate


class TestListsOfMaps(MethodContract):
    """Units that give maps at several scales: gates see the neck's vector."""

    method = DGate
    backbones = (SCALES,)


# ---- structure and constraints -----------------------------------------------------------------------


def test_it_is_found_as_a_plugin() -> None:
    assert load_plugins().methods.find("dgate") is DGate


def test_gates_stand_after_their_units(backbone: Backbone) -> None:
    net = make(backbone, positions=(3, 9))
    assert [len(s) for s in net.segments] == [3, 6, 9]
    x = torch.rand(2, 1, 8, 8)
    net.eval()
    for segment, k in zip(net.segments, (3, 9, 18), strict=True):
        x = segment(x)
        assert tuple(x.shape[1:]) == backbone.shape(k)


@pytest.mark.parametrize(
    ("features", "position", "entries"),
    [
        ("gap", 3, 4),
        ("grid", 3, 4 * 16),
        ("flat", 3, 4 * 64),
        ("gap", 15, 16),
        ("grid", 15, 16 * 4),
        ("flat", 15, 64),
    ],
)
def test_what_a_gate_sees(features: str, position: int, entries: int, backbone: Backbone) -> None:
    """4 channels of 8 x 8 after unit 3, 16 of 2 x 2 after unit 15: the grid is no finer than the map."""
    net = make(backbone, positions=(position,), features=features)
    assert [tuple(p.shape) for p in net.gates[0].parameters()] == [(3, entries), (3,)]
    assert net.gates[0](torch.rand(5, *backbone.shape(position))).shape == (5, 3)


@pytest.mark.parametrize(
    ("backbone", "features"),
    [(CHAIN, ("gap", "grid", "flat")), (SCALES, ("gap",)), (Pyramid8((1, 8, 8), 3, 0.25), ("gap",))],
    ids=lambda value: getattr(value, "name", ""),
)
def test_features_are_those_that_the_backbone_has(backbone: Backbone, features: tuple[str, ...]) -> None:
    """Where a unit gives no single map there is no grid to average and nothing flat."""
    space = DGate.space(backbone)
    assert set(space.domains["features"].extremes()) == set(features)
    assert DGate.Config().features == "grid"
    default: Any = space.default()
    assert default.features == ("grid" if "grid" in features else "gap")
    assert len(default.positions) == 2
    if "grid" not in features:
        with pytest.raises(Refusal, match=r"^features: one of gap must hold, got 'grid'$"):
            space.narrow({"features": "grid"})


@pytest.mark.parametrize("positions", [(), (0,), (18,), (3, 19), (-1, 3), (5, 3), (3, 3)])
def test_the_law_of_positions(positions: tuple[int, ...], backbone: Backbone) -> None:
    with pytest.raises(Refusal, match=r"^dgate: positions: .+ must hold on backbone resnet38, got \["):
        make(backbone, positions=positions)


def test_a_backbone_of_one_unit_has_no_room() -> None:
    class Single(NiN):
        name = "single"

        def __len__(self) -> int:
            return 1

    with pytest.raises(Refusal, match=r"^dgate: a backbone must have 2 units or more, single has 1$"):
        DGate.space(Single((1, 8, 8), 3))


def test_maps_without_height_are_refused_where_height_is_needed(backbone: Backbone) -> None:
    class Flat(NiN):
        name = "flat"

        def shape(self, k: int, width: float = 1.0) -> tuple[int, ...]:
            return (7,)

    with pytest.raises(
        Refusal, match=r"^dgate: features=grid needs unit outputs of C,H,W, .*flat gives \(7,\)$"
    ):
        make(Flat((1, 8, 8), 3), positions=(2,))


def test_gates_cannot_be_trained_without_a_trunk(backbone: Backbone) -> None:
    with pytest.raises(Refusal, match=r"^dgate: gates are trained on a trained trunk, got none$"):
        make(backbone, positions=(3,)).stages()


def test_the_trunks_weights_are_taken_over(backbone: Backbone, trunk: Trunk) -> None:
    net = make(backbone, trunk, positions=(3, 9))
    assert {
        name for name, value in whole(net, backbone).items() if not torch.equal(value, trunk.state[name])
    } == set()


def whole(net: DGate, backbone: Backbone) -> dict[str, Tensor]:
    """The frozen part under the names of the trunk."""
    units = [unit for segment in net.segments for unit in segment]
    plain = backbone.plain()
    plain.units, plain.head = nn.ModuleList(units), net.head
    return {name: value.clone() for name, value in plain.state_dict().items()}


# ---- loss and training -------------------------------------------------------------------------------


def test_the_hinge_loss_by_hand(backbone: Backbone) -> None:
    """Mean over images of the sum over classes of max(0, 1 - y d), plus lambda |w|^2, for each gate."""
    net = make(backbone, positions=(3, 9), features="gap", weight_penalty=0.01)
    features = [torch.randn(4, 4), torch.randn(4, 8)]
    labels = [2, 0, 1, 1]
    expected = 0.0
    for gate, x in zip(net.gates, features, strict=True):
        weight, bias = (p.detach().double() for p in gate.parameters())
        for i, label in enumerate(labels):
            for c in range(3):
                d = float(weight[c] @ x[i].double() + bias[c])
                expected += max(0.0, 1.0 - (1 if c == label else -1) * d) / 4
        expected += 0.01 * float((weight**2).sum())
    loss = net._loss(Batch(features, torch.tensor(labels), 0.0))
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)


def test_a_perfect_gate_has_no_hinge_loss(backbone: Backbone) -> None:
    net = make(backbone, positions=(3,), features="gap", weight_penalty=0.0)
    with torch.no_grad():
        net.gates[0].linear.weight.copy_(torch.eye(4)[:3] * 2)
        net.gates[0].linear.bias.fill_(-1.0)
    batch = Batch([torch.eye(4)[:3]], torch.arange(3), 0.0)
    assert float(net._loss(batch).detach()) == 0.0
    wrong = Batch([torch.eye(4)[:3]], torch.tensor([1, 0, 2]), 0.0)
    assert float(net._loss(wrong).detach()) == pytest.approx(2 * (2 + 2) / 3)


def test_the_cross_entropy_to_compare_with(backbone: Backbone) -> None:
    net = make(backbone, positions=(3,), features="gap", gate_loss="cross_entropy", weight_penalty=0.0)
    x, labels = torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])
    logits = net.gates[0].linear(x).detach().double()
    expected = -(logits.log_softmax(1)[torch.arange(5), labels]).mean()
    assert float(net._loss(Batch([x], labels, 0.0)).detach()) == pytest.approx(float(expected), rel=1e-5)


def test_training_leaves_the_trunk_alone(trained: DGate, backbone: Backbone, trunk: Trunk) -> None:
    """Weights, and the statistics of its norms."""
    frozen = whole(trained, backbone)
    assert any("running_mean" in name for name in frozen)
    assert {name for name, value in frozen.items() if not torch.equal(value, trunk.state[name])} == set()


def test_a_gate_learns_the_same_alone(trained: DGate, backbone: Backbone, trunk: Trunk, data: Data) -> None:
    """Whatever other gates there are; also one with gradients so large that a shared limit would show."""
    both = make(backbone, trunk, positions=(3, 9), features="flat", gate_loss=trained.config.gate_loss)
    alone = make(backbone, trunk, positions=(9,), features="flat", gate_loss=trained.config.gate_loss)
    alone.gates[0].load_state_dict(both.gates[1].state_dict())
    with torch.no_grad():
        both.gates[0].linear.weight.mul_(1e3)
    train(both, data), train(alone, data)
    for p, q in zip(both.gates[1].parameters(), alone.gates[0].parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)


def test_gates_learn_something(trained: DGate, data: Data) -> None:
    scores = trained.eval().observe(data.inputs(data.validation.pixels))
    right = scores.predictions.eq(data.validation.labels[:, None]).double().mean(0)
    assert float(right[0]) > 0.6
    assert float(right[1]) > 0.6


# ---- routing -----------------------------------------------------------------------------------------


def test_an_image_leaves_at_the_first_gate_that_is_sure(trained: DGate, data: Data) -> None:
    """Algorithm 1 of the paper, image by image; both gates and the end are taken."""
    images = data.inputs(data.test.pixels)
    scores = trained.eval().observe(images)
    knob = {"thresholds": scores.scores.quantile(0.6, dim=0).tolist()}
    billed = run(trained, images, knob)
    for i in range(len(images)):
        sure = [bool(s >= t) for s, t in zip(scores.scores[i], knob["thresholds"], strict=True)]
        route = sure.index(True) if any(sure) else 2
        assert int(billed.route[i]) == route
        assert int(billed.logits[i].argmax()) == int(scores.predictions[i, route])
    assert billed.route.unique().tolist() == [0, 1, 2]


@pytest.mark.parametrize("features", ["gap", "grid", "flat"])
@pytest.mark.parametrize(
    ("kind", "positions", "giga_flops"),
    [
        # After the first three of four groups of residual blocks (3, 4, 23, 3), and at the end.
        (ResNet101Cifar, (3, 7, 30), (0.4397, 1.1108, 4.4914, 5.0200)),
        # After the last layer of a dense block (6, 12, 48, 32), and after the transition, a unit of its own.
        (DenseNet201Cifar, (6, 19, 68), (0.6830, 1.2157, 2.3020, 2.7278)),
        (DenseNet201Cifar, (7, 20, 69), (0.7501, 1.2828, 2.5075, 2.7278)),
    ],
)
def test_the_papers_exits_cost_what_they_should(
    kind: type[Backbone], positions: tuple[int, ...], giga_flops: Sequence[float], features: str
) -> None:
    """A multiply-add is two of the paper's FLOPs. Gates on whole maps cost up to 0.012 G more."""
    backbone = kind((3, 32, 32), 10)
    config = DGate.space(backbone).parse({"positions": positions, "features": features})
    routes = price(DGate, config, backbone).routes
    found = [2 * routes[r].min / 1e9 for r in range(4)]
    assert found == pytest.approx(giga_flops, abs=0.01 if features != "flat" else 0.012)
    assert all(routes[r].min == routes[r].max for r in range(4))


def test_knobs_reach_both_ends(trained: DGate, data: Data) -> None:
    points = measure(trained, data, data.validation, CPU)
    assert min(p.macs for p in points) == trained.bounds().min
    assert max(p.macs for p in points) == trained.bounds().max
    assert {p.route_share for p in points} >= {(1.0, 0.0, 0.0), (0.0, 0.0, 1.0)}
    assert any(p.route_share[1] > 0.1 for p in points), "some settings use the second gate"


@pytest.mark.parametrize("gate_loss", LOSSES)
def test_before_training_there_is_one_usual_setting(gate_loss: str, backbone: Backbone) -> None:
    knobs = make(backbone, positions=(3, 9), gate_loss=gate_loss).knobs()
    assert knobs == [{"thresholds": [1.0, 1.0] if gate_loss == "hinge" else [0.9, 0.9]}]


@pytest.mark.parametrize("thresholds", SEARCHES)
def test_what_the_sweep_counts_is_what_is_measured(thresholds: str, trained: DGate, data: Data) -> None:
    """Each setting's accuracy and MACs, summed up over scores and measured, are equal to the digit."""
    found = again(trained, thresholds=thresholds)
    points = measure(found, data, data.validation, CPU)
    with torch.inference_mode():
        scores = found.observe(data.inputs(data.validation.pixels))
    routes = price(DGate, found.config, found.backbone).routes
    prices = [routes[r].min for r in range(3)]
    labels = data.validation.labels.tolist()
    assert len(points) > 3
    for point in points:
        taken = found.decide(scores.scores, point.knob).tolist()
        right = sum(int(scores.predictions[i, r]) == labels[i] for i, r in enumerate(taken))
        assert point.accuracy == right / len(labels)
        assert point.macs == sum(prices[r] for r in taken) / len(labels)
    curve = exit_front(priced(found, scores), data.validation.labels)
    if thresholds == "front":
        counted = [(p.accuracy, p.macs) for p in points[1 : len(curve) + 1]]
        assert counted == list(zip(curve.accuracy.tolist(), curve.macs.tolist(), strict=True))


def priced(net: DGate, scores: Scores) -> Scores:
    """Scores with the prices that the core fills in."""
    routes = price(DGate, net.config, net.backbone).routes
    return replace(scores, prices=torch.tensor([routes[r].min for r in range(3)], dtype=torch.float64))


def again(net: DGate, **change: Any) -> DGate:
    """The same weights under a config that differs in what needs no training."""
    twin = DGate(net.config.model_copy(update=change), net.backbone)
    twin.load_state_dict(net.state_dict())
    return twin.eval()


def test_all_gates_together_are_never_worse(trained: DGate, data: Data) -> None:
    """Than one after the other, and than one threshold for all; whatever the budget."""
    curves = {kind: measure(again(trained, thresholds=kind), data, data.validation, CPU) for kind in SEARCHES}
    for points in curves.values():
        for point in points:
            assert best(curves["front"], point.macs).accuracy >= point.accuracy  # type: ignore[union-attr]
    assert {len(points) for points in curves.values()} != {1}


def test_thresholds_for_a_target(trained: DGate, data: Data) -> None:
    """The paper's procedure by the core's function, on what the method observes."""
    with torch.inference_mode():
        scores = trained.eval().observe(data.inputs(data.validation.pixels))
    whole = trained.bounds().max
    scores = priced(trained, scores)
    labels = data.validation.labels
    target = 0.95 * float(scores.predictions.eq(labels[:, None]).double().mean(0).max())
    knobs = [
        {"thresholds": sequential_thresholds(scores, labels, accuracy=target)},
        {"thresholds": sequential_thresholds(scores, labels, macs=0.9 * whole)},
    ]
    accurate, cheap = measure(trained, data, data.validation, CPU, knobs)
    assert accurate.accuracy >= target
    assert cheap.macs <= 0.9 * whole
    together = [p.macs for p in measure(trained, data, data.validation, CPU) if p.accuracy >= target]
    assert min(together) <= accurate.macs


@pytest.mark.parametrize(
    "change", [{"weight_penalty": -1e-9}, {"learning_rate": 0.0}, {"learning_rate": -1.0}]
)
def test_training_settings_have_bounds(change: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        DGate.Config(**change)
    assert DGate.Config(weight_penalty=0.0).weight_penalty == 0
