"""DecisioNet: the paper's figures, clusters, hashing and loss."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from routesearch import Backbone, Batch, Choices, Cuts, Interval, Refusal, Trunk, mult_adds, run
from routesearch.backbones import (
    AlexNetCifar,
    DenseNet201Cifar,
    NiN,
    Pyramid8,
    ResNet38,
    ResNet101Cifar,
    VGG16Cifar,
    WRN28x10,
)
from routesearch.evaluation.measure import measure
from routesearch.methods.running import price
from routesearch.plugin.loader import load_plugins
from routesearch.study.recipe import Recipe
from routesearch.testing import MethodContract, ToyChain, toy_data
from routesearch.training.loop import fit, to_device
from routesearch_decisionet import (
    DecisioNet,
    agglomerate,
    codes,
    confusion_of,
    distances,
    followed,
    grow,
    halved,
    hashed,
    linked,
    saturating,
)

CPU = torch.device("cpu")
calm = settings(deadline=None, derandomize=True, max_examples=40)
CIFAR10, FASHION = (3, 32, 32), (1, 28, 28)
VEHICLES = [(0, 0), (0, 1), (1, 0), (1, 0), (1, 0), (1, 0), (1, 0), (1, 1), (0, 0), (0, 1)]
"""Table 1: both labels of CIFAR-10's classes."""


def make(backbone: Backbone, labels: Any = None, /, seed: int = 0, **fields: Any) -> DecisioNet:
    """An untrained network whose trunk confuses classes as these labels say (None: no trunk)."""
    torch.manual_seed(seed)
    trunk = None if labels is None else Trunk({}, 0.5, confusion_of(labels))
    return DecisioNet(DecisioNet.Config(**fields), backbone, trunk).eval()


class TestStructures(MethodContract):
    """Where the structure depends on the confusion, and where nothing does."""

    method = DecisioNet
    configs = (
        {"split_positions": [2, 4], "width_rule": "size"},
        {"split_positions": [3], "routing_labels": "none"},
    )


class TestDeepTrees(MethodContract):
    """One split after the other, in halves of five classes."""

    method = DecisioNet
    backbones = (ToyChain((1, 8, 8), 5),)
    configs = (
        {"split_positions": [1, 2, 3], "routing_labels": "balanced", "width_rule": "size"},
        {"split_positions": [2, 3]},
    )


# ---- figures of the paper, without training ----------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "positions", "params", "macs", "all_branches"),
    [
        (FASHION, (3,), 736_309, 93_641_547, 147_041_845),
        (FASHION, (6,), 939_157, 153_758_763, 162_395_797),
        (FASHION, (3, 6), 727_307, 91_242_604, 146_591_435),
        (FASHION, (2, 5), 414_027, 60_676_076, 97_368_843),
        (CIFAR10, (3,), 745_909, 132_137_697, 201_885_025),
        (CIFAR10, (6,), 948_757, 210_658_113, 221_939_137),
        (CIFAR10, (3, 6), 736_907, 129_004_354, 201_296_675),
        (CIFAR10, (2, 5), 423_627, 89_080_706, 137_005_923),
    ],
)
def test_table_2(
    shape: tuple[int, int, int], positions: tuple[int, ...], params: int, macs: int, all_branches: int
) -> None:
    """DN1-early, DN1-late, DN2 and DN2-slim on Network in Network; every leaf costs the same."""
    backbone = NiN(shape, 10)
    priced = price(DecisioNet, DecisioNet.Config(split_positions=positions), backbone)
    assert (priced.params, priced.bounds) == (params, Interval(macs, macs))
    assert len(priced.routes) == 2 ** len(positions)
    net = make(backbone, split_positions=positions)
    assert mult_adds(Everything(net), torch.zeros(1, *shape)) == all_branches
    once = {id(m) for m in net.segments[0].modules()} | {id(m) for m in net.routers[0].modules()}
    assert (
        sum(p.numel() for m in net.modules() if id(m) in once for p in m.parameters(recurse=False)) < params
    )


class Everything(nn.Module):
    """All branches, as training runs them."""

    def __init__(self, net: DecisioNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack(self.net._dense(images)[0])


@pytest.mark.parametrize(
    ("shape", "params", "macs"), [(FASHION, 957_386, 163_298_282), (CIFAR10, 966_986, 223_117_952)]
)
def test_the_baselines_of_table_2(shape: tuple[int, int, int], params: int, macs: int) -> None:
    plain = NiN(shape, 10).plain()
    assert sum(p.numel() for p in plain.parameters()) == params
    assert mult_adds(plain, torch.zeros(1, *shape)) == macs


@pytest.mark.parametrize(
    ("positions", "params", "macs"),
    [
        ((4,), 19_385_465, 2_602_264_101),
        ((8,), 23_635_545, 3_939_201_221),
        ((4, 8), 12_935_427, 2_276_204_102),
    ],
)
def test_table_3(positions: tuple[int, ...], params: int, macs: int) -> None:
    """Wide residual networks of 28 layers, ten times as wide, on 100 classes."""
    config = DecisioNet.Config(split_positions=positions)
    priced = price(DecisioNet, config, WRN28x10(CIFAR10, 100))
    assert (priced.params, priced.bounds) == (params, Interval(macs, macs))


def test_the_baseline_of_table_3() -> None:
    with torch.device("meta"):
        plain = WRN28x10(CIFAR10, 100).plain().eval()
    assert sum(p.numel() for p in plain.parameters()) == 36_536_884
    assert mult_adds(plain, torch.zeros(1, *CIFAR10, device="meta")) == 5_243_404_420


@pytest.mark.parametrize(
    ("positions", "params"), [((3,), [97]), ((6,), [193]), ((3, 6), [97, 97, 97]), ((2, 5), [161, 97, 97])]
)
def test_a_routing_module_has_a_weight_for_every_channel_and_a_bias(
    positions: tuple[int, ...], params: list[int]
) -> None:
    net = make(NiN(CIFAR10, 10), split_positions=positions)
    assert [sum(p.numel() for p in router.parameters()) for router in net.routers] == params


@pytest.mark.parametrize(
    ("positions", "branches"),
    [
        ((3,), [[192, 160, 96], [96, 96, 96, 96, 96]]),
        ((6,), [[192, 160, 96, 192, 192, 192], [96, 96]]),
        ((3, 6), [[192, 160, 96], [96, 96, 96], [48, 48]]),
        ((2, 5), [[192, 160], [48, 96, 96], [48, 48, 48]]),
    ],
)
def test_the_filters_of_a_path(positions: tuple[int, ...], branches: list[list[int]]) -> None:
    """Fig. 4 and its variants, by level; every leaf predicts all classes."""
    net = make(NiN(CIFAR10, 10), split_positions=positions)
    for node, segment in enumerate(net.segments):
        found = [m.out_channels for m in segment.modules() if isinstance(m, nn.Conv2d)]
        assert found == branches[(node + 1).bit_length() - 1]
    leaves, z = net._dense(torch.rand(2, *CIFAR10))
    assert [logits.shape for logits in leaves] == [(2, 10)] * 2 ** len(positions)
    assert z.shape == (2, 2 ** len(positions) - 1)


@pytest.mark.parametrize("positions", [(4,), (8,), (4, 8)])
def test_shapes_on_a_wide_residual_network(positions: tuple[int, ...]) -> None:
    net = make(WRN28x10((3, 16, 16), 7, 0.1), split_positions=positions)
    leaves, z = net._dense(torch.rand(3, 3, 16, 16))
    assert [logits.shape for logits in leaves] == [(3, 7)] * 2 ** len(positions)
    assert z.shape == (3, 2 ** len(positions) - 1)
    assert all(len(list(r.children())) == 3 for r in net.routers), "the raw sum is averaged: no norm, no ReLU"


# ---- classes to clusters -----------------------------------------------------------------------------


def test_distances_by_hand() -> None:
    """Eq. 1 and 2 on a matrix of counts."""
    counts = torch.tensor([[8, 2, 0], [1, 3, 0], [0, 5, 5]], dtype=torch.float64)
    expected = [[0, 1 - (0.2 + 0.25) / 2, 1], [1 - (0.2 + 0.25) / 2, 0, 1 - 0.25], [1, 0.75, 0]]
    torch.testing.assert_close(distances(counts), torch.tensor(expected, dtype=torch.float64))


def test_a_class_that_is_never_taken_for_any_other_or_itself() -> None:
    d = distances(torch.tensor([[0.0, 0.0], [0.5, 0.5]], dtype=torch.float64))
    assert d.tolist() == [[0, 0.75], [0.75, 0]]


def test_average_linkage_by_hand() -> None:
    """The mean over pairs decides; by the nearest pair (single linkage) 3 would join the chain 0-1-2."""
    points = [0.0, 1.0, 2.1, 3.9, 6.0, 6.5]
    d = torch.tensor([[abs(a - b) for b in points] for a in points], dtype=torch.float64)
    assert sorted(map(sorted, agglomerate(d, 3))) == [[0, 1, 2], [3], [4, 5]]  # type: ignore[type-var]
    # 3 is 2.87 from {0, 1, 2} on the mean and 2.35 from {4, 5}; its nearest neighbour is 2.
    assert sorted(linked(d)) == [0, 1, 2]


@calm
@given(st.integers(2, 9), st.randoms(use_true_random=False))
def test_average_linkage_merges_the_closest_pair_of_clusters(n: int, rng: Any) -> None:
    """Held against the definition, from the means over all pairs, at every number of clusters."""
    d = torch.rand(n, n, generator=torch.Generator().manual_seed(rng.randrange(9999)), dtype=torch.float64)
    d = (d + d.T) / 2
    for count in range(n - 1, 0, -1):
        before, after = agglomerate(d, count + 1), agglomerate(d, count)
        means = {
            (i, j): float(d[a][:, b].mean())
            for i, a in enumerate(before)
            for j, b in enumerate(before)
            if i < j
        }
        i, j = min(means, key=means.__getitem__)
        rest = [sorted(c) for k, c in enumerate(before) if k not in (i, j)]
        assert sorted(map(sorted, after)) == sorted([*rest, sorted(before[i] + before[j])])


def test_the_clusters_of_table_1() -> None:
    """Planes and ships, cars and trucks; animals, of which horses stand alone."""
    clusters = grow(torch.tensor(confusion_of(VEHICLES), dtype=torch.float64), 2, linked)
    assert clusters[1:3] == [[0, 1, 8, 9], [2, 3, 4, 5, 6, 7]]
    assert clusters[3:] == [[0, 8], [1, 9], [2, 3, 4, 5, 6], [7]]
    assert codes(clusters).long().tolist() == [list(code) for code in VEHICLES]


def test_a_cluster_is_cut_by_its_own_rows_alone() -> None:
    """Rows are normalised again within a cluster; otherwise 0 would be nearer to 1 than to 2."""
    table = torch.tensor(
        [[0.4, 0.3, 0.2, 0.1], [0.05, 0.05, 0.0, 0.9], [0.1, 0.0, 0.9, 0.0], [0.0, 0.9, 0.0, 0.1]],
        dtype=torch.float64,
    )
    members = [0, 1, 2]
    again = table[members][:, members] / table[members][:, members].sum(1, keepdim=True)
    torch.testing.assert_close(distances(table[members][:, members]), distances(again))
    assert float(distances(again)[0, 1]) != pytest.approx(float(distances(table)[0, 1]))


@calm
@given(st.integers(2, 40), st.integers(1, 4), st.randoms(use_true_random=False))
def test_clusters_are_found_again(n: int, depth: int, rng: Any) -> None:
    """The confusion is made of any codes; the first class of each split goes left, one class alone too."""
    clusters = [list(range(n))]
    for node in range(2**depth - 1):
        members = clusters[node]
        right = {c for c in members[1:] if rng.random() < 0.4}
        if len(members) > 1 and not right:
            right = {members[-1]}
        clusters += [[c for c in members if c not in right], [c for c in members if c in right]]
    labels = codes(clusters)
    assert grow(torch.tensor(confusion_of(labels.tolist()), dtype=torch.float64), depth, linked) == clusters


def test_one_class_stays_whole() -> None:
    clusters = grow(torch.tensor(confusion_of([(0, 0), (1, 0), (0, 0)]), dtype=torch.float64), 2, linked)
    assert clusters == [[0, 1, 2], [0, 2], [1], [0], [2], [1], []]
    assert codes(clusters).long().tolist() == [[0, 0], [1, 0], [0, 1]]


@pytest.mark.parametrize("table", [torch.eye(10), torch.ones(10, 10), torch.zeros(10, 10)])
def test_a_confusion_that_says_nothing_gives_usable_clusters(table: Tensor) -> None:
    """The same at every call; of equal distances, small clusters merge first, so none stays alone."""
    clusters = grow(table.double(), 2, linked)
    assert clusters == grow(table.double(), 2, linked)
    assert sorted(len(c) for c in clusters[1:3]) == [4, 6]
    assert min(len(c) for c in clusters[3:]) == 2
    assert [len(c) for c in grow(table.double(), 2, halved)[1:]] == [5, 5, 3, 2, 3, 2]


@calm
@given(st.integers(2, 11), st.randoms(use_true_random=False))
def test_halves(n: int, rng: Any) -> None:
    """Equal sizes (of odd numbers the first is larger), and no exchange makes them closer inside."""
    d = torch.rand(n, n, generator=torch.Generator().manual_seed(rng.randrange(9999)), dtype=torch.float64)
    d = ((d + d.T) / 2).fill_diagonal_(0)
    first = halved(d)
    rest = [c for c in range(n) if c not in first]
    assert 0 in first
    assert len(first) == math.ceil(n / 2)

    def inside(a: list[int], b: list[int]) -> float:
        return float(d[a][:, a].sum() + d[b][:, b].sum())

    for i in first[1:]:
        for j in rest:
            swapped = [c for c in first if c != i] + [j], [c for c in rest if c != j] + [i]
            assert inside(*swapped) > inside(first, rest) - 1e-9


def test_halves_follow_the_distances() -> None:
    """Where linkage cuts one class off, halves still keep together what is confused."""
    labels = [(0, 0, 0), (0, 1, 1), (0, 1, 1), (0, 0, 0), (0, 0, 0), (1, 0, 0), (0, 1, 1), (0, 1, 1)]
    table = torch.tensor(confusion_of(labels), dtype=torch.float64)
    assert sorted(linked(distances(table))) == [0, 1, 2, 3, 4, 6, 7]
    assert halved(distances(table)) == [0, 3, 4, 5]


def test_more_classes_are_all_in_some_leaf() -> None:
    rng = torch.Generator().manual_seed(0)
    table = torch.rand(120, 120, generator=rng, dtype=torch.float64)
    for cut in (linked, halved):
        assert sum(map(len, grow(table, 3, cut)[7:])) == 120


# ---- routing -----------------------------------------------------------------------------------------


def test_the_saturating_sigmoid() -> None:
    """0 up to -ln 11 and 1 from ln 11 on (Eq. 6)."""
    end = math.log(11)
    z = torch.tensor([-50, -end - 1e-4, -end, 0, end, end + 1e-4, 50], dtype=torch.float64)
    expected = torch.tensor([0, 0, 0, 0.5, 1, 1, 1], dtype=torch.float64)
    torch.testing.assert_close(saturating(z), expected, atol=1e-6, rtol=0)
    assert float(saturating(torch.tensor(-end + 0.01))) > 0
    assert float(saturating(torch.tensor(end - 0.01))) < 1


def test_hashing_is_hard_or_soft_for_the_whole_batch() -> None:
    z = torch.linspace(-1, 1, 40).view(20, 2)
    kinds = []
    for seed in range(200):
        torch.manual_seed(seed)
        made = hashed(z)
        torch.manual_seed(seed)
        soft = saturating(z + torch.randn_like(z))
        if torch.equal(made, soft):
            kinds.append("soft")
        else:
            assert torch.equal(made, (soft > 0.5).float())
            kinds.append("hard")
    assert 70 < kinds.count("hard") < 130


def test_noise_is_drawn_for_every_image_and_module() -> None:
    torch.manual_seed(0)
    made = torch.stack([hashed(torch.zeros(400, 3)) for _ in range(20)])
    noise = made[(made > 0) & (made < 1)]
    assert len(noise.unique()) > 0.9 * len(noise)
    share = (torch.stack([hashed(torch.full((500, 3), 1.0)) for _ in range(20)]) >= 0.5).float().mean()
    assert float(share) == pytest.approx(0.8413, abs=0.01), "P(1 + N(0, 1) > 0)"


@pytest.mark.parametrize("seed", range(6))
def test_the_gradient_is_always_the_soft_ones(seed: int) -> None:
    z = torch.linspace(-4, 4, 33).requires_grad_()
    torch.manual_seed(seed)
    hashed(z).dot(torch.arange(33.0)).backward()
    mine, z.grad = z.grad, None
    torch.manual_seed(seed)
    saturating(z + torch.randn_like(z)).dot(torch.arange(33.0)).backward()
    torch.testing.assert_close(mine, z.grad)
    assert float(mine.abs().sum()) > 0


def test_the_path_that_decisions_take() -> None:
    """Nodes are numbered level by level; 0.5 goes right."""
    decisions = torch.tensor([[0.0, 0.0, 1.0], [0.4, 1.0, 0.0], [0.5, 1.0, 0.2], [1.0, 0.0, 0.9]])
    assert followed(decisions).tolist() == [[0, 1, 3], [0, 1, 4], [0, 2, 5], [0, 2, 6]]
    assert followed(torch.tensor([[0.2], [0.7]])).tolist() == [[0, 1], [0, 2]]
    three = followed(torch.tensor([[1.0, 0, 0, 0, 0, 0, 1]]))
    assert three.tolist() == [[0, 2, 5, 11]]


@pytest.mark.parametrize("positions", [(3,), (2, 4), (1, 2, 4)])
def test_routing_is_the_dense_pass_with_hard_decisions(positions: tuple[int, ...]) -> None:
    """Eq. 8 with decisions of 0 and 1: the mixture is the leaf's logits, and the scores name the leaf."""
    net = varied(positions)
    images = torch.randn(40, 1, 8, 8)
    with torch.inference_mode():
        leaves, z = net._dense(images)
        billed, scores = run(net, images), net.observe(images)
    assert len(billed.route.unique()) == 2 ** len(positions)
    assert torch.equal(net.decide(scores.scores, net.knobs()[0]), billed.route)
    assert torch.equal(followed((z > 0).float())[:, -1] - z.shape[1], billed.route)
    at_leaf = torch.stack(leaves, 1)[torch.arange(40), billed.route]
    torch.testing.assert_close(billed.logits, at_leaf, rtol=1e-4, atol=1e-5)


def varied(positions: tuple[int, ...], labels: Any = None, **fields: Any) -> DecisioNet:
    """A network whose modules each send some noise images left and some right."""
    net = make(ToyChain((1, 8, 8), 4), labels, split_positions=positions, **fields)
    with torch.inference_mode():
        net.train()
        for _ in range(20):
            net._dense(torch.randn(64, 1, 8, 8))
        net.eval()
        z = net._dense(torch.randn(256, 1, 8, 8))[1]
    with torch.no_grad():
        for router, column in zip(net.routers, z.unbind(1), strict=True):
            router[1].bias -= column.median()
    return net


# ---- loss --------------------------------------------------------------------------------------------


def test_the_second_decision_is_compared_in_the_branch_that_was_chosen() -> None:
    """Whether or not the first was right; the other branch's module gets nothing from that image."""
    labels = [(0, 0), (0, 1), (1, 0), (1, 1)]
    net = make(ToyChain((1, 8, 8), 4), labels, split_positions=(2, 4))
    decisions = torch.tensor(
        [[0.1, 0.3, 0.9], [0.8, 0.3, 0.9], [0.5, 0.2, 0.6], [0.2, 0.7, 0.4]], requires_grad=True
    )
    loss = net._labelled(decisions, torch.tensor([1, 1, 2, 3]))
    met = [(0.1, 0.3), (0.8, 0.9), (0.5, 0.6), (0.2, 0.7)]
    wanted = [(0, 1), (0, 1), (1, 0), (1, 1)]
    errors = [(a - b) ** 2 for m, w in zip(met, wanted, strict=True) for a, b in zip(m, w, strict=True)]
    assert float(loss.detach()) == pytest.approx(sum(errors) / 8)
    loss.backward()
    off_path = decisions.grad[[0, 1, 2, 3], [2, 1, 1, 2]]
    assert off_path.tolist() == [0, 0, 0, 0]
    expected = [2 * (m[0] - w[0]) / 8 for m, w in zip(met, wanted, strict=True)]
    assert decisions.grad[:, 0].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(4))
def test_the_loss_by_hand(seed: int) -> None:
    """Eq. 8 and 9 image by image, three levels deep, hard and soft."""
    labels = [(0, 0, 0), (0, 1, 0), (1, 0, 0), (0, 1, 1)]
    net = make(ToyChain((1, 8, 8), 4), labels, split_positions=(1, 2, 4), beta=0.7)
    x, y = torch.randn(6, 1, 8, 8), torch.arange(6) % 4
    torch.manual_seed(seed)
    loss = net._loss(Batch(x, y, 0.0))
    leaves, z = net._dense(x)
    torch.manual_seed(seed)
    g = hashed(z)
    logits, squares = [], []
    for i in range(6):

        def mixed(node: int, i: int = i) -> Tensor:
            if node >= 7:
                return leaves[node - 7][i]
            return (1 - g[i, node]) * mixed(2 * node + 1) + g[i, node] * mixed(2 * node + 2)

        logits.append(mixed(0))
        node = 0
        for level in range(3):
            squares.append((float(g[i, node].detach()) - labels[int(y[i])][level]) ** 2)
            node = 2 * node + (2 if float(g[i, node].detach()) >= 0.5 else 1)
    expected = F.cross_entropy(torch.stack(logits), y) + 0.7 * sum(squares) / 18
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-4)


def test_without_labels_modules_are_asked_to_part_their_images() -> None:
    """0 where half of the images that a module meets go each way for sure, 1 where all are alike."""
    from routesearch_decisionet import _undecided

    far = torch.tensor([[-40.0, -40.0, 3.0], [-40.0, 40.0, 3.0], [40.0, 3.0, -40.0], [40.0, 3.0, 40.0]])
    assert float(_undecided(far, (far > 0).float())) == pytest.approx(0.0, abs=1e-6)
    same = torch.full((4, 3), 1.3)
    assert float(_undecided(same, (same > 0).float())) == pytest.approx(1.0)
    unmet = torch.tensor([[-40.0, -40.0, 9.0], [-40.0, 40.0, -9.0]])
    assert float(_undecided(unmet, (unmet > 0).float())) == pytest.approx((1 + 0 + 1) / 3, abs=1e-6)
    z = torch.tensor([[0.5], [0.4], [0.7]], requires_grad=True)
    _undecided(z, torch.ones(3, 1)).backward()
    assert float(z.grad[2]) < 0 < float(z.grad[1]), "what leads goes on, what trails turns round"


def test_without_labels_beta_pulls_at_the_modules_alone() -> None:
    """The maps' gradients are the cross-entropy's, whatever beta."""
    gradients = []
    for beta in (0.0, 5.0):
        net = make(ToyChain((1, 8, 8), 4), split_positions=(2, 4), routing_labels="none", beta=beta)
        torch.manual_seed(3)
        x = torch.randn(16, 1, 8, 8)
        net._loss(Batch(x, torch.arange(16) % 4, 0.0)).backward()
        gradients.append({n: p.grad.clone() for n, p in net.named_parameters() if p.grad is not None})
    differ = {n for n, g in gradients[0].items() if not torch.equal(g, gradients[1][n])}
    assert differ == {n for n, _ in net.named_parameters() if n.startswith("routers")}


def test_all_branches_see_all_images_in_training() -> None:
    """Norms too: their statistics are those of all images, not of those routed there."""
    net = make(ToyChain((1, 8, 8), 4), split_positions=(3,), routing_labels="none").train()
    seen: list[int] = []
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    net._loss(Batch(torch.randn(16, 1, 8, 8), torch.arange(16) % 4, 0.0))
    assert seen == [16] * (3 + 2 * 3)


@pytest.mark.parametrize("beta", [0.0, 3.0])
def test_labels_are_learnt_and_without_them_nothing_is_said(beta: float) -> None:
    """beta = 0, the paper's ablation, takes the labels' pull away; with it decisions are the labels'."""
    backbone, data = ToyChain((1, 8, 8), 4), toy_data(4, (1, 8, 8))
    labels = [(0,), (1,), (0,), (1,)]
    net = make(backbone, labels, split_positions=(4,), beta=beta)
    recipe = Recipe(batch_size=16, epochs=12, learning_rate=0.01)
    fit(to_device(net, CPU), net.stages(), data, recipe, epochs=12, seed=0, device=CPU)
    routed = run(net, data.inputs(data.validation.pixels))
    agreement = float(routed.route.eq(data.validation.labels % 2).double().mean())
    assert (agreement > 0.85) == (beta > 0)


# ---- widths by size ----------------------------------------------------------------------------------


def test_widths_go_with_the_root_of_the_share() -> None:
    """w = w of the parent x sqrt(share / 2): the branches together cost what two halves would."""
    net = make(NiN(CIFAR10, 10), VEHICLES, split_positions=(3, 6), width_rule="size")
    widths = net._widths(2)
    root = [math.sqrt(0.4 / 2), math.sqrt(0.6 / 2)]
    assert widths[:3] == pytest.approx([1.0, *root])
    assert widths[3:5] == pytest.approx([root[0] / 2] * 2)
    assert widths[5:] == pytest.approx([root[1] * math.sqrt(s / 12) for s in (5, 1)])
    for node in range(3):
        own = widths[node] ** 2
        assert sum(w * w for w in widths[2 * node + 1 : 2 * node + 3]) == pytest.approx(own / 2)
    assert net.segments[1][0][0].out_channels == round(192 * root[0])
    assert net.segments[6][0][0].in_channels == round(192 * root[1])


def test_equal_shares_are_halves() -> None:
    labels = [(c // 4, c // 2 % 2) for c in range(8)]
    net = make(NiN(CIFAR10, 8), labels, split_positions=(3, 6), width_rule="size")
    assert net._widths(2) == pytest.approx([1, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25])
    half = make(NiN(CIFAR10, 8), labels, split_positions=(3, 6))
    assert half._widths(2) == pytest.approx(net._widths(2))


def test_one_class_has_nothing_to_share_out() -> None:
    labels = [(0, 0), (0, 0), (1, 0)]
    widths = make(NiN(CIFAR10, 3), labels, split_positions=(3, 6), width_rule="size")._widths(2)
    assert widths[5:] == pytest.approx([widths[2] / 2] * 2)


@settings(calm, max_examples=15)
@given(st.integers(2, 12), st.integers(1, 3), st.randoms(use_true_random=False))
def test_the_price_without_labels_covers_every_clustering(n: int, depth: int, rng: Any) -> None:
    backbone = ToyChain((1, 8, 8), n)
    fields: dict[str, Any] = {"split_positions": tuple(range(2, 2 + depth)), "width_rule": "size"}
    whole = price(DecisioNet, DecisioNet.Config(**fields), backbone)
    assert not whole.exact
    table = [[rng.random() ** 4 for _ in range(n)] for _ in range(n)]
    trunk = Trunk({}, 0.5, table)
    one = price(DecisioNet, DecisioNet.Config(**fields), backbone, trunk)
    assert one.exact
    assert whole.bounds.min <= one.bounds.min <= one.bounds.max <= whole.bounds.max


def test_both_ends_of_the_price_without_labels_are_met() -> None:
    """The clusters that meet them leave one class alone at each split."""
    backbone = NiN(CIFAR10, 10)
    config = DecisioNet.Config(split_positions=(3, 6), width_rule="size")
    whole = price(DecisioNet, config, backbone)
    assert (whole.bounds, whole.params) == (Interval(90_354_445, 157_197_539), 737_007)
    alone = [(0, 0)] * 8 + [(0, 1), (1, 0)]
    net = make(backbone, alone, **config.model_dump())
    assert net.sizes() == "9 + 1; 8 + 1, 1 + 0"
    assert net.bounds() == whole.bounds


def test_halves_have_one_price_whatever_the_labels() -> None:
    backbone = NiN(CIFAR10, 10)
    config = DecisioNet.Config(split_positions=(3, 6), width_rule="size", routing_labels="balanced")
    without = price(DecisioNet, config, backbone)
    assert without.exact
    rng = torch.Generator().manual_seed(0)
    for _ in range(3):
        trunk = Trunk({}, 0.5, torch.rand(10, 10, generator=rng).tolist())
        assert price(DecisioNet, config, backbone, trunk).routes == without.routes
        assert make(backbone, VEHICLES, **config.model_dump())._widths(2) == DecisioNet(
            config, backbone, trunk
        )._widths(2)


def test_a_bar_at_the_root_trades_cost_where_branches_differ() -> None:
    """Both ends are reached; branches of one cost have no use for it."""
    labels = [(0,), (0,), (0,), (1,)]
    net = varied((3,), labels, width_rule="size")
    data = toy_data(4, (1, 8, 8))
    points = measure(net, data, data.validation, CPU)
    costs = {p.macs for p in points}
    assert {min(costs), max(costs)} == {net.bounds().min, net.bounds().max}
    assert len(costs) > 10
    assert points[0].knob == {"threshold": 0.0}
    half = varied((3,), labels)
    assert [p.knob for p in measure(half, data, data.validation, CPU)] == [{"threshold": 0.0}]


# ---- space and constraints ---------------------------------------------------------------------------


def test_it_is_found_as_a_plugin() -> None:
    assert load_plugins().methods.find("decisionet") is DecisioNet
    assert DecisioNet.needs_confusion
    assert not DecisioNet.needs_trunk


@pytest.mark.parametrize(
    ("kind", "classes", "usual"),
    [
        (NiN, 10, (3, 6)),
        (WRN28x10, 100, (4, 8)),
        (ResNet38, 10, (6, 12)),
        (ResNet101Cifar, 10, (11, 22)),
        (VGG16Cifar, 10, (5, 9)),
        (AlexNetCifar, 10, (2, 4)),
        (Pyramid8, 10, (3, 6)),
        (DenseNet201Cifar, 10, (19, 68)),
    ],
)
def test_the_default_is_two_splits_at_the_thirds(
    kind: type[Backbone], classes: int, usual: tuple[int, ...]
) -> None:
    """DN2 of both of the paper's networks."""
    backbone = kind(CIFAR10, classes)
    default: Any = DecisioNet.space(backbone).default()
    assert default.split_positions == usual
    assert (default.beta, default.routing_labels, default.width_rule) == (3.0, "confusion", "half")
    priced = price(DecisioNet, default, backbone)
    whole = mult_adds(_meta(backbone), torch.zeros(1, *CIFAR10, device="meta"))
    assert priced.bounds.max < whole


def _meta(backbone: Backbone) -> nn.Module:
    with torch.device("meta"):
        return backbone.plain().eval()


def test_positions_where_a_width_may_change() -> None:
    """Every unit, or, where dense layers hold on to their width, a few choices."""
    assert DecisioNet.space(NiN(CIFAR10, 10)).domains["split_positions"] == Cuts(last=7, most=3)
    dense = DecisioNet.space(DenseNet201Cifar(CIFAR10, 10)).domains["split_positions"]
    assert isinstance(dense, Choices)
    assert set(dense.values) == {(6,), (19,), (68,), (6, 19), (6, 68), (19, 68), (6, 19, 68)}


def test_a_narrow_backbone_has_fewer_splits() -> None:
    """16 x 1/8 = 2 channels in the last group can be halved once."""
    space = DecisioNet.space(ResNet38((1, 8, 8), 3, 1 / 32))
    assert space.domains["split_positions"] == Cuts(first=12, last=17, most=1)
    assert price(DecisioNet, space.default(), ResNet38((1, 8, 8), 3, 1 / 32)).bounds.min > 0


def test_backbones_that_cannot_be_split_are_refused() -> None:
    class Single(NiN):
        name = "single"

        def __len__(self) -> int:
            return 1

    class Stiff(NiN):
        name = "stiff"

        def channels(self, k: int, width: float = 1.0) -> int:
            return super().channels(k)

    for backbone in (Single((1, 8, 8), 3), Stiff((1, 8, 8), 3), NiN((1, 8, 8), 3, 1 / 192)):
        rule = (
            r"^decisionet: a backbone must have 2 units or more that can be built at half of their channels, "
        )
        with pytest.raises(Refusal, match=rule + f"{backbone.name} has no place for a split$"):
            DecisioNet.space(backbone)


@pytest.mark.parametrize("positions", [(), (0,), (8,), (3, 9), (5, 3), (3, 3)])
def test_the_law_of_positions(positions: tuple[int, ...]) -> None:
    with pytest.raises(Refusal, match=r"^decisionet: split_positions: .+ must hold on backbone nin, got \["):
        make(NiN(CIFAR10, 10), split_positions=positions)


def test_more_leaves_than_a_width_allows() -> None:
    rule = (
        r"^decisionet: a split must leave its branches fewer channels, unit 5 of backbone nin has 1 at width "
    )
    with pytest.raises(Refusal, match=rule + r"1/8 and 1 at width 1/16 \(16 branches\)$"):
        make(NiN(CIFAR10, 10, 0.06), split_positions=(1, 2, 3, 4, 5))


def test_a_dense_layer_says_where_widths_may_change() -> None:
    with pytest.raises(Refusal, match=r"^width must change at a transition .* on backbone densenet201_cifar"):
        make(DenseNet201Cifar(CIFAR10, 10), split_positions=(5,))


@pytest.mark.parametrize("labels", ["confusion", "balanced"])
@pytest.mark.parametrize("trunk", [None, Trunk({}, 0.5)])
def test_labels_need_a_trunk_to_train_not_to_build(labels: str, trunk: Trunk | None) -> None:
    net = DecisioNet(
        DecisioNet.Config(split_positions=(3,), routing_labels=labels), ToyChain((1, 8, 8), 4), trunk
    )
    assert run(net, torch.rand(3, 1, 8, 8)).logits.shape == (3, 4)
    with pytest.raises(
        Refusal,
        match=rf"^decisionet: routing_labels={labels} needs the confusion of a trained trunk, got none$",
    ):
        net.stages()


@pytest.mark.parametrize(
    ("labels", "trunk", "got"),
    [
        ("confusion", None, "no trunk"),
        ("confusion", Trunk({}, 0.5), "no confusion"),
        ("none", Trunk({}, 0.5, confusion_of(VEHICLES)), "routing_labels=none"),
    ],
)
def test_sizes_need_clusters(labels: str, trunk: Trunk | None, got: str) -> None:
    config = DecisioNet.Config(split_positions=(3,), routing_labels=labels, width_rule="size")
    with pytest.raises(Refusal, match=rf"^decisionet: width_rule=size needs clusters: .+, got {got}$"):
        DecisioNet(config, NiN(CIFAR10, 10), trunk)


def test_a_confusion_of_other_classes_is_refused() -> None:
    rule = r"^decisionet: a confusion of 4 x 4 must come with 4 classes, got 10 rows of 10$"
    with pytest.raises(Refusal, match=rule):
        make(ToyChain((1, 8, 8), 4), VEHICLES, split_positions=(3,))
    ragged = Trunk({}, 0.5, [[1.0, 0.0, 0.0, 0.0]] * 3 + [[1.0]])
    with pytest.raises(Refusal, match=r"got 4 rows of 1, 4$"):
        DecisioNet(DecisioNet.Config(split_positions=(3,)), ToyChain((1, 8, 8), 4), ragged)


@pytest.mark.parametrize("entry", [-0.1, math.nan, math.inf])
def test_entries_of_a_confusion_are_shares(entry: float) -> None:
    trunk = Trunk({}, 0.5, [[entry, 0.5, 0.2, 0.3]] * 4)
    with pytest.raises(Refusal, match=r"^decisionet: 0 <= entry < infinity must hold for a confusion, got "):
        DecisioNet(DecisioNet.Config(split_positions=(3,)), ToyChain((1, 8, 8), 4), trunk)


def test_fields_are_described_and_beta_may_be_fixed_at_nothing() -> None:
    assert all(field.description for field in DecisioNet.Config.model_fields.values())
    assert DecisioNet.Config(split_positions=(3,), beta=0.0).beta == 0.0
    with pytest.raises(ValueError, match="beta"):
        DecisioNet.Config(split_positions=(3,), beta=-1.0)


def test_sizes_are_shown(caplog: pytest.LogCaptureFixture) -> None:
    net = make(NiN(CIFAR10, 10), VEHICLES, split_positions=(3, 6))
    assert net.sizes() == "4 + 6; 2 + 2, 5 + 1"
    with caplog.at_level("INFO", "routesearch_decisionet"):
        net.stages()
    assert caplog.messages == ["decisionet: classes at each split: 4 + 6; 2 + 2, 5 + 1"]
    assert make(NiN(CIFAR10, 10), split_positions=(3,)).sizes() == "no clusters"


# ---- starting from the trunk -----------------------------------------------------------------------------


def test_the_root_is_the_trunks_and_branches_have_its_leading_channels() -> None:
    backbone = NiN((1, 16, 16), 4, 0.25)
    torch.manual_seed(1)
    plain = backbone.plain()
    rows = confusion_of([(0,), (0,), (1,), (1,)])
    trunk = Trunk(plain.state_dict(), 0.5, rows)
    net = DecisioNet(DecisioNet.Config(split_positions=(3,)), backbone, trunk)
    root, left, right = net.segments
    assert torch.equal(root[2][0].weight, plain.units[2][0].weight)
    for branch in (left, right):
        assert torch.allclose(branch[1][0].weight, 2 * plain.units[4][0].weight[:24, :24])
    head = net.heads[0][0]
    assert torch.allclose(head.weight, 2 * plain.head[0].weight[:, :24])
    scratch = DecisioNet(DecisioNet.Config(split_positions=(3,), start="scratch"), backbone, trunk)
    assert not torch.equal(scratch.segments[0][2][0].weight, plain.units[2][0].weight)
    assert not DecisioNet.uses_weights(scratch.config)
    assert DecisioNet.uses_trunk(scratch.config), "for its confusion"
