"""d-gate: early exits that ask how far an image lies from the decision boundary.

M. S. Shafiee, M. J. Shafiee, A. Wong: Dynamic Representations Toward Efficient Inference on Deep
Neural Networks by Decision Gates (CVPR workshops 2019, arXiv 1811.01476).

A gate after unit k is one linear layer on the trunk's features, d = w'x - b (Eq. 1). Its largest
entry is the image's distance to the boundary of the class it looks like most. At or above the
gate's threshold t the image leaves with that class (Algorithm 1); otherwise it goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from optuna.distributions import CategoricalDistribution
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
    Trunk,
    classification_loss,
    exit_thresholds,
    first_exit,
    hookimpl,
    place_exits,
)


class DGate(RoutedNet):
    """A frozen trunk with decision gates, each trained on its own."""

    name: ClassVar[str] = "dgate"
    needs_trunk: ClassVar[bool] = True

    class Config(Space):
        """Fields of a d-gate network."""

        positions: Annotated[tuple[int, ...], Cuts()] = Field(
            (), description="units after which a gate stands"
        )
        gate_loss: Annotated[
            Literal["hinge", "cross_entropy"], CategoricalDistribution(("hinge", "cross_entropy"))
        ] = Field("hinge", description="one-vs-all hinge (the paper's), or what it compares with")
        features: Features = Field(  # the paper does not say; its FLOP figures fit either end
            "grid", description="what a gate sees: channel means, the means of a 4 x 4 grid, or the whole map"
        )
        thresholds: Literal["front", "sequential", "shared"] = Field(
            "front",
            description="set on validation: all gates together; one after the other for each target accuracy,"
            " as the paper does; or one threshold for all gates",
        )
        weight_penalty: float = Field(1e-4, ge=0, description="lambda of the paper's loss")
        learning_rate: float = Field(0.005, gt=0, description="of the gates")

    @classmethod
    def space(cls, backbone: Backbone) -> SearchSpace:
        return place_exits(super().space(backbone), backbone, (0.4, 0.7), cls.name)

    def __init__(self, config: Space, backbone: Backbone, trunk: Trunk | None = None) -> None:
        super().__init__(config, backbone, trunk)
        positions: tuple[int, ...] = self.config.positions
        backbone.check_cuts(positions, "dgate: positions")
        plain = self.build_plain()
        cuts = [0, *positions, len(backbone)]
        self.segments = nn.ModuleList(nn.Sequential(*plain.units[a:b]) for a, b in pairwise(cuts))
        self.head = plain.head
        # Each gate gives distances d = w'x - b (Eq. 1), N x classes.
        gates = [LinearExit(backbone, k, self.config.features, self.name) for k in positions]
        self.gates: Sequence[LinearExit] = nn.ModuleList(gates)  # type: ignore[assignment]

    def stages(self) -> Sequence[Stage]:
        if self.trunk is None:
            raise Refusal("dgate: gates are trained on a trained trunk, got none")
        return [Stage(self._loss, trains=list(self.gates), cache=self._features, optimizer=self._optimizer)]

    def _features(self, images: Tensor) -> list[Tensor]:
        """What the gates' linear layers see of the frozen trunk, one N x f tensor a gate."""
        seen, x = [], images
        for segment, gate in zip(self.segments[:-1], self.gates, strict=True):
            x = segment(x)
            seen.append(gate.view(x))
        return seen

    def _loss(self, batch: Batch) -> Tensor:
        # Gates share no parameters and the trunk is frozen: the sum trains each gate on its own.
        losses = []
        for gate, x in zip(self.gates, batch.inputs, strict=True):
            d = gate.linear(x)
            if self.config.gate_loss == "hinge":
                y = 2.0 * F.one_hot(batch.labels, d.shape[1]) - 1.0
                losses.append(F.relu(1.0 - y * d).sum(1).mean())
            else:
                losses.append(classification_loss(d, batch))
            losses.append(self.config.weight_penalty * gate.linear.weight.square().sum())
        return torch.stack(losses).sum()

    def _optimizer(self, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
        # The problem is convex (section 2.2); Adam spares a learning rate for each kind of feature.
        return torch.optim.Adam(parameters, self.config.learning_rate, fused=True)

    def _distance(self, d: Tensor) -> Tensor:
        """How sure a gate is: the largest distance; with cross-entropy the largest probability."""
        return d.amax(1) if self.config.gate_loss == "hinge" else d.softmax(1).amax(1)

    def route(self, meter: Meter, images: Tensor, knob: Knob) -> None:
        self._from(meter, images, 0, knob["thresholds"])

    def _from(self, meter: Meter, x: Tensor, gate: int, thresholds: Sequence[float]) -> None:
        x = meter.run(self.segments[gate], x)
        if gate == len(self.gates):
            meter.finish(meter.run(self.head, x), route=gate)
            return
        d = meter.run(self.gates[gate], x)
        for leaves, group, x_of, d_of in meter.split(self._distance(d) >= thresholds[gate], 2, x, d):
            if leaves:
                group.finish(d_of, route=gate)
            else:
                self._from(group, x_of, gate + 1, thresholds)

    def observe(self, images: Tensor) -> Scores:
        distances, labels, x = [], [], images
        for segment, gate in zip(self.segments[:-1], self.gates, strict=True):
            x = segment(x)
            d = gate(x)
            distances.append(self._distance(d))
            labels.append(d.argmax(1))
        labels.append(self.head(self.segments[-1](x)).argmax(1))
        return Scores(torch.stack(distances, 1), torch.stack(labels, 1))

    def decide(self, scores: Tensor, knob: Knob) -> Tensor:
        return first_exit(scores, knob["thresholds"])

    def knobs(self, scores: Scores | None = None, labels: Tensor | None = None) -> Sequence[Knob]:
        usual = 1.0 if self.config.gate_loss == "hinge" else 0.9  # the hinge's margin; a common confidence
        found = exit_thresholds(scores, labels, self.config.thresholds)
        return [{"thresholds": t} for t in [[usual] * len(self.gates), *found]]


@hookimpl
def routesearch_methods() -> Sequence[type[RoutedNet]]:
    return [DGate]
