"""Deep convolutional decision jungle: every map of a network is a node that serves one class.

S. Baek, K. I. Kim, T.-K. Kim: Deep Convolutional Decision Jungle for Image Classification
(arXiv 1706.02003).

A node is a response map; an image is routed softly to those that respond to it. M(k,c) is the
response of node k to the images of class c, over all images, and a layer is pure where each row of M is
concentrated on one class. Training adds |M - G|^2 of each layer to the softmax loss. The guide G is what
M would be if its mass moved towards a binary S: each node serves one class, each class has as many nodes
as any other (section 3.1).

The paper stops there: it computes all nodes for all images. What a node serves is also a reason not to
read it, so at inference the nodes of a layer are grouped by the class that they serve, and the next
convolution reads a group for just those images that it responds to. That part is ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call

from routesearch import (
    Backbone,
    Batch,
    Knob,
    Meter,
    Refusal,
    RoutedNet,
    Scores,
    SearchSpace,
    Space,
    Stage,
    StandIn,
    Trunk,
    balanced,
    classification_loss,
    hookimpl,
    spread_thresholds,
)

USUAL = (0.0, 1e-6, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
"""Thresholds that are always measured. At 0 every group is read, just above it all that respond at all."""

QUANTILES = 24
"""Further thresholds, spread evenly over the responses of the validation images."""

NEWEST = 0.05
"""Weight of a batch in the running mean of M that nodes are grouped by."""

TINY = 1e-30
"""Keeps a layer that does not respond at all from a division by 0."""


# ---- the entropy loss ----------------------------------------------------------------------------------


def responses(maps: Tensor) -> Tensor:
    """r: the mean over a map that a ReLU gave. Images x nodes x height x width to images x nodes, float32.

    A sum and not a mean: that one's backward pass fills a map with a number before it is added.
    """
    return maps.sum((2, 3), dtype=torch.float32) / (maps.shape[2] * maps.shape[3])


def joint(r: Tensor, labels: Tensor, classes: int) -> Tensor:
    """M, Eq. 5, divided by the number of images: images x nodes responses to nodes x classes."""
    belongs = labels[:, None] == torch.arange(classes, device=labels.device)
    return r.T @ (belongs.to(r.dtype) / len(labels))


def assign(mass: Tensor) -> Tensor:
    """S of the paper's greedy: one 1 in each row, and columns within 1 of each other (Eq. 9 and 10).

    The entries of M are visited from the largest to the smallest (equal ones in row order), and one is
    taken where its row is free and its column has room. With N rows and C columns each column has room
    for N // C rows, and N % C of them, those that are first to need it, for one more.

    All layers and rows at once: each row asks for its best column, each column turns away all entries
    below the least that it took, and whoever was turned away asks again. No entry is turned away that the
    greedy takes, and every round settles one more column at least, the one that the greedy fills next. So C
    rounds are enough, and nobody has to wait for a GPU to ask whether there is another.

    Args:
        mass: layers x N x C, N >= C >= 2.
    """
    layers, nodes, classes = mass.shape
    room, more = divmod(nodes, classes)
    order = mass.reshape(layers, -1).argsort(dim=1, descending=True, stable=True)
    places = torch.arange(nodes * classes - 1, -1, -1, device=mass.device, dtype=torch.float32)
    rank = torch.empty(order.shape, device=mass.device).scatter_(1, order, places.expand_as(order))
    rank = rank.view(layers, nodes, classes).transpose(1, 2).contiguous()  # the largest has the highest
    least = rank.new_full((layers, classes, 1), -1.0)  # rank that a column still takes
    for _ in range(classes):
        open_ = torch.where(rank >= least, rank, -1.0)
        asks = torch.where(open_ == open_.amax(1, keepdim=True), rank, -1.0)
        top = asks.topk(room + 1, dim=2).values
        last, beyond = top[..., room - 1 : room], top[..., room:]
        bar = beyond.topk(more, dim=1).values[:, -1:] if more else beyond.new_tensor(math.inf)
        before, least = least, torch.where(beyond >= bar, beyond, torch.minimum(last, bar))
        if not least.is_cuda and torch.equal(before, least):
            break
    open_ = torch.where(rank >= least, rank, -1.0)
    return (open_ == open_.amax(1, keepdim=True)).transpose(1, 2).to(mass.dtype)


def guide(mass: Tensor, balance: float, keep: str) -> Tensor:
    """G, Eq. 8: M with the share ``balance`` of its mass moved to where S is 1.

    Args:
        mass: M, layers x nodes x classes.
        keep: ``node``: every row of G sums to what it does in M, so that no node fades. ``class``: every
            column does; a class' mass is shared out equally among its nodes.
    """
    serves = assign(mass)
    if keep == "node":
        target = serves * mass.sum(2, keepdim=True)
    else:
        target = serves * (mass.sum(1, keepdim=True) / serves.sum(1, keepdim=True))
    return torch.lerp(mass, target, balance)


def deviation(mass: Tensor, goal: Tensor, scale: str) -> Tensor:
    """The sum over layers of |M - G|^2, G held still; ``relative``: with M and G divided by |M|.

    The plain form pushes a layer to respond ever louder where nodes keep their mass: where each node serves
    the class that it responds to most, <M, M - G> is never positive. The gradient of the relative form has
    no part along M.
    """
    goal = goal.detach()
    if scale == "relative":
        size = mass.square().sum((1, 2), keepdim=True).clamp_min(TINY).sqrt()
        mass, goal = mass / size, goal / size.detach()
    return (mass - goal).square().sum()


# ---- a convolution that reads groups of maps -----------------------------------------------------------


class Part(nn.Module):
    """What one group of maps adds to a convolution: the layer itself on a slice of its weights.

    Weights are sliced when they are first needed, and again when they have changed.

    Args:
        conv: the whole layer.
        first: this part brings the bias; the others add to what came before.
    """

    def __init__(self, conv: nn.Conv2d, first: bool) -> None:
        super().__init__()
        self.conv = conv
        self.first = first
        self._of: Any = None
        self._weight: Tensor | None = None

    def slice(self, nodes: Tensor) -> None:
        """Read these input maps (their numbers, int64)."""
        weight = self.conv.weight
        of = (weight.data_ptr(), weight._version, nodes.data_ptr(), nodes._version)
        if of != self._of or weight.is_meta:
            with torch.inference_mode(False), torch.no_grad():
                part = weight.index_select(1, nodes)
                self._weight = part.contiguous(memory_format=torch.channels_last)
            self._of = of

    def forward(self, maps: Tensor, before: Tensor | None = None) -> Tensor:
        """The group's maps, and what other groups gave, to the sum."""
        bias = self.conv.bias if self.first else None
        swapped: Any = {"weight": self._weight, "bias": bias}  # the layer's own hooks see what it costs
        y: Tensor = functional_call(self.conv, swapped, (maps,))
        return y if before is None else y.add_(before)


class Reader(nn.Module):
    """A convolution whose input maps come in groups.

    In training it is the convolution and nothing else. Sizes of groups are fixed; which maps are in a
    group is data.

    Args:
        conv: the layer.
        groups: how many.

    Attributes:
        order: the maps' numbers, group after group (a buffer).
        sizes: maps of each group.
        parts: what each group adds. Not registered as modules: their weights are the layer's own.
    """

    order: Tensor

    def __init__(self, conv: nn.Conv2d, groups: int) -> None:
        super().__init__()
        self.conv = conv
        self.register_buffer("order", torch.arange(conv.in_channels))
        self.each, self.larger = divmod(conv.in_channels, groups)
        self.sizes = [self.each + 1] * self.larger + [self.each] * (groups - self.larger)
        self.parts: tuple[Part, ...] = tuple(Part(conv, first=not g) for g in range(groups))

    def forward(self, maps: Tensor) -> Tensor:
        y: Tensor = self.conv(maps)
        return y

    def group(self, mass: Tensor) -> None:
        """Set the groups by M (nodes x classes): each has the nodes that serve one class, the larger first.

        Of equally large ones that with more mass is first. Of more classes than groups neighbours share one.
        """
        groups, classes = len(self.sizes), mass.shape[1]
        if groups < classes:
            to = torch.arange(classes, device=mass.device) * groups // classes
            mass = mass.new_zeros(len(mass), groups).index_add_(1, to, mass)
        serves = assign(mass[None])[0]
        heavy = (serves * mass).sum(0).argsort(descending=True, stable=True)
        ranked = heavy[serves.sum(0)[heavy].argsort(descending=True, stable=True)]
        self.order.copy_(ranked.argsort()[serves.argmax(1)].argsort(stable=True))

    def loudness(self, sorted_maps: Tensor) -> Tensor:
        """Images x groups: a group's mean response, relative to the mean over groups (0 if none responds)."""
        r, cut = responses(sorted_maps), self.larger * (self.each + 1)
        large = r[:, :cut].unflatten(1, (self.larger, -1)).mean(2) if cut else r[:, :0]
        each = torch.cat([large, r[:, cut:].unflatten(1, (-1, self.each)).mean(2)], 1)
        return each / each.mean(1, keepdim=True).clamp_min(TINY)

    def read(self, meter: Meter, maps: Tensor, threshold: float) -> Tensor:
        """Run the layer through the meter on the first group, and on others that are over the threshold."""
        maps = maps.index_select(1, self.order)
        for part, nodes in zip(self.parts, self.order.split(self.sizes), strict=True):
            part.slice(nodes)
        if threshold > 0 and not maps.is_meta:
            loud = self.loudness(maps) > threshold
        else:
            loud = torch.ones(len(maps), len(self.sizes), dtype=torch.bool, device=maps.device)
        (first, first_maps), *others = zip(self.parts, maps.split(self.sizes, 1), strict=True)
        y: Tensor = meter.run(first, first_maps)
        for g, (part, part_maps) in enumerate(others, 1):
            y = meter.patch(loud[:, g], part, part_maps, y, into=y)
        return y


class Rest(nn.Module):
    """A unit without its first convolution: that one's input, which is the unit's, and its output go in."""

    def __init__(self, unit: nn.Module, given: StandIn) -> None:
        super().__init__()
        self.unit = unit
        self.given = given

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        out: Tensor = self.given.run(self.unit, x, gives=y, only_for=x)
        return out


class Opened(nn.Module):
    """A unit as the convolution that reads its input, in groups, and the rest of it."""

    def __init__(self, unit: nn.Module, groups: int) -> None:
        super().__init__()
        name = first_conv(unit)
        assert name is not None
        path, _, leaf = name.rpartition(".")
        conv, given = unit.get_submodule(name), StandIn("jungle: a unit's first convolution")
        assert isinstance(conv, nn.Conv2d)
        setattr(unit.get_submodule(path), leaf, given)
        self.reader = Reader(conv, groups)
        self.rest = Rest(unit, given)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.rest(x, self.reader(x))
        return y


def first_conv(unit: nn.Module) -> str | None:
    """The name of the convolution that a unit begins with, None where it begins with something else."""
    name, first = next((name, m) for name, m in unit.named_modules() if not any(m.children()))
    return name if name and isinstance(first, nn.Conv2d) and first.groups == 1 else None


# ---- the method ----------------------------------------------------------------------------------------


class Jungle(RoutedNet):
    """A backbone whose maps serve one class each, read in groups where they respond."""

    name: ClassVar[str] = "jungle"
    needs_trunk: ClassVar[bool] = True

    class Config(Space):
        """Fields of a jungle."""

        balance: Annotated[float, FloatDistribution(0.02, 1.0, log=True)] = Field(
            0.2, gt=0, le=1, description="beta: share of the mass that the guide moves to a node's own class"
        )
        from_unit: Annotated[int, IntDistribution(1, 999)] = Field(
            2, ge=1, description="the first unit whose maps are nodes; all later ones are too"
        )
        guide: Annotated[Literal["node", "class"], CategoricalDistribution(("node", "class"))] = Field(
            "node", description="whose mass the guide keeps: each node's (option A) or each class' (B)"
        )
        scale: Literal["relative", "plain"] = Field(
            "relative", description="of a layer's loss: M and G divided by |M|, or as in the paper"
        )
        rate: float = Field(0.3, gt=0, description="of the study's learning rate")
        groups: int = Field(0, ge=0, description="groups of maps in a layer at most; 0: one for each class")
        aux_units: tuple[int, ...] = Field(
            (), description="units whose nodes serve superclasses instead of classes"
        )
        aux_classes: int = Field(0, ge=0, description="how many superclasses there are")

    @classmethod
    def space(cls, backbone: Backbone) -> SearchSpace:
        first, last = _range(backbone, backbone.unit)
        usual = min(max(2, first), last)
        return super().space(backbone).refine({"from_unit": usual}, from_unit=IntDistribution(first, last))

    def __init__(self, config: Space, backbone: Backbone, trunk: Trunk | None = None) -> None:
        super().__init__(config, backbone, trunk)
        start: int = self.config.from_unit
        plain = self.build_plain()
        chain = [*plain.units, plain.head]  # chain[k] reads unit k
        _, last = _range(backbone, lambda k: chain[k - 1])
        if start > last:
            rule = f"from_unit <= {last} must hold on backbone {backbone.name}, for a unit to read its maps"
            raise Refusal(f"jungle: {rule}, got from_unit={start}")
        if self.config.groups == 1:
            raise Refusal("jungle: groups >= 2 must hold, or groups = 0 for one a class, got groups=1")
        self._check_aux()
        self.nodes = {k: self._classes(k) for k in range(start, len(backbone) + 1)}
        """Units whose maps are nodes, and how many classes these serve."""
        for k, classes in self.nodes.items():
            if _maps(backbone, k) < classes:
                raise _too_few(backbone, k, classes)
        for k, classes in self.nodes.items():
            if first_conv(chain[k]) is not None:
                chain[k] = Opened(chain[k], min(self.config.groups or classes, classes))
        self.chain = nn.ModuleList(chain)
        self.checked = False
        """Whether superclasses were seen to be as few as the config says."""
        # Layers of one shape are guided together, and their running means of M are one buffer.
        self.alike: dict[tuple[int, int], list[int]] = {}
        for k, classes in self.nodes.items():
            self.alike.setdefault((_maps(backbone, k), classes), []).append(k)
        for (nodes, classes), units in self.alike.items():
            name = _mass(nodes, classes)
            self.register_buffer(name, torch.zeros(len(units), nodes, classes))

    def _classes(self, k: int) -> int:
        count: int = self.config.aux_classes if k in self.config.aux_units else self.backbone.classes
        return count

    def _check_aux(self) -> None:
        units, classes = self.config.aux_units, self.config.aux_classes
        start, last = self.config.from_unit, len(self.backbone)
        outside = [k for k in units if not start <= k <= last]
        if outside:
            rule = f"{start} <= unit <= {last} must hold for aux_units on backbone {self.backbone.name}"
            raise Refusal(f"jungle: {rule}, got unit={outside[0]}")
        if bool(units) != (classes > 0) or classes == 1:
            rule = "aux_units and aux_classes >= 2 must be given together"
            raise Refusal(f"jungle: {rule}, got aux_units={list(units)}, aux_classes={classes}")

    # ---- training ----

    def stages(self) -> Sequence[Stage]:
        if self.trunk is None:
            raise Refusal("jungle: nodes are purified from a trained trunk on, got none")
        return [Stage(self._loss, batches=balanced, rate=self.config.rate)]

    def _loss(self, batch: Batch) -> Tensor:
        """E_softmax + the entropy loss of all layers (Eq. 6 and 7)."""
        seen: dict[int, Tensor] = {}
        x = batch.inputs
        for k, unit in enumerate(self.chain, 1):
            x = unit(x)
            if k in self.nodes:
                seen[k] = responses(x)
        loss = classification_loss(x, batch)
        with torch.autocast(x.device.type, enabled=False):
            found = self._masses(batch, seen)
            for (nodes, classes), units in self.alike.items():
                masses = torch.stack([found[k] for k in units])
                with torch.no_grad():
                    goal = guide(masses, self.config.balance, self.config.guide)
                    if self.training:
                        self.get_buffer(_mass(nodes, classes)).lerp_(masses, NEWEST)
                loss = loss + deviation(masses, goal, self.config.scale)
        return loss

    def _masses(self, batch: Batch, seen: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """Each unit's M, by the labels that its nodes serve."""
        own = [k for k in self.nodes if k not in self.config.aux_units]
        aux = [k for k in self.nodes if k in self.config.aux_units]
        if aux and "superclass" not in batch.aux:
            got = ", ".join(sorted(batch.aux)) or "none"
            raise Refusal(f"jungle: aux_units need data with superclass labels, got {got} beside classes")
        if aux and not self.checked:  # in the first step only: it waits for the device
            most = int(batch.aux["superclass"].max())
            if most >= self.config.aux_classes:
                rule = "superclass < aux_classes must hold for all images"
                raise Refusal(f"jungle: {rule}, got superclass={most}, aux_classes={self.config.aux_classes}")
            self.checked = True
        found: dict[int, Tensor] = {}
        for units, labels in ((own, batch.labels), (aux, batch.aux.get("superclass", batch.labels))):
            if units:  # one product for all of them
                mass = joint(torch.cat([seen[k] for k in units], 1), labels, self.nodes[units[0]])
                found |= zip(units, mass.split([seen[k].shape[1] for k in units]), strict=True)
        return found

    def train(self, mode: bool = True) -> Jungle:
        """Change modes; training over, nodes are grouped by the running means of M."""
        over = self.training and not mode
        super().train(mode)
        if over and not next(self.buffers()).is_meta:
            self._group()
        return self

    @torch.no_grad()
    def _group(self) -> None:
        for (nodes, classes), units in self.alike.items():
            for mass, k in zip(self.get_buffer(_mass(nodes, classes)), units, strict=True):
                if bool(mass.min() < 0):
                    rule = f"maps must be what a ReLU gives, >= 0, on backbone {self.backbone.name}"
                    got = f"a mean response of {float(mass.min()):.3g} in unit {k}"
                    raise Refusal(f"jungle: {rule}, got {got}")
                unit = self.chain[k]
                if isinstance(unit, Opened):
                    unit.reader.group(mass)

    # ---- routing ----

    def route(self, meter: Meter, images: Tensor, knob: Knob) -> None:
        x = images
        for unit in self.chain:
            if isinstance(unit, Opened):
                x = meter.run(unit.rest, x, unit.reader.read(meter, x, knob["threshold"]))
            else:
                x = meter.run(unit, x)
        meter.finish(x)

    def observe(self, images: Tensor) -> Scores:
        """How loud each group of each layer is where all groups are read.

        A threshold changes what later layers see, so these are not decisions: they say which thresholds
        can matter. Ways are too many to list, hence no predictions.
        """
        x, seen = images, []
        for unit in self.chain:
            if isinstance(unit, Opened):
                seen.append(unit.reader.loudness(x.index_select(1, unit.reader.order)))
            x = unit(x)
        return Scores(
            torch.cat(seen, 1), torch.empty(len(images), 0, dtype=torch.int64, device=images.device)
        )

    def knobs(self, scores: Scores | None = None, labels: Tensor | None = None) -> Sequence[Knob]:
        thresholds = list(USUAL)
        if scores is not None:
            thresholds += spread_thresholds(scores.scores, QUANTILES)
        # Beyond what the loudest of G groups can be relative to their mean: only the first group is read.
        beyond = 1.0 + max(len(u.reader.sizes) for u in self.chain if isinstance(u, Opened))
        thresholds = [t for t in dict.fromkeys(thresholds) if 0 <= t < beyond]
        return [{"threshold": threshold} for threshold in [*thresholds, beyond]]


def _mass(nodes: int, classes: int) -> str:
    return f"mass_{nodes}x{classes}"


def _maps(backbone: Backbone, k: int) -> int:
    return backbone.shape(k)[0]


def _range(backbone: Backbone, unit: Callable[[int], nn.Module]) -> tuple[int, int]:
    """The units that can be ``from_unit``: all later ones have maps enough, and a unit reads its maps.

    Args:
        unit: unit k of the backbone.

    Raises:
        Refusal: where there is none.
    """
    units = range(1, len(backbone) + 1)
    if any(len(backbone.shape(k)) != 3 for k in units):
        rule = "unit outputs must be maps, C x H x W"
        raise Refusal(f"jungle: {rule}, backbone {backbone.name} gives {backbone.shape(len(backbone))}")
    last = next((k for k in reversed(units[:-1]) if first_conv(unit(k + 1)) is not None), 0)
    if not last:
        rule = "a unit after the first must begin with a convolution that reads the unit's input"
        raise Refusal(f"jungle: {rule}, backbone {backbone.name} has none")
    first = 1 + max((k for k in units if _maps(backbone, k) < backbone.classes), default=0)
    if first > last:
        raise _too_few(backbone, max(last, first - 1), backbone.classes)
    return first, last


def _too_few(backbone: Backbone, k: int, classes: int) -> Refusal:
    rule = "a unit must not have fewer maps than classes for the jungle"
    got = f"{_maps(backbone, k)} maps of unit {k} of backbone {backbone.name} for {classes} classes"
    return Refusal(f"jungle: {rule}, got {got}")


@hookimpl
def routesearch_methods() -> Sequence[type[RoutedNet]]:
    return [Jungle]
