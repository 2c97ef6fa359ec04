"""One config of a method on a backbone, outside of any study: what ``cost`` and ``build`` work on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from routesearch.backbones.base import Backbone, reference_cost
from routesearch.data.base import Shape
from routesearch.errors import Refusal
from routesearch.methods.base import RoutedNet
from routesearch.methods.running import price
from routesearch.plugin.loader import Registry, load_plugins
from routesearch.space.space import Space
from routesearch.study.config import parse_backbone
from routesearch.utils.validation import explain


@dataclass(frozen=True, eq=False)
class Blueprint:
    """A method, its config and the backbone that it is built from."""

    method: type[RoutedNet]
    config: Space
    backbone: Backbone

    @classmethod
    def of(
        cls,
        method: str,
        backbone: str,
        dataset: str | None,
        shape: Shape | None,
        classes: int | None,
        fields: Mapping[str, Any],
        registry: Registry | None = None,
    ) -> Blueprint:
        """Look the names up; fields that are not given take the method's defaults.

        Args:
            registry: where the names are; None: what is installed.

        Raises:
            Refusal: unknown names or fields, values outside their range, a shape or classes that nobody gave.
        """
        registry, (name, width) = registry or load_plugins(), parse_backbone(backbone)
        try:
            kind, backbone_class = registry.methods.find(method), registry.backbones.find(name)
            known = registry.datasets.find(dataset) if dataset is not None else None
        except Refusal as refusal:
            raise Refusal(f"{refusal}{registry.not_loaded()}") from None
        shape = shape or (known.shape if known else None)
        classes = classes or (len(known.class_names) if known and known.class_names else None)
        if shape is None or classes is None:
            pairs = (("image shape (C,H,W)", shape), ("the number of classes", classes))
            missing = " and ".join(text for text, value in pairs if value is None)
            what = f"data set {dataset!r} has no fixed shape and classes" if known else "no data set is named"
            raise Refusal(f"{what}: {missing} must be given")
        built = backbone_class(shape, classes, width)
        try:
            return cls(kind, kind.space(built).narrow(fields).default(), built)
        except ValidationError as error:  # a constraint on several fields
            raise Refusal(f"{method}: {explain(error, kind.Config)}") from None
        except Refusal as refusal:
            raise Refusal(f"{method}: {refusal}".replace(f"{method}: {method}: ", f"{method}: ")) from None

    def build(self) -> RoutedNet:
        """The network, untrained."""
        return self.method(self.config, self.backbone)

    def cost(self) -> dict[str, Any]:
        """Parameters and MACs before any training: no data, no trunk, no weights.

        ``labels`` is "unknown" where the structure depends on which classes the trunk will confuse: MACs
        and parameters then cover all cases.
        """
        priced = price(self.method, self.config, self.backbone)
        backbone_params, backbone_macs = reference_cost(self.backbone)
        return {
            "params": priced.params,
            "macs": {"min": priced.bounds.min, "max": priced.bounds.max},
            "backbone_macs": backbone_macs,
            "backbone_params": backbone_params,
            "labels": "known" if priced.exact else "unknown",
        }
