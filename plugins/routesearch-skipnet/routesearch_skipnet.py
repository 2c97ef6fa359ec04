"""SkipNet: gates that decide, image by image, which residual blocks to skip.

X. Wang, F. Yu, Z.-Y. Dou, T. Darrell, J. E. Gonzalez: SkipNet: Learning Dynamic Routing in
Convolutional Networks (ECCV 2018, arXiv 1711.09485).

A gate in front of a residual unit F reads the unit's input x and gives S(x), the probability that
the unit runs. What follows is G F(x) + (1 - G) x (Eq. 1), G = 1 where S(x) is over the threshold.
Training is supervised first, with G hard forward and soft backward (Eq. 9), then by hybrid
reinforcement learning: gates are drawn, and REINFORCE rewards skipping (Eq. 6 and 8).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

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
    When,
    classification_loss,
    hookimpl,
    kaiming,
    shortcut_of,
    spread_thresholds,
)

HIDDEN = 10
"""Inputs and hidden entries of the recurrent gate."""

USUAL = (0.5, 0.9, 0.95, 0.99, 0.995, 0.999, 0.75, 0.25, 0.1, 0.0, 1.0)
"""Thresholds that are always measured: the paper's first; at 0 every unit runs, at 1 none."""

QUANTILES = 20
"""Further thresholds, spread evenly over the scores of the validation images."""

State = tuple[Tensor, Tensor] | None
"""What a recurrent gate carries along an image's route: hidden and cell entries, N x 10 each."""

GATES = ("ffgate1", "ffgate2", "rnngate")
SCHEDULES = ("hybrid", "supervised", "soft", "scratch", "reinforce")


# ---- gates ---------------------------------------------------------------------------------------------


class FeedForwardGate(nn.Module):
    """FFGate-I (``deep``) or FFGate-II: convolutions on a map of ``side`` rows, to N logits of running.

    The last layer has two outputs and a softmax; the probability of the second is the sigmoid of
    their difference, which is what this gives.
    """

    def __init__(self, channels: int, side: int, deep: bool, bias: float) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.MaxPool2d(2)] if deep else []
        # On a map of 1 x 1 the stride makes no difference, except that oneDNN's bfloat16 form leaves
        # weights' gradients unwritten there.
        halving = 2 if side > (3 if deep else 1) else 1
        for stride in (1, halving) if deep else (halving,):
            conv = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
            layers += [kaiming(conv), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
        last = nn.Conv2d(channels, 2, 1)
        assert last.bias is not None
        nn.init.constant_(last.bias, -bias / 2)
        nn.init.constant_(last.bias[1:], bias / 2)
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), last, nn.Flatten())

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.layers(x)
        return scores[:, 1] - scores[:, 0]


class Mean(nn.Module):
    """Global average pooling, N,C,H,W to N,C; half the time of ``AdaptiveAvgPool2d`` on small batches."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


class Step(nn.LSTM):
    """One step of an LSTM: N x 10 entries and the state to the next state.

    An ``LSTM``, not an ``LSTMCell``: stored weights have its names.
    """

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> Any:  # type: ignore[override]
        # The cell's own kernel: for a sequence of one step, set-up takes four times as long as work.
        weights, recurrent, bias, recurrent_bias = self.all_weights[0]
        hidden, cell = torch.lstm_cell(x, state, weights, recurrent, bias, recurrent_bias)
        return hidden.unsqueeze(1), (hidden, cell)

    def macs(self, x: Tensor, state: tuple[Tensor, Tensor]) -> int:
        """Multiply-adds of one image: every entry of the matrices and biases once."""
        return sum(parameter.numel() for parameter in self.parameters())


class RecurrentGate(nn.Module):
    """What all positions of an RNNGate share: the LSTM and the layer that reads it."""

    def __init__(self, bias: float) -> None:
        super().__init__()
        self.lstm = Step(HIDDEN, HIDDEN, batch_first=True)
        self.out = nn.Linear(HIDDEN, 1)
        nn.init.constant_(self.out.bias, bias)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """N x 10 projected features and the state, to N logits of running and the next state."""
        _, (hidden, cell) = self.lstm(x, state)
        return self.out(hidden).squeeze(1), (hidden, cell)


class _Hard(torch.autograd.Function):
    """1(S > 0.5) forward, S backward (Eq. 9)."""

    @staticmethod
    def forward(ctx: Any, score: Tensor) -> Tensor:
        return (score > 0.5).to(score.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


def hard(logits: Tensor) -> Tensor:
    """Logits of running to gates of 0 and 1; the gradient is that of the probability."""
    gates: Tensor = _Hard.apply(logits.sigmoid())
    return gates


def drawn(logits: Tensor) -> Tensor:
    """Gates of 0 and 1, drawn with the probability of running; no gradient."""
    score = logits.detach().sigmoid()
    # Not torch.bernoulli: it ends the process's use of a GPU on NaN, and the loss is checked anyway.
    return (torch.rand_like(score) < score).to(score.dtype)


# ---- returns -------------------------------------------------------------------------------------------


def returns(loss: Tensor, ran: Tensor, alpha: float) -> Tensor:
    """R_i = -loss + alpha / N x (number of units skipped from gate i on), Eq. 6 with its index set right.

    Args:
        loss: cross-entropy of each image.
        ran: images x N gates, 1 where the unit ran.
    """
    reward = (1 - ran) * (alpha / ran.shape[1])
    return reward.flip(1).cumsum(1).flip(1) - loss[:, None]


# ---- the method ----------------------------------------------------------------------------------------


def _without_gradient(config: Any, backbone: Backbone) -> Mapping[str, str]:
    """Parameters that a config's loss does not reach, and why."""
    if config.schedule != "reinforce":
        return {}
    return {rf"head\..*|units\.{len(backbone) - 1}\..*": "REINFORCE alone teaches what stands before a gate"}


class SkipNet(RoutedNet):
    """A residual network with a gate in front of every unit but the first (SkipNet, arXiv 1711.09485)."""

    name: ClassVar[str] = "skipnet"
    contract: ClassVar[Mapping[str, Any]] = {"without_gradient": _without_gradient}

    class Config(Space):
        """Fields of a SkipNet."""

        gate_type: Annotated[Literal["ffgate1", "ffgate2", "rnngate"], CategoricalDistribution(GATES)] = (
            Field("rnngate", description="two convolutions, one, or an LSTM that all gates share")
        )
        schedule: Annotated[
            Literal["hybrid", "supervised", "soft", "scratch", "reinforce"],
            CategoricalDistribution(SCHEDULES),
        ] = Field(
            "hybrid",
            description="supervised, then hybrid reinforcement learning; or supervised alone; ablations:"
            " supervised with soft gates, hybrid from scratch, pure reinforcement learning",
        )
        alpha: Annotated[
            float, FloatDistribution(0.0, 4.0), When("schedule", "hybrid", "scratch", "reinforce")
        ] = Field(0.1, ge=0, description="reward for skipping all units, in units of the cross-entropy")
        start: Start = Field("trunk", description="units' weights: the trunk's, or drawn at random (scratch)")
        trunk_rate: float = Field(
            1.0, gt=0, description="factor of the learning rate of units that start from the trunk"
        )
        gate_bias: float = Field(1.0, description="of every gate's logit at the start; more: more units run")
        baseline: Literal["none", "batch"] = Field(
            "none", description="subtracted from a gate's return: nothing, or its mean over the batch"
        )
        rl_weight: float = Field(0.01, ge=0, description="of REINFORCE's sum over the batch")
        rl_share: float = Field(0.75, gt=0, lt=1, description="of a hybrid training's epochs")
        rl_learning_rate: float = Field(0.01, gt=0, description="of a hybrid training's second stage")

    @classmethod
    def space(cls, backbone: Backbone) -> SearchSpace:
        if all(shortcut_of(backbone.unit(k)) is None for k in range(2, len(backbone) + 1)):
            raise Refusal(_no_residual_units(backbone))
        return super().space(backbone)

    def __init__(self, config: Space, backbone: Backbone, trunk: Trunk | None = None) -> None:
        super().__init__(config, backbone, trunk)
        plain = self.build_plain()
        self.units = nn.ModuleList(
            Residual(unit) if k > 1 and shortcut_of(unit) is not None else unit
            for k, unit in enumerate(plain.units, 1)
        )
        self.head = plain.head
        self.sites = [k for k, unit in enumerate(self.units, 1) if isinstance(unit, Residual)]
        """The units that a gate decides about."""
        if not self.sites:
            raise Refusal(_no_residual_units(backbone))
        self.gates = nn.ModuleList(self._gate(k - 1) for k in self.sites)
        self.controller: RecurrentGate | None = None
        if self.config.gate_type == "rnngate":
            self.controller = RecurrentGate(self.config.gate_bias)

    def _gate(self, k: int) -> nn.Module:
        """The gate that reads unit ``k``'s output."""
        kind: str = self.config.gate_type
        shape = self.backbone.shape(k)
        least = 2 if kind == "ffgate1" else 1  # its pooling halves the map
        if len(shape) != 3 or min(shape[1:]) < least:
            rule = f"gate_type={kind} needs maps of C x {least} x {least} or more"
            raise Refusal(f"skipnet: {rule}, unit {k} of backbone {self.backbone.name} gives {shape}")
        channels = shape[0]
        if kind == "rnngate":
            return kaiming(
                nn.Sequential(Mean(), nn.Linear(channels, HIDDEN))  # a 1x1 convolution of the mean
            )
        return FeedForwardGate(channels, max(shape[1:]), kind == "ffgate1", self.config.gate_bias)

    # ---- running ----

    def route(self, meter: Meter, images: Tensor, knob: Knob) -> None:
        x, _ = self._walk(meter, images, _over(knob["threshold"]))
        meter.finish(meter.run(self.head, x))

    def _walk(
        self, meter: Meter, images: Tensor, runs: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """The last unit's output, and each gate's N logits; units run for the images that need them.

        Args:
            runs: a gate's logits to what it decides, N, bool.
        """
        x, state, logits = images, self._start(images), list[Tensor]()
        for unit in self.units:
            if not isinstance(unit, Residual):
                x = meter.run(unit, x)
                continue
            z, state = self._ask(len(logits), x, state, meter.run)
            past = x if unit.projection is None else meter.run(unit.projection, x)
            x = meter.patch(runs(z), unit, x, past, into=past)
            logits.append(z)
        return x, logits

    def _start(self, images: Tensor) -> State:
        if self.controller is None:
            return None
        zeros = images.new_zeros(len(images), HIDDEN)
        return zeros, zeros

    def _ask(self, gate: int, x: Tensor, state: State, run: Callable[..., Any]) -> tuple[Tensor, State]:
        """Logits of running (N, float32) by a gate, and the state that the next one gets."""
        z = run(self.gates[gate], x)
        if self.controller is not None:
            z, state = run(self.controller, z, state)
        return z.float(), state

    def observe(self, images: Tensor) -> Scores:
        """Logits of all gates where every unit runs, where none does, and at the usual threshold.

        A threshold changes what later gates see, so these are not decisions: they say which thresholds
        can matter. Ways are too many to list, hence no predictions.
        """
        passes = [self._walk(BatchMeter(images), images, _over(bar))[1] for bar in (0.0, 1.0, USUAL[0])]
        seen = torch.stack([z for logits in passes for z in logits], 1)
        return Scores(seen, torch.empty(len(images), 0, dtype=torch.int64, device=images.device))

    def knobs(self, scores: Scores | None = None, labels: Tensor | None = None) -> Sequence[Knob]:
        thresholds = list(USUAL)
        if scores is not None:
            thresholds += (
                torch.tensor(spread_thresholds(scores.scores, QUANTILES)).double().sigmoid().tolist()
            )
        return [{"threshold": threshold} for threshold in dict.fromkeys(thresholds)]

    # ---- training ----

    def stages(self) -> Sequence[Stage]:
        kind: str = self.config.schedule
        if kind != "hybrid":
            loss = {
                "supervised": self._supervised,
                "soft": self._soft,
                "scratch": self._hybrid,
                "reinforce": self._reinforce,
            }[kind]
            return [Stage(loss, rates=self._rates())]
        # Drawn gates mix other images than those that the norms' statistics were taken from: with the
        # statistics held still, accuracy does not drop when the second stage starts.
        norms = [m for m in self.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        share: float = self.config.rl_share
        return [
            Stage(self._supervised, share=1 - share, rates=self._rates()),
            Stage(
                partial(self._hybrid, sparse=True),
                share=share,
                eval_modules=norms,
                optimizer=self._optimizer,
                schedule=lambda progress: 1.0,
            ),
        ]

    def _rates(self) -> Mapping[nn.Module, float]:
        """Gates learn from nothing, units that start from the trunk need small steps."""
        return dict.fromkeys((self.units, self.head), self.config.trunk_rate) if self.starts_trained else {}

    def _optimizer(self, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            parameters, self.config.rl_learning_rate, momentum=0.9, weight_decay=1e-4, fused=True
        )

    def _dense(self, images: Tensor, act: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Run every unit for every image and mix (Eq. 1): logits, the gates' logits and their values.

        Args:
            act: logits of running to gates.
        """
        x, state, logits, values = images, self._start(images), list[Tensor](), list[Tensor]()
        for unit in self.units:
            if not isinstance(unit, Residual):
                x = unit(x)
                continue
            z, state = self._ask(len(logits), x, state, lambda block, *inputs: block(*inputs))
            gate = act(z)
            past = x if unit.projection is None else unit.projection(x)
            x = torch.lerp(past, unit(x, past), gate.to(past.dtype)[:, None, None, None])
            logits.append(z)
            values.append(gate)
        return self.head(x), torch.stack(logits, 1), torch.stack(values, 1)

    def _supervised(self, batch: Batch) -> Tensor:
        return classification_loss(self._dense(batch.inputs, hard)[0], batch)

    def _soft(self, batch: Batch) -> Tensor:
        return classification_loss(self._dense(batch.inputs, torch.sigmoid)[0], batch)

    def _sparse(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What :meth:`_dense` gives with drawn gates, where each unit runs only for images that drew it.

        The same while norms do not take statistics of the images that they see.
        """
        ran: list[Tensor] = []

        def runs(z: Tensor) -> Tensor:
            ran.append(drawn(z))
            return ran[-1] > 0

        x, logits = self._walk(BatchMeter(images), images, runs)
        return self.head(x), torch.stack(logits, 1), torch.stack(ran, 1)

    def _hybrid(self, batch: Batch, sparse: bool = False) -> Tensor:
        loss, policy = self._drawn(batch, sparse)
        return loss.mean() + policy

    def _reinforce(self, batch: Batch) -> Tensor:
        return self._drawn(batch)[1]

    def _drawn(self, batch: Batch, sparse: bool = False) -> tuple[Tensor, Tensor]:
        """Each image's cross-entropy under drawn gates, and REINFORCE's term: weight x sum of -R log pi."""
        logits, z, ran = self._sparse(batch.inputs) if sparse else self._dense(batch.inputs, drawn)
        loss = classification_loss(logits, batch, reduction="none")
        # A reward is in units of the labels' cross-entropy, whatever else the classifier learns from.
        error = F.cross_entropy(logits.detach().float(), batch.labels, reduction="none")
        gain = returns(error, ran, self.config.alpha)
        if self.config.baseline == "batch":
            gain = gain - gain.mean(0)
        chance = torch.where(ran > 0, F.logsigmoid(z), F.logsigmoid(-z))
        return loss, -self.config.rl_weight * (gain * chance).sum()


def _no_residual_units(backbone: Backbone) -> str:
    rule = "a backbone must have residual units to skip (with a `shortcut`) after its first"
    return f"skipnet: {rule}, {backbone.name} has none"


def _over(threshold: float) -> Callable[[Tensor], Tensor]:
    """Logits to whether their sigmoid is over the threshold; at 0 and 1 rounding must let none through."""
    if threshold <= 0:
        bar = -math.inf
    else:
        bar = math.log(threshold) - math.log1p(-threshold) if threshold < 1 else math.inf
    return lambda logits: logits > bar


@hookimpl
def routesearch_methods() -> Sequence[type[RoutedNet]]:
    return [SkipNet]
