"""ConvNet-AIG: gates that decide, image by image, which residual blocks to run, at a target rate.

A. Veit, S. Belongie: Convolutional Networks with Adaptive Inference Graphs (ECCV 2018, arXiv 1711.11503).

A gate in front of a residual unit F sees the mean of each channel of the unit's input and has two outputs:
skip and run. In training Gumbel noise is added to both, the larger one decides and gradients are those of
their softmax, so that gates learn from the classification loss; a second loss holds the share of images
that run a unit at a target (section 3). Without noise, the larger output decides.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from optuna.distributions import CategoricalDistribution, FloatDistribution
from pydantic import Field
from torch import Tensor, nn

from routesearch import (
    Backbone,
    Batch,
    BatchMeter,
    Knob,
    Meter,
    Refusal,
    Residual,
    RoutedNet,
    Scores,
    SearchSpace,
    Space,
    Stage,
    Start,
    Trunk,
    classification_loss,
    hookimpl,
    kaiming,
    shortcut_of,
    spread_thresholds,
)

FAR = 1e9
"""A threshold beyond every logit: at -FAR each gated unit runs, at FAR none."""

QUANTILES = 30
"""Further thresholds, spread evenly over the scores of validation images."""


class Gate(nn.Module):
    """Channel means, two linear layers with a batch norm between: N,C,H,W to N x 2 logits, skip and run.

    Args:
        hidden: outputs of the first layer; the paper has 16.
        opened: the probability of running at the start, whatever the image.
    """

    def __init__(self, channels: int, hidden: int, opened: float) -> None:
        super().__init__()
        first, self.last = nn.Linear(channels, hidden), nn.Linear(hidden, 2)
        self.seen = nn.Sequential(kaiming(first), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True))
        if not self.last.weight.is_meta:
            nn.init.normal_(self.last.weight, std=0.001)
            logit = math.log(opened) - math.log1p(-opened)
            with torch.no_grad():
                self.last.bias.copy_(torch.tensor([-logit / 2, logit / 2]))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(self.seen(x.mean((2, 3))))
        return logits


def lead(logits: Tensor) -> Tensor:
    """What running is ahead of skipping, N, in float32 at least."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return wide[:, 1] - wide[:, 0]


def drawn(logits: Tensor, temperature: float) -> Tensor:
    """Gates of 0 and 1, N: the larger logit under Gumbel noise; the gradient is that of the softmax."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.gumbel_softmax(wide, tau=temperature, hard=True, dim=1)[:, 1]


def target_loss(gates: Tensor, target: float, of: str) -> Tensor:
    """The squared distance of execution rates from the target (section 3, training loss).

    Args:
        gates: images x units, 1 where the unit ran.
        of: ``block``: the mean over units; ``network``: of the rate of all units together.
    """
    rates = gates.mean(0) if of == "block" else gates.mean()
    return (rates - target).square().mean()


class ConvNetAIG(RoutedNet):
    """A residual network whose gates run each unit for a target share of the images (ConvNet-AIG)."""

    name: ClassVar[str] = "aig"

    class Config(Space):
        """Fields of a ConvNet-AIG."""

        target: Annotated[float, FloatDistribution(0.1, 1.0)] = Field(
            0.6, ge=0, le=1, description="share of images that a gated unit should run for"
        )
        target_of: Annotated[Literal["block", "network"], CategoricalDistribution(("block", "network"))] = (
            Field("network", description="what the target holds for: each unit, or all of them together")
        )
        gated: Literal["all", "identity"] = Field(
            "identity",
            description="residual units with a gate: those that keep their input's shape, the others run"
            " always; or all but the first (the paper's)",
        )
        ungated: int = Field(0, ge=0, description="first residual units that have no gate and run always")
        start: Start = Field("trunk", description="units' weights: the trunk's, or drawn at random (scratch)")
        trunk_rate: float = Field(
            1.0, gt=0, description="factor of the learning rate of units that start from the trunk"
        )
        rate_weight: float = Field(10.0, ge=0, description="of the target's loss beside the cross-entropy")
        opened: float = Field(
            0.5, gt=0, lt=1, description="probability that a gated unit runs when training begins"
        )
        temperature: float = Field(1.0, gt=0, description="of the Gumbel softmax")
        hidden: int = Field(16, ge=1, description="outputs of a gate's first layer")

    @classmethod
    def space(cls, backbone: Backbone) -> SearchSpace:
        _residual_positions(backbone)
        return super().space(backbone)

    def __init__(self, config: Space, backbone: Backbone, trunk: Trunk | None = None) -> None:
        super().__init__(config, backbone, trunk)
        plain = self.build_plain()
        self.units = nn.ModuleList()
        self.gates = nn.ModuleDict()
        for k, unit in enumerate(plain.units, 1):
            gate = self._gate(k, unit, first=k in _residual_positions(backbone)[: self.config.ungated])
            if gate is not None:
                self.gates[str(k)] = gate
            self.units.append(unit if gate is None else Residual(unit))
        self.head = plain.head
        if not self.gates:
            got = f"gated={self.config.gated} and ungated={self.config.ungated} on backbone {backbone.name}"
            raise Refusal(f"aig: one residual unit or more must have a gate, got none with {got}")

    def _gate(self, k: int, unit: nn.Module, first: bool) -> Gate | None:
        """The gate in front of unit ``k``; None where it always runs."""
        way = shortcut_of(unit)
        changes = way is not None and not isinstance(way, nn.Identity)
        if k == 1 or way is None or first or (changes and self.config.gated == "identity"):
            return None
        shape = self.backbone.shape(k - 1)
        if len(shape) != 3:
            rule = f"gates need unit inputs of C,H,W, unit {k} of backbone {self.backbone.name}"
            raise Refusal(f"aig: {rule} gets {shape}")
        return Gate(shape[0], self.config.hidden, self.config.opened)

    # ---- running ----

    def route(self, meter: Meter, images: Tensor, knob: Knob) -> None:
        x, _ = self._walk(meter, images, knob["threshold"])
        meter.finish(meter.run(self.head, x))

    def _walk(self, meter: Meter, images: Tensor, threshold: float) -> tuple[Tensor, list[Tensor]]:
        """The last unit's output, and the lead of each gate, N; units run where it is over the threshold."""
        x, leads = images, list[Tensor]()
        for k, unit in enumerate(self.units, 1):
            if not isinstance(unit, Residual):
                x = meter.run(unit, x)
                continue
            leads.append(lead(meter.run(self.gates[str(k)], x)))
            past = x if unit.projection is None else meter.run(unit.projection, x)
            x = meter.patch(leads[-1] > threshold, unit, x, past, into=past)
        return x, leads

    def observe(self, images: Tensor) -> Scores:
        """The lead of all gates where every unit runs, where none does, and at the paper's threshold.

        A threshold changes what later gates see, so these are not decisions: they say which thresholds
        can matter. Ways are too many to list, hence no predictions.
        """
        passes = [self._walk(BatchMeter(images), images, bar)[1] for bar in (-FAR, FAR, 0.0)]
        seen = torch.stack([z for leads in passes for z in leads], 1)
        return Scores(seen, torch.empty(len(images), 0, dtype=torch.int64, device=images.device))

    def knobs(self, scores: Scores | None = None, labels: Tensor | None = None) -> Sequence[Knob]:
        thresholds = [0.0, -FAR, FAR]
        if scores is not None:
            thresholds += spread_thresholds(scores.scores, QUANTILES)
        return [{"threshold": threshold} for threshold in dict.fromkeys(thresholds)]

    # ---- training ----

    def stages(self) -> Sequence[Stage]:
        rates: Mapping[nn.Module, float] = {}
        if self.starts_trained:
            rates = dict.fromkeys((self.units, self.head), self.config.trunk_rate)
        return [Stage(self._loss, rates=rates)]

    def _dense(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Every unit run for every image, kept where its gate is drawn so: logits, and gates (N x units)."""
        x, values = images, list[Tensor]()
        for k, unit in enumerate(self.units, 1):
            if not isinstance(unit, Residual):
                x = unit(x)
                continue
            gate = drawn(self.gates[str(k)](x), self.config.temperature)
            past = x if unit.projection is None else unit.projection(x)
            x = torch.lerp(past, unit(x, past), gate.to(past.dtype)[:, None, None, None])
            values.append(gate)
        return self.head(x), torch.stack(values, 1)

    def _loss(self, batch: Batch) -> Tensor:
        logits, gates = self._dense(batch.inputs)
        held = target_loss(gates, self.config.target, self.config.target_of)
        loss: Tensor = classification_loss(logits, batch) + self.config.rate_weight * held
        return loss


def _residual_positions(backbone: Backbone) -> list[int]:
    """The residual units after the first.

    Raises:
        Refusal: there are none.
    """
    found = [k for k in range(2, len(backbone) + 1) if shortcut_of(backbone.unit(k)) is not None]
    if not found:
        rule = "a backbone must have residual units to skip (with a `shortcut`) after its first"
        raise Refusal(f"aig: {rule}, {backbone.name} has none")
    return found


@hookimpl
def routesearch_methods() -> Sequence[type[RoutedNet]]:
    return [ConvNetAIG]
