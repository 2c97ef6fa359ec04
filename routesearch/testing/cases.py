"""What the invariants of a method are tried on: its networks on a toy backbone, fresh, trained and driven."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from random import Random
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from routesearch.backbones.base import Backbone
from routesearch.data.base import Data
from routesearch.methods.base import Knob, RoutedNet, Scores, Stage, Trunk
from routesearch.methods.running import run
from routesearch.routing.billing import Routed
from routesearch.space.space import SearchSpace, Space
from routesearch.study.recipe import Recipe
from routesearch.testing.toys import CPU, RECIPE, toy_data, toy_trunk
from routesearch.training.loop import fit
from routesearch.utils.sampling import evenly_spaced

T = TypeVar("T")

KNOBS = 6
"""Settings at which a network is tried, spread over all that it proposes."""


PARTED = 6
"""Images, of 32, that must go another way than most; else other weights are drawn."""


@lru_cache(maxsize=64)
def _data(classes: int, shape: tuple[int, int, int]) -> Data:
    return toy_data(classes, shape, superclass=True)


@lru_cache(maxsize=64)
def _trunk(backbone: Backbone) -> Trunk:
    return toy_trunk(backbone, _data(backbone.classes, backbone.image_shape))


@dataclass(frozen=True, eq=False)
class DiverseNet:
    """A network whose decisions differ between images, in float64, and each image's way where it is alone.

    float64: a score that rounds differently in another batch decides nothing there.

    Attributes:
        exact: whether it runs in float64; some networks hold on to float32.
        throughout: whether tensors that it makes are float64 too.
        images: N, C, H, W; toy images and noise of several strengths.
        knobs: some of the network's own settings, the default first.
        alone: for each knob, the result of each image by itself.
    """

    net: RoutedNet
    exact: bool
    throughout: bool
    images: Tensor
    knobs: Sequence[Knob]
    alone: Sequence[Routed]

    @property
    def variety(self) -> int:
        """Images that go another way than most do, at the knob where these are most."""
        return max(len(self.images) - max(_signatures(routed).values()) for routed in self.alone)

    @property
    def signatures(self) -> set[tuple[Any, ...]]:
        """All of them, over images and knobs."""
        return {signature for routed in self.alone for signature in _signatures(routed)}

    @contextmanager
    def precision(self) -> Iterator[None]:
        """Tensors that the network makes have its precision."""
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64 if self.throughout else before)
        try:
            yield
        finally:
            torch.set_default_dtype(before)


class Case:
    """A config of a method on a backbone; what is made of it is made once, when first asked for.

    Attributes:
        quick: whether it belongs to the few that tell most. All are tried; a test suite that runs often may
            leave the others to its slow tests.
    """

    def __init__(
        self,
        method: type[RoutedNet],
        backbone: Backbone,
        config: Space,
        recipe: Recipe = RECIPE,
        *,
        quick: bool = True,
    ):
        self.method, self.backbone, self.config, self.recipe = method, backbone, config, recipe
        self.quick = quick

    def __str__(self) -> str:
        fields = ", ".join(f"{k}={v!r}" for k, v in self.config.model_dump(mode="json").items())
        return f"{self.method.name} on {self.backbone.name} ({fields})"

    @cached_property
    def data(self) -> Data:
        return _data(self.backbone.classes, self.backbone.image_shape)

    @cached_property
    def trunk(self) -> Trunk | None:
        return _trunk(self.backbone) if self.method.uses_trunk(self.config) else None

    @property
    def images(self) -> Tensor:
        """Validation images as a network is fed them, anew each time."""
        return self.data.inputs(self.data.validation.pixels)

    def build(self, seed: int = 0) -> RoutedNet:
        trunk = self.trunk  # trained when first asked for, which draws random numbers too
        torch.manual_seed(seed)
        return self.method(self.config, self.backbone, trunk)

    def train(
        self, net: RoutedNet, seed: int = 0, stages: Sequence[Stage] | None = None, **changes: Any
    ) -> RoutedNet:
        """A short training by the core's own loop; ``changes`` are of the recipe."""
        recipe = self.recipe.model_copy(update=changes)
        stages = net.stages() if stages is None else stages
        fit(net, stages, self.data, recipe, epochs=recipe.epochs, seed=seed, device=CPU)
        return net

    @cached_property
    def trained(self) -> RoutedNet:
        """A network after a short training. To be left as it is."""
        return self.train(self.build()).eval()

    @cached_property
    def driven(self) -> DiverseNet:
        """The most varied of a few networks with drawn weights. To be left as it is."""
        best: DiverseNet | None = None
        for seed, scale in enumerate((0.5, 1.0, 2.0, 1.0, 3.0)):
            found = self._drive(seed, scale)
            if best is None or found.variety > best.variety:
                best = found
            if best.variety >= PARTED:
                break
        assert best is not None
        return best

    def _drive(self, seed: int, scale: float) -> DiverseNet:
        net = self.build(seed)
        _shake(net, scale, torch.Generator().manual_seed(seed))
        self.train(net, seed, epochs=1)  # the norms see what the weights make of images
        inputs = self.images[:16].contiguous()
        rng = torch.Generator().manual_seed(seed)
        noise = torch.randn(16, *inputs.shape[1:], generator=rng)
        noise *= torch.logspace(-1, 1, 16)[:, None, None, None]
        images = torch.cat([inputs, noise + torch.randn(16, 1, 1, 1, generator=rng)])
        for exact, throughout in ((True, True), (True, False)):
            try:
                return self._alone(copy.deepcopy(net).double(), images.double(), exact, throughout)
            except RuntimeError as error:
                if "dtype" not in str(error):
                    raise
        return self._alone(net, images, exact=False, throughout=False)

    def _alone(self, net: RoutedNet, images: Tensor, exact: bool, throughout: bool) -> DiverseNet:
        driven = DiverseNet(net, exact, throughout, images, [], [])
        with driven.precision():
            net.train()  # what a network does as its mode changes is done in its precision too
            knobs = spread(net.knobs(observed(net, images)), KNOBS)
            alone = [Routed.joined([run(net, image[None], knob) for image in images]) for knob in knobs]
        return replace(driven, knobs=knobs, alone=alone)


def observed(net: RoutedNet, images: Tensor) -> Scores | None:
    net.eval()
    with torch.inference_mode():
        return net.observe(images)


def spread(items: Sequence[T], most: int) -> list[T]:
    """The first and others from all over the list, ``most`` at the most."""
    return [items[i] for i in evenly_spaced(len(items), most)]


def _signatures(routed: Routed) -> Counter[tuple[Any, ...]]:
    """How many images went each way, and at what cost."""
    rows = zip(routed.route.tolist(), routed.macs.tolist(), routed.ran.tolist(), strict=True)
    return Counter((route, macs, tuple(ran)) for route, macs, ran in rows)


def _shake(net: nn.Module, scale: float, rng: torch.Generator) -> None:
    """Add noise to all weights that can be trained, also to those that start at zero."""
    with torch.no_grad():
        for parameter in net.parameters():
            usual = 1 / max(1, parameter[0].numel()) ** 0.5 if parameter.ndim > 1 else 0.1
            noise = torch.randn(parameter.shape, generator=rng)
            parameter.add_(noise, alpha=scale * usual)


def configs_of(space: SearchSpace, most: int) -> list[Space]:
    """The default, each field at its ends and some draws; no config twice."""
    draws = [space.draw(Random(seed)) for seed in range(4)]
    candidates = [space.default(), *draws[:1], *space.extremes(), *draws[1:]]
    found: dict[str, Space] = {config.model_dump_json(): config for config in candidates}
    return list(found.values())[:most]
