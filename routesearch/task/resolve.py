"""A study made ready to run: names turned into classes, fields into search spaces, the budget into MACs."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from routesearch.backbones.base import Backbone, reference_cost
from routesearch.data.base import Data, Dataset, Shape
from routesearch.data.survey import Survey
from routesearch.errors import CodeFailed, Refusal
from routesearch.errors.texts import shown
from routesearch.methods.base import RoutedNet
from routesearch.methods.running import price
from routesearch.plugin.loader import PluginTable, Registry, load_plugins
from routesearch.results.budget import Budget
from routesearch.results.points import Interval
from routesearch.space.space import SearchSpace, Space
from routesearch.study.config import StudyConfig, digest, parse_backbone
from routesearch.task.space_costs import SpaceCosts
from routesearch.training.pretrained import content_digest, is_whole, read_weights
from routesearch.utils.paths import expand, located
from routesearch.utils.validation import explain

NETWORK, CONFUSION = "trunk", "confusion"
"""Parts of the shared trunk (:class:`Trunk`), each trained and kept by itself."""

log = logging.getLogger(__name__)

DRAWS = 64
"""Random configs that a pre-flight prices for each method, beside the extremes of its fields."""


@dataclass(frozen=True, eq=False)
class Task:
    """What every part of a search needs to know of its study."""

    config: StudyConfig
    registry: Registry
    dataset: Dataset
    shape: Shape
    classes: tuple[str, ...]
    backbone: Backbone
    spaces: Mapping[str, SearchSpace]
    _prices: dict[str, Interval] = field(default_factory=dict)

    @property
    def dir(self) -> Path:
        return self.config.dir

    @property
    def methods(self) -> Mapping[str, type[RoutedNet]]:
        return {name: self.registry.methods.find(name) for name in self.spaces}

    @property
    def needs_trunk(self) -> bool:
        """Whether the backbone is trained once: methods start from its weights, or learn from its logits."""
        return bool(self.starting) or self.config.training.distill is not None

    @property
    def starting(self) -> tuple[str, ...]:
        """Methods whose networks, or some of them, start from the trained backbone's weights."""
        methods = self.methods
        return tuple(name for name, space in self.spaces.items() if methods[name].uses_weights(space))

    def dependent(self, part: str) -> tuple[str, ...]:
        """Methods that cannot do without a part of the trunk; all where they learn from its logits."""
        if part == NETWORK:
            return tuple(self.spaces) if self.config.training.distill is not None else self.starting
        return tuple(name for name, method in self.methods.items() if method.needs_confusion)

    @property
    def needs_confusion(self) -> bool:
        """Whether a method asks which classes the backbone confuses."""
        return any(method.needs_confusion for method in self.methods.values())

    @cached_property
    def backbone_macs(self) -> float:
        """The static backbone's MACs per image."""
        return float(reference_cost(self.backbone)[1])

    @cached_property
    def budget(self) -> Budget:
        """What a point may cost."""
        return Budget.of(self.config.budget, self.backbone_macs)

    @cached_property
    def data(self) -> Data:
        with _naming(_data_key(self.config, self.dataset)):
            return self.dataset.load(self.config.base)

    def survey(self) -> Survey:
        """What there is to tell of the user's data, by one complete look; pixels are not kept.

        Raises:
            Refusal: where :attr:`data` would.
        """
        with _naming(_data_key(self.config, self.dataset)):
            return self.dataset.survey(self.config.base)

    @cached_property
    def weights(self) -> Mapping[str, Tensor] | None:
        """Pretrained weights that the trunk starts from; None: it starts at random, or no method needs it.

        Raises:
            Refusal: for a file that cannot be read or does not fit the backbone.
        """
        path = self.config.weights_file
        if path is None or not self.needs_trunk:
            return None
        with _naming(f"{self.config.where}: backbone.weights"):
            weights = read_weights(path, self.backbone)
        if self.config.training.trunk_epochs == 0 and not is_whole(weights, self.backbone):
            rule = "training.trunk_epochs: must be 1 or more where the class layer is to be learnt"
            raise Refusal(f"{self.config.where}: {rule}, got 0 and weights for other classes")
        return weights

    def bounds(self, method: str, config: Space) -> Interval:
        """Static interval of a config's MACs.

        Raises:
            Refusal: where the config violates a constraint of its method.
        """
        key = f"{method} {config.model_dump_json()}"
        if key not in self._prices:
            self._prices[key] = price(self.methods[method], config, self.backbone).bounds
        return self._prices[key]

    def reach(self, method: str, draws: int = DRAWS) -> SpaceCosts:
        """Price the field extremes and some random draws of a method's space."""
        space, rng = self.spaces[method], Random(self.config.search.seed)
        found: list[Interval] = []
        reason: str | None = None
        faults: list[str] = []

        def price(config: Space) -> bool:
            """Whether the config can be built within the budget."""
            nonlocal reason
            try:
                found.append(self.bounds(method, config))
            except Refusal as refusal:
                reason = str(refusal)
                faults.extend([reason] if isinstance(refusal, CodeFailed) else [])
                return False
            return self.budget.admits(found[-1])

        for config in space.extremes():
            price(config)
        hits = sum(price(space.draw(rng)) for _ in range(draws))
        if not found:
            return SpaceCosts(0.0, None, reason)
        if faults:
            told = "%s: %d of the configs that were tried fail in its own code: %s"
            log.warning(told, method, len(faults), faults[-1])
        return SpaceCosts(
            hits / max(1, draws), Interval(min(b.min for b in found), max(b.max for b in found))
        )

    def preflight(self) -> None:
        """What a search is refused for before anything is trained or written.

        Raises:
            Refusal: pretrained weights do not fit, or no method can meet the budget; names the cheapest
                route found.
        """
        self.check_weights()
        rule = self.unmet({name: self.reach(name) for name in self.spaces})
        if rule is not None:
            raise Refusal(f"{self.config.where}: {rule}")

    def check_weights(self) -> None:
        """Read pretrained weights; a warning where no method of the study starts from them.

        Raises:
            Refusal: as :attr:`weights`.
        """
        if self.weights is None and self.config.weights_file is not None:
            log.warning(
                "backbone.weights: no method here starts from the trunk, so they are not used (methods: %s)",
                ", ".join(self.spaces),
            )

    def unmet(self, reaches: Mapping[str, SpaceCosts]) -> str | None:
        """Why a search would be refused, given what the methods' spaces span; None where it would run."""
        for name, reach in reaches.items():
            if reach.macs is None:
                return f"methods.{name}: no config of its space can be built: {reach.reason}"
        cheapest = min(reaches, key=lambda name: reaches[name].macs.min)  # type: ignore[union-attr]
        low = reaches[cheapest].macs
        assert low is not None
        if self.budget.admits(low):
            return None
        return (
            f"budget.max_macs: some route must cost at most {self.budget.max_macs:,.0f} MACs, "
            f"the cheapest found is {low.min:,} ({low.min / self.backbone_macs:.3f}x, method {cheapest})"
        )

    def fingerprint(self) -> dict[str, str]:
        """What must not change while a study goes on, key by key."""
        config = self.config
        training = config.training.settings()
        path = config.weights_file
        with _naming(f"{config.where}: backbone.weights"):
            weights = {} if path is None else {"backbone.weights": content_digest(path)}
        budget = config.budget  # a curve without latencies, or of another batch, cannot be compared with it
        timed = {} if budget.max_latency is None else {"budget.max_latency": f"given, batch {budget.batch}"}
        return (
            weights
            | timed
            | {
                "data": f"{config.data['name']} {digest(self.dataset.settings())} {self.data.fingerprint()}",
                "backbone": config.backbone.name,
                **{f"training.{name}": str(value) for name, value in training.items()},
                "search.seed": str(config.search.seed),
            }
        )

    def inputs(self) -> dict[str, Any]:
        """What a trained network must know of its images, as JSON: a model is saved without the data."""
        mean, std = self.data.mean, self.data.std
        return {
            "shape": list(self.shape),
            "classes": list(self.classes),
            "mean": list(mean),
            "std": list(std),
            "pixel_range": list(self.data.pixel_range),
            "images": {name: len(self.data.split(name)) for name in self.data.splits[1:]},
        }

    def code(self) -> dict[str, str]:
        """Whose code the study runs, by part; it may change while a study goes on, but not unnoticed."""
        parts: list[tuple[PluginTable[Any], str]] = [(self.registry.methods, name) for name in self.spaces]
        parts += [(self.registry.backbones, self.backbone.name), (self.registry.datasets, self.dataset.name)]
        return {f"{shelf.kind} {name}": self.registry.code[shelf.origin[name]] for shelf, name in parts}

    def trunk_files(self, fingerprint: Mapping[str, str] | None = None) -> dict[str, Path]:
        """Where the parts of the shared trunk lie, those that a method needs: its network, its confusion.

        Names of files say what the trunk was trained from.

        Args:
            fingerprint: as the journal has it, where the data need not be read for it.
        """
        needed = {NETWORK: self.needs_trunk, CONFUSION: self.needs_confusion}
        if not any(needed.values()):
            return {}
        facts = self.fingerprint() if fingerprint is None else dict(fingerprint)
        stem = f"{self.config.backbone.name}-{digest(facts)}"
        names = {NETWORK: f"{stem}.safetensors", CONFUSION: f"{stem}.confusion.safetensors"}
        return {part: self.dir / "trunks" / names[part] for part, is_needed in needed.items() if is_needed}


def resolve(config: StudyConfig, facts: tuple[Shape, tuple[str, ...]] | None = None) -> Task:
    """Look every name of a study up and check its fields.

    Args:
        facts: image shape and class names, where they are known already (in a worker); otherwise the
            data set says them, reading files only if it must.

    Raises:
        Refusal: naming file, key, value and what would be right.
    """
    file = config.where
    for i, plugin in enumerate(config.plugin_files):
        if not plugin.is_file():
            what = "is no file" if plugin.exists() else "does not exist"
            raise Refusal(f"{file}: plugins[{i}]: must be a Python file, got {plugin}, which {what}")
    registry = load_plugins(config.plugin_files)
    with _naming(f"{file}: data.name", registry):
        dataset_class = registry.datasets.find(config.data["name"])
    try:
        dataset = dataset_class.model_validate({k: v for k, v in config.data.items() if k != "name"})
    except ValidationError as error:
        raise Refusal(f"{file}: {explain(error, dataset_class, 'data')}") from None
    dataset = _with_paths(file, dataset)
    with _naming(f"{file}: methods", registry):
        methods = {name: registry.methods.find(name) for name in config.methods}
    name, width = parse_backbone(config.backbone.name)
    with _naming(f"{file}: backbone.name", registry):
        backbone_class = registry.backbones.find(name)
    with _naming(_data_key(config, dataset)):
        shape, classes = facts or dataset.checked_facts(config.base)
    with _naming(f"{file}: backbone.name"):
        backbone = backbone_class(shape, len(classes), width)
    spaces: dict[str, SearchSpace] = {}
    for name, wishes in config.methods.items():
        with _naming(f"{file}: methods.{name}"):
            spaces[name] = methods[name].space(backbone).narrow(wishes)
    task = Task(config, registry, dataset, shape, classes, backbone, spaces)
    _check_epochs(task)
    return task


def _with_paths(file: str, dataset: Dataset) -> Dataset:
    """The data set with ``~`` and variables put into its paths; those of a plugin's data set as well."""
    found = {}
    for key, value in dataset:
        if isinstance(value, Path):
            try:
                found[key] = Path(expand(str(value)))
            except ValueError as error:
                raise Refusal(f"{file}: data.{key}: {error}, got {shown(str(value))}") from None
    return dataset.model_copy(update=found)


def _data_key(config: StudyConfig, dataset: Dataset) -> str:
    """The key that data are refused under: that of their path, where nothing lies there."""
    path = getattr(dataset, "path", None)
    gone = isinstance(path, Path) and not located(path, config.base).exists()
    return f"{config.where}: data.path" if gone else f"{config.where}: data"


def _check_epochs(task: Task) -> None:
    """Raise Refusal where the trunk would not be trained and must be."""
    config = task.config
    if config.training.trunk_epochs:
        return
    key = f"{config.where}: training.trunk_epochs: must be 1 or more"
    if task.starting and config.weights_file is None:
        raise Refusal(f"{key} without backbone.weights{_without_start(task)}, got 0")
    if config.training.distill is not None and config.weights_file is None:
        rule = "must be null where no trunk is there to learn from"
        got = "trunk_epochs: 0 and no backbone.weights"
        raise Refusal(f"{config.where}: training.distill: {rule}, got {got}")
    if task.needs_confusion:
        asking = next(name for name, method in task.methods.items() if method.needs_confusion)
        raise Refusal(f"{key} for method {asking}, which compares classes by trained networks, got 0")


def _without_start(task: Task) -> str:
    """How a study whose methods could all do without a trunk would do without it; else nothing."""
    if any(task.methods[name].needs_trunk for name in task.starting):
        return ""
    return f", or methods start from scratch (methods.{task.starting[0]}.start: scratch)"


@contextmanager
def _naming(where: str, registry: Registry | None = None) -> Iterator[None]:
    """Put file and key before a refusal; plugins that could not be loaded may be why a name is missing."""
    try:
        yield
    except Refusal as refusal:
        raise Refusal(f"{where}: {refusal}{registry.not_loaded() if registry else ''}") from None
