"""The jungle: identities of its guided loss, and maps read in groups."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from routesearch import Backbone, Batch, Data, Refusal, RunFailed, Stage, Trunk, mult_adds, run
from routesearch.backbones import (
    AlexNetCifar,
    DenseNet201Cifar,
    NiN,
    Pyramid8,
    ResNet38,
    VGG16Cifar,
    WRN28x10,
)
from routesearch.evaluation.measure import measure
from routesearch.plugin.loader import load_plugins
from routesearch.study.recipe import Recipe
from routesearch.testing import MethodContract, toy_data
from routesearch.training.loop import fit, to_device, training_work
from routesearch.training.state_arrays import states
from routesearch_jungle import (
    Jungle,
    Opened,
    Part,
    Reader,
    assign,
    deviation,
    first_conv,
    guide,
    joint,
    responses,
)

CPU = torch.device("cpu")
RECIPE = Recipe(batch_size=16, epochs=6, learning_rate=0.005)
FEWER = "a unit must not have fewer maps than classes for the jungle, "


class ResNet8(ResNet38):
    """Three residual blocks, two of them with a projection."""

    name = "resnet8"
    blocks = 1


@pytest.fixture(scope="module")
def data() -> Data:
    """Four patterns of 1 x 8 x 8 under noise, two of each superclass."""
    return toy_data(4, counts=(96, 48, 24), superclass=True)


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return NiN((1, 8, 8), 4, 0.1)


def make(backbone: Backbone, /, seed: int = 0, trunk: Trunk | None = None, **fields: Any) -> Jungle:
    """A jungle on a given trunk, or on one that is random itself."""
    torch.manual_seed(seed)
    if trunk is None:
        trunk = Trunk(backbone.plain().state_dict(), 0.0)
    return Jungle(Jungle.space(backbone).parse(fields), backbone, trunk)


@pytest.fixture(scope="module")
def trunk(backbone: Backbone, data: Data) -> Trunk:
    torch.manual_seed(0)
    plain = to_device(backbone.plain(), CPU)
    stage = Stage(lambda batch: F.cross_entropy(plain(batch.inputs), batch.labels))
    fit(plain, [stage], data, RECIPE, epochs=25, seed=0, device=CPU)
    return Trunk(states(plain), 0.0)


def train(net: Jungle, data: Data, recipe: Recipe = RECIPE) -> Jungle:
    fit(net, net.stages(), data, recipe, epochs=recipe.epochs, seed=0, device=CPU)
    return net.eval()


@pytest.fixture(scope="module")
def trained(backbone: Backbone, trunk: Trunk, data: Data) -> Jungle:
    return train(to_device(make(backbone, trunk=trunk), CPU), data)


def dense(net: Jungle, x: Tensor) -> Tensor:
    with torch.no_grad():
        for unit in net.chain:
            x = unit(x)
    return x


def readers(net: Jungle) -> list[Reader]:
    return [unit.reader for unit in net.chain if isinstance(unit, Opened)]


class TestContract(MethodContract):
    """Both guides and scales, superclasses, and groups that are fewer than classes."""

    method = Jungle
    configs = (
        {},
        {"guide": "class", "scale": "plain", "groups": 2},
        {"from_unit": 3, "guide": "class", "balance": 1.0},
        {"scale": "plain", "aux_units": [4, 5], "aux_classes": 2},
    )


# ---- S, G and the loss -------------------------------------------------------------------------------


@st.composite
def masses(draw: st.DrawFn, smallest: float = 0.0, layers: int | None = None) -> Tensor:
    """M of some layers: independent entries, few distinct ones, dead nodes, or one ranking for all nodes."""
    classes = draw(st.integers(2, 6))
    nodes = draw(st.integers(classes, 15))
    count = draw(st.integers(1, 3)) if layers is None else layers
    random = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    entries = torch.rand(count, nodes, classes, generator=random) + smallest
    kind = draw(st.sampled_from(["free", "ties", "dead", "ranked"]))
    if kind == "ties":
        return (3 * entries).ceil() if smallest else (3 * entries).floor()
    if kind == "dead" and not smallest:
        return entries * (torch.rand(count, nodes, 1, generator=random) > 0.4)
    if kind == "ranked":
        return entries[:, :, :1] * entries[:, :1]
    return entries


def greedy(mass: Tensor) -> Tensor:
    """The paper's visit of one layer's entries, one after the other."""
    nodes, classes = mass.shape
    room, more = [nodes // classes] * classes, nodes % classes
    serves = torch.zeros_like(mass)
    for k, c in sorted(
        ((k, c) for k in range(nodes) for c in range(classes)), key=lambda at: -float(mass[at])
    ):
        if serves[k].any() or (not room[c] and (not more or serves[:, c].sum() > nodes // classes)):
            continue
        if room[c]:
            room[c] -= 1
        else:
            more -= 1
        serves[k, c] = 1
    return serves


@given(masses())
@settings(max_examples=150, deadline=None)
def test_nodes_are_assigned_as_the_paper_visits_them(mass: Tensor) -> None:
    assert torch.equal(assign(mass), torch.stack([greedy(layer) for layer in mass]))


@given(masses())
@settings(max_examples=50, deadline=None)
def test_a_node_serves_one_class_and_classes_are_served_equally(mass: Tensor) -> None:
    """No class is left out, even where N_l is not a multiple of C."""
    serves = assign(mass)
    assert torch.equal(serves.sum(2), torch.ones(mass.shape[:2]))
    counts = serves.sum(1)
    assert bool((counts.amax(1) - counts.amin(1) <= 1).all())
    if mass.shape[1] % mass.shape[2] == 0:
        assert counts.unique().tolist() == [mass.shape[1] // mass.shape[2]]


@pytest.mark.parametrize(("nodes", "classes"), [(192, 100), (192, 10), (100, 100), (5, 2)])
def test_as_many_rounds_as_classes_are_enough(nodes: int, classes: int) -> None:
    """Where all nodes rank the classes alike each class is filled only after the one before."""
    random = torch.Generator().manual_seed(0)
    mass = torch.rand(1, nodes, 1, generator=random) * torch.rand(1, 1, classes, generator=random)
    assert torch.equal(assign(mass)[0], greedy(mass[0]))


@given(masses(), st.floats(0.01, 1))
@settings(max_examples=50, deadline=None)
def test_each_guide_keeps_its_mass(mass: Tensor, balance: float) -> None:
    torch.testing.assert_close(guide(mass, balance, "node").sum(2), mass.sum(2))
    torch.testing.assert_close(guide(mass, balance, "class").sum(1), mass.sum(1))


def test_a_guide_by_hand() -> None:
    """Two nodes want class 0; it has room for one, the louder."""
    mass = torch.tensor([[[4.0, 2.0], [3.0, 1.0]]])
    assert assign(mass).tolist() == [[[1, 0], [0, 1]]]
    assert guide(mass, 1.0, "node").tolist() == [[[6, 0], [0, 4]]]
    assert guide(mass, 1.0, "class").tolist() == [[[7, 0], [0, 3]]]
    assert guide(mass, 0.5, "node").tolist() == [[[5, 1], [1.5, 2.5]]]
    assert float(deviation(mass, guide(mass, 1.0, "node"), "plain")) == 4 + 4 + 9 + 9
    assert float(deviation(mass, guide(mass, 1.0, "node"), "relative")) == pytest.approx(26 / 30)


def entropy(mass: Tensor) -> Tensor:
    """H of each layer, Eq. 4: of the joint distribution of nodes and classes."""
    p = mass / mass.sum((1, 2), keepdim=True)
    return -torch.special.xlogy(p, p).sum((1, 2))


@given(masses(smallest=0.01), st.floats(0.01, 1))
@settings(max_examples=80, deadline=None)
def test_the_guide_has_less_entropy(mass: Tensor, balance: float) -> None:
    """This holds at full balance, and at any where each node serves the class that it responds to most.

    A node that must serve another class passes through mixed states on its way there. Where classes keep
    their mass, nodes grow and fade, and only the entropy of classes given the node is sure to fall: to 0.
    """
    assert bool((entropy(guide(mass, 1.0, "node")) <= entropy(mass) + 1e-4).all())
    assert torch.equal(guide(mass, 1.0, "class").gt(0).sum(2), torch.ones(mass.shape[:2], dtype=torch.int64))
    best = assign(mass) * mass == mass.amax(2, keepdim=True)
    free = best.any(2).all(1)
    assert bool((entropy(guide(mass, balance, "node")) <= entropy(mass) + 1e-4)[free].all())


@pytest.mark.parametrize("keep", ["node", "class"])
@pytest.mark.parametrize("scale", ["relative", "plain"])
def test_the_gradient_is_that_of_a_guide_held_still(keep: str, scale: str) -> None:
    """Eq. 7, by finite differences: 2 (M - G); relative: over |M|^2, and none of it along M."""
    random = torch.Generator().manual_seed(1)
    mass = torch.rand(2, 6, 3, generator=random, dtype=torch.float64).requires_grad_()
    goal = guide(mass.detach(), 0.4, keep)
    (gradient,) = torch.autograd.grad(deviation(mass, goal, scale), mass)
    still = mass.detach()
    size = still.square().sum((1, 2), keepdim=True).sqrt()

    def loss(m: Tensor) -> Tensor:
        if scale == "relative":
            return (m / m.square().sum((1, 2), keepdim=True).sqrt() - goal / size).square().sum()
        return (m - goal).square().sum()

    for at in [(0, 0, 0), (1, 5, 2), (0, 3, 1)]:
        step = torch.zeros_like(still)
        step[at] = 1e-6
        assert float((loss(still + step) - loss(still - step)) / 2e-6) == pytest.approx(
            float(gradient[at]), abs=1e-4
        )
    expected = 2 * (still - goal)
    if scale == "relative":
        along = (expected * still).sum((1, 2), keepdim=True) / size**2
        expected = (expected - along * still) / size**2
        assert float((gradient * still).sum().abs()) < 1e-12
    torch.testing.assert_close(gradient, expected)


@given(masses(smallest=0.1), st.sampled_from(["relative", "plain"]))
@settings(max_examples=30, deadline=None)
def test_no_loss_and_no_gradient_at_the_goal(mass: Tensor, scale: str) -> None:
    pure = guide(mass, 1.0, "node").requires_grad_()
    loss = deviation(pure, guide(pure.detach(), 1.0, "node"), scale)
    (gradient,) = torch.autograd.grad(loss, pure)
    assert float(loss.detach()) == pytest.approx(0, abs=1e-9)
    assert float(gradient.abs().max()) == pytest.approx(0, abs=1e-5)


def test_a_silent_layer_has_no_loss() -> None:
    silent = torch.zeros(1, 4, 2, requires_grad=True)
    loss = deviation(silent, guide(silent.detach(), 0.5, "class"), "relative")
    assert float(loss.detach()) == 0
    assert torch.autograd.grad(loss, silent)[0].unique().tolist() == [0]


def test_a_scale_that_layers_cannot_change() -> None:
    mass = torch.rand(2, 6, 3)
    for keep in ("node", "class"):
        losses = [float(deviation(m, guide(m, 0.3, keep), "relative")) for m in (mass, 100 * mass)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_m_is_the_mean_response_by_class() -> None:
    r = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [0.0, 0.0]])
    assert joint(r, torch.tensor([0, 1, 0, 2]), 3).tolist() == [[1.5, 0.75, 0], [2, 1, 0]]


# ---- training ----------------------------------------------------------------------------------------


def test_the_loss_is_softmax_and_every_layers_deviation(backbone: Backbone, data: Data) -> None:
    """Deviations are of the unit's output: maps as ReLU and pooling leave them, and averages over them."""
    net = make(backbone, from_unit=3, balance=0.3).eval()
    x, labels = data.inputs(data.train.pixels[:16]), data.train.labels[:16]
    expected, y = 0.0, x
    for k, unit in enumerate(net.chain, 1):
        y = unit(y)
        if 3 <= k <= 8:
            mass = torch.stack([y[labels == c].relu().mean((2, 3)).sum(0) for c in range(4)], 1)[None] / 16
            goal = 0.7 * mass + 0.3 * assign(mass) * mass.sum(2, keepdim=True)
            expected += float(((mass - goal).square().sum() / mass.square().sum()).detach())
    expected += float(F.cross_entropy(y, labels).detach())
    assert float(net._loss(Batch(x, labels, 0.0)).detach()) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("keep", ["node", "class"])
def test_steps_down_the_loss_purify_nodes(backbone: Backbone, trunk: Trunk, data: Data, keep: str) -> None:
    """A larger share of responses comes from the class that a node serves, and layers grow no louder."""
    net = make(backbone, trunk=trunk, balance=0.3, from_unit=5, guide=keep).eval()
    batch = Batch(data.inputs(data.train.pixels), data.train.labels, 0.0)
    optimizer = torch.optim.SGD(net.parameters(), 0.03)

    def masses() -> Tensor:
        x, found = batch.inputs, []
        with torch.no_grad():
            for k, unit in enumerate(net.chain, 1):
                x = unit(x)
                if k in net.nodes:
                    found.append(joint(responses(x), batch.labels, 4))
        return torch.stack(found)

    def purity(mass: Tensor) -> float:
        return float(((assign(mass) * mass).sum((1, 2)) / mass.sum((1, 2))).mean())

    before = masses()
    for _ in range(60):
        optimizer.zero_grad()
        net._loss(batch).backward()
        optimizer.step()
    assert purity(masses()) > purity(before) + 0.05
    assert masses().sum() < 2 * before.sum()


def test_batches_are_balanced(trained: Jungle, data: Data) -> None:
    (stage,) = trained.stages()
    labels = torch.tensor([0] * 50 + [1] * 10 + [2] * 10 + [3] * 10)
    for rows in stage.batches(labels, 18, torch.Generator()):
        assert labels[rows].bincount().tolist() == [4, 4, 4, 4]


def test_work_in_training_is_the_backbones(backbone: Backbone, data: Data) -> None:
    net, plain = make(backbone), backbone.plain()
    x, labels = data.inputs(data.train.pixels[:8]), data.train.labels[:8]
    with training_work(net) as ours:
        net._loss(Batch(x, labels, 0.0))
    with training_work(plain) as theirs:
        plain(x)
    assert ours.macs == theirs.macs


def test_it_starts_as_its_trunk(backbone: Backbone, trunk: Trunk) -> None:
    net, x = make(backbone, trunk=trunk).eval(), torch.rand(3, 1, 8, 8)
    plain = backbone.plain().eval()
    plain.load_state_dict(dict(trunk.state))
    torch.testing.assert_close(dense(net, x), plain(x))
    assert sum(p.numel() for p in net.parameters()) == sum(p.numel() for p in plain.parameters())


# ---- superclasses ------------------------------------------------------------------------------------


def test_superclasses_replace_classes_in_chosen_units(backbone: Backbone, data: Data) -> None:
    net = make(backbone, from_unit=2, aux_units=[4, 5], aux_classes=2).train()
    x, labels = data.inputs(data.train.pixels[:16]), data.train.labels[:16]
    net._loss(Batch(x, labels, 0.0, {"superclass": labels % 2}))
    assert net.nodes == {k: 2 if k in (4, 5) else 4 for k in range(2, 9)}
    assert [len(r.sizes) for r in readers(net)] == [4, 4, 2, 2, 4, 4, 4]
    assert net.alike[19, 2] == [4, 5]
    assert bool((net.get_buffer("mass_19x2").sum((1, 2)) > 0).all())


def test_a_superclass_is_the_sum_of_its_classes() -> None:
    r, labels = torch.rand(12, 5), torch.arange(12) % 4
    whole = joint(r, labels, 4)
    torch.testing.assert_close(joint(r, labels % 2, 2), whole[:, :2] + whole[:, 2:])


def test_a_network_with_superclasses_trains(backbone: Backbone, data: Data) -> None:
    net = train(make(backbone, aux_units=[2, 8], aux_classes=2, balance=0.5), data)
    assert net.get_buffer("mass_19x2").sum() > 0
    assert measure(net, data, data.validation, CPU)


def test_data_without_superclasses_are_refused(backbone: Backbone, data: Data) -> None:
    net = make(backbone, aux_units=[8], aux_classes=2)
    rule = r"^jungle: aux_units need data with superclass labels, got none beside classes$"
    with pytest.raises(Refusal, match=rule):
        net._loss(Batch(data.inputs(data.train.pixels[:8]), data.train.labels[:8], 0.0))


def test_more_superclasses_than_said_are_refused(backbone: Backbone, data: Data) -> None:
    net = make(backbone, aux_units=[8], aux_classes=2)
    labels = data.train.labels[:8]
    rule = r"^jungle: superclass < aux_classes must hold for all images, got superclass=3, aux_classes=2$"
    with pytest.raises(Refusal, match=rule):
        net._loss(Batch(data.inputs(data.train.pixels[:8]), labels, 0.0, {"superclass": labels}))


# ---- groups ------------------------------------------------------------------------------------------


def test_groups_hold_the_nodes_of_a_class() -> None:
    """Larger groups first, of equal ones the one with more mass; a class' nodes stay together."""
    reader = Reader(nn.Conv2d(5, 1, 1), 2)
    mass = torch.tensor([[1.0, 0], [0, 9], [2, 0], [0, 9], [3, 0]])
    reader.group(mass)
    assert reader.sizes == [3, 2]
    assert reader.order.tolist() == [0, 2, 4, 1, 3]
    reader = Reader(nn.Conv2d(4, 1, 1), 2)
    reader.group(mass[:4])
    assert reader.order.tolist() == [1, 3, 0, 2]


def test_classes_share_groups_where_these_are_fewer() -> None:
    reader = Reader(nn.Conv2d(8, 1, 1), 2)
    mass = torch.eye(4).repeat(2, 1) + torch.tensor([0.5, 0, 0, 0])[None]
    reader.group(mass)
    assert sorted(sorted(half.tolist()) for half in reader.order.split(4)) == [[0, 1, 4, 5], [2, 3, 6, 7]]


@given(st.integers(2, 6), st.integers(0, 20), st.booleans(), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_parts_add_up_to_the_whole(groups: int, more: int, bias: bool, seed: int) -> None:
    """Their prices add up too: the bias is charged once."""
    torch.manual_seed(seed)
    channels = groups + more
    reader = Reader(nn.Conv2d(channels, 3, 3, padding=1, bias=bias), groups).eval()
    reader.group(torch.rand(channels, groups + 1 if more else groups))
    assert sorted(reader.order.tolist()) == list(range(channels))
    x, y, price = torch.rand(2, channels, 4, 4), None, 0
    for part, nodes in zip(reader.parts, reader.order.split(reader.sizes), strict=True):
        part.slice(nodes)
        price += mult_adds(part, x[:, nodes], *([] if y is None else [y]))
        y = part(x[:, nodes], y)
    torch.testing.assert_close(y, reader(x), rtol=1e-4, atol=1e-5)
    assert price == mult_adds(reader, x)


def test_a_part_follows_its_weights() -> None:
    conv = nn.Conv2d(4, 2, 1)
    part, nodes, x = Part(conv, first=True), torch.tensor([1, 3]), torch.rand(1, 2, 2, 2)
    part.slice(nodes)
    before = part(x)
    part.slice(nodes)
    assert torch.equal(part(x), before)
    with torch.no_grad():
        conv.weight.add_(1.0)
    part.slice(nodes)
    torch.testing.assert_close(part(x), F.conv2d(x, conv.weight[:, nodes], conv.bias))
    nodes.copy_(torch.tensor([0, 2]))
    part.slice(nodes)
    torch.testing.assert_close(part(x), F.conv2d(x, conv.weight[:, [0, 2]], conv.bias))
    assert conv.weight.shape == (2, 4, 1, 1)
    assert isinstance(conv.weight, nn.Parameter)


@pytest.mark.parametrize(
    "backbone",
    [kind((1, 8, 8), 4, 0.1) for kind in (NiN, VGG16Cifar, AlexNetCifar)] + [ResNet8((1, 8, 8), 4)],
    ids=lambda b: b.name,
)
def test_all_groups_read_is_the_network_itself(backbone: Backbone, data: Data) -> None:
    """It costs what the backbone does for any groups; the shortcut of a residual unit reads all maps."""
    net = make(backbone, from_unit=1).train()
    images = data.inputs(data.validation.pixels)
    net._loss(Batch(images, data.validation.labels, 0.0))
    net.eval()
    assert any(r.order.tolist() != list(range(len(r.order))) for r in readers(net))
    routed = run(net, images)
    torch.testing.assert_close(routed.logits, dense(net, images), rtol=1e-4, atol=1e-5)
    assert routed.macs.unique().tolist() == [mult_adds(backbone.plain(), images)]
    bounds = net.bounds()
    ends = [run(net, images, net.knobs()[at]).macs.unique().tolist() for at in (0, -1)]
    assert ends == [[bounds.max], [bounds.min]]
    assert net.knobs()[0] == {"threshold": 0.0}


def test_an_unread_group_adds_nothing(trained: Jungle, data: Data) -> None:
    """Routing is the dense network with quiet maps put to 0 on their way into the next convolution."""
    images = data.inputs(data.validation.pixels)
    for threshold in (0.5, 1.0, 2.0):
        x, ran = images, []
        with torch.no_grad():
            for unit in trained.chain:
                if isinstance(unit, Opened):
                    reader = unit.reader
                    sets = reader.order.split(reader.sizes)
                    means = torch.stack([x[:, nodes].mean((1, 2, 3)) for nodes in sets], 1)
                    loud = means > threshold * means.mean(1, keepdim=True)
                    loud[:, 0] = True
                    ran.append(loud[:, 1:])
                    keep = torch.zeros(len(x), x.shape[1])
                    for g, nodes in enumerate(sets):
                        keep[:, nodes] = loud[:, g : g + 1].float()
                    x = unit.rest(x, reader.conv(x * keep[:, :, None, None]))
                else:
                    x = unit(x)
        routed = run(trained, images, {"threshold": threshold})
        assert torch.equal(routed.ran, torch.cat(ran, 1))
        torch.testing.assert_close(routed.logits, x, rtol=1e-4, atol=1e-5)


def test_just_over_zero_only_silence_is_unread(trained: Jungle, data: Data) -> None:
    images = data.inputs(data.validation.pixels)
    torch.testing.assert_close(
        run(trained, images, {"threshold": 1e-9}).logits, dense(trained, images), rtol=1e-4, atol=1e-5
    )
    silent = torch.zeros(2, 1, 8, 8)
    assert bool(torch.isfinite(run(trained, silent, {"threshold": 0.5}).logits).all())


def test_measured_points_make_a_curve(trained: Jungle, data: Data) -> None:
    points = measure(trained, data, data.validation, CPU)
    bounds = trained.bounds()
    macs = [p.macs for p in sorted(points, key=lambda p: p.knob["threshold"])]
    assert (macs[0], macs[-1]) == (bounds.max, bounds.min)
    assert len({round(m) for m in macs}) > 10
    groups = sum(len(r.sizes) - 1 for r in readers(trained))
    assert all(len(p.route_share) == groups for p in points)
    assert points[0].accuracy > 0.35


# ---- state -------------------------------------------------------------------------------------------


def test_a_loss_in_evaluation_leaves_the_running_means_alone(trained: Jungle, data: Data) -> None:
    before = {name: t.clone() for name, t in trained.named_buffers()}
    trained._loss(Batch(data.inputs(data.train.pixels[:8]), data.train.labels[:8], 0.0))
    assert all(torch.equal(before[name], t) for name, t in trained.named_buffers())


def test_the_state_is_the_backbones_and_the_means(trained: Jungle, backbone: Backbone) -> None:
    """One order of maps is added for each convolution that reads them in groups."""
    buffers = len(readers(trained)) + len(trained.alike)
    assert len(states(trained)) == len(list(backbone.plain().parameters())) + buffers


def test_fields_are_described() -> None:
    assert all(field.description for field in Jungle.Config.model_fields.values())


# ---- constraints -------------------------------------------------------------------------------------


def test_a_missing_trunk_is_refused(backbone: Backbone) -> None:
    net = Jungle(Jungle.space(backbone).default(), backbone)
    with pytest.raises(Refusal, match=r"^jungle: nodes are purified from a trained trunk on, got none$"):
        net.stages()


def test_it_is_found_as_a_plugin() -> None:
    assert load_plugins().methods.find("jungle") is Jungle


@pytest.mark.parametrize(
    ("backbone", "rule"),
    [
        (
            DenseNet201Cifar((1, 8, 8), 4, 0.25),
            r"a unit after the first must begin with a convolution that reads the unit's input, .* has none",
        ),
        (
            WRN28x10((1, 8, 8), 4, 0.1),
            r"a unit after the first must begin with a convolution that reads the unit's input, .* has none",
        ),
        (Pyramid8((1, 32, 32), 4), r"unit outputs must be maps, C x H x W, .* pyramid8 gives \(2048,\)"),
        (
            NiN((1, 8, 8), 40, 0.1),
            FEWER + "got 19 maps of unit 8 of backbone nin for 40 classes",
        ),
    ],
    ids=["densenet", "wrn", "pyramid", "classes"],
)
def test_backbones_that_cannot_be_used_are_refused(backbone: Backbone, rule: str) -> None:
    with pytest.raises(Refusal, match=f"^jungle: {rule}$"):
        Jungle.space(backbone)


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({"from_unit": 3}, FEWER + "got 10 maps of unit 3"),
        ({"from_unit": 8}, r"from_unit <= 7 must hold on backbone nin, for a unit to read its maps, got"),
        ({"groups": 1}, r"groups >= 2 must hold, or groups = 0 for one a class, got groups=1"),
        ({"aux_units": (8,)}, r"aux_units and aux_classes >= 2 must be given together, got aux_units=\[8\]"),
        ({"aux_classes": 2}, r"aux_units and aux_classes >= 2 must be given together, got aux_units=\[\]"),
        ({"aux_units": (2,), "aux_classes": 2}, r"4 <= unit <= 8 must hold for aux_units on .*, got unit=2"),
        ({"aux_units": (9,), "aux_classes": 2}, r"4 <= unit <= 8 must hold for aux_units on .*, got unit=9"),
        (
            {"aux_units": (8,), "aux_classes": 20},
            FEWER + "got 19 maps of unit 8 .* for 20 classes",
        ),
    ],
)
def test_configs_that_violate_a_constraint_are_refused(fields: dict[str, Any], rule: str) -> None:
    config = Jungle.Config(**{"from_unit": 4} | fields)
    with pytest.raises(Refusal, match=f"^jungle: {rule}"):
        Jungle(config, NiN((1, 8, 8), 12, 0.1))


def test_units_without_maps_enough_are_left_out_of_the_space() -> None:
    """NiN on CIFAR-100: unit 3 has 96 maps, so nodes begin after it, as the paper's (at unit 5) do."""
    space = Jungle.space(NiN((3, 32, 32), 100))
    starts = {space.draw(Random(seed)).from_unit for seed in range(40)}
    assert starts == {4, 5, 6, 7}
    assert space.default().from_unit == 4
    assert Jungle.space(VGG16Cifar((3, 32, 32), 101)).default().from_unit == 3


def test_a_unit_that_reads_elsewhere_first_is_refused() -> None:
    """The convolution is registered first, but not what reads the unit's input."""

    class Unit(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(19, 19, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x.relu())

    class Odd(NiN):
        name = "odd"

        def unit(self, k: int, width: float = 1.0, width_in: float | None = None) -> nn.Module:
            return Unit() if k == 8 else super().unit(k, width, width_in)

    odd = Odd((1, 8, 8), 4, 0.1)
    assert first_conv(odd.unit(8)) == "conv"
    with pytest.raises(Refusal, match=r"^jungle: a unit's first convolution must read the unit's input, got"):
        make(odd).bounds()


def test_a_loss_that_is_not_finite_fails_the_training(backbone: Backbone, data: Data) -> None:
    recipe = RECIPE.model_copy(update={"learning_rate": 1e12, "clip_norm": None, "optimizer": "sgd"})
    with pytest.raises(RunFailed, match="the loss must stay finite"):
        train(make(backbone), data, recipe)


@pytest.mark.parametrize("quantiles", [False, True])
def test_knobs_start_with_everything_and_end_with_one_group(
    trained: Jungle, data: Data, quantiles: bool
) -> None:
    scores = trained.observe(data.inputs(data.validation.pixels)) if quantiles else None
    thresholds = [knob["threshold"] for knob in trained.knobs(scores)]
    assert (thresholds[0], thresholds[-1]) == (0.0, max(thresholds))
    assert len(set(thresholds)) == len(thresholds)
    assert (len(thresholds) > 20) == quantiles


def test_maps_that_no_relu_made_are_refused_when_they_are_grouped() -> None:
    class Raw(NiN):
        """NiN whose units lack their last ReLU."""

        def unit(self, k: int, width: float = 1.0, width_in: float | None = None) -> nn.Module:
            layers = [m for m in super().unit(k, width, width_in) if not isinstance(m, nn.ReLU)]
            return nn.Sequential(*layers)

    data = toy_data()
    backbone = Raw(data.shape, len(data.classes), 0.1)
    trunk = Trunk(states(backbone.plain()), 0.0)
    net = make(backbone, trunk=trunk)
    with pytest.raises(
        Refusal, match=r"jungle: maps must be what a ReLU gives, >= 0, on backbone nin, got a"
    ):
        fit(net, net.stages(), data, RECIPE, epochs=1, seed=0, device=CPU)
