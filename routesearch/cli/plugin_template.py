"""What a new plugin is made of: a complete method, its test, a study to try it, and its packaging.

``$name`` is the plugin's and the method's name, ``$kind`` the class, ``$package`` the distribution,
``$versions`` of routesearch that it needs.
"""

from __future__ import annotations

METHOD = '''\
"""$name: an early exit. An image leaves after some units where a small classifier is sure of it.

A complete method to change into your own; "Writing a plugin" in routesearch's documentation says what each
part is for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

import torch
from optuna.distributions import IntDistribution
from pydantic import Field
from routesearch import (
    Backbone,
    Batch,
    Knob,
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
)
from torch import Tensor, nn


class $kind(RoutedNet):
    """A backbone with a classifier after unit ``position``; route 0 leaves there, route 1 goes on."""

    name: ClassVar[str] = "$name"

    class Config(Space):
        """What a study can search (annotated with a distribution) or set (the others)."""

        position: Annotated[int, IntDistribution(1, 7)] = Field(
            1, description="unit after which an image may leave"
        )
        early_weight: float = Field(1.0, gt=0, description="of the early classifier's loss; the last has 1")

    @classmethod
    def space(cls, backbone: Backbone) -> SearchSpace:
        last = len(backbone) - 1
        if last < 1:
            raise Refusal(f"{cls.name}: 2 <= units must hold, backbone {backbone.name} has {len(backbone)}")
        middle = max(1, last // 2)
        return super().space(backbone).refine({"position": middle}, position=IntDistribution(1, last))

    def __init__(self, config: Space, backbone: Backbone, trunk: Trunk | None = None) -> None:
        super().__init__(config, backbone, trunk)
        k, units = self.config.position, len(backbone)
        backbone.check_cuts([k], f"{self.name}: position")
        self.front = nn.Sequential(*(backbone.unit(i) for i in range(1, k + 1)))
        self.early = backbone.exit(k)
        self.rest = nn.Sequential(*(backbone.unit(i) for i in range(k + 1, units + 1)), backbone.head())

    def stages(self) -> Sequence[Stage]:
        return [Stage(self._loss)]

    def _loss(self, batch: Batch) -> Tensor:
        """Both classifiers', by the labels and by what else the study wants them to learn from."""
        x = self.front(batch.inputs)
        early = classification_loss(self.early(x), batch)
        late = classification_loss(self.rest(x), batch)
        loss: Tensor = self.config.early_weight * early + late
        return loss

    def route(self, meter: Meter, images: Tensor, knob: Knob) -> None:
        x = meter.run(self.front, images)
        logits = meter.run(self.early, x)
        leaves = sureness(logits) >= knob["thresholds"][0]
        for way, group, x_of, logits_of in meter.split(leaves, 2, x, logits):
            if way:
                group.finish(logits_of, route=0)
            else:
                group.finish(group.run(self.rest, x_of), route=1)

    def observe(self, images: Tensor) -> Scores:
        """Both routes in one pass, so that thresholds can be tried without running the network again."""
        x = self.front(images)
        early, late = self.early(x), self.rest(x)
        return Scores(sureness(early)[:, None], torch.stack([early.argmax(1), late.argmax(1)], 1))

    def decide(self, scores: Tensor, knob: Knob) -> Tensor:
        return first_exit(scores, knob["thresholds"])

    def knobs(self, scores: Scores | None = None, labels: Tensor | None = None) -> Sequence[Knob]:
        return [{"thresholds": t} for t in [[0.9], *exit_thresholds(scores, labels)]]


def sureness(logits: Tensor) -> Tensor:
    """N x classes logits to each image's largest probability."""
    return logits.softmax(1).amax(1)


@hookimpl
def routesearch_methods() -> Sequence[type[RoutedNet]]:
    return [$kind]
'''

TEST = '''\
"""The invariants of every method, and what is $name's own."""

from __future__ import annotations

import pytest
import torch
from routesearch import Refusal, run
from routesearch.testing import CHAIN, MethodContract

from $name import $kind


class TestContract(MethodContract):
    method = $kind


def test_the_threshold_decides_who_leaves() -> None:
    """No probability is below 0 and none above 1."""
    torch.manual_seed(0)
    net = $kind($kind.Config(position=2), CHAIN)
    images = torch.randn(5, *CHAIN.image_shape)
    assert run(net, images, {"thresholds": [0.0]}).route.tolist() == [0] * 5
    assert run(net, images, {"thresholds": [1.1]}).route.tolist() == [1] * 5


@pytest.mark.parametrize("position", [0, len(CHAIN)])
def test_an_exit_stands_before_the_last_unit(position: int) -> None:
    with pytest.raises(Refusal, match=r"^$name: position: 1 <= position <= \\d+ must hold on backbone"):
        $kind($kind.Config(position=position), CHAIN)
'''

STUDY = """\
# $name beside the static network, on the digits that come with routesearch: a few minutes on a CPU.
# `routesearch plan study.yaml` says what it would cost, `routesearch search study.yaml` runs it.
name: $name
data: {name: digits, noise: 0.5}
backbone: nin@0.25
plugins: [$name.py]      # without this line once the plugin is installed
methods: [static, $name]
budget: {max_macs: 0.7x}
search: {trials: 8}
training: {epochs: 10, batch_size: 32, learning_rate: 0.005}
"""

PROJECT = """\
[build-system]
requires = ["hatchling>=1.27"]
build-backend = "hatchling.build"

[project]
name = "$package"
version = "0.1.0"
description = "$name: a routing method for routesearch"
readme = "README.md"
requires-python = ">=3.11"
# What the module imports; the versions are routesearch's to choose.
dependencies = ["routesearch$versions", "torch", "optuna", "pydantic"]

[project.optional-dependencies]
test = ["routesearch[test]"]

[project.entry-points.routesearch]
$name = "$name"

[tool.hatch.build]
dev-mode-dirs = ["."]

[tool.hatch.build.targets.wheel]
only-include = ["$name.py"]

[tool.pytest.ini_options]
testpaths = ["tests"]
pythonpath = ["."]
"""

README = """\
# $package

A routing method for routesearch: an image leaves after unit `position` where a small classifier is sure of
it. Change it into your own.

| field | values | meaning |
| --- | --- | --- |
| `position` | 1 to the last unit but one, searched | the unit after which an image may leave |
| `early_weight` | 1.0 | weight of the early classifier's loss |

The knob is `thresholds`, one number: the probability from which on an image leaves.

| file | is |
| --- | --- |
| `$name.py` | the method |
| `tests/test_$name.py` | its tests: the conformance kit's, and its own |
| `study.yaml` | a study that tries it beside the static network |
| `pyproject.toml` | the package, with the entry point by which routesearch finds it |

```
pip install 'routesearch[test]'
routesearch check $name --plugin $name.py
pytest                          # the invariants of every method, and this one's own
routesearch search study.yaml   # what it is worth
pip install -e .                # from then on it is found without the study's `plugins`
```
"""

FILES = {
    "$name.py": METHOD,
    "tests/test_$name.py": TEST,
    "study.yaml": STUDY,
    "pyproject.toml": PROJECT,
    "README.md": README,
}
"""Path -> text, both with the names still to be filled in."""
