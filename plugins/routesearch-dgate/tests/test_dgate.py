"""Decision gates: the paper's loss and rule, on a trunk that stays as it was."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from routesearch import Backbone, Batch, Data, Images, Interval, Refusal, Trunk, mult_adds, run
from routesearch.backbones import NiN, ResNet38
from routesearch.data.base import moments
from routesearch.fit import fit
from routesearch.measure import measure
from routesearch.method import plan
from routesearch.plugins import load_plugins
from routesearch.recipe import Recipe
from routesearch.trunk import train_trunk
from routesearch_dgate import MOST_SETTINGS, DGate

CPU = torch.device("cpu")
RECIPE = Recipe(batch_size=16, epochs=8, trunk_epochs=5, learning_rate=0.01)
LOSSES = ["hinge", "cross_entropy"]


@pytest.fixture(scope="module")
def data() -> Data:
    """Three patterns of 1 x 8 x 8, every second image under noise."""
    random = torch.Generator().manual_seed(0)
    patterns = torch.rand(3, 1, 8, 8, generator=random)

    def split(count: int) -> Images:
        labels = torch.arange(count) % 3
        share = torch.where(torch.arange(count) % 2 == 0, 0.2, 0.7)[:, None, None, None]
        return Images(
            (1 - share) * patterns[labels] + share * torch.rand(count, 1, 8, 8, generator=random), labels
        )

    train, validation, test = split(96), split(90), split(60)
    return Data("toy", ("a", "b", "c"), (1, 8, 8), train, validation, test, *moments(train.pixels))


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return ResNet38((1, 8, 8), 3, 0.25)


@pytest.fixture(scope="module")
def trunk(backbone: Backbone, data: Data) -> Trunk:
    return train_trunk(backbone, data, RECIPE, seed=0, device=CPU)[0]


def make(backbone: Backbone, trunk: Trunk | None = None, /, seed: int = 0, **fields: Any) -> DGate:
    torch.manual_seed(seed)
    return DGate(DGate.Config(**fields), backbone, trunk)


def train(net: DGate, data: Data) -> DGate:
    fit(net, net.stages(), data, RECIPE, epochs=RECIPE.epochs, seed=0, device=CPU)
    return net


@pytest.fixture(scope="module", params=LOSSES)
def trained(request: pytest.FixtureRequest, backbone: Backbone, trunk: Trunk, data: Data) -> DGate:
    return train(make(backbone, trunk, positions=(3, 9), gate_loss=request.param), data)


# ---- structure and laws --------------------------------------------------------------------------------


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


@pytest.mark.parametrize("kind", [NiN, ResNet38])
def test_every_config_of_the_space_can_be_built(kind: type[Backbone]) -> None:
    backbone = kind((1, 16, 16), 4, 0.25)
    space = DGate.space(backbone)
    configs = [*space.extremes(), *(space.draw(Random(seed)) for seed in range(5))]
    for config in configs:
        bounds = plan(DGate, config, backbone).bounds
        assert 0 < bounds.min < bounds.max
    default: Any = space.default()
    assert len(default.positions) == 2
    assert space.parse(default.model_dump(mode="json")) == default


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


# ---- loss and training -----------------------------------------------------------------------------------


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


def test_training_moves_every_gate(trained: DGate, backbone: Backbone, trunk: Trunk) -> None:
    fresh = make(backbone, trunk, positions=(3, 9), gate_loss=trained.config.gate_loss)
    for before, after in zip(fresh.gates, trained.gates, strict=True):
        for p, q in zip(before.parameters(), after.parameters(), strict=True):
            assert not torch.equal(p, q)


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


# ---- routing ---------------------------------------------------------------------------------------------


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


def test_prices_are_of_what_ran(trained: DGate, backbone: Backbone) -> None:
    parts = [
        mult_adds(s, torch.zeros(1, *backbone.shape(k)))
        for s, k in zip(trained.segments, (0, 3, 9), strict=True)
    ]
    gates = [
        mult_adds(g, torch.zeros(1, *backbone.shape(k))) for g, k in zip(trained.gates, (3, 9), strict=True)
    ]
    head = mult_adds(trained.head, torch.zeros(1, *backbone.shape(18)))
    first, second = parts[0] + gates[0], parts[1] + gates[1]
    prices = [first, first + second, first + second + parts[2] + head]
    assert plan(DGate, trained.config, backbone).routes == {r: Interval(p, p) for r, p in enumerate(prices)}
    assert trained.bounds() == Interval(prices[0], prices[2])


def test_decisions_by_scores_are_those_of_the_route(trained: DGate, data: Data) -> None:
    images = data.inputs(data.validation.pixels)
    with torch.inference_mode():
        scores = trained.eval().observe(images)
    knobs = trained.knobs(scores, data.validation.labels)
    for knob in [*knobs[:: len(knobs) // 20], knobs[-1]]:
        billed = run(trained, images, knob)
        said = trained.decide(scores.scores, knob)
        assert int(said.ne(billed.route).sum()) <= 1, "a rounding"
        assert int(scores.predictions.gather(1, said[:, None])[:, 0].ne(billed.logits.argmax(1)).sum()) <= 1


def test_knobs_reach_both_ends(trained: DGate, data: Data) -> None:
    points = measure(trained, data, data.validation, CPU)
    assert min(p.macs for p in points) == trained.bounds().min
    assert max(p.macs for p in points) == trained.bounds().max
    assert {p.route_share for p in points} >= {(1.0, 0.0, 0.0), (0.0, 0.0, 1.0)}
    assert any(p.route_share[1] > 0.5 for p in points), "some settings favour the second gate"


@pytest.mark.parametrize("gate_loss", LOSSES)
def test_before_training_there_is_one_usual_setting(gate_loss: str, backbone: Backbone) -> None:
    knobs = make(backbone, positions=(3, 9), gate_loss=gate_loss).knobs()
    assert knobs == [{"thresholds": [1.0, 1.0] if gate_loss == "hinge" else [0.9, 0.9]}]


def settings(net: DGate, scores: Tensor) -> list[list[float]]:
    from routesearch import Scores

    found = net.knobs(Scores(scores, torch.zeros(len(scores), scores.shape[1] + 1, dtype=torch.int64)))
    return [list(k["thresholds"]) for k in found]


def test_thresholds_are_midpoints_of_neighbours(backbone: Backbone) -> None:
    """Also where many images share a score, as saturated probabilities do."""
    net = make(backbone, positions=(3,))
    scores = torch.tensor([0.5, 1.0, 1.0, 0.25, 1.0, 0.5])[:, None]
    _usual, *tried = settings(net, scores)
    assert sorted({t for [t] in tried}) == [-0.25, 0.375, 0.75, 1.5]


def test_one_gate_tries_no_setting_twice(backbone: Backbone) -> None:
    net = make(backbone, positions=(3,))
    tried = settings(net, torch.rand(5000, 1, generator=torch.Generator().manual_seed(0)))
    assert len({t for [t] in tried}) == len(tried) == 1 + MOST_SETTINGS


@pytest.mark.parametrize("gates", [2, 3, 12, 17])
def test_the_number_of_settings_has_a_bound(gates: int, backbone: Backbone) -> None:
    net = make(backbone, positions=tuple(range(1, gates + 1)))
    tried = settings(net, torch.rand(3000, gates, generator=torch.Generator().manual_seed(0)))
    assert MOST_SETTINGS // 2 < len(tried) <= 1 + 2 * MOST_SETTINGS
    assert {len(t) for t in tried} == {gates}


def test_gates_learn_in_mixed_precision(backbone: Backbone, trunk: Trunk, data: Data) -> None:
    net = make(backbone, trunk, positions=(9,))
    recipe = RECIPE.model_copy(update={"precision": "bfloat16"})
    fit(net, net.stages(), data, recipe, epochs=RECIPE.epochs, seed=0, device=CPU)
    assert max(p.accuracy for p in measure(net, data, data.validation, CPU)) > 0.6


@pytest.mark.parametrize(
    "change", [{"weight_penalty": -1e-9}, {"learning_rate": 0.0}, {"learning_rate": -1.0}]
)
def test_training_settings_have_bounds(change: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        DGate.Config(**change)
    assert DGate.Config(weight_penalty=0.0).weight_penalty == 0
