"""Exits trained together: rules for leaving, losses and gradients, by hand and on small networks."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from routesearch import Backbone, Batch, Data, Refusal, Targets, Trunk, run
from routesearch.backbones import NiN, Pyramid8, ResNet38, ResNet110
from routesearch.evaluation.measure import measure
from routesearch.methods.running import price
from routesearch.plugin.loader import load_plugins
from routesearch.study.recipe import Recipe
from routesearch.testing import CHAIN, SCALES, MethodContract, toy_data
from routesearch.training.loop import fit
from routesearch.training.trunk import train_trunk
from routesearch_exits import CRITERIA, Exits, agreeing, certainty, confidence, margin, nobody, scaled

CPU = torch.device("cpu")
RECIPE = Recipe(batch_size=16, epochs=6, trunk_epochs=5, learning_rate=0.01)
THREE = (3, 9, 14)


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


def make(backbone: Backbone, trunk: Trunk | None = None, /, seed: int = 0, **fields: Any) -> Exits:
    torch.manual_seed(seed)
    return Exits(Exits.Config(**{"positions": THREE} | fields), backbone, trunk)


def train(net: Exits, data: Data, epochs: int = RECIPE.epochs) -> Exits:
    fit(net, net.stages(), data, RECIPE, epochs=epochs, seed=0, device=CPU)
    return net.eval()


@pytest.fixture(scope="module")
def trained(backbone: Backbone, trunk: Trunk, data: Data) -> Exits:
    return train(make(backbone, trunk), data)


class TestContract(MethodContract):
    """Every kind of exit, of loss and of gradient; each criterion as a knob."""

    method = Exits
    configs = (
        {"positions": (2, 4, 5)},
        {"positions": (3,), "features": "flat", "loss_weights": "linear", "self_distill": 0.0},
        {"positions": (1, 2, 3, 4, 5), "features": "gap", "gradients": "equilibrium"},
        {"positions": (1, 4), "gradients": "none"},
        {"positions": (1, 3, 4), "criterion": "patience", "start": "scratch"},
    )


class TestListsOfMaps(MethodContract):
    """Units that give maps at several scales: exits see the neck's vector."""

    method = Exits
    backbones = (SCALES,)
    configs = ({"positions": (1, 3), "features": "gap", "gradients": "equilibrium"},)


# ---- structure and constraints -------------------------------------------------------------------------


def test_it_is_found_as_a_plugin() -> None:
    assert load_plugins().methods.find("exits") is Exits


def test_every_field_is_explained() -> None:
    assert all(field.description for field in Exits.Config.model_fields.values())


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
def test_what_an_exit_sees(features: str, position: int, entries: int, backbone: Backbone) -> None:
    """4 channels of 8 x 8 after unit 3, 16 of 2 x 2 after unit 15: the grid is no finer than the map."""
    net = make(backbone, positions=(position,), features=features)
    assert [tuple(p.shape) for p in net.exits[0].parameters()] == [(3, entries), (3,)]
    assert net.exits[0](torch.rand(5, *backbone.shape(position))).shape == (5, 3)


def test_features_are_those_that_the_backbone_has() -> None:
    every = {"gap", "grid", "flat"}
    for backbone, features in ((CHAIN, every), (SCALES, {"gap"}), (Pyramid8((1, 8, 8), 3, 0.25), {"gap"})):
        space = Exits.space(backbone)
        assert set(space.domains["features"].extremes()) == features
        default: Any = space.default()
        assert default.features == ("grid" if "grid" in features else "gap")
        assert len(default.positions) >= 3


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({"positions": (5, 3)}, r"^exits: positions: .+ must hold on backbone resnet38, got \[5, 3\]$"),
        ({"positions": ()}, r"^exits: positions: .+ must hold on backbone resnet38, got \[\]$"),
        ({"gradients": "none", "start": "scratch"}, r"^exits: gradients=none needs start=trunk: [a-z ]+$"),
        ({"positions": (4,), "criterion": "patience"}, r"^exits: criterion=patience needs 2 pos.*got \[4\]$"),
    ],
)
def test_what_is_refused(fields: dict[str, Any], rule: str, backbone: Backbone) -> None:
    with pytest.raises(Refusal, match=rule):
        make(backbone, **fields)


def test_backbones_that_are_refused() -> None:
    class Single(NiN):
        name = "single"

        def __len__(self) -> int:
            return 1

    with pytest.raises(Refusal, match=r"^exits: a backbone must have 2 units or more, single has 1$"):
        Exits.space(Single((1, 8, 8), 3))
    with pytest.raises(
        Refusal, match=r"^exits: features=grid needs unit outputs of C,H,W, backbone toy_scales"
    ):
        make(SCALES, positions=(2,), features="grid")


def test_a_frozen_trunk_must_be_trained(backbone: Backbone) -> None:
    with pytest.raises(Refusal, match=r"^exits: gradients=none trains exits on a trained trunk, got none$"):
        make(backbone, gradients="none").stages()


def test_where_nobody_leaves_it_is_the_trunk(backbone: Backbone, trunk: Trunk) -> None:
    net, images = make(backbone, trunk).eval(), torch.randn(5, 1, 8, 8)
    plain = backbone.plain().eval()
    plain.load_state_dict(dict(trunk.state))
    knob = {"criterion": "confidence", "thresholds": [2.0] * 3}
    assert torch.allclose(run(net, images, knob).logits, plain(images), atol=1e-5)
    other = make(backbone, trunk, start="scratch").eval()
    assert not torch.allclose(run(other, images, knob).logits, plain(images), atol=1e-2)


@pytest.mark.parametrize("positions", [(18, 36), (9, 27, 45), (50,)])
def test_what_exits_of_resnet110_cost(positions: tuple[int, ...]) -> None:
    """Multiply-adds by hand: a stem, 4,718,592 a residual unit, and each exit's layer that is passed.

    A strided unit has half of that in its first convolution, but a projection; norms (two a channel) and
    biases are counted as torchinfo counts them.
    """
    backbone = ResNet110((3, 32, 32), 10)
    config = Exits.space(backbone).parse({"positions": positions, "features": "gap"})
    routes = price(Exits, config, backbone).routes

    def channels(k: int) -> int:
        return 16 * 2 ** ((k - 1) // 18)

    def units(k: int) -> int:
        spent = 3 * 16 * 9 * 32 * 32 + 2 * 16  # the stem and its norm
        for i in range(1, k + 1):
            strided = i in (19, 37)
            spent += 4_718_592 - strided * 1_179_648 + strided * (524_288 // 4 + 2 * channels(i))
            spent += 2 * 2 * channels(i)
        return spent

    passed = 0
    for route, k in enumerate(positions):
        passed += channels(k) * 10 + 10
        assert routes[route].min == routes[route].max == units(k) + passed
    assert routes[len(positions)].max == units(54) + passed + 64 * 10 + 10


# ---- rules for leaving -----------------------------------------------------------------------------------


def test_criteria_by_hand() -> None:
    chances = torch.tensor([[0.7, 0.2, 0.1], [1 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 0.0]], dtype=torch.float64)
    logits = chances.clamp_min(1e-300).log()
    entropy = [-(0.7 * math.log(0.7) + 0.2 * math.log(0.2) + 0.1 * math.log(0.1)), math.log(3), math.log(2)]
    close = {"atol": 1e-9, "rtol": 0}
    torch.testing.assert_close(confidence(logits), chances.amax(1), **close)
    wanted = torch.tensor([1 - e / math.log(3) for e in entropy], dtype=torch.float64)
    torch.testing.assert_close(certainty(logits), wanted, atol=1e-6, rtol=0)
    torch.testing.assert_close(margin(logits), torch.tensor([0.5, 0.0, 0.0], dtype=torch.float64), **close)


@settings(derandomize=True, deadline=None, max_examples=50)
@given(st.integers(2, 300), st.integers(0, 2**31), st.floats(0.01, 30))
def test_criteria_lie_between_0_and_1(classes: int, seed: int, scale: float) -> None:
    logits = scale * torch.randn(20, classes, generator=torch.Generator().manual_seed(seed))
    for sure in CRITERIA.values():
        for values in (sure(logits), sure(logits.bfloat16())):
            assert values.dtype == torch.float32, "never in less than float32"
            assert bool(((values > -1e-5) & (values < 1 + 1e-5)).all())


@settings(derandomize=True, deadline=None, max_examples=50)
@given(st.lists(st.floats(-20, 20), min_size=2, max_size=30, unique=True))
def test_of_two_classes_all_criteria_say_the_same(differences: list[float]) -> None:
    """All criteria are rising functions of how far two logits lie apart."""
    logits = torch.stack([torch.tensor(differences, dtype=torch.float64), torch.zeros(len(differences))], 1)
    order = (logits[:, 0] - logits[:, 1]).abs().argsort(stable=True)
    for sure in CRITERIA.values():
        assert bool((sure(logits)[order].diff() > -1e-7).all())


def test_agreement_by_hand() -> None:
    """How many exits in a row said what the one before them said; the first says what none did before."""
    labels = torch.tensor([[1, 1, 1, 1], [1, 2, 2, 2], [1, 1, 2, 1], [0, 0, 3, 3]]).T
    seen, state = [], nobody(4, labels)
    for row in labels:
        state = agreeing(row, state)
        seen.append(state[1])
    expected = [[0, 1, 2, 3], [0, 0, 1, 2], [0, 1, 0, 0], [0, 1, 0, 1]]
    assert torch.stack(seen, 1).tolist() == expected


@pytest.mark.parametrize("criterion", [*CRITERIA, "patience"])
def test_an_image_leaves_at_the_first_exit_that_is_sure(criterion: str, trained: Exits, data: Data) -> None:
    """The exit of each image, by each rule; every exit is taken."""
    images = data.inputs(data.test.pixels)
    with torch.inference_mode():
        scores = trained.observe(images)
        logits, x = [], images
        for segment, way_out in zip(trained.segments[:-1], trained.exits, strict=True):
            x = segment(x)
            logits.append(way_out(x))
        logits.append(trained.head(trained.segments[-1](x)))
    if criterion == "patience":
        knob: dict[str, Any] = {"criterion": criterion, "patience": 1}
        sure = [[i > 0 and bool(a[j].argmax() == b[j].argmax()) for j in range(len(images))]
                for i, (a, b) in enumerate(zip(logits[:-1], [logits[0], *logits], strict=False))]  # fmt: skip
    else:
        columns = torch.stack([CRITERIA[criterion](part) for part in logits[:-1]], 1)
        knob = {"criterion": criterion, "thresholds": columns.quantile(0.6, dim=0).tolist()}
        sure = [(columns[:, i] >= t).tolist() for i, t in enumerate(knob["thresholds"])]
    billed = run(trained, images, knob)
    for j in range(len(images)):
        said = [exit_of[j] for exit_of in sure]
        route = said.index(True) if any(said) else 3
        assert int(billed.route[j]) == route
        assert (
            int(billed.logits[j].argmax())
            == int(scores.predictions[j, route])
            == int(logits[route][j].argmax())
        )
    assert torch.equal(trained.decide(scores.scores, knob), billed.route)
    wanted = {1, 3} if criterion == "patience" else {0, 3}
    assert wanted <= set(billed.route.tolist())


def test_a_criterion_that_does_not_exist(trained: Exits) -> None:
    with pytest.raises(
        Refusal, match=r"^exits: a knob's criterion must be one of confidence, .*, got 'luck'$"
    ):
        run(trained, torch.rand(1, 1, 8, 8), {"criterion": "luck", "thresholds": [0.5] * 3})


# ---- losses and gradients --------------------------------------------------------------------------------


def batch_of(count: int = 12, **more: Any) -> Batch:
    random = torch.Generator().manual_seed(3)
    return Batch(torch.rand(count, 1, 8, 8, generator=random), torch.arange(count) % 3, 0.0, **more)


@pytest.mark.parametrize(("kind", "weights"), [("uniform", [1, 1, 1]), ("linear", [1, 2, 3])])
def test_the_loss_by_hand(kind: str, weights: list[int], backbone: Backbone) -> None:
    """Cross-entropies, of early exits mixed with T^2 KL from the last one; later exits weigh more (PABEE)."""
    net = make(backbone, positions=(3, 9), loss_weights=kind, self_distill=0.3, temperature=4.0)
    random = torch.Generator().manual_seed(0)
    early = [torch.randn(5, 3, generator=random) for _ in range(2)]
    last, labels = torch.randn(5, 3, generator=random), torch.tensor([2, 0, 1, 1, 0])
    each = []
    for logits in (*early, last):
        given_by = logits.double()
        loss = -given_by.log_softmax(1)[torch.arange(5), labels].mean()
        if logits is not last:
            teacher, student = (last.double() / 4).softmax(1), (given_by / 4).log_softmax(1)
            apart = (teacher * (teacher.log() - student)).sum(1).mean()
            loss = 0.7 * loss + 0.3 * 16 * apart
        each.append(float(loss))
    expected = sum(w * e for w, e in zip(weights, each, strict=True)) / sum(weights)
    found = net._loss(early, last, Batch(torch.zeros(5), labels, 0.0))
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_the_last_exit_does_not_learn_from_the_early_ones(backbone: Backbone) -> None:
    """Early exits that are distilled alone give the last one no gradient: it is as it would be without."""
    gradients = []
    for share in (1.0, 0.0):
        net = make(backbone, self_distill=share).eval()
        net._together(batch_of()).backward()
        gradients.append([p.grad.clone() for p in net.head.parameters()])
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two)


def test_the_trunk_teaches_all_exits(backbone: Backbone) -> None:
    """The study's distillation is in every exit's loss, beside what the last exit says."""
    net = make(backbone, self_distill=0.5).eval()
    taught = batch_of(teacher=torch.randn(12, 3), targets=Targets(share=1.0, temperature=1.0))
    moved = []
    for batch in (batch_of(), taught):
        net.zero_grad()
        net._together(batch).backward()
        moved.append([way_out.linear.weight.grad.clone() for way_out in net.exits])
    assert all(not torch.allclose(a, b, rtol=1e-2) for a, b in zip(*moved, strict=True))


def test_scaling_changes_gradients_only() -> None:
    x = torch.randn(3, 2, requires_grad=True)
    y = scaled([x, 2 * x], 0.25)
    assert torch.equal(y[0], x)
    (y[0].sum() + y[1].sum()).backward()
    assert torch.equal(x.grad, torch.full((3, 2), 0.75))


def test_gradients_in_equilibrium(backbone: Backbone) -> None:
    """What reaches a segment is the mean of the gradients of exits behind it; each exit's own is whole."""

    def gradients(kind: str, only: int | None) -> list[Tensor]:
        net = make(backbone, gradients=kind, self_distill=0.0).eval()
        outputs: list[Tensor] = []

        def loss(early: list[Tensor], last: Tensor, batch: Batch) -> Tensor:
            parts = [logits[:, 0].sum() for logits in (*early, last)]
            return torch.stack([p for i, p in enumerate(parts) if only in (None, i)]).sum()

        net._loss = loss  # type: ignore[method-assign, assignment]
        net._together(batch_of()).backward()
        for segment in net.segments:
            grads = [p.grad for p in segment.parameters() if p.grad is not None]
            outputs.append(torch.cat([g.flatten() for g in grads]) if grads else torch.zeros(1))
        outputs += [p.grad for p in net.exits.parameters() if p.grad is not None]  # type: ignore[attr-defined]
        return outputs

    alone = [gradients("sum", i) for i in range(4)]
    balanced = gradients("equilibrium", None)
    for segment in range(4):
        behind = [alone[i][segment] for i in range(segment, 4)]
        torch.testing.assert_close(balanced[segment], torch.stack(behind).mean(0), rtol=1e-4, atol=1e-5)
    summed = gradients("sum", None)
    for mine, whole in zip(balanced[4:], summed[4:], strict=True):
        torch.testing.assert_close(mine, whole)


def test_without_gradients_the_trunk_stays_as_it_is(backbone: Backbone, trunk: Trunk, data: Data) -> None:
    """Weights, and the statistics of its norms; the exits learn."""
    net = train(make(backbone, trunk, gradients="none"), data, epochs=3)
    plain = backbone.plain()
    plain.units = nn.ModuleList(unit for segment in net.segments for unit in segment)
    plain.head = net.head
    assert all(torch.equal(value, trunk.state[name]) for name, value in plain.state_dict().items())
    scores = net.observe(data.inputs(data.validation.pixels))
    assert float(scores.predictions[:, 1].eq(data.validation.labels).double().mean()) > 0.5


def test_units_from_the_trunk_learn_at_their_own_rate(backbone: Backbone, trunk: Trunk, data: Data) -> None:
    net = make(backbone, trunk, trunk_rate=1e-9)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    train(net, data, epochs=1)
    moved = {n for n, p in net.named_parameters() if not torch.allclose(p, before[n], atol=1e-6)}
    assert {name.split(".")[0] for name in moved} == {"exits"}


# ---- knobs -----------------------------------------------------------------------------------------------


def test_before_training_there_is_a_usual_setting_of_each(backbone: Backbone) -> None:
    knobs = make(backbone).knobs()
    assert [k["criterion"] for k in knobs] == ["confidence", "entropy", "margin", "patience", "patience"]
    assert knobs[0] == {"criterion": "confidence", "thresholds": [0.9] * 3}
    assert [k["patience"] for k in knobs[3:]] == [1, 2]
    assert {k["criterion"] for k in make(backbone, criterion="entropy").knobs()} == {"entropy"}
    alone = make(backbone, criterion="patience").knobs()
    assert [k["patience"] for k in alone] == [1, 0, 2, 3]
    assert {k["criterion"] for k in make(backbone, positions=(4,)).knobs()} == set(CRITERIA)


def test_what_the_sweep_counts_is_what_is_measured(trained: Exits, data: Data) -> None:
    """Accuracy and MACs of each criterion, summed up over scores and measured, are equal to the digit."""
    points = measure(trained, data, data.validation, CPU)
    with torch.inference_mode():
        scores = trained.observe(data.inputs(data.validation.pixels))
    prices = [price(Exits, trained.config, trained.backbone).routes[r].min for r in range(4)]
    labels = data.validation.labels.tolist()
    for point in points:
        taken = trained.decide(scores.scores, point.knob).tolist()
        assert (
            point.accuracy
            == sum(int(scores.predictions[i, r]) == labels[i] for i, r in enumerate(taken)) / 90
        )
        assert point.macs == sum(prices[r] for r in taken) / 90
    bounds = trained.bounds()
    for criterion in CRITERIA:
        own = [p for p in points if p.knob["criterion"] == criterion]
        assert (min(p.macs for p in own), max(p.macs for p in own)) == (bounds.min, bounds.max)
    assert any(p.knob["criterion"] == "patience" for p in points)


def test_patience_alone_reaches_both_ends(trained: Exits, data: Data) -> None:
    net = Exits(trained.config.model_copy(update={"criterion": "patience"}), trained.backbone)
    net.load_state_dict(trained.state_dict())
    points = measure(net, data, data.validation, CPU)
    bounds = net.bounds()
    assert (min(p.macs for p in points), max(p.macs for p in points)) == (bounds.min, bounds.max)
    assert len(points) == 4


def test_scores_of_other_criteria_do_not_decide(trained: Exits, data: Data) -> None:
    with torch.inference_mode():
        seen = trained.observe(data.inputs(data.validation.pixels))
    assert seen.scores.shape == (90, 4 * 3)
    knob = {"criterion": "margin", "thresholds": [0.5] * 3}
    blind = seen.scores.clone()
    blind[:, :6] = 9.0
    assert torch.equal(trained.decide(blind, knob), trained.decide(seen.scores, knob))
