"""The network that a saved model describes: looked at without weights first, then built.

What a card says comes from somebody else. On the meta device a network of any size costs nothing, so its
weights are compared, its knob is tried and its shares are checked before any memory is taken.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import get_ident
from typing import Any

import torch
from pydantic import ValidationError
from torch.nn.modules.module import register_module_parameter_registration_hook

from routesearch.backbones.base import Backbone
from routesearch.errors import Refusal, UnknownName, origin, shortened
from routesearch.errors.texts import shown
from routesearch.methods.base import Knob, RoutedNet, Trunk
from routesearch.methods.running import price_ways
from routesearch.plugin.loader import PluginTable, Registry
from routesearch.routing.pricing import RoutePrices
from routesearch.routing.shapes import shapes_only
from routesearch.saved.card import Card, Part
from routesearch.saved.folder import Weights, code_file
from routesearch.space.space import Space
from routesearch.study.config import parse_backbone
from routesearch.utils.validation import explain

log = logging.getLogger("routesearch")

MAX_WIDTH = 100.0
"""The largest factor of a backbone's channels."""

SPARE, PARTS = 10_000, 50
"""Parameters that may be made for nothing, and as many times those that the weights have: a method may build
parts of a backbone only to see their shapes. A number in a config could ask for any number of them."""

FORMS = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""How safetensors calls torch's types."""


def rebuild(card: Card, weights: Weights, registry: Registry, where: Path) -> RoutedNet:
    """The network that a card describes, with these weights.

    Args:
        where: the model's folder; how a refusal or a warning calls the model.

    Raises:
        Refusal: the method or the backbone is missing, refuses its config, or has other weights; the knob is
            none of the network's, or the shares are not those of its routes.
    """
    try:
        plan = _Plan.of(card, where, registry)
        _check_parts(plan, card, weights)
        with torch.random.fork_rng(devices=[]):  # weights are drawn only to be overwritten
            net = plan.build()
        net.load_state_dict({name: torch.from_numpy(array) for name, array in weights.arrays().items()})
    except Refusal as refusal:
        raise Refusal(f"{where}: {refusal}") from None
    except Exception as error:  # a plugin's code may raise anything, and load_state_dict on other weights
        rule = f"the weights must fit the network that {card.method} builds"
        raise Refusal(f"{where}: {rule}, got {shortened(error)}{origin(error)}") from error
    return net


@dataclass(frozen=True)
class _Plan:
    """All that a network is built from."""

    method: type[RoutedNet]
    config: Space
    backbone: Backbone
    trunk: Trunk | None

    @classmethod
    def of(cls, card: Card, folder: Path, registry: Registry) -> _Plan:
        method = _find(registry.methods, card.method, card, "method", folder, registry)
        name, width = parse_backbone(card.backbone)
        if width > MAX_WIDTH:
            raise Refusal(f"backbone: a width of {MAX_WIDTH:g} at most must hold, got {shown(card.backbone)}")
        kind = _find(registry.backbones, name, card, "backbone", folder, registry)
        backbone = kind(card.shape, len(card.classes), width)
        try:
            config = method.space(backbone).parse(card.config)
        except ValidationError as error:
            raise Refusal(explain(error, method.Config, "config")) from None
        trunk = None
        if method.needs_confusion:
            if card.trunk is None:
                raise Refusal(f"{card.method} builds by the trunk's confusion, got none in model.json")
            trunk = Trunk({}, card.trunk.accuracy, card.trunk.confusion)
        return cls(method, config, backbone, trunk)

    def build(self) -> RoutedNet:
        net: RoutedNet = self.method(self.config, self.backbone, self.trunk)
        return net


def _check_parts(plan: _Plan, card: Card, weights: Weights) -> None:
    """Compare what the card and the weights say with the network, without its weights."""
    with shapes_only(), _bounded(SPARE + PARTS * len(weights.forms)):
        net = plan.build().eval()
        wanted = {
            name: (FORMS.get(tensor.dtype, str(tensor.dtype)), tuple(tensor.shape))
            for name, tensor in net.state_dict().items()
        }
    rule = f"the weights must fit the network that {card.method} builds"
    for name in sorted(wanted.keys() | weights.forms.keys()):
        found, right = weights.forms.get(name), wanted.get(name)
        if found != right:
            raise Refusal(f"{rule}, got {shown(name)}: {_form(found)} where it has {_form(right)}")
    with shapes_only():
        check_knob(card.knob, net.knobs())
    try:
        ways = price_ways(net, [card.knob])
    except Refusal:
        raise
    except Exception as error:  # a plugin's route
        raise Refusal(
            f"knob: one that {card.method} can route by must hold, got {shortened(error)}"
        ) from None
    for split, measured in (("validation", card.validation), ("test", card.test)):
        if measured is not None and measured.route_share:
            _check_shares(split, measured.route_share, ways)


def _form(form: tuple[str, tuple[int, ...]] | None) -> str:
    return "none" if form is None else f"{form[0]} {list(form[1])}"


@contextmanager
def _bounded(most: int) -> Iterator[None]:
    """Raises Refusal out of a network's building when it has made too many parameters."""
    made, thread = 0, get_ident()

    def count(*_: Any) -> None:
        nonlocal made
        made += get_ident() == thread
        if made > most:
            raise Refusal(
                f"the config must be of a network like the weights, got more than {most} parameters"
            )

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()


def check_knob(knob: Knob, offered: Sequence[Knob]) -> None:
    """Raise Refusal unless a knob is like one of those that a network offers without data.

    It has the same names, with values of the same kind: finite numbers, as many in a list. Whole numbers set
    a cost, so they lie between the least and the greatest that are offered.
    """
    alike = [each for each in offered if set(each) == set(knob)]
    if not alike:
        names = " or ".join(sorted({", ".join(each) or "nothing" for each in offered}))
        raise Refusal(f"knob must hold {names}, got {shown(dict(knob))}")
    for name, value in knob.items():
        rule = _violation(value, [each[name] for each in alike])
        if rule is not None:
            raise Refusal(f"knob.{name} must be {rule}, got {shown(value)}")


def _violation(value: Any, examples: Sequence[Any]) -> str | None:
    """What a value must be, where it is not like the examples."""
    kinds = {_kind(each) for each in examples}
    kind = _kind(value)
    if "null" in kinds:  # whatever stands for it
        return None
    if kind not in kinds:
        return f"a {' or a '.join(sorted(kinds))}"
    if kind == "number":
        if not abs(value) <= 1e300:  # false for NaN too
            return "a finite number"
        if len(set(examples)) > 1 and all(isinstance(each, int) for each in examples):
            low, high = min(examples), max(examples)
            return None if isinstance(value, int) and low <= value <= high else f"{low} to {high}"
    if kind == "list":
        lists = [each for each in examples if _kind(each) == kind]
        lengths = {len(each) for each in lists}
        if len(lengths) == 1 and len(value) not in lengths:
            return f"a list of {lengths.pop()}"
        entries = [entry for each in lists for entry in each]
        rules = (_violation(entry, entries) for entry in value) if entries else ()
        return next((f"a list, each {rule}" for rule in rules if rule is not None), None)
    return None


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "truth value"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return "text"
    return "mapping" if isinstance(value, Mapping) else "list"


def _check_shares(split: str, shares: Sequence[float], ways: RoutePrices) -> None:
    """Shares of exits sum to 1, those of skippable blocks do not; there are no more of them than routes."""
    expected = ways.sites or max(ways.routes) + 1
    if len(shares) > expected:
        rule = f"a share for each {'block' if ways.sites else 'route'}, {expected} at most"
        raise Refusal(f"{split}.route_share must hold {rule}, got {len(shares)}")
    if not ways.sites and abs(sum(shares) - 1) > 1e-3 + 1e-6 * len(shares):
        raise Refusal(f"{split}.route_share must sum to 1, got {sum(shares):g}")


def _find(
    shelf: PluginTable[Any], name: str, card: Card, part: Part, folder: Path, registry: Registry
) -> type[Any]:
    """The method's or the backbone's class; a warning where its code is not what the model was saved with.

    What to run or to install is no matter for a file from somebody else: a copy of the code is named where it
    is one that lies in the folder.
    """
    code = card.code.get(part)
    try:
        found = shelf.find(name)
    except UnknownName as unknown:
        if code is None:
            raise Refusal(f"{unknown}{registry.not_loaded()}") from None
        if code.file is None:
            told = f"its model.json names {code.version!r} (plugin {code.plugin!r})"
            raise Refusal(f"the {part} {name!r} is not installed; {told}{registry.not_loaded()}") from None
        copy = code_file(folder, code.file)
        rule = f"the {part} {name!r} is code in a plain file, which runs only where it is named"
        how = "the folder has no copy that can be named"
        if copy is not None:
            how = f"read {copy} first, then give it as --plugin, or in Python as plugins=[...]"
        raise Refusal(f"{rule}: {how}{registry.not_loaded()}") from None
    now = registry.code[shelf.origin[name]]
    if code is not None and now != code.version:
        log.warning("%s: the %s %r was saved with %s, this is %s", folder, part, name, code.version, now)
    return found
