"""Exits that are trained together with the backbone, with every usual rule for leaving.

What early-exit networks have in common: classifiers after some units, one loss over all of them, and a rule
that lets an image leave at the first exit that is sure enough. BranchyNet (Teerapittayanon et al., ICPR 2016,
arXiv 1709.01686) trains a weighted sum of the exits' losses and leaves by entropy; MSDNet (Huang et al., ICLR
2018, arXiv 1703.09844) weighs all exits alike and leaves by the largest probability; PABEE (Zhou et al.,
NeurIPS 2020, arXiv 2006.04152) weighs later exits more and leaves once so many exits in a row agree. Early
exits may also learn from the network's own last one (Zhang et al., ICCV 2019, arXiv 1905.08094), and the
gradients that meet in the backbone can be balanced (Li et al., ICCV 2019, arXiv 1908.06294).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

import torch
from optuna.distributions import CategoricalDistribution, FloatDistribution
from pydantic import Field
from torch import Tensor, nn

from routesearch import (
    Backbone,
    Batch,
    Cuts,
    Features,
    Knob,
    LinearExit,
    Meter,
    Refusal,
    RoutedNet,
    Scores,
    SearchSpace,
    Space,
    Stage,
    Start,
    Targets,
    Trunk,
    classification_loss,
    exit_thresholds,
    first_exit,
    hookimpl,
    place_exits,
)

MOST = 5
"""Exits at most, beside the network's own."""

USUAL_PLACES = (0.15, 0.3, 0.5, 0.75)
"""Positions to begin with, as shares of the units."""

USUAL = {"confidence": 0.9, "entropy": 0.8, "margin": 0.8}
"""A threshold to begin with, before there are scores."""


# ---- rules for leaving ---------------------------------------------------------------------------------


def confidence(logits: Tensor) -> Tensor:
    """The largest probability, N (MSDNet)."""
    return _chances(logits).amax(1)


def certainty(logits: Tensor) -> Tensor:
    """1 - entropy / log C, N: 1 where one of C classes has all, 0 where all have the same (BranchyNet)."""
    logs = _float(logits).log_softmax(1)
    even = torch.tensor(float(max(2, logits.shape[1])), device=logits.device).log()
    return 1 + (logs.exp() * logs).sum(1) / even


def margin(logits: Tensor) -> Tensor:
    """What the likeliest class is ahead of the second, N (Park et al., 2015)."""
    top = _chances(logits).topk(min(2, logits.shape[1]), 1).values
    return top[:, 0] - top[:, 1:].sum(1)


CRITERIA: Mapping[str, Callable[[Tensor], Tensor]] = {
    "confidence": confidence,
    "entropy": certainty,
    "margin": margin,
}
"""How sure an exit is by its logits; more is surer."""

PATIENCE = "patience"


def agreeing(label: Tensor, before: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """An exit's labels and how often in a row exits agreed with the one before them (PABEE, section 3.1).

    Args:
        label: of this exit, N.
        before: the same pair at the exit before.
    """
    last, count = before
    return label, torch.where(label == last, count + 1, 0)


def nobody(count: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """What :func:`agreeing` begins with: a label that no exit gives."""
    label = torch.full((count,), -1, dtype=torch.int64, device=like.device)
    return label, torch.zeros_like(label)


def _float(logits: Tensor) -> Tensor:
    """Logits in float32 at least: probabilities near 1 are alike in less."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _chances(logits: Tensor) -> Tensor:
    return _float(logits).softmax(1)


# ---- training ------------------------------------------------------------------------------------------


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.factor, None


def scaled(x: Any, factor: float) -> Any:
    """``x``, whose gradient is multiplied by ``factor``; lists of maps too."""
    if isinstance(x, Tensor):
        y: Tensor = _Scaled.apply(x, factor)
        return y
    return [scaled(part, factor) for part in x]


class Exits(RoutedNet):
    """Exits trained together with the backbone; an image leaves where one is sure, or where several agree."""

    name: ClassVar[str] = "exits"

    class Config(Space):
        """Fields of a network with exits."""

        positions: Annotated[tuple[int, ...], Cuts()] = Field(
            (), description="units after which an exit stands"
        )
        features: Features = Field(
            "grid",
            description="what an exit sees: channel means, the means of a 4 x 4 grid, or the whole map",
        )
        loss_weights: Annotated[
            Literal["uniform", "linear"], CategoricalDistribution(("uniform", "linear"))
        ] = Field(
            "uniform", description="of exits in the loss: all alike, or more for later ones (1, 2, 3 ...)"
        )
        self_distill: Annotated[float, FloatDistribution(0.0, 0.9)] = Field(
            0.5, ge=0, le=1, description="share of early exits' loss: what the last exit says, not the labels"
        )
        gradients: Annotated[
            Literal["sum", "equilibrium", "none"], CategoricalDistribution(("sum", "equilibrium", "none"))
        ] = Field(
            "sum",
            description="of exits in the backbone: added up; balanced between an exit and those behind it;"
            " or none, the trunk stays as it is",
        )
        start: Start = Field("trunk", description="units' weights: the trunk's, or drawn at random (scratch)")
        trunk_rate: float = Field(
            1.0, gt=0, description="factor of the learning rate of units that start from the trunk"
        )
        temperature: float = Field(2.0, gt=0, description="that logits are divided by in self-distillation")
        criterion: Literal["all", "confidence", "entropy", "margin", "patience"] = Field(
            "all", description="what decides who leaves; all: each is offered, and the study chooses"
        )

    @classmethod
    def space(cls, backbone: Backbone) -> SearchSpace:
        most = min(MOST, len(backbone) - 1)
        return place_exits(super().space(backbone), backbone, USUAL_PLACES, cls.name, most)

    def __init__(self, config: Space, backbone: Backbone, trunk: Trunk | None = None) -> None:
        super().__init__(config, backbone, trunk)
        positions: tuple[int, ...] = self.config.positions
        backbone.check_cuts(positions, "exits: positions")
        if self.config.gradients == "none" and self.config.start != "trunk":
            raise Refusal("exits: gradients=none needs start=trunk: units that never learn must be trained")
        if self.config.criterion == PATIENCE and len(positions) < 2:
            rule = "criterion=patience needs 2 positions or more, which can agree"
            raise Refusal(f"exits: {rule}, got {list(positions)}")
        plain = self.build_plain()
        cuts = [0, *positions, len(backbone)]
        self.segments = nn.ModuleList(nn.Sequential(*plain.units[a:b]) for a, b in pairwise(cuts))
        exits = [LinearExit(backbone, k, self.config.features, self.name) for k in positions]
        self.exits: Sequence[LinearExit] = nn.ModuleList(exits)  # type: ignore[assignment]
        self.head = plain.head

    # ---- training ----

    def stages(self) -> Sequence[Stage]:
        if self.config.gradients == "none":
            if self.trunk is None:
                raise Refusal("exits: gradients=none trains exits on a trained trunk, got none")
            return [Stage(self._frozen, trains=list(self.exits), cache=self._views)]
        rates = (
            dict.fromkeys((self.segments, self.head), self.config.trunk_rate) if self.starts_trained else {}
        )
        return [Stage(self._together, rates=rates)]

    def _views(self, images: Tensor) -> list[Tensor]:
        """What the exits' layers see of the frozen trunk, and the last exit's logits."""
        seen, x = [], images
        for segment, way_out in zip(self.segments[:-1], self.exits, strict=True):
            x = segment(x)
            seen.append(way_out.view(x))
        return [*seen, self.head(self.segments[-1](x))]

    def _frozen(self, batch: Batch) -> Tensor:
        *views, last = batch.inputs
        early = [way_out.linear(view) for way_out, view in zip(self.exits, views, strict=True)]
        return self._loss(early, last, batch)

    def _together(self, batch: Batch) -> Tensor:
        x, early = batch.inputs, []
        balance = self.config.gradients == "equilibrium"
        for number, (segment, way_out) in enumerate(zip(self.segments[:-1], self.exits, strict=True)):
            x = segment(x)
            left = len(self.exits) - number  # exits behind this one
            here = scaled(x, 1 / (left + 1)) if balance else x  # Li et al., section 3.1
            x = scaled(x, left / (left + 1)) if balance else x
            early.append(way_out(here))
        return self._loss(early, self.head(self.segments[-1](x)), batch)

    def _loss(self, early: Sequence[Tensor], last: Tensor, batch: Batch) -> Tensor:
        """The weighted mean of all exits' losses; of early ones a share is distilled from the last."""
        share: float = self.config.self_distill
        own = replace(
            batch, teacher=last.detach(), targets=Targets(share=1.0, temperature=self.config.temperature)
        )
        losses = []
        for logits in early:
            loss = classification_loss(logits, batch)
            losses.append(torch.lerp(loss, classification_loss(logits, own), share) if share else loss)
        losses.append(classification_loss(last, batch))
        stacked = torch.stack(losses)
        weights = torch.ones_like(stacked)
        if self.config.loss_weights == "linear":
            weights = weights.cumsum(0)
        return (stacked * weights).sum() / weights.sum()

    # ---- routing ----

    def route(self, meter: Meter, images: Tensor, knob: Knob) -> None:
        criterion, thresholds = self._rule(knob)
        before = nobody(len(images), images) if criterion == PATIENCE else ()
        self._from(meter, images, 0, criterion, thresholds, before)

    def _from(
        self, meter: Meter, x: Any, number: int, criterion: str, thresholds: Sequence[float], before: Any
    ) -> None:
        """Through segment ``number`` and on; ``before``: the exits' agreement so far, where it decides."""
        x = meter.run(self.segments[number], x)
        if number == len(self.exits):
            meter.finish(meter.run(self.head, x), route=number)
            return
        logits = meter.run(self.exits[number], x)
        if criterion == PATIENCE:
            before = agreeing(logits.argmax(1), before)
            leaves = before[1] >= thresholds[number]
        else:
            leaves = CRITERIA[criterion](logits) >= thresholds[number]
        for leave, group, x_of, logits_of, before_of in meter.split(leaves, 2, x, logits, before):
            if leave:
                group.finish(logits_of, route=number)
            else:
                self._from(group, x_of, number + 1, criterion, thresholds, before_of)

    def _rule(self, knob: Knob) -> tuple[str, Sequence[float]]:
        """A knob as its criterion and one threshold an exit."""
        criterion = knob["criterion"]
        if criterion == PATIENCE:
            return criterion, [knob["patience"]] * len(self.exits)
        if criterion not in CRITERIA:
            offered = ", ".join([*CRITERIA, PATIENCE])
            raise Refusal(f"exits: a knob's criterion must be one of {offered}, got {criterion!r}")
        return criterion, knob["thresholds"]

    def observe(self, images: Tensor) -> Scores:
        """Columns of all criteria, one an exit each, in the order of ``CRITERIA``; then the agreement."""
        x, labels = images, list[Tensor]()
        columns: dict[str, list[Tensor]] = {name: [] for name in (*CRITERIA, PATIENCE)}
        before = nobody(len(images), images)
        for segment, way_out in zip(self.segments[:-1], self.exits, strict=True):
            x = segment(x)
            logits = way_out(x)
            labels.append(logits.argmax(1))
            before = agreeing(labels[-1], before)
            for name, sure in CRITERIA.items():
                columns[name].append(sure(logits))
            columns[PATIENCE].append(before[1].to(columns["confidence"][-1].dtype))
        labels.append(self.head(self.segments[-1](x)).argmax(1))
        scores = torch.stack([column for group in columns.values() for column in group], 1)
        return Scores(scores, torch.stack(labels, 1))

    def _columns(self, scores: Tensor, criterion: str) -> Tensor:
        """A criterion's scores among those of all, N x exits."""
        at = [*CRITERIA, PATIENCE].index(criterion) * len(self.exits)
        return scores[:, at : at + len(self.exits)]

    def decide(self, scores: Tensor, knob: Knob) -> Tensor:
        criterion, thresholds = self._rule(knob)
        return first_exit(self._columns(scores, criterion), thresholds)

    def knobs(self, scores: Scores | None = None, labels: Tensor | None = None) -> Sequence[Knob]:
        kind, exits = self.config.criterion, len(self.exits)
        found: list[Knob] = []
        for name in CRITERIA if kind == "all" else {kind} - {PATIENCE}:
            seen = None if scores is None else replace(scores, scores=self._columns(scores.scores, name))
            settings = [[USUAL[name]] * exits, *exit_thresholds(seen, labels)]
            found += [{"criterion": name, "thresholds": t} for t in settings]
        if kind in ("all", PATIENCE):
            # At 0 everybody leaves at the first exit, with as many exits nobody leaves early.
            counts = range(1, exits) if kind == "all" else [1, 0, *range(2, exits + 1)]
            found += [{"criterion": PATIENCE, "patience": count} for count in counts]
        return found


@hookimpl
def routesearch_methods() -> Sequence[type[RoutedNet]]:
    return [Exits]
