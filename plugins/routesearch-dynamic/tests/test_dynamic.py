"""Actor and critic: the paper's figures, losses and policies, on its pyramid and on other backbones."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from routesearch import Backbone, Batch, Knob, Refusal, Targets, Trunk, mult_adds, run
from routesearch.backbones import NiN, Pyramid8, ResNet38
from routesearch.methods.running import price
from routesearch.plugin.loader import load_plugins
from routesearch.routing.shapes import shapes_only
from routesearch.study.recipe import Recipe
from routesearch.testing import CHAIN, SCALES, MethodContract, toy_data
from routesearch.training.loop import fit
from routesearch_dynamic import (
    FLOOR,
    SMOOTHING,
    Actor,
    Critic,
    Dynamic,
    Prices,
    cross_entropy,
    reach,
    sink_costs,
    squares,
)

CPU = torch.device("cpu")
HYBRID = Pyramid8((3, 32, 32), 10)
SMALL = Pyramid8((1, 16, 16), 4, 0.125)
ALL = (1, 2, 3, 4, 5, 6, 7)
STATIC = (1_364_224, 5_271_808, 7_559_936, 11_393_792, 13_463_296, 17_002_240, 18_192_128, 20_551_424)
EXITS = (1_368_608, 5_280_576, 7_577_184, 11_419_520, 13_505_696, 17_061_312, 18_284_256, 20_643_552)
ROUTERS = (4_384, 4_384, 8_480, 8_480, 16_672, 16_672, 33_056)
MODES: tuple[dict[str, Any], ...] = ({}, {"branching": 2}, {"dynamic_k_cpt": True, "branching": 1})


def make(method: type[Dynamic], backbone: Backbone = SMALL, /, seed: int = 0, **fields: Any) -> Dynamic:
    torch.manual_seed(seed)
    fields = {"positions": tuple(range(1, len(backbone))), **fields}
    return method(method.Config(**fields), backbone)


def decided(method: type[Dynamic], backbone: Backbone = SMALL, /, **fields: Any) -> Dynamic:
    """A network whose routers disagree about images."""
    net = make(method, backbone, **fields)
    with torch.no_grad():
        for node in net.nodes:
            if node.router is not None:
                node.router.layers[-1].weight.normal_(std=2.0)
                node.router.layers[-1].bias.normal_(std=0.3)
    return net.eval()


def batch(backbone: Backbone = SMALL, count: int = 12, progress: float = 0.25) -> Batch:
    rng = torch.Generator().manual_seed(3)
    images = torch.randn(count, *backbone.image_shape, generator=rng)
    return Batch(images, torch.arange(count) % backbone.classes, progress)


# ---- what every method promises ----------------------------------------------------------------------


class TestActor(MethodContract):
    """A chain of units and one with lists of maps; as a chain, as a tree, and with k_cpt as an input."""

    method = Actor
    backbones: ClassVar[Any] = [CHAIN, SCALES]
    configs: ClassVar[Any] = MODES


class TestCritic(MethodContract):
    method = Critic
    backbones: ClassVar[Any] = [CHAIN]
    configs: ClassVar[Any] = [{}, {"branching": 2, "dynamic_k_cpt": True, "optimism": True}]


# ---- the paper's figures, without training -----------------------------------------------------------


class Weights:
    """Takes every way and counts as the paper does: by the weights of convolutions and linear layers."""

    def __init__(self, spent: int, routes: dict[int, int]) -> None:
        self.spent, self.routes = spent, routes

    def run(self, block: nn.Module, *inputs: Any) -> Any:
        found: list[int] = []

        def add(layer: nn.Module, _: Any, output: Tensor) -> None:
            assert isinstance(layer, nn.Conv2d | nn.Linear)
            found.append(layer.weight.numel() * output[0, 0].numel())

        layers = [m for m in block.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        handles = [layer.register_forward_hook(add) for layer in layers]
        out = block(*inputs)
        for handle in handles:
            handle.remove()
        self.spent += sum(found)
        return out

    def split(self, choice: Tensor, ways: int, *state: Any) -> Any:
        for way in range(ways):
            yield (way, Weights(self.spent, self.routes), *state)

    def finish(self, logits: Tensor, route: int = 0) -> None:
        self.routes[route] = self.spent


def by_weights(**fields: Any) -> list[int]:
    """What each route of a network on the paper's pyramid costs by its weights."""
    with shapes_only():
        net = make(Actor, HYBRID, **fields).eval()
        meter: Any = Weights(0, {})
        net.route(meter, torch.empty(1, 3, 32, 32), net.knobs()[0])
    return [meter.routes[r] for r in range(len(meter.routes))]


def test_what_an_exit_costs() -> None:
    """Eight exits of the paper's network, exactly: its columns, routers on the way and one classifier."""
    assert by_weights() == list(EXITS)
    passed = [sum(ROUTERS[: min(n, 7)]) for n in range(1, 9)]
    assert [a - b for a, b in zip(EXITS, STATIC, strict=True)] == passed


def test_what_torchinfo_adds_are_biases_and_norms() -> None:
    filters, pixels = (16, 16, 32, 32, 64, 64, 128, 128), (1360, 1360, 336, 336, 80, 80, 16, 16)
    priced = price(Actor, Actor.Config(positions=ALL), HYBRID)
    added = 0
    for n, exit_cost in enumerate(EXITS):
        scales = (4, 4, 3, 3, 2, 2, 1, 1)[n]
        added += filters[n] * pixels[n] + 2 * filters[n] * scales  # a column's biases and norms
        added += 16 + 16 + 2 + 2 * 2 * 16 if n < 7 else 0  # its router's
        assert priced.routes[n].min == priced.routes[n].max == exit_cost + added + 10
    assert priced.bounds.min == priced.routes[0].min


def test_parameters_of_the_papers_network() -> None:
    with shapes_only():
        net = make(Actor, HYBRID)
    count = {
        part: sum(p.numel() for node in net.nodes for p in (getattr(node, part) or nn.Module()).parameters())
        for part in ("column", "router", "classifier")
    }
    assert count == {"column": 511_104, "router": 92_814, "classifier": 76_880}
    assert sum(p.numel() for p in net.parameters()) == 680_798
    static = [sum(p.numel() for p in HYBRID.plain(depth=n).parameters()) for n in (1, 8)]
    assert static == [11_402, 531_594]


def test_the_branching_network() -> None:
    """47 columns, each with a classifier; 7 three-way and 32 two-way routers; 16 more MACs each of those."""
    with shapes_only():
        net = make(Actor, HYBRID, branching=3)
    ways = [node.router.layers[-1].out_features for node in net.nodes if node.router is not None]
    assert (len(net.nodes), ways.count(3), ways.count(2)) == (47, 7, 32)
    assert [len(level) for level in net.levels] == [1, 2, 4, 8, 8, 8, 8, 8]
    found = by_weights(branching=3)
    expected = [cost + 16 * min(level + 1, 3) for level, cost in enumerate(EXITS) for _ in net.levels[level]]
    assert found == expected


def test_telling_k_cpt_costs_16_multiply_adds_a_router() -> None:
    more = [b - a for a, b in zip(EXITS, by_weights(dynamic_k_cpt=True), strict=True)]
    assert more == [16 * min(n, 7) for n in range(1, 9)]


def test_a_router_by_its_layers() -> None:
    router = make(Actor, HYBRID, positions=(1,)).nodes[0].router
    assert router is not None
    kinds = [type(m) for m in router.layers]
    assert kinds == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]
    assert [(m.in_features, m.out_features) for m in router.layers if isinstance(m, nn.Linear)] == [
        (256, 16),
        (16, 16),
        (16, 2),
    ]
    assert {(m.eps, m.momentum) for m in router.layers if isinstance(m, nn.BatchNorm1d)} == {(1e-6, 0.1)}
    assert not router.layers[-1].weight.any()
    assert float(router.layers[0].weight.detach().std()) == pytest.approx(1 / 16, rel=0.05)


@pytest.mark.parametrize("method", [Actor, Critic])
def test_at_first_every_sink_is_as_likely(method: type[Dynamic]) -> None:
    """Exit i with 2^-i, the last with 2^-7, in the paper's chain."""
    net = make(method, Pyramid8((1, 16, 16), 4, 0.0625))
    _, leaves = _probabilities(net, batch(count=3))
    expected = torch.tensor([2.0**-i for i in (1, 2, 3, 4, 5, 6, 7, 7)])
    torch.testing.assert_close(leaves, expected.expand(3, -1), atol=1e-5, rtol=0)
    columns, leaves = _probabilities(make(method, branching=1, positions=(1, 2)), batch(count=3))
    torch.testing.assert_close(columns[0], torch.tensor([1, 1 / 3, 1 / 3, 1 / 6, 1 / 6]))
    torch.testing.assert_close(leaves[0], torch.tensor([1 / 3, 1 / 6, 1 / 6, 1 / 6, 1 / 6]))


def _probabilities(net: Dynamic, given: Batch) -> tuple[Tensor, Tensor]:
    net.train()
    scores = net._scores(net._columns(given.inputs), [[]])[0]
    return reach(scores, net.temperature(given.progress))


def test_the_unit_of_k_cpt_is_the_whole_backbone() -> None:
    """The paper's costs of an operation, times its 20.55 million, are our list."""
    net = make(Actor, HYBRID)
    whole = mult_adds(HYBRID.plain(), torch.zeros(1, 3, 32, 32))
    prices = net.prices
    routes = price(Actor, net.config, HYBRID).routes
    for n in range(8):
        share = float(prices.columns[: n + 1].sum() + prices.leaves[n])
        assert share * whole == pytest.approx(routes[n].min, rel=1e-5)
    paper = [0.0] + [1e-9 * 2**i for i in range(7)]
    assert [k * STATIC[-1] for k in paper] == pytest.approx(net.config.k_cpt_values, rel=0.03)


# ---- constraints -------------------------------------------------------------------------------------


def test_both_are_found_as_a_plugin() -> None:
    methods = load_plugins().methods
    assert (methods.find("actor"), methods.find("critic")) == (Actor, Critic)


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({"positions": (3, 8)}, r"positions: 1 <= position <= 7 must hold on backbone nin, got \[3, 8\]"),
        ({"positions": (0, 3)}, r"positions: 1 <= position <= 7 must hold on backbone nin, got \[0, 3\]"),
        (
            {"positions": (3, 3)},
            r"positions: increasing unit numbers must hold on backbone nin, got \[3, 3\]",
        ),
        ({"positions": ()}, r"positions: at least 1 of them must hold on backbone nin, got \[\]"),
        ({"positions": (2, 5), "branching": 3}, r"branching <= junctions must hold, got branching=3 and 2"),
    ],
)
@pytest.mark.parametrize("method", [Actor, Critic])
def test_bad_configs_are_refused(method: type[Dynamic], fields: dict[str, Any], rule: str) -> None:
    with pytest.raises(Refusal, match=f"^{method.name}: {rule}"):
        price(method, method.Config(**fields), NiN((3, 32, 32), 10))


def test_a_backbone_of_one_unit_is_refused() -> None:
    class One(Pyramid8):
        def __len__(self) -> int:
            return 1

    with pytest.raises(Refusal, match=r"^critic: a backbone must have 2 units or more, pyramid8 has 1$"):
        Critic.space(One((1, 16, 16), 4))


@pytest.mark.parametrize(
    ("fields", "knob", "rule"),
    [
        ({}, {"k_cpt": 0.1}, r"actor: knob stop_bias alone is offered without dynamic_k_cpt, got k_cpt$"),
        ({"dynamic_k_cpt": True}, {"k_cpt": 0.1}, r"actor: knob k_cpt must be one of \[0.0, 0.02, .*\], got"),
        ({"dynamic_k_cpt": True}, {}, r"actor: knob k_cpt must be one of \[0.0, 0.02, .*\], got \{\}$"),
    ],
)
def test_knobs_that_are_not_offered_are_refused(fields: dict[str, Any], knob: Knob, rule: str) -> None:
    net = decided(Actor, **fields)
    images = batch().inputs
    with pytest.raises(Refusal, match=rule):
        run(net, images, knob)
    with pytest.raises(Refusal, match=rule):
        net.decide(net.observe(images).scores, knob)


@pytest.mark.parametrize(
    "backbone", [Pyramid8((1, 16, 16), 4), NiN((1, 16, 16), 4), ResNet38((1, 16, 16), 4)]
)
def test_default_junctions_are_spread_over_a_backbone(backbone: Backbone) -> None:
    positions = Actor.space(backbone).default().model_dump()["positions"]
    assert len(positions) == 7
    assert 1 <= positions[0] < positions[-1] < len(backbone)
    assert max(b - a for a, b in pairwise(positions)) <= len(backbone) // 7 + 1


def test_all_fields_are_described_and_can_be_searched() -> None:
    searched = {
        "positions", "branching", "dynamic_k_cpt", "k_cpt", "tau", "tau_half_life", "k_l2", "talr",
        "policy_regularised",
    }  # fmt: skip
    assert set(Actor.space(SMALL).domains) == searched | {"k_dec"}
    assert set(Critic.space(SMALL).domains) == searched | {"k_ure", "optimism", "error_cost"}
    for method in (Actor, Critic):
        assert all(field.description for field in method.Config.model_fields.values())
    fixed = Critic.space(SMALL).narrow({"tau": 0.1, "k_ure": 1e-3, "tau_half_life": 0.25, "k_l2": 1e-4})
    assert fixed.default().model_dump()["k_ure"] == 1e-3
    assert Actor.space(SMALL).narrow({"k_dec": 0.0}).default().model_dump()["k_dec"] == 0.0


# ---- the policy --------------------------------------------------------------------------------------


def test_the_temperature_halves() -> None:
    net = make(Actor, tau=2.0, tau_half_life=0.25)
    assert [net.temperature(at) for at in (0.0, 0.25, 0.5, 1.0)] == [2.0, 1.0, 0.5, 0.125]
    defaults = [method.Config() for method in (Actor, Critic)]
    assert [(c.tau, c.tau_half_life) for c in defaults] == [(1.0, 0.25), (0.1, 0.25)]


WAYS = st.lists(st.sampled_from((2, 3)), min_size=1, max_size=5)


@given(WAYS, st.integers(0, 100), st.sampled_from((1e-3, 0.1, 1.0)))
def test_probabilities_by_walking_the_tree(ways: list[int], seed: int, tau: float) -> None:
    """Each node's share of its parent, by the authors' form of the floor: p_i = (p - e) pi_i + e_i."""
    scores, n = [], 1
    rng = torch.Generator().manual_seed(seed)
    for w in ways:
        scores.append(torch.randn(2, n, w, generator=rng, dtype=torch.float64))
        n *= w - 1
    columns, leaves = reach(scores, tau)
    widths = [*(s.shape[1] for s in scores), n]
    total = sum(widths)

    def share(level: int) -> float:
        return FLOOR * sum(widths[level:]) / widths[level] / total

    expected: list[list[float]] = [[] for _ in widths]
    ends: list[list[float]] = [[] for _ in widths]

    def walk(level: int, at: int, p: float) -> None:
        expected[level].append(p)
        if level == len(ways):
            ends[level].append(p)
            return
        pi = F.softmax(scores[level][0, at] / tau, 0).tolist()
        ends[level].append((p - share(level)) * pi[0] + FLOOR / total)
        for way in range(1, ways[level]):
            below = (p - share(level)) * pi[way] + share(level + 1)
            walk(level + 1, at * (ways[level] - 1) + way - 1, below)

    walk(0, 0, 1.0)
    assert columns[0].tolist() == pytest.approx([p for level in expected for p in level], rel=1e-9)
    assert leaves[0].tolist() == pytest.approx([p for level in ends for p in level], rel=1e-9)
    torch.testing.assert_close(leaves.sum(1), torch.ones(2, dtype=torch.float64))
    assert float(leaves.min()) >= FLOOR / total * (1 - 1e-9)


# ---- losses, against one image and one node at a time ------------------------------------------------


@torch.no_grad()
def naive(net: Any, given: Batch, k_cpt: float) -> tuple[float, list[list[float]]]:
    """The loss of section 4 in plain numbers, and the critic's targets of the first image."""
    net.train()
    columns = net._columns(given.inputs)
    told = [torch.full((len(given.labels), 1), k_cpt)] if net.config.dynamic_k_cpt else []
    levels = [s.double() for s in net._scores(columns, [told])[0]]
    logits = net._logits(columns).double()
    tau, classes = net.temperature(given.progress), logits.shape[2]
    whole = float(mult_adds(net.backbone.plain(), given.inputs))
    outputs = [x for level in columns for x in level]
    starts = [level.start for level in net.levels]
    below = [0] * len(net.nodes)
    for level in reversed(range(len(net.levels))):
        for at, n in enumerate(net.levels[level]):
            kids = _children(net, level, at)
            below[n] = 1 + sum(below[k] for k in kids)
    total, first = 0.0, []

    def ops(block: nn.Module, *inputs: Any) -> float:
        return mult_adds(block, *inputs) / whole

    for i, label in enumerate(given.labels.tolist()):
        targets: list[list[float]] = [[] for _ in net.nodes]

        def error(n: int, label: int = label, i: int = i) -> float:
            p = float(F.softmax(logits[i, n], 0)[label])
            return -float(torch.tensor(SMOOTHING / classes + (1 - SMOOTHING) * p).log())

        def wrong(n: int, label: int = label, i: int = i) -> float:
            if net.name == "critic" and net.config.error_cost == "error":
                return float(int(logits[i, n].argmax()) != label)
            return error(n)

        def node_ops(n: int, level: int, at: int) -> float:
            ways = net.sinks[level - 1] - 1 if level else 1
            before = columns[level - 1][at // ways] if level else given.inputs
            return ops(net.nodes[n].column, before)

        def cost(level: int, at: int, i: int = i, targets: Any = targets) -> float:
            """Cost of arriving at a column: its own, and what follows by the policy that targets assume."""
            n = starts[level] + at
            node = net.nodes[n]
            spent = k_cpt * node_ops(n, level, at)
            stop = wrong(n) + k_cpt * ops(node.classifier, outputs[n])
            if node.router is None:
                return spent + stop
            spent += k_cpt * ops(node.router, outputs[n], *[t[:1] for t in told])
            kids = _children(net, level, at)
            c = [stop] + [cost(level + 1, k - starts[level + 1]) for k in kids]
            targets[n] = c
            best = min(c) if getattr(net.config, "optimism", False) else c[int(levels[level][i, at].argmax())]
            return spent + best

        def walk(level: int, at: int, p: float, i: int = i, targets: Any = targets) -> float:
            n = starts[level] + at
            node = net.nodes[n]
            fine = FLOOR / len(net.nodes)
            found = p * net.config.k_l2 * float(squares(node.column, node.router))
            if net.name == "actor":
                found += p * k_cpt * node_ops(n, level, at)
            if node.router is None:
                end = p
            else:
                s = levels[level][i, at]
                if net.name == "actor":
                    found += p * k_cpt * ops(node.router, outputs[n], *[t[:1] for t in told])
                    found += p * net.config.k_dec * float(s.square().sum())
                else:
                    off = [(float(a) + b) ** 2 for a, b in zip(s, targets[n], strict=True)]
                    found += p * net.config.k_ure * sum(off)
                pi = F.softmax(s / tau, 0).tolist()
                rest = p - below[n] * fine
                end = rest * pi[0] + fine
                for way, k in enumerate(_children(net, level, at), 1):
                    found += walk(level + 1, k - starts[level + 1], rest * pi[way] + below[k] * fine)
            found += end * (error(n) + net.config.k_l2 * float(squares(node.classifier)))
            if net.name == "actor":
                found += end * k_cpt * ops(node.classifier, outputs[n])
            return found

        cost(0, 0)
        first = first or targets
        total += walk(0, 0, 1.0)
    return total / len(given.labels), first


def _children(net: Any, level: int, at: int) -> list[int]:
    if level == len(net.sinks):
        return []
    ways = net.sinks[level] - 1
    return [net.levels[level + 1].start + at * ways + way for way in range(ways)]


VARIANTS = [
    (Actor, {}),
    (Actor, {"branching": 2, "k_dec": 0.07, "policy_regularised": True}),
    (Critic, {}),
    (Critic, {"branching": 1, "error_cost": "error", "k_ure": 0.3}),
    (Critic, {"branching": 2, "optimism": True, "k_ure": 0.3}),
]


@pytest.mark.parametrize(("method", "fields"), VARIANTS)
def test_losses_against_a_plain_walk(method: type[Dynamic], fields: dict[str, Any]) -> None:
    net = decided(method, positions=(1, 3, 6), k_cpt=0.7, k_l2=1e-2, tau=3.0, **fields)
    given = batch()
    expected, _ = naive(net, given, 0.7)
    net.train()
    assert float(net._loss(given).detach()) == pytest.approx(expected, rel=1e-4)


def test_a_drawn_k_cpt_is_what_its_router_is_told_and_what_is_paid(monkeypatch: pytest.MonkeyPatch) -> None:
    values = (0.0, 5.0)
    net = decided(Actor, positions=(1, 3), dynamic_k_cpt=True, k_cpt_values=values)
    given = batch(count=6)
    drawn = torch.tensor([[0], [1], [1], [0], [1], [0]])
    monkeypatch.setattr(torch, "randint", lambda *_, **__: drawn)
    k = torch.tensor(values)[drawn]
    net.stages()
    seen: list[Tensor] = []
    handles = [
        n.router.layers[0].register_forward_hook(lambda m, x, y: seen.append(x[0])) for n in net.nodes[:2]
    ]
    net.train()
    loss = net._loss(given)
    for handle in handles:
        handle.remove()
    assert all(torch.equal(x[:, -1:], k) for x in seen)
    columns = net._columns(given.inputs)
    p, leaves = reach(net._scores(columns, [[k]])[0], net.temperature(0.25))
    errors = cross_entropy(net._logits(columns), given.labels)
    prices = net.prices
    paid = k * (p * prices.columns + leaves * prices.leaves)
    s = torch.cat([s.square().sum(2) for s in net._scores(columns, [[k]])[0]], 1)
    rest = 0.01 * (p[:, :2] * s).sum(1) + net._complexity((p, leaves))
    torch.testing.assert_close(loss, ((leaves * errors + paid).sum(1) + rest).mean())


def test_pragmatic_and_optimistic_targets() -> None:
    """A chain of two junctions by hand: errors 2, 1, 5; the second router would go on, which is worse."""
    scores = [torch.tensor([[[0.0, 1.0]]]), torch.tensor([[[0.0, 1.0]]])]
    errors = torch.tensor([[2.0, 1.0, 5.0]])
    prices = Prices(torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.01, 0.02, 0.03]))
    pragmatic = sink_costs(scores, errors, prices, 10.0, optimistic=False)
    optimistic = sink_costs(scores, errors, prices, 10.0, optimistic=True)
    last = [1 + 0.2, 3 + 5 + 0.3]
    torch.testing.assert_close(pragmatic[1].flatten(), torch.tensor(last))
    torch.testing.assert_close(optimistic[1].flatten(), torch.tensor(last))
    torch.testing.assert_close(pragmatic[0].flatten(), torch.tensor([2.1, 2 + last[1]]))
    torch.testing.assert_close(optimistic[0].flatten(), torch.tensor([2.1, 2 + last[0]]))


def test_a_prediction_keeps_a_little_of_every_class() -> None:
    logits = torch.tensor([[[1000.0, 0.0, 0.0, 0.0]]])
    sure, wrong = (float(cross_entropy(logits, torch.tensor([y]))) for y in (0, 1))
    assert sure == pytest.approx(0.75e-6, abs=2e-7)
    assert wrong == pytest.approx(-torch.tensor(0.25e-6).log().item(), rel=1e-5)


# ---- gradients ---------------------------------------------------------------------------------------


def score_gradient(method: type[Dynamic], **fields: Any) -> Tensor:
    """Gradient of the first router's bias."""
    net = decided(method, positions=(2, 4), tau=3.0, **fields)
    net.train()
    net._loss(batch()).backward()
    gradient = net.nodes[0].router.layers[-1].bias.grad
    return gradient if gradient is not None else torch.zeros(2)


def test_an_actors_scores_follow_errors_and_computation_and_not_the_penalties() -> None:
    plain = score_gradient(Actor, k_dec=0.0, k_l2=0.0)
    assert plain.abs().sum() > 1e-4
    torch.testing.assert_close(score_gradient(Actor, k_dec=0.0, k_l2=0.1), plain)
    assert not torch.allclose(score_gradient(Actor, k_dec=0.0, k_l2=0.0, k_cpt=5.0), plain)
    assert not torch.allclose(score_gradient(Actor, k_dec=0.1, k_l2=0.0), plain), "k_dec shrinks them itself"
    moved = score_gradient(Actor, k_dec=0.0, k_l2=0.1, policy_regularised=True)
    assert moved[1] - moved[0] > plain[1] - plain[0], "a penalised policy stops sooner"


def test_a_critics_scores_follow_their_predictions_alone() -> None:
    nothing = score_gradient(Critic, k_ure=0.0, k_l2=0.1)
    assert not nothing.any()
    one, ten = (score_gradient(Critic, k_ure=k, k_l2=0.0) for k in (1.0, 10.0))
    torch.testing.assert_close(ten, 10 * one)
    assert one.abs().sum() > 1e-3
    assert score_gradient(Critic, k_ure=0.0, k_l2=0.1, policy_regularised=True).any()


def test_classifiers_learn_by_the_probability_of_their_exit() -> None:
    """The critic's do too: k_ure moves routers and columns, never a classifier."""
    grads = []
    for k in (0.0, 10.0):
        net = decided(Critic, positions=(2,), k_ure=k, k_l2=0.0)
        net.train()
        net._loss(batch()).backward()
        grads.append(net.nodes[0].classifier[1].weight.grad)
    torch.testing.assert_close(grads[0], grads[1])


@pytest.mark.parametrize("method", [Actor, Critic])
def test_learning_rates_follow_throughput(method: type[Dynamic]) -> None:
    """Gradients by 1 / sqrt(mean p^2): a column's and its router's by its p, a classifier's by its leaf's."""
    plain, adjusted = (decided(method, positions=(1, 4), talr=talr, tau=3.0) for talr in (False, True))
    given = batch()
    for net in (plain, adjusted):
        net.train()
        [stage] = net.stages()
        stage.loss(given).backward()
        stage.after_backward()
    columns, leaves = _probabilities(plain, given)
    for n, (a, b) in enumerate(zip(plain.nodes, adjusted.nodes, strict=True)):
        for part, p in (("column", columns), ("router", columns), ("classifier", leaves)):
            factor = 1 / p[:, n].detach().square().mean().sqrt()
            assert n or part == "classifier" or float(factor) == 1.0, "nothing to make up for at p = 1"
            for x, y in zip(*((getattr(m, part) or nn.Module()).parameters() for m in (a, b)), strict=True):
                assert (x.grad is None) == (y.grad is None)
                if x.grad is not None:
                    torch.testing.assert_close(y.grad, x.grad * factor, rtol=1e-4, atol=1e-7)


def test_the_variance_of_a_gradient_is_then_that_of_full_throughput() -> None:
    """Eq. 13 to 15, with the factor that solves them: sqrt(n) / |p|, not the printed 1 / |p|."""
    rng = torch.Generator().manual_seed(0)
    g, p = torch.randn(128, 20_000, generator=rng), torch.rand(128, 1, generator=rng)
    routed, alone = (p * g).mean(0) / p.square().mean().sqrt(), g.mean(0)
    assert float(routed.var() / alone.var()) == pytest.approx(1.0, rel=0.05)


@pytest.mark.parametrize("branching", [0, 3])
def test_on_the_pyramid_only_dropped_norms_learn_nothing(branching: int) -> None:
    """The finest maps of columns 2, 4 and 6, which no column and no classifier reads, in every branch."""
    net = decided(Actor, branching=branching)
    net.train()
    net._loss(batch()).backward()
    unread = {n for n, p in net.named_parameters() if p.grad is None}
    expected = {
        f"nodes.{number}.column.0.norms.0.{part}"
        for level in (1, 3, 5)
        for number in net.levels[level]
        for part in ("weight", "bias")
    }
    assert unread == expected


# ---- routes and knobs --------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", MODES)
def test_stored_decisions_are_those_of_the_pyramids_routes(fields: dict[str, Any]) -> None:
    net = decided(Actor, **fields)
    images = batch(count=40).inputs
    with torch.inference_mode():
        scores = net.observe(images)
        for knob in net.knobs(scores)[::25]:
            routed = run(net, images, knob)
            assert torch.equal(net.decide(scores.scores, knob), routed.route)
            assert torch.equal(
                scores.predictions.gather(1, routed.route[:, None])[:, 0], routed.logits.argmax(1)
            )
    assert len(run(net, images).route.unique()) >= 3


def test_the_default_is_the_highest_score() -> None:
    net = decided(Critic)
    images = batch(count=40).inputs
    assert net.knobs()[0] == {"stop_bias": 0.0}
    with torch.inference_mode():
        scores = net._scores(net._columns(images), [[]])[0]
    expected = []
    for i in range(40):
        goes = [bool(s[i, 0, 1] > s[i, 0, 0]) for s in scores]
        expected.append(goes.index(False) if False in goes else 7)
    assert run(net, images).route.tolist() == expected


def test_a_bias_on_stopping_sweeps_from_the_last_exit_to_the_first() -> None:
    net = decided(Actor)
    images = batch(count=40).inputs
    with torch.inference_mode():
        scores = net.observe(images)
    routes = [
        net.decide(scores.scores, knob).float()
        for knob in sorted(net.knobs(scores)[1:], key=lambda knob: knob["stop_bias"])
    ]
    assert set(routes[0].tolist()) == {7.0}
    assert set(routes[-1].tolist()) == {0.0}
    assert all(bool((b <= a).all()) for a, b in pairwise(routes))


# ---- a short training --------------------------------------------------------------------------------


def test_computation_that_costs_more_is_done_less() -> None:
    data = toy_data(3, (1, 8, 8))
    backbone = Pyramid8((1, 8, 8), 3, 0.125)
    recipe = Recipe(batch_size=16, learning_rate=0.01, weight_decay=0.0)
    images = data.inputs(data.validation.pixels)
    spent = []
    for k_cpt in (0.001, 10.0):
        net = make(Actor, backbone, positions=(1, 3, 5), k_cpt=k_cpt)
        fit(net, net.stages(), data, recipe, epochs=6, seed=0, device=CPU)
        spent.append(float(run(net, images).macs.double().mean()))
    assert spent[1] < spent[0]
    assert spent[1] == net.bounds().min, "ten times the cross-entropy: all leave at once"


# ---- starting from the trunk -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Actor, Critic])
@pytest.mark.parametrize("branching", [0, 2])
def test_the_first_chain_is_the_trunk_and_others_differ_a_little(kind: Any, branching: int) -> None:
    backbone = ResNet38((1, 8, 8), 3, 0.25)
    torch.manual_seed(1)
    plain = backbone.plain().eval()
    trunk, images = Trunk(plain.state_dict(), 0.5), torch.randn(5, 1, 8, 8)
    config = kind.Config(positions=(4, 9, 14), branching=branching)
    net = kind(config, backbone, trunk).eval()
    with torch.no_grad():
        logits = net._logits(net._columns(images))
    last = net.levels[-1]
    assert torch.allclose(logits[:, last.start], plain(images), atol=1e-4)
    assert len(last) == 2**branching
    apart = [(logits[:, n] - logits[:, last.start]).abs().max() for n in last[1:]]
    assert all(float(gap) > 1e-3 for gap in apart)
    scratch = kind(config.model_copy(update={"start": "scratch"}), backbone, trunk).eval()
    with torch.no_grad():
        other = scratch._logits(scratch._columns(images))
    assert not torch.allclose(other[:, last.start], plain(images), atol=1e-2)


@pytest.mark.parametrize("kind", [Actor, Critic])
def test_routers_weigh_what_labels_say_and_classifiers_learn_from_the_teacher_too(kind: Any) -> None:
    backbone = ResNet38((1, 8, 8), 3, 0.25)
    torch.manual_seed(1)
    net = kind(kind.Config(positions=(4, 9)), backbone)
    net.stages()
    images, labels, teacher = torch.randn(8, 1, 8, 8), torch.arange(8) % 3, 5 * torch.randn(8, 3)

    def gradients(**more: Any) -> dict[str, Tensor]:
        net.zero_grad()
        net._loss(Batch(images, labels, 0.5, **more)).backward()
        return {n: p.grad.clone() for n, p in net.named_parameters() if p.grad is not None}

    alone = gradients()
    taught = gradients(teacher=teacher, targets=Targets(share=0.5, temperature=2.0))
    for name, gradient in alone.items():
        same = torch.allclose(gradient, taught[name], atol=1e-6)
        assert same or ".router." not in name, name
    assert not torch.allclose(alone["nodes.0.classifier.1.weight"], taught["nodes.0.classifier.1.weight"])
