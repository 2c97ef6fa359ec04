"""A method's network priced without weights, and run on a batch."""

from __future__ import annotations

import json
from collections.abc import Sequence

import torch
from torch import Tensor

from routesearch.backbones.base import Backbone
from routesearch.errors import CodeFailed, Refusal, described, noted
from routesearch.errors.texts import shown
from routesearch.methods.base import Knob, RoutedNet, Trunk
from routesearch.routing.billing import BatchMeter, Routed
from routesearch.routing.pricing import PricingMeter, RoutePrices, one_image
from routesearch.routing.shapes import shapes_only
from routesearch.space.space import Space


def price(
    method: type[RoutedNet], config: Space, backbone: Backbone, trunk: Trunk | None = None
) -> RoutePrices:
    """What the routes of a config cost, without weights or data, over all of its knobs.

    Args:
        trunk: where the structure depends on it (:meth:`RoutedNet.cases`); None covers all cases.

    Raises:
        Refusal: where the config violates a constraint of the method.
        CodeFailed: where the method's code raises anything else.
    """
    try:
        cases = method.cases(config, backbone) if method.needs_confusion else ()
        if not cases:
            return _price(method, config, backbone, None)
        if trunk is not None:
            return _price(method, config, backbone, trunk.structure)
        return RoutePrices.any_of([_price(method, config, backbone, case) for case in cases])
    except Refusal:
        raise
    except Exception as error:  # a plugin's code may raise anything
        hint = "; route may branch through the meter only" if "meta tensors" in str(error) else ""
        raise CodeFailed(
            f"{method.name}: {shown(dict(config))} cannot be built and routed: {described(error)}{hint}"
        ) from error


def _price(method: type[RoutedNet], config: Space, backbone: Backbone, trunk: Trunk | None) -> RoutePrices:
    with shapes_only():
        net = method(config, backbone, trunk).eval()
        knobs = net.knobs()
        if not knobs:
            raise Refusal(f"{method.name}: knobs() must give one setting or more without data, got none")
        check_knobs(method.name, knobs)
        return price_ways(net, knobs)


def check_knobs(name: str, knobs: Sequence[Knob]) -> None:
    """Raise Refusal unless knobs are mappings of JSON values, as they are stored."""
    for knob in knobs:
        for key, value in knob.items():
            try:
                json.dumps(value, allow_nan=False)
            except (TypeError, ValueError):
                kind = type(value).__name__
                rule = f"{name}: a knob must be made of JSON values: numbers, texts, lists"
                raise Refusal(f"{rule}; got {key}={shown(value)}, a {kind}") from None


def without_weights(net: RoutedNet) -> RoutedNet:
    """The same network on the meta device, in eval mode."""
    trunk = net.trunk.structure if net.trunk is not None and net.needs_confusion else None
    with shapes_only():
        return type(net)(net.config, net.backbone, trunk).eval()


def price_ways(net: RoutedNet, knobs: Sequence[Knob]) -> RoutePrices:
    """What the routes of a network cost, over some of its settings: a knob may set the cost.

    Args:
        net: in eval mode, on the meta device.

    Raises:
        ValueError: where no route ends.
    """
    prices = RoutePrices(params=sum(p.numel() for p in net.parameters()))
    with shapes_only():
        for knob in knobs:
            with noted("at knob", dict(knob)):
                net.route(PricingMeter(prices), one_image(net.backbone.image_shape), knob)
    if not prices.routes:
        raise ValueError("a route must end in meter.finish, got none that does")
    return prices


def run(net: RoutedNet, images: Tensor, knob: Knob | None = None) -> Routed:
    """Route a batch for real, in eval mode without gradients.

    Args:
        images: N, C, H, W, normalised, on the network's device.
        knob: default: the network's own first one.
    """
    if net.training:  # going through all modules takes a fifth of a small network's time
        net.eval()
    with torch.inference_mode():
        meter = BatchMeter(images)
        net.route(meter, images, net.knobs()[0] if knob is None else knob)
        return meter.bill()
