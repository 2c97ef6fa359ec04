"""The unrouted reference that every routing method has to beat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

from optuna.distributions import FloatDistribution
from pydantic import Field
from torch import Tensor, nn

from routesearch.backbones.base import Backbone
from routesearch.methods.base import Knob, RoutedNet, Scores, Stage, Start, Trunk
from routesearch.methods.inherit import inherit
from routesearch.methods.losses import cross_entropy
from routesearch.routing.meter import Meter
from routesearch.space.space import Space


class Static(RoutedNet):
    """The unrouted reference: the backbone, narrower or cut short, the same for every image."""

    name: ClassVar[str] = "static"
    contract: ClassVar[Mapping[str, Any]] = {"routes": False}

    class Config(Space):
        width_fraction: Annotated[float, FloatDistribution(0.2, 1.0)] = Field(
            1.0, gt=0, description="of the backbone's channels"
        )
        depth: Annotated[float, FloatDistribution(0.2, 1.0)] = Field(
            1.0, gt=0, le=1, description="fraction of the backbone's units that are kept"
        )
        start: Start = Field(
            "trunk",
            description="weights: the trunk's, of a narrower network its leading channels'; or drawn"
            " at random (scratch)",
        )
        trunk_rate: float = Field(
            1.0, gt=0, description="factor of the learning rate of units that start from the trunk"
        )

    def __init__(self, config: Space, backbone: Backbone, trunk: Trunk | None = None) -> None:
        super().__init__(config, backbone, trunk)
        units = max(1, round(self.config.depth * len(backbone)))
        self.plain = backbone.plain(self.config.width_fraction, units)
        if self.starts_trained:
            trained = self.build_plain()
            for unit, source in zip(self.plain.units, trained.units, strict=False):
                inherit(unit, source)
            if units == len(backbone):
                inherit(self.plain.head, trained.head)

    def stages(self) -> Sequence[Stage]:
        rates: dict[nn.Module, float] = {}
        if self.starts_trained:
            rates[self.plain] = self.config.trunk_rate
        return [Stage(cross_entropy(self.plain), rates=rates)]

    def route(self, meter: Meter, images: Tensor, knob: Knob) -> None:
        meter.finish(meter.run(self.plain, images))

    def knobs(self, scores: Scores | None = None, labels: Tensor | None = None) -> Sequence[Knob]:
        return [{}]
