"""Networks with drawn weights and decisions that part their images, as saved models in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

import routesearch
from routesearch import Backbone, BatchMeter, Meter, RoutedNet, Stage, Trunk
from routesearch.backbones import Pyramid8
from routesearch.data.base import normalised
from routesearch.plugin.loader import load_plugins
from routesearch.saved import Card, SavedModel
from routesearch.saved.card import Measured
from routesearch.testing.toys import ToyChain, ToyResidual

SHAPE = (1, 8, 8)
MEAN, STD = (0.3,), (0.35,)
CLASSES = tuple("abcdefghij")

CASES: Mapping[str, tuple[str, type[Backbone], float, dict[str, Any]]] = {
    "static": ("static", ToyChain, 1.0, {}),
    "dgate": ("dgate", ToyChain, 1.0, {"positions": (2, 4)}),
    "exits": ("exits", ToyChain, 1.0, {"positions": (2, 4)}),
    "exits-patience": ("exits", ToyChain, 1.0, {"positions": (2, 3, 4), "criterion": "patience"}),
    "decisionet": ("decisionet", ToyChain, 1.0, {"split_positions": (2, 4), "width_rule": "size"}),
    "skipnet-rnngate": ("skipnet", ToyResidual, 0.25, {"gate_type": "rnngate"}),
    "skipnet-ffgate2": ("skipnet", ToyResidual, 0.25, {"gate_type": "ffgate2"}),
    "skipnet-ffgate1": ("skipnet", ToyResidual, 0.25, {"gate_type": "ffgate1"}),
    "aig": ("aig", ToyResidual, 0.25, {}),
    "critic": ("critic", ToyChain, 1.0, {"positions": (2, 4)}),
    "actor": ("actor", Pyramid8, 0.125, {"positions": (3, 6), "branching": 1}),
    "actor-told": ("actor", ToyChain, 1.0, {"positions": (4,), "dynamic_k_cpt": True}),
    "jungle": ("jungle", ToyChain, 1.0, {"from_unit": 5}),
}
"""Method, backbone, width and config."""


Digits = npt.NDArray[np.uint8]


@pytest.fixture(scope="session")
def digits() -> Digits:
    """Handwritten digits, 64,8,8."""
    with np.load(Path(routesearch.__file__).parent / "data" / "digits.npz") as file:
        return (file["images"][:64] * 15.9).astype(np.uint8)


def as_model(net: RoutedNet, knob: Mapping[str, Any]) -> SavedModel:
    card = Card(
        study="exported",
        trial=0,
        seed=0,
        method=net.name,
        config={},
        knob=dict(knob),
        backbone=net.backbone.name,
        shape=SHAPE,
        classes=CLASSES,
        mean=MEAN,
        std=STD,
        params=1,
        backbone_macs=1.0,
        validation=Measured(accuracy=0.5, macs=1.0),
        code={},
        versions={},
    )
    return SavedModel(card, net, torch.device("cpu"))


def middle(scores: Tensor) -> list[float]:
    """The middle between each column's two middle values: no score is on it."""
    ordered = scores.double().sort(0).values
    half = len(ordered) // 2
    return list(((ordered[half - 1] + ordered[half]) / 2).tolist())


@torch.no_grad()
def parted(net: RoutedNet, images: Tensor) -> Mapping[str, Any]:
    """A knob, and biases of routers, at which images take every way."""
    knob = dict(net.knobs()[0])
    scores = net.observe(images)
    seen = None if scores is None else scores.scores.float()
    if net.name == "dgate":
        assert seen is not None
        knob["thresholds"] = middle(seen)
    elif net.name == "exits" and "thresholds" in knob:
        assert seen is not None
        knob["thresholds"] = middle(seen[:, : len(knob["thresholds"])])
    elif net.name == "decisionet":
        assert seen is not None
        for router, bar in zip(net.routers, middle(seen), strict=True):  # type: ignore[arg-type]
            router[1].bias -= bar
    elif net.name == "aig":
        _part_leads(net, images)
    elif net.name == "skipnet" and net.controller is None:
        _part_gates(net, images, knob)
    elif net.name == "skipnet":
        assert seen is not None
        [bar] = middle(seen.flatten()[:, None])
        knob["threshold"] = float(torch.tensor(bar, dtype=torch.float64).sigmoid())
    elif net.name == "jungle":
        assert seen is not None
        [knob["threshold"]] = middle(seen.flatten()[:, None])
    elif net.name in ("actor", "critic"):
        _part_junctions(net, images, knob)
    return knob


def _part_leads(net: Any, images: Tensor) -> None:
    """Give every gate a bias at which half of the images run its unit, at a threshold of 0."""
    for number, gate in enumerate(net.gates.values()):
        gate.last.weight *= 1000
        leads = net._walk(BatchMeter(images), images, 0.0)[1][number]
        gate.last.bias[1] -= middle(leads[:, None])[0]


def _part_gates(net: Any, images: Tensor, knob: Mapping[str, Any]) -> None:
    """Give every gate a bias at which half of the images run its unit."""
    for gate in net.gates:
        asked: list[Tensor] = []
        handle = gate.register_forward_hook(lambda module, inputs, output, asked=asked: asked.append(output))
        routesearch.run(net, images, knob)
        handle.remove()
        last = [m for m in gate.modules() if isinstance(m, nn.Conv2d)][-1]
        [bar] = middle(asked[-1][:, None])
        assert last.bias is not None
        last.bias[1] -= bar


def _part_junctions(net: Any, images: Tensor, knob: Mapping[str, Any]) -> None:
    """Give every router a bias at which its sinks are equally good on the whole."""
    asked: list[Tensor] = []
    for level in net.levels[:-1]:
        for number in level:
            router = net.nodes[number].router
            linear = [m for m in router.modules() if isinstance(m, nn.Linear)][-1]
            handle = router.register_forward_hook(lambda module, inputs, output: asked.append(output))
            linear.weight.normal_()  # it starts at zero
            for _ in range(4):
                asked.clear()
                routesearch.run(net, images, knob)
                if asked:
                    linear.bias -= middle_of(torch.cat(asked))
            handle.remove()


def middle_of(scores: Tensor) -> Tensor:
    return scores.median(0).values


@pytest.fixture(scope="session")
def make_model(digits: Digits) -> Callable[[str], SavedModel]:
    """A case's model, made once: its 64 digits take every way."""
    registry, made = load_plugins(), dict[str, SavedModel]()

    def make(case: str) -> SavedModel:
        if case not in made:
            method, kind, width, fields = CASES[case]
            backbone = kind(SHAPE, len(CLASSES), width)
            cls = registry.methods.find(method)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(1)
                rows = torch.rand(len(CLASSES), len(CLASSES)) + torch.eye(len(CLASSES))
                confusion = (rows / rows.sum(1, keepdim=True)).tolist()
                start = {"start": "scratch"} if "start" in cls.Config.model_fields else {}
                config = cls.space(backbone).parse(start | fields)
                uses = cls.uses_trunk(config)
                trunk = Trunk(backbone.plain().state_dict(), 0.5, confusion) if uses else None
                net = cls(config, backbone, trunk).eval()
                for norm in net.modules():
                    if isinstance(norm, nn.BatchNorm2d):  # as after training: not the identity
                        assert norm.running_mean is not None
                        assert norm.running_var is not None
                        norm.running_mean.normal_(0, 0.2)
                        norm.running_var.uniform_(0.5, 1.5)
                images = normalised(torch.from_numpy(digits)[:, None], MEAN, STD)
                made[case] = as_model(net, parted(net, images))
        return made[case]

    return make


class Lone(RoutedNet):
    """One block; what ``route`` does beside it is a test's."""

    name = "lone"

    def __init__(self, way: Callable[[Any, Meter, Tensor], None]) -> None:
        backbone = ToyChain(SHAPE, len(CLASSES))
        super().__init__(self.Config(), backbone)
        self.block = backbone.plain()
        self.way = way

    def stages(self) -> list[Stage]:
        return []

    def knobs(self, scores: Any = None, labels: Any = None) -> list[dict[str, Any]]:
        return [{}]

    def route(self, meter: Meter, images: Tensor, knob: Any) -> None:
        self.way(self.block, meter, images)


@pytest.fixture
def lone() -> Callable[..., SavedModel]:
    """A model of one block with a route of the test's own: (block, meter, images) to nothing."""

    def make(way: Callable[[Any, Meter, Tensor], None]) -> SavedModel:
        return as_model(Lone(way).eval(), {})

    return make
