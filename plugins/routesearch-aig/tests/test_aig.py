"""ConvNet-AIG: the paper's gates, figures and losses, on residual networks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from routesearch import Backbone, Batch, BatchMeter, Data, Refusal, Residual, Scores, Trunk, mult_adds, run
from routesearch.backbones import NiN, ResNet38, ResNet101, ResNet110
from routesearch.evaluation.measure import measure
from routesearch.methods.running import price
from routesearch.plugin.loader import load_plugins
from routesearch.study.recipe import Recipe
from routesearch.testing import MethodContract, toy_data
from routesearch.testing.toys import ToyResidual
from routesearch.training.loop import fit, training_work
from routesearch_aig import FAR, ConvNetAIG, Gate, drawn, lead, target_loss

CPU = torch.device("cpu")
RECIPE = Recipe(batch_size=16, epochs=4, learning_rate=0.01)


class ResNet20(ResNet38):
    """9 residual blocks, of which 8 can be skipped, 2 of them with a projection."""

    name = "resnet20"
    blocks = 3


@pytest.fixture(scope="module")
def data() -> Data:
    """Three patterns of 1 x 8 x 8, every second image under noise."""
    return toy_data(3, counts=(96, 60, 30))


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return ResNet20((1, 8, 8), 3, 0.5)


def make(backbone: Backbone, trunk: Trunk | None = None, /, seed: int = 0, **fields: Any) -> ConvNetAIG:
    torch.manual_seed(seed)
    return ConvNetAIG(ConvNetAIG.Config(**fields), backbone, trunk).eval()


def train(net: ConvNetAIG, data: Data, epochs: int = RECIPE.epochs, **recipe: Any) -> ConvNetAIG:
    fit(net, net.stages(), data, RECIPE.model_copy(update=recipe), epochs=epochs, seed=0, device=CPU)
    return net.eval()


@pytest.fixture(scope="module")
def varied(backbone: Backbone, data: Data) -> ConvNetAIG:
    """A network whose gates disagree about images: norms have seen the data, last layers are drawn wide."""
    net, images = make(backbone, gated="all"), data.inputs(data.train.pixels)
    net.train()
    with torch.no_grad():
        for _ in range(20):
            net._dense(images)
        net.eval()
        for gate in net.gates.values():
            gate.last.weight.mul_(1000)
        for number, gate in enumerate(net.gates.values()):
            _, leads = net._walk(BatchMeter(images), images, 0.0)
            gate.last.bias[1] -= leads[number].median()
    return net


class TestContract(MethodContract):
    """Targets of both kinds, with gates everywhere and at some units."""

    method = ConvNetAIG
    configs = (
        {},
        {"target_of": "block", "target": 0.3, "gated": "all", "ungated": 2},
        {"hidden": 3, "opened": 0.5, "temperature": 2.0, "start": "scratch"},
    )


# ---- figures of the paper, without training ------------------------------------------------------------


@pytest.mark.parametrize(
    ("channels", "params"), [(16, 16 * 16 + 16 + 32 + 34), (64, 64 * 16 + 16 + 32 + 34), (256, 4_178)]
)
def test_a_gate_is_two_small_layers(channels: int, params: int) -> None:
    """16 hidden entries with a batch norm, 2 outputs; every multiply-add is one of its parameters."""
    gate, x = Gate(channels, 16, 0.85).eval(), torch.zeros(1, channels, 8, 8)
    assert sum(p.numel() for p in gate.parameters()) == params
    assert mult_adds(gate, x) == params
    assert gate(torch.rand(5, channels, 8, 8)).shape == (5, 2)


def test_gates_of_resnet110_cost_a_ten_thousandth() -> None:
    """0.01 % of the network's multiply-adds, as the paper says, by weights alone.

    The paper gates the first block as well: here a unit that holds the stem, too, and always runs.
    """
    backbone = ResNet110((3, 32, 32), 10)
    net = price(ConvNetAIG, ConvNetAIG.Config(gated="all"), backbone)
    inputs = [16] * 18 + [32] * 18 + [64] * 17  # the first block of a group reads the group before
    weights = sum(c * 16 + 16 * 2 for c in inputs)
    assert net.params - 1_730_714 == weights + 53 * (16 + 2 * 16 + 2)
    assert 100 * weights / 253_149_824 == pytest.approx(0.01, abs=0.005)
    assert net.bounds.max - net.bounds.min < 253_149_824


def test_flops_at_an_execution_rate() -> None:
    """ResNet-110 on CIFAR-10 at t = 0.7: 82 % of the layers ran, at 0.41 of 0.5 GFLOPs.

    A multiply-add is two of the paper's FLOPs; blocks cost the same, so the mean rate decides.
    """
    bounds = price(ConvNetAIG, ConvNetAIG.Config(gated="all"), ResNet110((3, 32, 32), 10)).bounds
    assert round(2 * bounds.max / 1e9, 1) == 0.5
    assert 2 * (bounds.min + 0.82 * (bounds.max - bounds.min)) / 1e9 == pytest.approx(0.41, abs=0.01)


def test_a_gate_of_resnet101_costs_next_to_nothing() -> None:
    """A cost well under a thousandth of that of the bottleneck block behind it."""
    backbone = ResNet101((3, 224, 224), 1000)
    with torch.device("meta"):
        net = ConvNetAIG(ConvNetAIG.Config(), backbone).eval()
        for k in (3, 6, 20, 33):
            x = torch.empty(1, *backbone.shape(k - 1))
            gate, block = mult_adds(net.gates[str(k)], x), mult_adds(backbone.unit(k).eval(), x)
            assert gate < 2e-4 * block


# ---- structure and constraints -------------------------------------------------------------------------


def test_it_is_found_as_a_plugin() -> None:
    assert load_plugins().methods.find("aig") is ConvNetAIG


def test_every_field_is_explained() -> None:
    assert all(field.description for field in ConvNetAIG.Config.model_fields.values())


@pytest.mark.parametrize(
    ("fields", "gated"),
    [
        ({}, [2, 3, 5, 6, 8, 9]),
        ({"gated": "all"}, [2, 3, 4, 5, 6, 7, 8, 9]),
        ({"ungated": 3}, [5, 6, 8, 9]),
        ({"ungated": 3, "gated": "all"}, [5, 6, 7, 8, 9]),
    ],
)
def test_which_units_have_a_gate(fields: dict[str, Any], gated: list[int], backbone: Backbone) -> None:
    net = make(backbone, **fields)
    assert [int(k) for k in net.gates] == gated
    assert [k for k, unit in enumerate(net.units, 1) if isinstance(unit, Residual)] == gated


def test_backbones_that_are_refused(backbone: Backbone) -> None:
    rule = r"^aig: a backbone must have residual units to skip .*, nin has none$"
    with pytest.raises(Refusal, match=rule):
        ConvNetAIG.space(NiN((3, 32, 32), 10))
    with pytest.raises(Refusal, match=rule):
        make(NiN((3, 32, 32), 10))
    with pytest.raises(
        Refusal, match=r"^aig: one residual unit or more must have a gate, got none with .*=8"
    ):
        make(backbone, ungated=8)


# ---- running -------------------------------------------------------------------------------------------


def test_with_every_unit_it_is_the_trunk_that_it_starts_from(backbone: Backbone) -> None:
    torch.manual_seed(1)
    plain, images = backbone.plain().eval(), torch.randn(5, 1, 8, 8)
    trunk = Trunk(plain.state_dict(), 0.5)
    for fields in ({}, {"gated": "all"}):
        logits = run(make(backbone, trunk, **fields), images, {"threshold": -FAR}).logits
        torch.testing.assert_close(logits, plain(images), rtol=1e-3, atol=1e-4)
    scratch = make(backbone, trunk, start="scratch")
    assert not torch.allclose(run(scratch, images, {"threshold": -FAR}).logits, plain(images), atol=1e-2)


def test_without_any_unit_images_pass_the_first_and_the_projections(backbone: Backbone) -> None:
    net, images = make(backbone, gated="all"), torch.randn(5, 1, 8, 8)
    y = net.units[0](images)
    for k in (4, 7):
        y = net.units[k - 1].projection(y)
    torch.testing.assert_close(run(net, images, {"threshold": FAR}).logits, net.head(y))


def test_a_bill_is_of_the_units_that_ran(varied: ConvNetAIG, data: Data) -> None:
    images, bounds = data.inputs(data.validation.pixels), varied.bounds()
    billed, prices = run(varied, images), []
    for k in map(int, varied.gates):
        unit, x = varied.units[k - 1], torch.zeros(1, *varied.backbone.shape(k - 1))
        prices.append(mult_adds(unit, x, x if unit.projection is None else unit.projection(x)))
    assert torch.equal(billed.macs, bounds.min + (billed.ran * torch.tensor(prices)).sum(1))
    assert 0 < float(billed.ran.float().mean()) < 1


def test_a_unit_runs_where_running_is_ahead(varied: ConvNetAIG, data: Data) -> None:
    """A unit runs by the larger output at threshold 0, and at a higher one for no further image."""
    images = data.inputs(data.validation.pixels)
    first = int(next(iter(varied.gates)))
    with torch.inference_mode():
        x = images
        for unit in varied.units[: first - 1]:
            x = unit(x)
        logits = varied.gates[str(first)](x)
    ran = {t: run(varied, images, {"threshold": t}).ran[:, 0] for t in (-FAR, 0.0, 0.5, FAR)}
    assert torch.equal(ran[0.0], logits.argmax(1) == 1)
    assert bool(ran[-FAR].all())
    assert not bool(ran[FAR].any())
    assert not bool((ran[0.5] & ~ran[0.0]).any())
    again = run(varied, images).logits
    assert torch.equal(run(varied, images, {"threshold": 0.0}).logits, again), (
        "nothing is drawn, and 0 is first"
    )


def test_routing_is_the_dense_pass_with_the_same_gates(
    varied: ConvNetAIG, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = data.inputs(data.validation.pixels)
    monkeypatch.setattr("routesearch_aig.drawn", lambda logits, temperature: (lead(logits) > 0).float())
    with torch.no_grad():
        logits, gates = varied._dense(images)
    billed = run(varied, images)
    assert torch.equal(gates.bool(), billed.ran)
    torch.testing.assert_close(billed.logits, logits, rtol=1e-3, atol=1e-4)


def test_thresholds_come_from_the_scores(varied: ConvNetAIG, data: Data) -> None:
    images = data.inputs(data.validation.pixels)
    with torch.inference_mode():
        scores = varied.observe(images)
    assert scores.scores.shape == (60, 3 * 8)
    assert scores.predictions.shape == (60, 0)
    knobs = [knob["threshold"] for knob in varied.knobs(scores, data.validation.labels)]
    assert knobs[:3] == [0.0, -FAR, FAR]
    assert len(set(knobs)) == len(knobs) > 20
    spent = {float(run(varied, images, {"threshold": t}).macs.double().mean()) for t in knobs}
    assert len(spent) > 10
    alike = Scores(torch.full((5, 3), 0.5), torch.empty(5, 0, dtype=torch.int64))
    assert len(varied.knobs(alike)) == 3 + 2


# ---- training ------------------------------------------------------------------------------------------


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.floats(0.0, 1.0), st.integers(1, 30), st.integers(1, 9), st.integers(0, 2**31))
def test_the_target_loss_by_hand(target: float, images: int, units: int, seed: int) -> None:
    gates = (torch.rand(images, units, generator=torch.Generator().manual_seed(seed)) < 0.5).double()
    rates = [sum(row[u] for row in gates.tolist()) / images for u in range(units)]
    block, network = target_loss(gates, target, "block"), target_loss(gates, target, "network")
    assert float(block) == pytest.approx(sum((r - target) ** 2 for r in rates) / units, abs=1e-12)
    assert float(network) == pytest.approx((sum(rates) / units - target) ** 2, abs=1e-12)
    assert float(network) <= float(block) + 1e-12, "a network may spread what each block must keep"


def test_gates_are_drawn_with_their_probability() -> None:
    """Gumbel noise on both outputs and the larger one: the softmax's probability."""
    torch.manual_seed(0)
    for z in (-1.5, 0.0, 2.0):
        logits = torch.tensor([[0.3, 0.3 + z]]).expand(20_000, 2)
        gates = drawn(logits, 1.0)
        assert set(gates.unique().tolist()) == {0.0, 1.0}
        assert float(gates.mean()) == pytest.approx(float(torch.tensor(z).sigmoid()), abs=0.015)


def test_hard_forward_and_soft_backward() -> None:
    """The gradient is that of the softmax at the noise that was drawn."""
    logits = torch.randn(200, 2, generator=torch.Generator().manual_seed(1)).requires_grad_()
    torch.manual_seed(4)
    gates = drawn(logits, 2.0)
    (gates * torch.arange(200.0)).sum().backward()
    torch.manual_seed(4)
    noise = -torch.empty(200, 2).exponential_().log()
    twin = logits.detach().clone().requires_grad_()
    soft = ((twin + noise) / 2.0).softmax(1)[:, 1]
    (soft * torch.arange(200.0)).sum().backward()
    assert torch.equal(gates.detach().round(), (soft > 0.5).float())
    torch.testing.assert_close(logits.grad, twin.grad)


def test_gates_are_drawn_in_float32() -> None:
    assert drawn(torch.zeros(3, 2, dtype=torch.bfloat16), 1.0).dtype == torch.float32
    assert lead(torch.zeros(3, 2, dtype=torch.bfloat16)).dtype == torch.float32


@pytest.mark.parametrize("opened", [0.5, 0.85, 0.99])
def test_how_open_gates_are_at_the_start(opened: float, backbone: Backbone) -> None:
    net = make(backbone, opened=opened)
    for gate in net.gates.values():
        chances = gate(torch.rand(20, *_input(gate))).softmax(1)[:, 1]
        torch.testing.assert_close(chances, torch.full((20,), opened), atol=0.01, rtol=0)


def _input(gate: Gate) -> tuple[int, int, int]:
    return gate.seen[0].in_features, 4, 4


@pytest.mark.parametrize("target_of", ["block", "network"])
def test_rates_come_to_the_target(target_of: str, backbone: Backbone, data: Data) -> None:
    """Gates run for as many images as they should where the classification loss is outweighed."""
    net = make(backbone, target=0.3, target_of=target_of, rate_weight=200.0)
    train(net, data, epochs=12)
    net.train()
    with torch.no_grad():
        rates = torch.stack([net._dense(data.inputs(data.train.pixels))[1].mean(0) for _ in range(10)]).mean(
            0
        )
    assert float(rates.mean()) == pytest.approx(0.3, abs=0.1)


def test_training_runs_every_unit_for_every_image(backbone: Backbone) -> None:
    """No work is saved while training: the bill is three times the most expensive route."""
    net = make(backbone).train()
    with training_work(net) as work:
        net._loss(Batch(torch.rand(5, 1, 8, 8), torch.arange(5) % 3, 0.0))
    assert work.macs == 3 * 5 * net.bounds().max


def test_it_trains_and_is_measured(backbone: Backbone, data: Data) -> None:
    net = make(backbone, target=0.5)
    before = {n: p.detach().clone() for n, p in net.gates.named_parameters()}
    train(net, data, epochs=6)
    assert all(not torch.equal(before[n], p) for n, p in net.gates.named_parameters())
    points, bounds = measure(net, data, data.validation, CPU), net.bounds()
    assert points[0].knob == {"threshold": 0.0}
    assert (min(p.macs for p in points), max(p.macs for p in points)) == (bounds.min, bounds.max)
    assert max(p.accuracy for p in points) > 0.5
    assert {len(p.route_share) for p in points} == {6}


def test_units_from_the_trunk_learn_at_their_own_rate(data: Data) -> None:
    backbone = ToyResidual((1, 8, 8), 3, 0.5)
    net = make(backbone, Trunk(backbone.plain().state_dict(), 0.5), trunk_rate=1e-9)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    train(net, data, epochs=1)
    moved = {n for n, p in net.named_parameters() if not torch.allclose(p, before[n], atol=1e-6)}
    assert {name.split(".")[0] for name in moved} == {"gates"}
