"""SkipNet: the paper's gates, figures and losses, on residual networks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from routesearch import (
    Backbone,
    Batch,
    BatchMeter,
    Data,
    Refusal,
    Residual,
    RunFailed,
    Scores,
    Targets,
    Trunk,
    mult_adds,
    run,
)
from routesearch.backbones import NiN, ResNet38, ResNet74, ResNet110, ResNet152
from routesearch.evaluation.measure import measure
from routesearch.methods.running import price
from routesearch.plugin.loader import load_plugins
from routesearch.study.recipe import Recipe
from routesearch.testing import MethodContract, toy_data
from routesearch.training.loop import fit, to_device, training_work
from routesearch_skipnet import (
    GATES,
    SCHEDULES,
    SkipNet,
    Step,
    _over,
    drawn,
    hard,
    returns,
)

CPU = torch.device("cpu")
RECIPE = Recipe(batch_size=16, epochs=4, learning_rate=0.01)
NETS = {38: ResNet38, 74: ResNet74, 110: ResNet110, 152: ResNet152}
BASE = {38: 83_280_512, 74: 168_215_168, 110: 253_149_824, 152: 352_240_256}


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


def make(backbone: Backbone, /, seed: int = 0, **fields: Any) -> SkipNet:
    torch.manual_seed(seed)
    return SkipNet(SkipNet.Config(**fields), backbone).eval()


def train(net: SkipNet, data: Data, epochs: int = RECIPE.epochs, recipe: Recipe = RECIPE) -> SkipNet:
    fit(net, net.stages(), data, recipe, epochs=epochs, seed=0, device=CPU)
    return net


@pytest.fixture(scope="module", params=GATES)
def varied(request: pytest.FixtureRequest, backbone: Backbone, data: Data) -> SkipNet:
    """A network whose gates disagree about images: norms have seen the data, last layers are drawn wide."""
    net = make(backbone, gate_type=request.param, gate_bias=0.0)
    images = data.inputs(data.train.pixels)
    net.train()
    with torch.no_grad():
        for _ in range(30):
            net._dense(images, torch.sigmoid)
    net.eval()
    with torch.no_grad():
        if net.controller is not None:
            for gate in net.gates:
                gate[1].weight.mul_(30)
            net.controller.out.weight.mul_(30)
            net.controller.out.bias -= net._dense(images, hard)[1].median()
            return net
        for k, gate in enumerate(net.gates):
            last = gate.layers[-2]
            last.weight.mul_(30)
            last.bias[1] -= net._dense(images, hard)[1][:, k].median()
    return net


class TestContract(MethodContract):
    """A config for each gate and for each schedule; a skipped unit, its bill and its state."""

    method = SkipNet
    configs = (
        {},
        {"gate_type": "ffgate1", "schedule": "supervised"},
        {"gate_type": "ffgate2", "schedule": "soft"},
        {"schedule": "scratch", "baseline": "batch"},
        {"gate_type": "ffgate2", "schedule": "reinforce"},
    )


# ---- figures of the paper and of methods, without training -------------------------------------------


@pytest.mark.parametrize(
    ("gate", "channels", "params", "weights_only"),
    [
        ("ffgate1", 16, 4_706, 737_312),
        ("ffgate1", 32, 18_626, 737_344),
        ("ffgate1", 64, 74_114, 737_408),
        ("ffgate2", 16, 2_370, 589_856),
        ("ffgate2", 32, 9_346, 589_888),
        ("ffgate2", 64, 37_122, 589_952),
        ("rnngate", 16, 170, 970),
        ("rnngate", 32, 330, 1_130),
        ("rnngate", 64, 650, 1_450),
    ],
)
def test_what_a_gate_costs(gate: str, channels: int, params: int, weights_only: int) -> None:
    """Parameters exactly; MACs beyond the weights are biases and norms; share of a block of 4,718,592."""
    backbone = ResNet38((3, 32, 32), 10)
    net = make(backbone, gate_type=gate)
    at = {16: 1, 32: 8, 64: 14}[channels]  # gates that read a map of so many channels
    module, x = net.gates[at], torch.zeros(1, *backbone.shape(net.sites[at] - 1))
    assert x.shape == (1, channels, 512 // channels, 512 // channels)
    assert sum(p.numel() for p in module.parameters()) == params
    price = mult_adds(module, x)
    if net.controller is not None:
        state = torch.zeros(1, 10)
        assert sum(p.numel() for p in net.controller.parameters()) == 880 + 11
        assert mult_adds(net.controller.lstm, state, (state, state)) == 880
        price += mult_adds(net.controller, state, (state, state))
    norms = {"ffgate1": 2, "ffgate2": 1, "rnngate": 0}[gate] * 2 * channels
    biases = 10 + 80 + 1 if gate == "rnngate" else 2
    assert price - norms - biases == weights_only
    share = 100 * weights_only / 4_718_592
    paper = {"ffgate1": 15.63, "ffgate2": 12.50, "rnngate": {16: 0.021, 32: 0.024, 64: 0.031}[channels]}
    assert share == pytest.approx(paper[gate], abs=0.01)


@pytest.mark.parametrize(("depth", "gates"), [(38, 17), (74, 35), (110, 53), (152, 74)])
def test_a_gate_for_every_unit_but_the_first(depth: int, gates: int) -> None:
    with torch.device("meta"):
        backbone = NETS[depth]((3, 32, 32), 10, 1 / 16)
    net = make(backbone, gate_type="rnngate")
    assert len(net.gates) == gates
    assert net.sites == list(range(2, gates + 2))
    lowest = (0 + 1) / len(backbone)  # "computation percentage" where every gate skips
    assert round(100 * lowest, 2) == {38: 5.56, 74: 2.78, 110: 1.85, 152: 1.33}[depth]


@pytest.mark.parametrize(
    ("depth", "gate", "everything", "floor"),
    [
        (38, "ffgate1", 95_815_488, 17_958_720),
        (74, "ffgate1", 194_022_528, 31_231_104),
        (110, "ffgate2", 284_414_400, 36_688_320),
        (38, "rnngate", 83_300_362, 5_443_594),
        (74, "rnngate", 168_256_318, 5_464_894),
        (110, "rnngate", 253_212_274, 5_486_194),
        (152, "rnngate", 352_327_556, 5_511_044),
    ],
)
def test_what_a_network_costs(depth: int, gate: str, everything: int, floor: int) -> None:
    """All units run, and none: the weights, once biases and norms, which torchinfo counts, are taken off."""
    backbone = NETS[depth]((3, 32, 32), 10)
    bounds = price(SkipNet, SkipNet.Config(gate_type=gate), backbone).bounds
    n = len(backbone) // 3
    per_gate = {"ffgate1": (4, 2), "ffgate2": (2, 2), "rnngate": (0, 10 + 80 + 1)}[gate]
    gates = sum(per_gate[0] * c + per_gate[1] for c in [16] * n + [32] * n + [64] * (n - 1))
    block = {c: 2 * 2 * c for c in (16, 32, 64)}
    always = 2 * 16 + block[16] + 2 * 32 + 2 * 64 + 10  # stem, block 1, two projections, class biases
    rest = n * sum(block.values()) - block[16]
    assert bounds.min - gates - always == floor
    assert bounds.max - gates - always - rest == everything


@pytest.mark.parametrize(("gate", "floor"), [("rnngate", 5_491_315), ("ffgate2", 36_692_628)])
def test_the_floor_of_resnet110(gate: str, floor: int) -> None:
    assert price(SkipNet, SkipNet.Config(gate_type=gate), ResNet110((3, 32, 32), 10)).bounds.min == floor


@pytest.mark.parametrize(
    ("depth", "gate", "used"),
    [
        (38, "ffgate1", 510_562),
        (74, "ffgate1", 1_095_238),
        (110, "ffgate2", 841_962),
        (38, "rnngate", 7_141),
        (110, "rnngate", 20_941),
        (152, "rnngate", 28_991),
    ],
)
def test_parameters_of_all_gates(depth: int, gate: str, used: int) -> None:
    base = {38: 564_122, 74: 1_147_418, 110: 1_730_714, 152: 2_411_226}[depth]
    assert price(SkipNet, SkipNet.Config(gate_type=gate), NETS[depth]((3, 32, 32), 10)).params == base + used


# ---- constraints -------------------------------------------------------------------------------------


def test_it_is_found_as_a_plugin() -> None:
    assert load_plugins().methods.find("skipnet") is SkipNet


def test_a_backbone_without_residual_units_is_refused() -> None:
    rule = r"^skipnet: a backbone must have residual units to skip .*, nin has none$"
    with pytest.raises(Refusal, match=rule):
        SkipNet.space(NiN((3, 32, 32), 10))
    with pytest.raises(Refusal, match=rule):
        make(NiN((3, 32, 32), 10))


def test_maps_too_small_for_a_gate_are_refused() -> None:
    with pytest.raises(Refusal, match=r"^skipnet: gate_type=ffgate1 needs maps of C x 2 x 2 or more, unit 7"):
        make(ResNet20((1, 4, 4), 3), gate_type="ffgate1")
    assert make(ResNet20((1, 4, 4), 3), gate_type="ffgate2").bounds().min > 0


def test_every_field_is_explained() -> None:
    assert all(field.description for field in SkipNet.Config.model_fields.values())


# ---- a skipped unit ----------------------------------------------------------------------------------


def test_all_units_run_is_the_backbone_itself(backbone: Backbone) -> None:
    net = make(backbone)
    plain = backbone.plain().eval()
    weights = iter([p for m in (net.units, net.head) for p in _named_like(m, plain)])
    with torch.no_grad():
        for p in plain.parameters():
            p.copy_(next(weights))
    x = torch.rand(4, 1, 8, 8)
    torch.testing.assert_close(run(net, x, {"threshold": 0.0}).logits, plain(x))


def _named_like(module: nn.Module, plain: nn.Module) -> list[Tensor]:
    """Parameters in the backbone's order: a unit's projection comes last in the plain unit."""
    if not isinstance(module, nn.ModuleList):
        return list(module.parameters())
    found: list[Tensor] = []
    for unit in module:
        if isinstance(unit, Residual):
            found += list(unit.unit.parameters())
            found += [] if unit.projection is None else list(unit.projection.parameters())
        else:
            found += list(unit.parameters())
    return found


def test_no_unit_run_passes_the_first_and_the_projections(backbone: Backbone) -> None:
    net = make(backbone, gate_type="ffgate2")
    x = torch.rand(4, 1, 8, 8)
    y = net.units[0](x)
    for k in (4, 7):
        y = net.units[k - 1].projection(y)
    torch.testing.assert_close(run(net, x, {"threshold": 1.0}).logits, net.head(y))


def test_both_ends_of_the_bounds_are_reached(varied: SkipNet, data: Data) -> None:
    images, bounds = data.inputs(data.validation.pixels), varied.bounds()
    ends = {t: run(varied, images, {"threshold": t}) for t in (0.0, 1.0)}
    assert ends[0.0].macs.unique().tolist() == [bounds.max]
    assert ends[1.0].macs.unique().tolist() == [bounds.min]
    assert bool(ends[0.0].ran.all())
    assert not bool(ends[1.0].ran.any())
    assert ends[0.0].ran.shape == (60, 8)


def test_a_bill_is_of_the_units_that_ran(varied: SkipNet, data: Data) -> None:
    images = data.inputs(data.validation.pixels)
    billed, bounds = run(varied, images), varied.bounds()
    prices = []
    for k in varied.sites:
        unit, x = varied.units[k - 1], torch.zeros(1, *varied.backbone.shape(k - 1))
        prices.append(mult_adds(unit, x, x if unit.projection is None else unit.projection(x)))
    assert torch.equal(billed.macs, bounds.min + (billed.ran * torch.tensor(prices)).sum(1))


def test_routing_is_the_dense_pass_with_hard_gates(varied: SkipNet, data: Data) -> None:
    images = data.inputs(data.validation.pixels)
    with torch.no_grad():
        logits, z, gates = varied._dense(images, hard)
    billed = run(varied, images)
    assert torch.equal(gates.bool(), billed.ran)
    assert torch.equal(z > 0, billed.ran)
    torch.testing.assert_close(billed.logits, logits, rtol=1e-3, atol=1e-4)


def test_a_recurrent_gate_starts_anew_for_every_batch(backbone: Backbone, data: Data) -> None:
    net, images = make(backbone), data.inputs(data.validation.pixels)
    assert torch.equal(run(net, images).logits, run(net, images).logits)
    _, z, _ = net._dense(images, hard)
    state = None
    x = net.units[0](images)
    cell = nn.LSTM(10, 10, batch_first=True)
    cell.load_state_dict(net.controller.lstm.state_dict())
    out, state = cell(net.gates[0](x)[:, None])
    torch.testing.assert_close(net.controller.out(out[:, 0])[:, 0], z[:, 0])
    x = torch.where(z[:, 0, None, None, None] > 0, net.units[1](x, x), x)
    out, _ = cell(net.gates[1](x)[:, None], state)
    torch.testing.assert_close(net.controller.out(out[:, 0])[:, 0], z[:, 1])


def test_one_step_has_the_meta_shapes_of_a_real_one() -> None:
    step, state = Step(10, 10, batch_first=True), (torch.zeros(3, 10), torch.zeros(3, 10))
    out, (hidden, cell) = step(torch.zeros(3, 10), state)
    meta = step.to("meta")
    away, (far, off) = meta(torch.zeros(3, 10, device="meta"), tuple(s.to("meta") for s in state))
    assert [t.shape for t in (out, hidden, cell)] == [t.shape for t in (away, far, off)]


# ---- losses ------------------------------------------------------------------------------------------


def test_hard_forward_and_soft_backward() -> None:
    z = torch.tensor([-3.0, -0.1, 0.0, 0.1, 3.0], requires_grad=True)
    gates = hard(z)
    assert gates.tolist() == [0, 0, 0, 1, 1]
    (gates * torch.arange(1.0, 6.0)).sum().backward()
    s = z.detach().sigmoid()
    torch.testing.assert_close(z.grad, s * (1 - s) * torch.arange(1.0, 6.0))


def test_gates_are_drawn_with_their_probability() -> None:
    torch.manual_seed(0)
    z = torch.tensor([-1.5, 0.0, 2.0]).repeat(20_000, 1)
    shares = drawn(z).mean(0)
    torch.testing.assert_close(shares, z[0].sigmoid(), atol=0.015, rtol=0)


def test_returns_by_hand() -> None:
    ran = torch.tensor([[1.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    loss = torch.tensor([0.5, 2.0])
    a = 0.4 / 4
    expected = [[2 * a - 0.5, 2 * a - 0.5, a - 0.5, a - 0.5], [4 * a - 2, 3 * a - 2, 2 * a - 2, a - 2]]
    torch.testing.assert_close(returns(loss, ran, 0.4), torch.tensor(expected))


def test_the_first_return_with_all_skipped_is_alpha_less_the_loss() -> None:
    loss = torch.rand(7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    first = returns(loss, torch.zeros(7, 53, dtype=torch.float64), 1.7)[:, 0]
    torch.testing.assert_close(first, 1.7 - loss)


@pytest.mark.parametrize("baseline", ["none", "batch"])
def test_reinforce_follows_the_gradient_of_the_expected_return(baseline: str, backbone: Backbone) -> None:
    """The policy's term by hand, for the very gates that were drawn: 0.01 x sum over images and gates."""
    net = make(backbone, gate_type="ffgate2", alpha=2.0, baseline=baseline)
    x, labels = torch.rand(6, 1, 8, 8), torch.arange(6) % 3
    torch.manual_seed(5)
    loss, policy = net._drawn(Batch(x, labels, 0.0))
    torch.manual_seed(5)
    logits, z, ran = (t.detach() for t in net._dense(x, drawn))
    assert set(ran.unique().tolist()) == {0.0, 1.0}
    expected = 0.0
    error = F.cross_entropy(logits, labels, reduction="none")
    gain = [
        [-float(error[i]) + sum(2.0 / 8 for j in range(g, 8) if ran[i, j] == 0) for g in range(8)]
        for i in range(6)
    ]
    for i in range(6):
        for g in range(8):
            p = float(z[i, g].sigmoid())
            base = sum(row[g] for row in gain) / 6 if baseline == "batch" else 0.0
            chance = torch.tensor(p if ran[i, g] else 1 - p).log()
            expected -= 0.01 * (gain[i][g] - base) * float(chance)
    assert float(policy.detach()) == pytest.approx(expected, rel=1e-4)
    assert float(loss.detach().mean()) == pytest.approx(float(error.mean()), rel=1e-5)


def test_drawn_gates_get_no_gradient_from_the_cross_entropy(backbone: Backbone) -> None:
    net = make(backbone, gate_type="ffgate2")
    loss, policy = net._drawn(Batch(torch.rand(6, 1, 8, 8), torch.arange(6) % 3, 0.0))
    loss.mean().backward(retain_graph=True)
    assert all(p.grad is None for p in net.gates.parameters())
    policy.backward()
    assert all(p.grad is not None for p in net.gates.parameters())


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_gradients_reach_every_gate(schedule: str, gate: str, backbone: Backbone, data: Data) -> None:
    """The supervised part reaches every parameter, in every stage."""
    net = make(backbone, gate_type=gate, schedule=schedule, alpha=1.0)
    images = data.inputs(data.train.pixels)
    for stage in net.stages():
        net.train().zero_grad(set_to_none=True)
        torch.manual_seed(0)
        stage.loss(Batch(images, data.train.labels, 0.0)).backward()
        untouched = {n for n, p in net.named_parameters() if p.grad is None or not bool(p.grad.any())}
        # REINFORCE alone tells the classifier nothing, nor what stands behind the last gate.
        blind = ("head.", "units.8.") if schedule == "reinforce" else ("-",)
        assert {n for n in untouched if not n.startswith(blind)} == set()


# ---- training ----------------------------------------------------------------------------------------


def kinds() -> Iterator[Any]:
    """Each schedule with a gate of its own; the other pairs are slow."""
    for number, schedule in enumerate(SCHEDULES):
        for gate in GATES:
            marks = [] if gate == GATES[number % len(GATES)] else [pytest.mark.slow]
            yield pytest.param(schedule, gate, marks=marks, id=f"{schedule}-{gate}")


@pytest.mark.parametrize(("schedule", "gate"), list(kinds()))
def test_each_kind_trains_and_is_measured(schedule: str, gate: str, backbone: Backbone, data: Data) -> None:
    net = make(backbone, gate_type=gate, schedule=schedule, alpha=0.5)
    before = {n: p.detach().clone() for n, p in net.gates.named_parameters()}
    to_device(net, CPU)
    train(net, data, epochs=6)
    assert any(not torch.equal(before[n], p) for n, p in net.gates.named_parameters())
    points = measure(net, data, data.validation, CPU)
    bounds = net.bounds()
    assert min(p.macs for p in points) == bounds.min
    assert max(p.macs for p in points) == bounds.max
    assert {len(p.route_share) for p in points} == {8}
    assert points[0].knob == {"threshold": 0.5}
    if schedule == "supervised":
        assert points[0].accuracy > 0.5


def test_running_only_what_was_drawn_changes_neither_loss_nor_gradient(backbone: Backbone) -> None:
    net = make(backbone, schedule="hybrid", gate_bias=0.0)
    stage = net.stages()[1]
    net.train()
    for norm in stage.eval_modules:
        norm.eval()
    batch = Batch(torch.rand(12, 1, 8, 8), torch.arange(12) % 3, 0.0)
    seen = []
    for sparse in (False, True):
        torch.manual_seed(5)
        net.zero_grad()
        loss = net._hybrid(batch, sparse=sparse)
        loss.backward()
        seen.append([loss.detach(), *(p.grad.clone() for p in net.parameters() if p.grad is not None)])
    for dense, sparse in zip(*seen, strict=True):
        torch.testing.assert_close(dense, sparse, rtol=1e-4, atol=1e-5)


def test_norms_are_still_while_gates_are_drawn(backbone: Backbone, data: Data) -> None:
    """A second stage at a rate of almost nothing changes no decision: accuracy has no step there."""
    short = {"gate_type": "ffgate2", "rl_share": 0.5, "rl_learning_rate": 1e-12}
    hybrid = train(make(backbone, schedule="hybrid", **short), data, epochs=4)
    alone = train(make(backbone, schedule="supervised", **short), data, epochs=2)
    images = data.inputs(data.validation.pixels)
    norms = [m for m in hybrid.modules() if isinstance(m, nn.BatchNorm2d)]
    moved = [bool((m.running_mean != 0).any()) for m in norms]
    assert sum(moved) > len(norms) / 2
    both = [m for m in alone.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(m.num_batches_tracked == n.num_batches_tracked for m, n in zip(norms, both, strict=True))
    torch.testing.assert_close(run(hybrid, images).logits, run(alone, images).logits, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("gate", ["ffgate1", "rnngate"])
@pytest.mark.parametrize("images", [1, 2, 16])
def test_units_that_are_idle_at_first_train_later(
    gate: str, images: int, backbone: Backbone, data: Data
) -> None:
    """Gates that are nearly shut: most units run for no image of a batch, and get no gradient."""
    net = make(backbone, gate_type=gate, gate_bias=-4.0, rl_share=0.9)
    train(net, data, 1, RECIPE.model_copy(update={"batch_size": images}))
    assert all(bool(torch.isfinite(p).all()) for p in net.parameters())


def test_a_loss_that_is_not_finite_fails_the_trial(backbone: Backbone, data: Data) -> None:
    net = make(backbone, rl_learning_rate=1e30, alpha=4.0)
    with pytest.raises(RunFailed, match=r"^the loss must stay finite"):
        train(net, data, epochs=8)


def test_training_runs_every_unit_for_every_image(backbone: Backbone) -> None:
    """No work is saved while training: the bill is three times the most expensive route."""
    net = make(backbone).train()
    batch = Batch(torch.rand(5, 1, 8, 8), torch.arange(5) % 3, 0.0)
    for loss in (net._supervised, net._hybrid):
        with training_work(net) as work:
            loss(batch)
        assert work.macs == 3 * 5 * net.bounds().max


def test_more_bias_runs_more_units(backbone: Backbone, data: Data) -> None:
    images = data.inputs(data.validation.pixels)
    for gate in GATES:
        share = [
            float(run(make(backbone, gate_type=gate, gate_bias=b), images).ran.float().mean())
            for b in (-5, 5)
        ]
        assert share == [0.0, 1.0]


# ---- thresholds --------------------------------------------------------------------------------------


def test_thresholds_come_from_the_scores(varied: SkipNet, data: Data) -> None:
    images = data.inputs(data.validation.pixels)
    with torch.inference_mode():
        scores = varied.observe(images)
    assert scores.scores.shape == (60, 3 * 8)
    assert scores.predictions.shape == (60, 0)
    knobs = [k["threshold"] for k in varied.knobs(scores, data.validation.labels)]
    assert knobs[0] == 0.5
    assert {0.0, 1.0, 0.9, 0.99, 0.999} < set(knobs)
    assert len(set(knobs)) == len(knobs) > 20
    spent = {float(run(varied, images, {"threshold": t}).macs.double().mean()) for t in knobs[::2]}
    assert len(spent) > 5


def test_thresholds_where_all_scores_are_one(backbone: Backbone) -> None:
    net = make(backbone)
    seen = Scores(torch.full((5, 3), 2.0), torch.empty(5, 0, dtype=torch.int64))
    assert len(net.knobs(seen)) == len(net.knobs()) + 1
    saturated = Scores(torch.tensor([[90.0, 100.0]]), torch.empty(1, 0, dtype=torch.int64))
    assert net.knobs(saturated) == net.knobs()


def test_scores_are_the_gates_logits(varied: SkipNet, data: Data) -> None:
    images = data.inputs(data.validation.pixels)
    with torch.inference_mode():
        scores = varied.observe(images).scores
        for i, threshold in enumerate((0.0, 1.0, 0.5)):
            _, z = varied._walk(BatchMeter(images), images, _over(threshold))
            assert torch.equal(scores[:, 8 * i : 8 * i + 8], torch.stack(z, 1))
        assert not torch.equal(scores[:, :8], scores[:, 8:16]), "later gates see what earlier ones did"


# ---- starting from the trunk -----------------------------------------------------------------------------


def test_with_every_block_it_is_the_trunk_that_it_starts_from() -> None:
    backbone = ResNet38((1, 8, 8), 3, 0.25)
    torch.manual_seed(1)
    plain = backbone.plain().eval()
    trunk, images = Trunk(plain.state_dict(), 0.5), torch.randn(5, 1, 8, 8)
    for gate_type in ("rnngate", "ffgate2"):
        net = SkipNet(SkipNet.Config(gate_type=gate_type), backbone, trunk)
        assert torch.allclose(run(net, images, {"threshold": 0.0}).logits, plain(images), atol=1e-4)
    scratch = SkipNet(SkipNet.Config(start="scratch"), backbone, trunk)
    assert not torch.allclose(run(scratch, images, {"threshold": 0.0}).logits, plain(images), atol=1e-2)


def test_units_from_the_trunk_learn_at_their_own_rate() -> None:
    backbone = ResNet38((1, 8, 8), 3, 0.25)
    trunk = Trunk(backbone.plain().state_dict(), 0.5)
    net = SkipNet(SkipNet.Config(schedule="supervised", trunk_rate=1e-9), backbone, trunk)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    recipe = Recipe(batch_size=16, learning_rate=0.01)
    fit(net, net.stages(), toy_data(3, (1, 8, 8)), recipe, epochs=1, seed=0, device=CPU)
    moved = {n for n, p in net.named_parameters() if not torch.allclose(p, before[n], atol=1e-6)}
    assert any(name.startswith("gates.") for name in moved)
    assert not {name for name in moved if name.startswith(("units.", "head."))}


def test_a_reward_is_in_units_of_the_labels_cross_entropy() -> None:
    """Whatever else the classifier learns from."""
    backbone = ResNet38((1, 8, 8), 3, 0.25)
    torch.manual_seed(1)
    net = SkipNet(SkipNet.Config(), backbone).eval()
    images, labels, teacher = torch.randn(6, 1, 8, 8), torch.arange(6) % 3, 5 * torch.randn(6, 3)

    def drawn_loss(**more: Any) -> tuple[Tensor, Tensor]:
        torch.manual_seed(2)
        return net._drawn(Batch(images, labels, 0.0, **more))

    (alone, policy), (taught, same) = (
        drawn_loss(),
        drawn_loss(teacher=teacher, targets=Targets(share=0.5, temperature=2.0)),
    )
    assert torch.allclose(policy, same)
    assert not torch.allclose(alone, taught)
