"""The interface behind the hook ``routesearch_methods``: a network that decides for each image what to run.

A complete method, early exit on confidence after one unit:

    class OneExit(RoutedNet):
        name = "one_exit"

        class Config(Space):
            position: Annotated[int, IntDistribution(1, 7)] = 3

        @classmethod
        def space(cls, backbone):
            return super().space(backbone).refine(position=IntDistribution(1, len(backbone) - 1))

        def __init__(self, config, backbone, trunk=None):
            super().__init__(config, backbone, trunk)
            k = config.position
            self.front = nn.Sequential(*[backbone.unit(i) for i in range(1, k + 1)])
            self.early = backbone.exit(k)
            after = [backbone.unit(i) for i in range(k + 1, len(backbone) + 1)]
            self.rest = nn.Sequential(*after, backbone.head())

        def stages(self):
            def loss(batch):
                x = self.front(batch.inputs)
                return sum(classification_loss(exit(x), batch) for exit in (self.early, self.rest))
            return [Stage(loss)]

        def route(self, meter, images, knob):
            x = meter.run(self.front, images)
            logits = meter.run(self.early, x)
            sure = logits.softmax(1).amax(1) > knob["threshold"]
            for way, group, x, logits in meter.split(sure, 2, x, logits):
                group.finish(logits if way else group.run(self.rest, x), route=0 if way else 1)

        def knobs(self, scores=None, labels=None):
            return [{"threshold": t / 20} for t in range(20, -1, -1)]

``route`` may branch only through the meter; it states no accuracy and no cost: both are measured.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor, nn

from routesearch.backbones.base import Backbone, Plain
from routesearch.methods.schedules import shuffled
from routesearch.results.points import Interval
from routesearch.routing.meter import Meter
from routesearch.space.space import SearchSpace, Space

Start = Literal["trunk", "scratch"]
"""Type of a field ``start`` of a method's config: from the trained trunk's weights, or from random ones."""

Knob = Mapping[str, Any]
"""A setting of a trained network that needs no training: name -> JSON value."""


@dataclass(frozen=True)
class Trunk:
    """The backbone's static network, trained once in a study and shared by its methods.

    Attributes:
        state: the state dict of ``backbone.plain()``; empty where only the structure is wanted (a price).
        accuracy: on validation data; 0.0 where only the structure or the confusion is there.
        confusion: classes x classes, each row the mean softmax for images of that class, by networks that
            were not trained on them; empty where no method of the study asks for it.
        logits: its own for all training images, N x classes; None where they are not kept.
    """

    state: Mapping[str, Tensor]
    accuracy: float
    confusion: Sequence[Sequence[float]] = ()
    logits: Tensor | None = None

    @property
    def structure(self) -> Trunk:
        """What a structure may depend on: all but the weights."""
        return replace(self, state={}, logits=None)


@dataclass(frozen=True)
class Targets:
    """What classifiers of a study learn from, as :func:`routesearch.classification_loss` reads it.

    Attributes:
        smoothing: share of a label that all classes have alike, 0 to 1.
        share: of the loss that is distillation from the trunk, where a batch has its logits.
        temperature: that logits are divided by in distillation.
    """

    smoothing: float = 0.0
    share: float = 0.0
    temperature: float = 1.0


@dataclass(frozen=True)
class Batch:
    """What a stage's loss gets.

    Attributes:
        inputs: N images, normalised; or what ``Stage.cache`` made of them.
        labels: N, int64.
        progress: 0 at the stage's first step, towards 1 at its last: temperatures need no state of their own.
        aux: further labels of the images (N, int64) by name: ``superclass``, where the data have it.
        teacher: N x classes, the trained trunk's logits; None where the study does not distil it.
        targets: what else a classifier learns from.
    """

    inputs: Any
    labels: Tensor
    progress: float
    aux: Mapping[str, Tensor] = field(default_factory=dict)
    teacher: Tensor | None = None
    targets: Targets = Targets()

    @property
    def labels_alone(self) -> bool:
        """Whether a classifier learns from the labels as they are, and from nothing else."""
        return not self.targets.smoothing and (self.teacher is None or not self.targets.share)


@dataclass(frozen=True)
class Scores:
    """All decisions of a split from one dense pass: knobs can be tried without running the network again.

    Attributes:
        scores: N x decisions: whatever :meth:`RoutedNet.decide` reads.
        predictions: N x routes, int64: the label each image gets if it takes that route. N x 0 where routes
            are too many to list: scores then only choose knobs, and each knob is run.
        prices: routes, float64, MACs: filled in by the core before :meth:`RoutedNet.knobs` sees the
            scores; None where a route has no single price.
    """

    scores: Tensor
    predictions: Tensor
    prices: Tensor | None = None


def no_op() -> None:
    """Do nothing."""


@dataclass(frozen=True)
class Stage:
    """One part of a method's training; the core runs its stages one after the other.

    Attributes:
        loss: a batch to a scalar; draws (noise, sampled actions) happen in here. Parameters that it does not
            reach stay as they are in this step; it must reach one in the first epoch.
        share: of the trial's epochs, relative to the other stages.
        trains: modules whose parameters move (None: all); the rest is frozen and in eval mode.
        eval_modules: trained modules that stay in eval mode (batch norm under policy gradients).
        optimizer: parameters to an optimizer (None: the study's recipe); without the recipe's clipping.
        rate: a factor of the learning rate throughout.
        rates: modules -> a factor of the learning rate of their parameters, with the study's optimizer.
        schedule: progress to a factor of the learning rate (None: the study's, by default :func:`cosine`).
        batches: (labels, batch size, generator) to row numbers, one epoch of them.
        cache: a frozen front, run once for each image instead of in every epoch; its output becomes
            ``Batch.inputs``. Images are then not augmented.
        after_backward: called between backward and the optimizer's step (TALR scales gradients here); the
            gradient of a parameter that the loss did not reach is None.
        after_step: called after the optimizer's step (weights are clipped or projected here).
    """

    loss: Callable[[Batch], Tensor]
    share: float = 1.0
    trains: Sequence[nn.Module] | None = None
    eval_modules: Sequence[nn.Module] = ()
    optimizer: Callable[[Sequence[nn.Parameter]], torch.optim.Optimizer] | None = None
    rate: float = 1.0
    rates: Mapping[nn.Module, float] = field(default_factory=dict)
    schedule: Callable[[float], float] | None = None
    batches: Callable[[Tensor, int, torch.Generator], Iterator[Tensor]] = shuffled
    cache: Callable[[Tensor], Any] | None = None
    after_backward: Callable[[], None] = no_op
    after_step: Callable[[], None] = no_op


class RoutedNet(nn.Module, ABC):
    """A network that decides, for each image, which of its blocks to run. Subclasses are final.

    Args:
        config: one point of the method's search space.
        backbone: what to build from.
        trunk: the trained backbone where :meth:`uses_trunk`; None while only the price is wanted, and where
            a saved network is built again.

    Must build under ``torch.device("meta")``: no look at weights in ``__init__``.

    Attributes:
        name: what a study calls the method.
        needs_trunk: it starts from the trained backbone's weights, whatever its config; a method that can
            do without them has a field ``start`` instead (:data:`Start`).
        needs_confusion: it reads ``Trunk.confusion``; it must build with a trunk whose ``state`` is empty.
        contract: what the conformance tests have to know: declarations of
            ``routesearch.testing.MethodContract`` by name.
    """

    name: ClassVar[str]
    needs_trunk: ClassVar[bool] = False
    needs_confusion: ClassVar[bool] = False
    contract: ClassVar[Mapping[str, Any]] = {}

    class Config(Space):
        """The searched and the fixed fields."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name in ("bounds", "build_plain", "starts_trained", "uses_trunk", "uses_weights"):
            if name in vars(cls):
                told = "the core computes it from route, and would not call another"
                raise TypeError(f"{cls.__name__}.{name} must not be overridden: {told}")

    def __init__(self, config: Space, backbone: Backbone, trunk: Trunk | None = None) -> None:
        super().__init__()
        self.config: Any = config
        self.backbone = backbone
        self.trunk = trunk

    @classmethod
    def space(cls, backbone: Backbone) -> SearchSpace:
        """The configs worth drawing on this backbone; refine ranges that depend on it here.

        Raises:
            Refusal: where the method cannot use the backbone, naming the constraint.
        """
        return SearchSpace(cls.Config)

    @final
    @classmethod
    def uses_weights(cls, fields: Space | SearchSpace) -> bool:
        """Whether a config, or any that a space may draw, starts from the trained backbone's weights."""
        if cls.needs_trunk or "start" not in cls.Config.model_fields:
            return cls.needs_trunk
        if isinstance(fields, SearchSpace):
            return fields.may_be("start", "trunk")
        return bool(getattr(fields, "start", None) == "trunk")

    @final
    @classmethod
    def uses_trunk(cls, fields: Space | SearchSpace) -> bool:
        """Whether a config, or any that a space may draw, is built with the study's trunk."""
        return cls.needs_confusion or cls.uses_weights(fields)

    @final
    @property
    def starts_trained(self) -> bool:
        """Whether the trunk's weights are there and the config starts from them."""
        return self.trunk is not None and bool(self.trunk.state) and self.uses_weights(self.config)

    @final
    def build_plain(self) -> Plain:
        """``backbone.plain()``, with the trunk's weights where it :attr:`starts_trained`."""
        plain = self.backbone.plain()
        if self.trunk is not None and self.starts_trained:
            plain.load_state_dict(dict(self.trunk.state))
        return plain

    @classmethod
    def cases(cls, config: Any, backbone: Backbone) -> Sequence[Trunk]:
        """Trunks (without state) for every structure of a config, or its cheapest and most expensive.

        Only for a method whose structure depends on ``Trunk.confusion``: its price without a trunk then
        covers all of these. Empty, the default: the structure does not depend on the trunk.
        """
        return ()

    @abstractmethod
    def stages(self) -> Sequence[Stage]:
        """How to train it."""

    def after_training(self, batches: Iterable[Batch]) -> None:
        """Called once when the last stage has ended, in eval mode and without gradients; does nothing.

        What a method collects over the training images goes here, such as the statistics of norms.

        Args:
            batches: the training images once, in order, not augmented.
        """

    @abstractmethod
    def route(self, meter: Meter, images: Tensor, knob: Knob) -> None:
        """Take each image of the group to its logits, running blocks through the meter only."""

    @abstractmethod
    def knobs(self, scores: Scores | None = None, labels: Tensor | None = None) -> Sequence[Knob]:
        """Settings worth measuring, the default first; with validation scores and labels, more of them.

        Where a knob sets the cost (a width, a number of experts), those without scores hold its cheapest and
        its most expensive value: bounds, refusals and prices range over them.
        """

    def observe(self, images: Tensor) -> Scores | None:
        """One dense pass over N images: what all decisions and routes would be. None: run every knob."""
        return None

    def decide(self, scores: Tensor, knob: Knob) -> Tensor:
        """The route of each image (N, int64) by its row of ``Scores.scores``, the one :meth:`route` takes."""
        raise TypeError(f"{self.name} offers scores, so it must say how it decides by them")

    @final
    def bounds(self) -> Interval:
        """Cheapest and most expensive route in MACs over all knobs, by walking every way without weights."""
        from routesearch.methods.running import price  # which runs what is declared here

        return price(type(self), self.config, self.backbone, self.trunk).bounds
