"""Actor and critic: networks that learn, junction by junction, whether to classify or to go on.

M. McGill, P. Perona: Deciding How to Decide: Dynamic Routing in Artificial Neural Networks (ICML 2017,
arXiv 1703.06217).

The cost of an inference is its error and its computation, c = c_err + k_cpt n_ops (Eq. 1 and 2). A
router at every junction scores its sinks, the highest score decides: sink 0 is the classifier, the
others are columns that go on. In training each sink has a probability, softmax(s / tau) (Eq. 4), every
node sees every image, and a node's costs count with the probability of the path that leads there. An
*actor* descends the expected cost itself (Eq. 3); a *critic*'s routers predict what each sink will cost
(Eq. 5 to 8).

N images, M nodes; a node is a column of units with its classifier and, but at the last, its router.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import Field
from torch import Tensor, nn

from routesearch import (
    Backbone,
    Batch,
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
    kaiming,
    mult_adds,
    spread_thresholds,
)

HIDDEN = 16
"""Entries of a router's two hidden layers."""

FLOOR = 1e-6
"""What all leaves together keep of the probability, shared evenly (the paper's code)."""

SMOOTHING = 1e-6
"""What all classes together keep of a prediction, shared evenly (the paper's code)."""

MAX_JUNCTIONS = 7
"""Junctions that a search sets at most; as many as the paper's."""

DEEPEST_BRANCHING = 3
"""Leading 3-way junctions that a search sets at most, as many as the paper's: 8 chains."""

NOISE = 0.1
"""Spread of the noise by which columns side by side differ from the trunk's, relative to the weights' own."""

BIASES = 254
"""Biases on stopping that are measured after training, beside none."""

FLAG = CategoricalDistribution((False, True))


# ---- the network ---------------------------------------------------------------------------------------


class Router(nn.Module):
    """Scores of a junction's sinks: what its column knows about the whole image, through two small layers.

    Args:
        neck: a column's output to N x ``features``.
        sinks: 2 (stop, go on) or 3 (stop, go either way).
        extras: further entries of the input: 1 where the router takes k_cpt, else 0.
    """

    def __init__(self, neck: nn.Module, features: int, sinks: int, extras: int = 0) -> None:
        super().__init__()
        self.neck = neck
        layers: list[nn.Module] = []
        for before in (features + extras, HIDDEN):
            layers += [nn.Linear(before, HIDDEN), nn.BatchNorm1d(HIDDEN, eps=1e-6), nn.ReLU(inplace=True)]
        last = nn.Linear(HIDDEN, sinks)
        self.layers = kaiming(nn.Sequential(*layers, last))
        nn.init.zeros_(last.weight)  # so that at first every sink is as likely as another

    def forward(self, x: Any, *extras: Tensor) -> Tensor:
        """A column's output, and k_cpt (N x 1) where it takes one, to N x sinks."""
        return self.score(self.neck(x), *extras)

    def score(self, features: Tensor, *extras: Tensor) -> Tensor:
        """The same from what the neck makes of the column's output."""
        scores: Tensor = self.layers(torch.cat([features, *extras], 1) if extras else features)
        return scores


class Node(nn.Module):
    """A column of units, the classifier that reads it, and the router between them and the next columns."""

    def __init__(self, column: nn.Module, classifier: nn.Module, router: Router | None) -> None:
        super().__init__()
        self.column = column
        self.classifier = classifier
        self.router = router


class Prices(NamedTuple):
    """Prices of nodes, as fractions of the backbone's MACs: column with router, and classifier (M each)."""

    columns: Tensor
    leaves: Tensor


class Dense(NamedTuple):
    """What all nodes make of all images.

    Attributes:
        scores: of each level's junctions, N x nodes x sinks.
        logits: N x M x classes.
    """

    scores: list[Tensor]
    logits: Tensor


class Pass(NamedTuple):
    """What a batch gives, as losses need it.

    Attributes:
        labels: of the images, N.
        errors: of each node's classifier, N x M.
        p: as :func:`reach` gives it.
        k_cpt: for all images, or N x 1.
    """

    dense: Dense
    labels: Tensor
    errors: Tensor
    p: tuple[Tensor, Tensor]
    k_cpt: float | Tensor


# ---- probabilities and costs ---------------------------------------------------------------------------


def reach(scores: Sequence[Tensor], tau: float) -> tuple[Tensor, Tensor]:
    """Probability that an image's path leads through each column, and that it ends at each classifier.

    pi = softmax(s / tau) (Eq. 4), with a floor: every leaf keeps FLOOR times its share of the leaves.

    Args:
        scores: of each level's junctions, N x nodes x sinks; a level has a node for each way on.

    Returns:
        Two tensors of N x M, nodes in the order of levels.
    """
    here = scores[0].new_ones(len(scores[0]), 1)
    columns, leaves = [here], []
    for s in scores:
        ways = here[:, :, None] * F.softmax(s / tau, 2)
        here = ways[:, :, 1:].flatten(1)
        leaves.append(ways[:, :, 0])
        columns.append(here)
    leaves.append(here)  # the last level's nodes always classify
    below = 0
    shares: list[float] = []
    for level in reversed(columns):  # leaves at a node and after it: all nodes of a level have as many
        below += level.shape[1]
        shares.insert(0, below / level.shape[1])
    floored = [(1 - FLOOR) * p + FLOOR * share / below for p, share in zip(columns, shares, strict=True)]
    return torch.cat(floored, 1), (1 - FLOOR) * torch.cat(leaves, 1) + FLOOR / below


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """-log of the label's probability at each node, N x M; predictions keep a little of every class."""
    each = labels[:, None, None].expand(-1, logits.shape[1], 1)
    right = F.softmax(logits, 2).gather(2, each).squeeze(2)
    return -torch.log(SMOOTHING / logits.shape[2] + (1 - SMOOTHING) * right)


def sink_costs(
    scores: Sequence[Tensor], errors: Tensor, prices: Prices, k_cpt: float | Tensor, optimistic: bool
) -> list[Tensor]:
    """What each sink of each junction costs an image from there on: the shape of ``scores``, no gradient.

    Args:
        errors: of each node's classifier, N x M.
        k_cpt: for all images, or N x 1.
        optimistic: go on by the best sinks (Eq. 8), not by those that the scores choose (Eq. 7).
    """
    errors = errors.detach()
    widths = [s.shape[1] for s in scores]
    widths.append(widths[-1] * (scores[-1].shape[2] - 1))
    stop = (errors + k_cpt * prices.leaves).split(widths, 1)
    column = (k_cpt * prices.columns).expand_as(errors).split(widths, 1)
    arrive = column[-1] + stop[-1]
    costs: list[Tensor] = []
    for level in reversed(range(len(scores))):
        s = scores[level].detach()
        c = torch.cat([stop[level][:, :, None], arrive.unflatten(1, (s.shape[1], -1))], 2)
        chosen = c.amin(2) if optimistic else c.gather(2, s.argmax(2, keepdim=True)).squeeze(2)
        arrive = column[level] + chosen
        costs.insert(0, c)
    return costs


def choose(scores: Tensor, knob: Knob) -> Tensor:
    """The sink with the highest score (section 3), scores in the last dimension; a bias is for stopping."""
    bias = knob.get("stop_bias", 0.0)
    if bias:
        scores = torch.cat([scores[..., :1] + bias, scores[..., 1:]], -1)
    return scores.argmax(-1)


def squares(*modules: nn.Module | None) -> Tensor:
    """Sum of the squared weights of convolutions and linear layers, without biases and norms."""
    layers = [m for module in modules if module is not None for m in module.modules()]
    weights = [m.weight for m in layers if isinstance(m, nn.Conv2d | nn.Linear)]
    return torch.stack([w.square().sum() for w in weights]).sum()


# ---- the methods ---------------------------------------------------------------------------------------


class Dynamic(RoutedNet):
    """What actors and critics share: the network, its routes, and the terms of their losses."""

    class Config(Space):
        """Fields of both."""

        positions: Annotated[tuple[int, ...], Cuts(most=MAX_JUNCTIONS)] = Field(
            (), description="units after which a junction stands"
        )
        branching: Annotated[int, IntDistribution(0, DEEPEST_BRANCHING)] = Field(
            0,
            ge=0,
            description="how many of the first junctions have three sinks: classify, go one way, the other",
        )
        dynamic_k_cpt: Annotated[bool, FLAG] = Field(
            False, description="tell routers k_cpt and draw it for each image: one network, a whole curve"
        )
        k_cpt: Annotated[float, FloatDistribution(0.001, 10.0, log=True), When("dynamic_k_cpt", False)] = (
            Field(0.1, ge=0, description="cost of the whole backbone's MACs, in units of the cross-entropy")
        )
        k_cpt_values: tuple[Annotated[float, Field(ge=0)], ...] = Field(
            (0.0, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28),
            min_length=1,
            description="what k_cpt is drawn from, and set to afterwards, where it is dynamic",
        )
        tau: Annotated[float, FloatDistribution(0.01, 10.0, log=True)] = Field(
            1.0, gt=0, description="temperature of the routing policy at the start of training"
        )
        tau_half_life: Annotated[float, FloatDistribution(0.05, 1.0, log=True)] = Field(
            0.25, gt=0, description="share of the training in which the temperature halves"
        )
        k_l2: Annotated[float, FloatDistribution(1e-6, 1e-2, log=True)] = Field(
            1e-4, ge=0, description="of the squared weights of the nodes that an image activates"
        )
        talr: Annotated[bool, FLAG] = Field(
            True, description="learning rates adjusted to each node's throughput"
        )
        start: Start = Field(
            "trunk", description="columns' weights: the trunk's, or drawn at random (scratch)"
        )
        trunk_rate: float = Field(
            1.0, gt=0, description="factor of the learning rate of columns that start from the trunk"
        )
        policy_regularised: Annotated[bool, FLAG] = Field(
            False, description="the penalties move the policy, too"
        )

    @classmethod
    def space(cls, backbone: Backbone) -> SearchSpace:
        last = len(backbone) - 1
        if last < 1:
            rule = "a backbone must have 2 units or more"
            raise Refusal(f"{cls.name}: {rule}, {backbone.name} has {len(backbone)}")
        junctions = min(last, MAX_JUNCTIONS)
        spread = [round(len(backbone) * i / (junctions + 1)) for i in range(1, junctions + 1)]
        return (
            super()
            .space(backbone)
            .refine(
                {"positions": tuple(spread)},
                positions=Cuts(last=last, most=junctions),
                branching=IntDistribution(0, min(last, DEEPEST_BRANCHING)),
            )
        )

    def __init__(self, config: Space, backbone: Backbone, trunk: Trunk | None = None) -> None:
        super().__init__(config, backbone, trunk)
        positions: tuple[int, ...] = self.config.positions
        backbone.check_cuts(positions, f"{self.name}: positions")
        branching: int = self.config.branching
        if branching > len(positions):
            got = f"got branching={branching} and {len(positions)} junctions"
            raise Refusal(f"{self.name}: branching <= junctions must hold, {got}")
        self.sinks = [3] * branching + [2] * (len(positions) - branching)
        """Number of ways at each level's junctions."""
        self.levels: list[range] = []
        """Node numbers of each level; its first node's sinks are the next level's first ones."""
        nodes: list[nn.Module] = []
        for level, (a, b) in enumerate(pairwise([0, *positions, len(backbone)])):
            width = 2 ** min(level, branching)
            self.levels.append(range(len(nodes), len(nodes) + width))
            nodes += [self._node(a, b, level) for _ in range(width)]
        self.nodes: Sequence[Node] = nn.ModuleList(nodes)  # type: ignore[assignment]
        if self.starts_trained:
            self._take_trunk([0, *positions, len(backbone)])
        self._prices: Prices | None = None
        self._throughput: tuple[Tensor, Tensor] | None = None

    def _node(self, a: int, b: int, level: int) -> Node:
        """Units after ``a`` up to ``b``, with what follows them."""
        column = nn.Sequential(*[self.backbone.unit(k) for k in range(a + 1, b + 1)])
        router = None
        if level < len(self.sinks):
            neck, features = self.backbone.neck(b), self.backbone.channels(b)
            router = Router(neck, features, self.sinks[level], int(self.config.dynamic_k_cpt))
        return Node(column, self.backbone.exit(b), router)

    @torch.no_grad()
    def _take_trunk(self, cuts: Sequence[int]) -> None:
        """Give every column the trunk's units, and the last classifiers its head.

        Columns side by side would for ever learn the same: all but the first get noise.
        """
        plain = self.build_plain()
        for numbers, (a, b) in zip(self.levels, pairwise(cuts), strict=True):
            for number in numbers:
                node = self.nodes[number]
                for unit, source in zip(node.column.children(), plain.units[a:b], strict=True):
                    unit.load_state_dict(source.state_dict())
                if b == len(self.backbone):
                    node.classifier.load_state_dict(plain.head.state_dict())
                if number != numbers[0]:
                    for weight in (p for p in node.column.parameters() if p.ndim > 1):
                        weight.add_(torch.randn_like(weight), alpha=NOISE * float(weight.std()))

    # ---- running ----

    def route(self, meter: Meter, images: Tensor, knob: Knob) -> None:
        self._check(knob)
        extras = []
        if self.config.dynamic_k_cpt:
            extras = [images.new_empty(len(images), 1).fill_(knob["k_cpt"])]
        self._from(meter, images, extras, 0, 0, knob)

    def _from(self, meter: Meter, x: Any, extras: list[Tensor], level: int, at: int, knob: Knob) -> None:
        """Go on from the output of the column before, to node number ``at`` of a level."""
        number = self.levels[level][at]
        node = self.nodes[number]
        x = meter.run(node.column, x)
        if node.router is None:
            meter.finish(meter.run(node.classifier, x), route=number)
            return
        ways = self.sinks[level]
        way_of = choose(meter.run(node.router, x, *extras).float(), knob)
        for way, group, its_x, its_told in meter.split(way_of, ways, x, extras):
            if way == 0:
                group.finish(group.run(node.classifier, its_x), route=number)
            else:
                self._from(group, its_x, its_told, level + 1, at * (ways - 1) + way - 1, knob)

    def _check(self, knob: Knob) -> None:
        """Refuse a knob that is not offered."""
        values: tuple[float, ...] = self.config.k_cpt_values
        if not self.config.dynamic_k_cpt:
            if set(knob) - {"stop_bias"}:
                rule = "knob stop_bias alone is offered without dynamic_k_cpt"
                raise Refusal(f"{self.name}: {rule}, got {', '.join(knob)}")
        elif set(knob) != {"k_cpt"} or knob["k_cpt"] not in values:
            raise Refusal(f"{self.name}: knob k_cpt must be one of {list(values)}, got {dict(knob)}")

    def _columns(self, images: Tensor) -> list[list[Any]]:
        """Every column's output for every image, by level."""
        outputs: list[list[Any]] = []
        for level, numbers in enumerate(self.levels):
            ways = self.sinks[level - 1] - 1 if level else 1
            before = outputs[-1] if level else [images]
            outputs.append([self.nodes[n].column(before[i // ways]) for i, n in enumerate(numbers)])
        return outputs

    def _logits(self, columns: list[list[Any]]) -> Tensor:
        outputs = [x for level in columns for x in level]
        classified = [node.classifier(x) for node, x in zip(self.nodes, outputs, strict=True)]
        return torch.stack(classified, 1).float()

    def _scores(self, columns: list[list[Any]], extras: Sequence[Sequence[Tensor]]) -> list[list[Tensor]]:
        """Scores of all junctions, by level, for each of several lists of inputs beside features."""
        found: list[list[Tensor]] = [[] for _ in extras]
        for numbers, outputs in zip(self.levels[:-1], columns, strict=False):
            routers = [router for n in numbers if (router := self.nodes[n].router) is not None]
            features = [router.neck(x) for router, x in zip(routers, outputs, strict=True)]
            for mine, extra in zip(found, extras, strict=True):
                scored = [router.score(f, *extra) for router, f in zip(routers, features, strict=True)]
                mine.append(torch.stack(scored, 1).float())
        return found

    def observe(self, images: Tensor) -> Scores:
        columns = self._columns(images)
        extras: list[list[Tensor]] = [[]]
        if self.config.dynamic_k_cpt:
            extras = [[images.new_full((len(images), 1), k)] for k in self.config.k_cpt_values]
        scores = [s.flatten(1) for each in self._scores(columns, extras) for s in each]
        return Scores(torch.cat(scores, 1), self._logits(columns).argmax(2))

    def decide(self, scores: Tensor, knob: Knob) -> Tensor:
        self._check(knob)
        at = route = scores.new_zeros(len(scores), dtype=torch.int64)
        gone = torch.ones_like(route, dtype=torch.bool)
        for level, s in enumerate(self._by_level(scores, knob)):
            way = choose(s, knob).gather(1, at[:, None]).squeeze(1)
            route = torch.where(gone, self.levels[level].start + at, route)
            gone = gone & (way > 0)
            at = at * (self.sinks[level] - 1) + (way - 1).clamp(min=0)
        return torch.where(gone, self.levels[-1].start + at, route)

    def _by_level(self, scores: Tensor, knob: Knob) -> list[Tensor]:
        """Rows of ``observe``'s scores to N x nodes x sinks for each level, at one k_cpt."""
        sizes = [len(n) * sinks for n, sinks in zip(self.levels, self.sinks, strict=False)]
        if self.config.dynamic_k_cpt:
            scores = scores.split(sum(sizes), 1)[self.config.k_cpt_values.index(knob["k_cpt"])]
        return [
            s.unflatten(1, (-1, sinks)) for s, sinks in zip(scores.split(sizes, 1), self.sinks, strict=True)
        ]

    def knobs(self, scores: Scores | None = None, labels: Tensor | None = None) -> Sequence[Knob]:
        if self.config.dynamic_k_cpt:
            return [{"k_cpt": k} for k in dict.fromkeys(self.config.k_cpt_values)]
        biases = [0.0]  # the paper's: the highest score decides
        if scores is not None:
            by_level = self._by_level(scores.scores, {})
            lags = [(s[:, :, 1:].amax(2) - s[:, :, 0]).flatten() for s in by_level]
            biases += spread_thresholds(torch.cat(lags), BIASES)
        return [{"stop_bias": b} for b in dict.fromkeys(biases)]

    # ---- training ----

    def stages(self) -> Sequence[Stage]:
        self._prices = self._priced()  # now: in the loss the core would take it for training work
        how: dict[str, Any] = {"after_backward": self._adjust} if self.config.talr else {}
        if self.starts_trained:  # routers and classifiers learn from nothing
            parts = [*(node.column for node in self.nodes), self.nodes[-1].classifier]
            how["rates"] = dict.fromkeys(parts, self.config.trunk_rate)
        return [Stage(self._loss, **how)]

    @property
    def prices(self) -> Prices:
        if self._prices is None:
            self._prices = self._priced()
        return self._prices

    def _priced(self) -> Prices:
        """All nodes' prices, by running each level's first node on nothing; the backbone's is their sum."""
        training = self.training
        self.eval()
        columns, leaves, routers = [], [], []
        start = next(self.parameters()).new_zeros(1, *self.backbone.image_shape)
        x: Any = start
        with torch.no_grad():
            for numbers in self.levels:
                node = self.nodes[numbers[0]]
                columns.append(mult_adds(node.column, x))
                x = node.column(x)
                leaves.append(mult_adds(node.classifier, x))
                extras = [start.new_zeros(1, 1)] if self.config.dynamic_k_cpt else []
                routers.append(0 if node.router is None else mult_adds(node.router, x, *extras))
        self.train(training)
        whole = sum(columns) + leaves[-1]

        def spread(prices: list[int]) -> Tensor:
            each = [price / whole for price, n in zip(prices, self.levels, strict=True) for _ in n]
            return torch.tensor(each, device=start.device)

        return Prices(spread(columns) + spread(routers), spread(leaves))

    def temperature(self, progress: float) -> float:
        tau: float = self.config.tau * 2 ** (-progress / self.config.tau_half_life)
        return tau

    def _loss(self, batch: Batch) -> Tensor:
        k_cpt: float | Tensor = self.config.k_cpt
        extras: list[Tensor] = []
        if self.config.dynamic_k_cpt:
            values = torch.tensor(self.config.k_cpt_values, device=batch.inputs.device)
            k_cpt = values[torch.randint(len(values), (len(batch.labels), 1), device=values.device)]
            extras = [k_cpt]
        columns = self._columns(batch.inputs)
        dense = Dense(self._scores(columns, [extras])[0], self._logits(columns))
        with torch.autocast(batch.labels.device.type, enabled=False):
            p = reach(dense.scores, self.temperature(batch.progress))
            self._throughput = tuple(each.detach().square().mean(0).sqrt() for each in p)  # type: ignore
            errors = cross_entropy(dense.logits, batch.labels)
            cost = self._costs(Pass(dense, batch.labels, errors, p, k_cpt))
            if batch.labels_alone:
                return cost
            # Routers weigh what labels say; what classifiers learn from beside them comes on top.
            taught = classification_loss(dense.logits, batch, reduction="none") - errors
            return cost + (p[1].detach() * taught).sum(1).mean()

    @abstractmethod
    def _costs(self, seen: Pass) -> Tensor:
        """The loss of a batch, a scalar."""

    def _complexity(self, p: tuple[Tensor, Tensor]) -> Tensor:
        """k_L2 times the squared weights of the layers that an image activates (Eq. 9), N."""
        columns, leaves = p if self.config.policy_regularised else (p[0].detach(), p[1].detach())
        outer = [squares(node.column, node.router) for node in self.nodes]
        inner = [squares(node.classifier) for node in self.nodes]
        penalty: Tensor = self.config.k_l2 * (columns @ torch.stack(outer) + leaves @ torch.stack(inner))
        return penalty

    def _adjust(self) -> None:
        """Throughput-adjusted learning rates (section 4.5): gradients by 1 / sqrt(mean p^2) of their node."""
        assert self._throughput is not None
        for node, column, leaf in zip(self.nodes, *(t.unbind() for t in self._throughput), strict=True):
            for module, throughput in ((node.column, column), (node.router, column), (node.classifier, leaf)):
                for parameter in [] if module is None else module.parameters():
                    if parameter.grad is not None:
                        parameter.grad.div_(throughput)


class Actor(Dynamic):
    """Routers that descend the expected cost (section 4.1)."""

    name: ClassVar[str] = "actor"

    class Config(Dynamic.Config):
        """Fields of an actor."""

        k_dec: Annotated[float, FloatDistribution(0.0, 0.1)] = Field(
            0.01, ge=0, description="of the squared scores: against deciding too early in training"
        )

    def _costs(self, seen: Pass) -> Tensor:
        dense, _, errors, p, k_cpt = seen
        columns, leaves = p
        prices = self.prices
        ends = leaves * (errors + k_cpt * prices.leaves)
        computation = columns * (k_cpt * prices.columns)
        size = torch.cat([s.square().sum(2) for s in dense.scores], 1)
        weight = columns[:, : size.shape[1]]
        weight = weight if self.config.policy_regularised else weight.detach()
        decisiveness = self.config.k_dec * weight * size
        each: Tensor = ends.sum(1) + computation.sum(1) + decisiveness.sum(1) + self._complexity(p)
        return each.mean()


class Critic(Dynamic):
    """Routers that predict the cost of every sink (sections 4.2 and 4.3)."""

    name: ClassVar[str] = "critic"

    class Config(Dynamic.Config):
        """Fields of a critic."""

        tau: Annotated[float, FloatDistribution(0.01, 10.0, log=True)] = Field(
            0.1, gt=0, description="temperature of the routing policy at the start of training"
        )
        k_ure: Annotated[float, FloatDistribution(1e-4, 10.0, log=True)] = Field(
            0.03, ge=0, description="of the squared error in predicting costs"
        )
        optimism: Annotated[bool, FLAG] = Field(
            False, description="predict the cost of the best decisions to come, not of the network's own"
        )
        error_cost: Annotated[
            Literal["cross_entropy", "error"], CategoricalDistribution(("cross_entropy", "error"))
        ] = Field("cross_entropy", description="what a wrong label costs where routers predict it; error: 1")

    def _costs(self, seen: Pass) -> Tensor:
        dense, labels, errors, p, k_cpt = seen
        columns, leaves = p[0].detach(), p[1].detach()
        predicted = errors
        if self.config.error_cost == "error":
            predicted = dense.logits.argmax(2).ne(labels[:, None]).float()
        costs = sink_costs(dense.scores, predicted, self.prices, k_cpt, self.config.optimism)
        # The utility of a sink is what it spares: s should be -c.
        off = [(s + c).square().sum(2) for s, c in zip(dense.scores, costs, strict=True)]
        regression = columns[:, : -len(self.levels[-1])] * torch.cat(off, 1)
        each: Tensor = (leaves * errors).sum(1) + self.config.k_ure * regression.sum(1) + self._complexity(p)
        return each.mean()


@hookimpl
def routesearch_methods() -> Sequence[type[RoutedNet]]:
    return [Actor, Critic]
