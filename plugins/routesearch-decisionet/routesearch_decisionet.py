"""DecisioNet: a network turned into a binary tree, whose branches each serve a group of similar classes.

N. Gottlieb, M. Werman: DecisioNet: A Binary-Tree Structured Neural Network (ACCV 2022).

The layers after the i-th split stand in 2^i copies with 1 / 2^i of the filters each (section 3.1). A
routing module at each split makes a binary decision (Eq. 3), binarised by improved semantic hashing
(Eq. 5 to 7), so that the tree trains as one network while an image runs one path only. What the
modules should decide comes from clustering the classes by a trained baseline's confusion (section
3.2). Loss: cross-entropy + beta x squared error of the decisions (Eq. 9).

Nodes of the tree are numbered as in a heap: 0 is the root, 2n + 1 and 2n + 2 are left and right of n.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations, pairwise
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from optuna.distributions import CategoricalDistribution, FloatDistribution
from pydantic import Field
from torch import Tensor, nn

from routesearch import (
    Backbone,
    Batch,
    Choices,
    Cuts,
    Knob,
    Meter,
    Refusal,
    RoutedNet,
    Scores,
    SearchSpace,
    Space,
    Stage,
    Start,
    Trunk,
    When,
    classification_loss,
    hookimpl,
    inherit,
    kaiming,
    spread_thresholds,
)

log = logging.getLogger(__name__)

Clusters = Sequence[Sequence[int]]
"""The classes that each node of the tree is meant for, by the node's number."""

Cut = Callable[[Tensor], list[int]]
"""Distances of n classes, n x n, to the numbers of those in the first of two clusters, 0 among them."""

MAX_SPLITS = 3
"""Splits that a search draws; a study may fix more."""

SETTINGS = 32
"""Thresholds of the root that are tried where its branches differ in cost."""

TIE = 1e-12
"""How much farther apart clusters count for every class in them: of equal distances the smallest merge."""


# ---- classes to clusters (section 3.2) -----------------------------------------------------------------


def distances(confusion: Tensor) -> Tensor:
    """Distances of classes, n x n, from a confusion matrix whose rows are the true classes (Eq. 1 and 2)."""
    shares = confusion / confusion.sum(1, keepdim=True).clamp(min=1e-30)
    one_way = 1 - shares
    return ((one_way + one_way.T) / 2).fill_diagonal_(0)


def agglomerate(distance: Tensor, count: int) -> list[list[int]]:
    """Merge classes by average linkage until ``count`` clusters are left, each in the order of merging."""
    n = len(distance)
    clusters = {i: [i] for i in range(n)}
    mean, sizes = distance.clone(), distance.new_ones(n)
    gone = torch.zeros(n, dtype=torch.bool)
    # The pair to merge next is the least entry; its own copy, where entries out of the game are infinite.
    open_ = (distance + 2 * TIE).fill_diagonal_(math.inf)
    while len(clusters) > count:
        i, j = sorted(divmod(int(open_.argmin()), n))
        whole = sizes[i] + sizes[j]
        mean[i] = (sizes[i] * mean[i] + sizes[j] * mean[j]) / whole
        mean[:, i] = mean[i]
        sizes[i], gone[j] = whole, True
        clusters[i] += clusters.pop(j)
        row = (mean[i] + TIE * (sizes + whole)).masked_fill(gone, math.inf)
        row[i] = math.inf
        open_[i], open_[:, i] = row, row
        open_[j], open_[:, j] = math.inf, math.inf
    return list(clusters.values())


def linked(distance: Tensor) -> list[int]:
    """The paper's cut: the two clusters that average linkage merges last."""
    return next(cluster for cluster in agglomerate(distance, 2) if 0 in cluster)


def halved(distance: Tensor) -> list[int]:
    """Two halves with small distances inside; of an odd number the first is larger.

    The order in which average linkage merges is cut in the middle, and then the two classes whose
    exchange helps most are exchanged, until none does. Class 0 stays where it is.
    """
    [order] = agglomerate(distance, 1)
    half = (len(order) + 1) // 2
    inside = torch.zeros(len(order), dtype=torch.bool)
    inside[order[:half] if 0 in order[:half] else order[-half:]] = True
    while True:
        near, far = distance[:, inside].sum(1), distance[:, ~inside].sum(1)
        own, other = inside.nonzero()[1:, 0], (~inside).nonzero()[:, 0]
        change = (far - near)[own, None] + (near - far)[other] - 2 * distance[own][:, other]
        if not change.numel() or float(change.min()) > -TIE * len(order):
            return list(inside.nonzero()[:, 0].tolist())
        a, b = divmod(int(change.argmin()), len(other))
        inside[own[a]], inside[other[b]] = False, True


def grow(confusion: Tensor, depth: int, cut: Cut) -> Clusters:
    """Cut the classes in two, then each cluster by what its own classes are taken for, ``depth`` times.

    A cluster of one class stays whole, on the left; the right one is then empty.
    """
    clusters = [list(range(len(confusion)))]
    for node in range(2**depth - 1):
        members = clusters[node]
        if len(members) < 2:
            clusters += [members, []]
            continue
        first = {members[i] for i in cut(distances(confusion[members][:, members]))}
        clusters += [[c for c in members if c in first], [c for c in members if c not in first]]
    return clusters


def codes(clusters: Clusters) -> Tensor:
    """Routing labels, classes x levels: 1 where the class belongs to the right."""
    depth = len(clusters).bit_length() - 1
    labels = torch.zeros(len(clusters[0]), depth)
    for node in range(2, len(clusters), 2):
        labels[list(clusters[node]), (node + 1).bit_length() - 2] = 1
    return labels


def confusion_of(labels: Sequence[Sequence[int]]) -> list[list[float]]:
    """A confusion matrix whose clusters have these codes: the more levels shared, the more confused."""
    n, depth = len(labels), len(labels[0])

    def shared(a: Sequence[int], b: Sequence[int]) -> int:
        return next((level for level in range(depth) if a[level] != b[level]), depth)

    rows = [[0.1 * shared(a, b) / (n * depth) for b in labels] for a in labels]
    for i, row in enumerate(rows):
        row[i] = 0.0
        row[i] = 1.0 - sum(row)
    return rows


# ---- routing (section 3.3) -----------------------------------------------------------------------------


def saturating(z: Tensor) -> Tensor:
    """The saturating sigmoid, 0 and 1 beyond -+ln 11 (Eq. 6)."""
    return (1.2 * z.sigmoid() - 0.1).clamp(0, 1)


def hashed(z: Tensor) -> Tensor:
    """Improved semantic hashing of pre-activations to decisions in [0, 1], as in training (Eq. 5 and 7).

    Noise is drawn for every entry. Whether decisions are hard or soft is drawn once for all of them,
    on their device; the gradient is the soft one's.
    """
    noisy = z + torch.randn_like(z)
    soft = saturating(noisy)
    hard = (noisy > 0).to(soft.dtype) + (soft - soft.detach())
    return torch.where(torch.rand((), device=z.device) < 0.5, hard, soft)


def followed(decisions: Tensor) -> Tensor:
    """The nodes that each image passes, its decisions being N x 2^d - 1: N x d + 1, the leaf last."""
    right = decisions.detach() >= 0.5
    node = right.new_zeros(len(right), 1, dtype=torch.int64)
    path = [node]
    for _ in range(right.shape[1].bit_length()):
        node = 2 * node + 1 + right.gather(1, node)
        path.append(node)
    return torch.cat(path, 1)


# ---- the method ----------------------------------------------------------------------------------------


class DecisioNet(RoutedNet):
    """A backbone as a binary tree with a routing module at every split (ACCV 2022)."""

    name: ClassVar[str] = "decisionet"
    needs_confusion: ClassVar[bool] = True

    class Config(Space):
        """Fields of a DecisioNet."""

        split_positions: Annotated[tuple[int, ...], Cuts(most=MAX_SPLITS)] = Field(
            (), description="units after which every branch splits in two"
        )
        beta: Annotated[float, FloatDistribution(0.1, 10.0, log=True)] = Field(
            3.0, ge=0, description="weight of the routing loss"
        )
        routing_labels: Annotated[
            Literal["confusion", "none", "balanced"],
            CategoricalDistribution(("confusion", "none", "balanced")),
        ] = Field(
            "confusion",
            description="what decisions are trained to: clusters by the trunk's confusion; nothing but to"
            " differ from image to image; clusters cut into halves",
        )
        width_rule: Annotated[
            Literal["half", "size"],
            CategoricalDistribution(("half", "size")),
            When("routing_labels", "confusion", "balanced"),
        ] = Field("half", description="of a branch: half of what splits, or by its share of the classes")

        start: Start = Field(
            "trunk",
            description="units' weights: the trunk's, of branches those of its leading channels; or drawn at"
            " random (scratch)",
        )
        trunk_rate: float = Field(
            1.0, gt=0, description="factor of the learning rate of units that start from the trunk"
        )

    @classmethod
    def space(cls, backbone: Backbone) -> SearchSpace:
        spots = _spots(backbone)
        counts = [
            c for c in range(1, MAX_SPLITS + 1) if len(spots) >= c and not _narrow(backbone, spots[-c:])
        ]
        if not counts:
            rule = "a backbone must have 2 units or more that can be built at half of their channels"
            raise Refusal(f"decisionet: {rule}, {backbone.name} has no place for a split")
        most = counts[-1]
        if spots[-1] - spots[0] == len(spots) - 1:
            where: Cuts | Choices = Cuts(first=spots[0], last=spots[-1], most=most)
        else:  # a dense layer cannot change its width: few of many units are left, too few to draw blindly
            some = [c for count in range(1, most + 1) for c in combinations(spots, count)]
            where = Choices(tuple(c for c in some if not _narrow(backbone, c)))
        thirds = [math.ceil(len(backbone) * share / 3) for share in (1, 2)]  # DN2 on both of its networks
        wishes = [[min(spots, key=lambda k: abs(k - t)) for t in ts] for ts in (thirds, thirds[1:])]
        usual = next(
            (w for w in wishes if len(set(w)) == len(w) <= most and not _narrow(backbone, w)), spots[-1:]
        )
        return super().space(backbone).refine({"split_positions": tuple(usual)}, split_positions=where)

    @classmethod
    def cases(cls, config: Any, backbone: Backbone) -> Sequence[Trunk]:
        """One class against the rest at every split, for the cheapest and the most expensive path; halves."""
        if (config.routing_labels, config.width_rule) != ("confusion", "size"):
            return ()
        n, depth = backbone.classes, len(config.split_positions)
        apart = [[int(c == n - 1 - level and c > 0) for level in range(depth)] for c in range(n)]
        even = codes(_even(n, depth)).long().tolist()
        return [Trunk({}, 0.0, confusion_of(labels)) for labels in (apart, even)]

    def __init__(self, config: Space, backbone: Backbone, trunk: Trunk | None = None) -> None:
        super().__init__(config, backbone, trunk)
        positions: tuple[int, ...] = self.config.split_positions
        backbone.check_cuts(positions, "decisionet: split_positions")
        rule = _narrow(backbone, positions)
        if rule is not None:
            raise Refusal(f"decisionet: {rule}")
        self.clusters = self._clusters()
        """The classes of each node; None where no labels are known (or wanted)."""
        if self.clusters is not None:
            with torch.device("cpu"):  # also where the network is built without values
                self.register_buffer("codes", codes(self.clusters), persistent=False)
        self.codes: Tensor
        """Routing labels, classes x levels."""
        self._build(positions)

    def _clusters(self) -> Clusters | None:
        if self.config.routing_labels == "none" or self.trunk is None or not self.trunk.confusion:
            return None
        n, rows = self.backbone.classes, self.trunk.confusion
        if len(rows) != n or any(len(row) != n for row in rows):
            got = f"{len(rows)} rows of {', '.join(map(str, sorted({len(row) for row in rows})))}"
            raise Refusal(f"decisionet: a confusion of {n} x {n} must come with {n} classes, got {got}")
        with torch.device("cpu"):
            table = torch.tensor(rows, dtype=torch.float64)
            wrong = table[~(table.isfinite() & (table >= 0))]
            if len(wrong):
                rule = "0 <= entry < infinity must hold for a confusion"
                raise Refusal(f"decisionet: {rule}, got {float(wrong[0])}")
            cut = linked if self.config.routing_labels == "confusion" else halved
            return grow(table, len(self.config.split_positions), cut)

    def _build(self, positions: Sequence[int]) -> None:
        """Modules of every node; the nodes before the leaves have a router, the leaves a head."""
        backbone, widths = self.backbone, self._widths(len(positions))
        segments, routers, heads = [], [], []
        cuts = [0, *positions, len(backbone)]
        for node, width in enumerate(widths):
            level = (node + 1).bit_length() - 1
            first, last = cuts[level] + 1, cuts[level + 1]
            above = widths[(node - 1) // 2] if node else width
            units = [backbone.unit(k, width, above if k == first else width) for k in range(first, last + 1)]
            segments.append(nn.Sequential(*units))
            if level < len(positions):
                linear = kaiming(nn.Linear(backbone.channels(last, width), 1))
                routers.append(nn.Sequential(backbone.neck(last), linear, nn.Flatten(0)))  # Eq. 3 and 4
            else:
                heads.append(backbone.head(width))
        self.segments, self.heads = nn.ModuleList(segments), nn.ModuleList(heads)
        self.routers: Sequence[nn.Sequential] = nn.ModuleList(routers)  # type: ignore[assignment]
        if self.starts_trained:
            plain = self.build_plain()
            for node, segment in enumerate(segments):
                level = (node + 1).bit_length() - 1
                for unit, source in zip(segment, plain.units[cuts[level] : cuts[level + 1]], strict=True):
                    inherit(unit, source)
            for head in heads:
                inherit(head, plain.head)

    def _widths(self, depth: int) -> list[float]:
        """Nodes' widths: half of the parent's, or that times the square root of twice the share of classes.

        MACs go with the square of the width: the branches of a split share what two halves would cost.
        """
        clusters: Clusters | None = None
        if self.config.width_rule == "size":
            clusters = self.clusters
            if self.config.routing_labels == "balanced":
                clusters = clusters or _even(self.backbone.classes, depth)
            if clusters is None:
                rule = "width_rule=size needs clusters: labels, and a trained trunk's confusion"
                got = "no trunk" if self.trunk is None else "no confusion"
                got = "routing_labels=none" if self.config.routing_labels == "none" else got
                raise Refusal(f"decisionet: {rule}, got {got}")
        widths = [1.0]
        for node in range(1, 2 ** (depth + 1) - 1):
            above = (node - 1) // 2
            # A cluster of one class has nothing to share out: its branches are halves.
            even = clusters is None or len(clusters[above]) < 2
            share = 0.5 if clusters is None or even else len(clusters[node]) / len(clusters[above])
            widths.append(widths[above] * math.sqrt(share / 2))
        return widths

    # ---- running ----

    def route(self, meter: Meter, images: Tensor, knob: Knob) -> None:
        self._from(meter, images, 0, knob["threshold"])

    def _from(self, meter: Meter, x: Tensor, node: int, threshold: float) -> None:
        x = meter.run(self.segments[node], x)
        leaf = node - len(self.routers)
        if leaf >= 0:
            meter.finish(meter.run(self.heads[leaf], x), route=leaf)
            return
        z = meter.run(self.routers[node], x)
        for right, group, x_of in meter.split(z > threshold, 2, x):
            self._from(group, x_of, 2 * node + 1 + right, 0.0)

    def observe(self, images: Tensor) -> Scores:
        leaves, z = self._dense(images)
        return Scores(z, torch.stack([logits.argmax(1) for logits in leaves], 1))

    def decide(self, scores: Tensor, knob: Knob) -> Tensor:
        right = scores > 0
        right[:, 0] = scores[:, 0] > knob["threshold"]
        return followed(right.float())[:, -1] - scores.shape[1]

    def knobs(self, scores: Scores | None = None, labels: Tensor | None = None) -> Sequence[Knob]:
        """The paper's bar, 0; where branches differ in cost, also others for the root's decision."""
        bars = [0.0]
        if scores is not None and self.config.width_rule == "size":
            bars += spread_thresholds(scores.scores[:, 0], SETTINGS)
        return [{"threshold": bar} for bar in dict.fromkeys(bars)]

    # ---- training ----

    def stages(self) -> Sequence[Stage]:
        if self.clusters is None and self.config.routing_labels != "none":
            rule = f"routing_labels={self.config.routing_labels} needs the confusion of a trained trunk"
            raise Refusal(f"decisionet: {rule}, got none")
        if self.clusters is not None:
            log.info("decisionet: classes at each split: %s", self.sizes())
        rates = {}
        if self.starts_trained:  # routing modules learn from nothing
            rates = dict.fromkeys((self.segments, self.heads), self.config.trunk_rate)
        return [Stage(self._loss, rates=rates)]

    def sizes(self) -> str:
        """How many classes go left and right at each split, level by level: ``8 + 2; 5 + 3, 1 + 1``."""
        if self.clusters is None:
            return "no clusters"
        counts = [
            f"{len(a)} + {len(b)}" for a, b in zip(self.clusters[1::2], self.clusters[2::2], strict=True)
        ]
        levels = range(len(counts).bit_length())
        return "; ".join(", ".join(counts[2**level - 1 : 2 ** (level + 1) - 1]) for level in levels)

    def _dense(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """Run every branch for every image: each leaf's logits, and all pre-activations, N x routers."""
        leaves, means = self._branches(images)
        return leaves, self._asked(means)

    def _branches(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Each leaf's logits, and the channel means that each routing module reads."""
        maps: list[Tensor] = []
        for node, segment in enumerate(self.segments):
            maps.append(segment(maps[(node - 1) // 2] if node else images))
        inner = len(self.routers)
        means = [router[0](x) for router, x in zip(self.routers, maps[:inner], strict=True)]
        return [head(x) for head, x in zip(self.heads, maps[inner:], strict=True)], means

    def _asked(self, means: Sequence[Tensor]) -> Tensor:
        """Channel means to pre-activations, N x routers."""
        return torch.stack([router[1:](x) for router, x in zip(self.routers, means, strict=True)], 1)

    def _loss(self, batch: Batch) -> Tensor:
        """Eq. 9."""
        leaves, means = self._branches(batch.inputs)
        decisions = hashed(self._asked(means).float())
        if self.clusters is not None:
            routing = self._labelled(decisions, batch.labels)
        else:  # of the modules alone: maps that it could shape would show differences and no classes
            routing = _undecided(self._asked([x.detach() for x in means]).float(), decisions)
        error = classification_loss(_mixed(leaves, decisions), batch)
        return torch.add(error, routing, alpha=self.config.beta)

    def _labelled(self, decisions: Tensor, labels: Tensor) -> Tensor:
        """Mean squared error of the decisions that each image met, against its class's labels.

        A class's label of a level holds in whichever branch the image is: earlier errors are the
        earlier module's alone. Modules off the image's path get nothing from it.
        """
        met = decisions.gather(1, followed(decisions)[:, :-1])
        return F.mse_loss(met, self.codes[labels])


def _mixed(leaves: Sequence[Tensor], decisions: Tensor) -> Tensor:
    """Every split's (1 - decision) x left + decision x right, from the leaves up (Eq. 8): N x classes."""
    inner = decisions.shape[1]
    mixed = {inner + leaf: logits.float() for leaf, logits in enumerate(leaves)}
    for node in reversed(range(inner)):
        mixed[node] = torch.lerp(mixed[2 * node + 1], mixed[2 * node + 2], decisions[:, node, None])
    return mixed[0]


def _undecided(z: Tensor, decisions: Tensor) -> Tensor:
    """Loss without labels: how far modules are from sending half of their images each way, surely.

    1 - 4 x the variance of a module's probability over those images, without noise: 0 where half of them
    are sure to go left and half right, 1 where all are alike. Mean over modules.
    """
    path = followed(decisions)[:, :-1]
    met = torch.zeros_like(z).scatter_(1, path, 1.0)
    count, p = met.sum(0).clamp(min=1), z.sigmoid()
    mean = (met * p).sum(0) / count
    variance = (met * (p - mean).square()).sum(0) / count
    return (1 - 4 * variance).mean()


def _even(classes: int, depth: int) -> Clusters:
    """Clusters of halves, in the order of the classes."""
    return grow(torch.ones(classes, classes), depth, lambda d: list(range((len(d) + 1) // 2)))


def _spots(backbone: Backbone) -> list[int]:
    """Positions after which a first split can stand."""

    def builds(k: int) -> bool:
        try:
            with torch.device("meta"):
                backbone.unit(k + 1, 0.5, 1.0)
        except Refusal:
            return False
        return True

    return [k for k in range(1, len(backbone)) if builds(k) and not _narrow(backbone, [k])]


def _narrow(backbone: Backbone, positions: Iterable[int]) -> str | None:
    """The constraint violated where a unit cannot be narrowed at each split before it; else None.

    By halves whatever the rule: widths that go by sizes may end at one channel.
    """
    cuts = [*positions, len(backbone)]
    for level, (position, end) in enumerate(pairwise(cuts), 1):
        for k in range(position + 1, end + 1):
            above, own = (backbone.channels(k, 2.0**-e) for e in (level - 1, level))
            if own >= above:
                rule = "a split must leave its branches fewer channels"
                at = f"unit {k} of backbone {backbone.name} has {above} at width 1/{2 ** (level - 1)}"
                return f"{rule}, {at} and {own} at width 1/{2**level} ({2**level} branches)"
    return None


@hookimpl
def routesearch_methods() -> Sequence[type[RoutedNet]]:
    return [DecisioNet]
