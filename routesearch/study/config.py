"""The study file: read safely, validated whole; a complaint names file, key, value, and what is right."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError

from routesearch.errors import Refusal
from routesearch.errors.texts import shown
from routesearch.study.recipe import Recipe
from routesearch.study.search_settings import SearchConfig
from routesearch.utils.names import MAX_NAME, NAME_RULE, is_name
from routesearch.utils.paths import check_utf8_folder, expand, located
from routesearch.utils.units import parse_latency, parse_macs, parse_time
from routesearch.utils.validation import MAX_TEXT, Part, explain, nearest, parse_yaml

NOT_YET = {
    "storage.journal": "a shared journal",
}
"""Keys of the study format that this version does not serve; a value other than null is refused by name."""

USUAL_NAME = "study.yaml"
"""What ``init`` calls a study file."""

MAX_BATCH = 1 << 16
"""Images of a batch that is timed, at most."""


def _batches(value: object) -> object:
    return [value] if isinstance(value, int) and not isinstance(value, bool) else value


def _sorted_unique(batches: tuple[int, ...] | None) -> tuple[int, ...] | None:
    return None if batches is None else tuple(sorted(set(batches)))


def parse_backbone(text: str) -> tuple[str, float]:
    """Name and width of ``nin`` or ``nin@0.25``.

    Raises:
        Refusal: for anything else.
    """
    found = re.fullmatch(r"([A-Za-z0-9_.-]+)(?:@(\d+(?:\.\d+)?|\.\d+))?", text)
    if found is None or len(text) > MAX_NAME or (found[2] is not None and float(found[2]) <= 0):
        raise Refusal(f"a backbone must be NAME or NAME@WIDTH such as nin@0.25, got {shown(text)}")
    return found[1], 1.0 if found[2] is None else float(found[2])


def _plain_name(text: str) -> str:
    """A name that can be a folder's and leads nowhere else."""
    if not is_name(text):
        raise ValueError(f"must be {NAME_RULE}")
    return text


def _weights(path: str) -> str:
    if not path.endswith((".pth", ".pt", ".safetensors")):
        raise ValueError("must be a .pth, .pt or .safetensors file")
    return path


def _uri(text: str) -> str:
    """A tracking URI; one without a scheme is a path, and so is what follows ``sqlite:///``."""
    scheme, separator, rest = text.partition(":///") if text.startswith("sqlite") else ("", "", text)
    return text if "://" in rest else f"{scheme}{separator}{expand(rest)}"


StudyPath = Annotated[str, AfterValidator(expand)]
"""A path in a study file, relative to the file's folder."""


def _backbone(text: str) -> str:
    """Checked here, with its key: a Refusal passes through pydantic as it is."""
    try:
        parse_backbone(text)
    except Refusal as refusal:
        raise Refusal(f"backbone.name: {refusal}") from None
    return text


def _named(data: dict[str, Any]) -> dict[str, Any]:
    name = data.get("name")
    if not isinstance(name, str) or len(name) > MAX_NAME:
        raise Refusal(f"data.name: a data set's name must be given, got {shown(name)}")
    return data


def _method_names(methods: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    for name in methods:
        if not 0 < len(name) <= MAX_NAME:
            raise ValueError(f"a method's name must have 1 to {MAX_NAME} characters")
    return methods


class BackboneConfig(Part):
    """``nin@0.25``, or a mapping with these keys."""

    name: Annotated[str, AfterValidator(_backbone)] = Field(description="a backbone, or NAME@WIDTH")
    weights: Annotated[StudyPath, AfterValidator(_weights)] | None = Field(
        None,
        description="file (.pth, .pt, .safetensors) that the shared trunk starts from; methods that start"
        " from scratch do without",
    )


class BudgetConfig(Part):
    max_macs: Annotated[str, BeforeValidator(parse_macs)] | None = Field(
        None,
        description="mean MACs per image: 40M, 1.2G, 0.4x of the backbone; null: the whole front is the goal",
    )
    max_latency: Annotated[float | None, BeforeValidator(parse_latency)] = Field(
        None,
        description="median time of a batch, as timed after each trial: 500us, 2ms, 0.1s; beside max_macs"
        " a point must meet both",
    )
    batch: int = Field(1, ge=1, le=MAX_BATCH, description="images of the batch that max_latency is of")


class LatencyConfig(Part):
    batch: Annotated[
        tuple[Annotated[int, Field(ge=1, le=MAX_BATCH)], ...] | None,
        BeforeValidator(_batches),
        AfterValidator(_sorted_unique),
    ] = Field(
        None,
        min_length=1,
        description="batch sizes at which the front is timed when a search ends, such as [1, 64]; null: none",
    )


class ConfirmConfig(Part):
    seeds: int = Field(
        1,
        ge=1,
        le=100,
        description="trainings with new seeds of each trial on the front within the budget, after the search;"
        " their mean and interval are published; 1: none, for one training shows no spread",
    )


class ResourcesConfig(Part):
    cpu: float = Field(1, gt=0, description="cores of one trial; its torch threads")
    gpu: float = Field(0, ge=0, description="GPUs of one trial; a fraction shares one")
    retries: int = Field(
        2, ge=0, le=100, description="how often a trial is run again whose worker or machine died"
    )
    trial_time: Annotated[float | None, BeforeValidator(parse_time)] = Field(
        None, description="of one trial (90s, 10m, 1.5h): one that takes longer fails; null: no limit"
    )


class StorageConfig(Part):
    dir: StudyPath | None = Field(
        None, description="folder of journal, weights and database; null: .routesearch/NAME"
    )
    journal: None = Field(None, description="journal of many drivers")


class TrackingConfig(Part):
    uri: Annotated[str, AfterValidator(_uri)] | None = Field(
        None, description="MLflow tracking URI; null: SQLite inside storage.dir"
    )


class StudyConfig(Part):
    """A validated study file."""

    file: Path = Field(
        exclude=True, description="where it was read from; paths in it are relative to its folder"
    )
    typed: str | None = Field(None, exclude=True, description="the file as the user named it, for messages")
    name: Annotated[str, AfterValidator(_plain_name)] = Field(description="letters, digits, '.', '_', '-'")
    data: Annotated[dict[str, Any], AfterValidator(_named)] = Field(
        description="{name: DATASET, ...its settings}"
    )
    backbone: BackboneConfig
    methods: Annotated[dict[str, dict[str, Any]], AfterValidator(_method_names)] = Field(
        min_length=1, description="method -> its fields, fixed or narrowed"
    )
    budget: BudgetConfig = BudgetConfig()
    search: SearchConfig = SearchConfig()
    training: Recipe = Recipe()
    resources: ResourcesConfig = ResourcesConfig()
    storage: StorageConfig = StorageConfig()
    tracking: TrackingConfig = TrackingConfig()
    latency: LatencyConfig = LatencyConfig()
    confirm: ConfirmConfig = ConfirmConfig()
    plugins: list[StudyPath] = Field([], description="plain Python files with hooks in them")

    @property
    def where(self) -> str:
        """The file as a message names it."""
        return self.typed or str(self.file)

    @property
    def base(self) -> Path:
        return self.file.parent

    @property
    def dir(self) -> Path:
        """The study's folder."""
        return located(self.storage.dir or f".routesearch/{self.name}", self.base)

    @property
    def weights_file(self) -> Path | None:
        """Pretrained weights."""
        return None if self.backbone.weights is None else located(self.backbone.weights, self.base)

    @property
    def rungs(self) -> tuple[int, ...]:
        """Epochs at which a trial may be stopped."""
        return self.search.rungs(self.training.epochs)

    @property
    def warm_start_files(self) -> list[Path]:
        """Study files whose trials the samplers learn from."""
        return [located(path, self.base) for path in self.search.warm_start]

    @property
    def plugin_files(self) -> list[Path]:
        return [located(path, self.base) for path in self.plugins]


def load_study(path: Path | str, overrides: Mapping[str, Any] | None = None) -> StudyConfig:
    """Read a study file.

    Args:
        path: YAML, read by the safe loader.
        overrides: dotted path -> value, as ``--set`` gives them.

    Raises:
        Refusal: one line with file, key, value and what would be right.
    """
    path = Path(path)
    check_utf8_folder(path, "a study")
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(MAX_TEXT + 1)  # what somebody names by mistake may be of any size
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        inside = path / USUAL_NAME
        reason = f"{reason}; did you mean {inside}?" if inside.is_file() else reason
        raise Refusal(f"{path}: a study must be a readable YAML file: {reason}") from None
    raw = parse_yaml(text, str(path))
    if not isinstance(raw, dict):
        raise Refusal(f"{path}: a study must be a mapping with data, backbone and methods, got {shown(raw)}")
    for key, value in (overrides or {}).items():
        _override(raw, key, value)
    return _validate(path, raw)


def _override(raw: dict[str, Any], dotted: str, value: Any) -> None:
    parts = dotted.split(".")
    if not all(parts):
        raise Refusal(f"--set {dotted}: a key must be a dotted path such as search.trials")
    here = raw
    for i, part in enumerate(parts[:-1]):
        if i == 0 and part == "methods" and isinstance(here.get(part), list):
            here[part] = _mapped(f"--set {dotted}", here[part])
        if i == 0 and part in ("data", "backbone") and isinstance(here.get(part), str):
            here[part] = {"name": here[part]}
        inner = here.get(part)
        if inner is None:
            inner = here[part] = {}
        if not isinstance(inner, dict):
            raise Refusal(f"--set {dotted}: {'.'.join(parts[: i + 1])} is {shown(inner)}, which has no keys")
        here = inner
    here[parts[-1]] = value


def _validate(path: Path, raw: Mapping[str, Any]) -> StudyConfig:
    values = dict(raw)
    for key in ("file", "typed"):
        if key in values:
            raise Refusal(f"{path}: unknown key {key!r}{nearest(key, StudyConfig)}")
    for dotted, what in NOT_YET.items():
        if _dig(values, dotted) is not None:
            raise Refusal(f"{path}: {dotted}: this version does not offer {what}; leave the key out")
    if "budget" in values and _is_macs(values["budget"]):
        budget = values["budget"]
        rule = f"must be a mapping with max_macs, got {shown(budget)}; did you mean {{max_macs: {budget}}}?"
        raise Refusal(f"{path}: budget: {rule}")
    if isinstance(values.get("budget"), dict):
        values["budget"] = {k: v for k, v in values["budget"].items() if f"budget.{k}" not in NOT_YET}
    if isinstance(values.get("backbone"), str):
        values["backbone"] = {"name": values["backbone"]}
    if isinstance(values.get("data"), str):
        values["data"] = {"name": values["data"]}
    if isinstance(values.get("methods"), list):
        values["methods"] = _mapped(str(path), values["methods"])
    if "methods" in values and not isinstance(values["methods"], dict):
        rule = "must be a list such as [static], or a mapping of methods to their fields"
        raise Refusal(f"{path}: methods: {rule}, got {shown(values['methods'])}")
    if isinstance(values.get("methods"), dict):
        values["methods"] = {str(k): {} if v is None else v for k, v in values["methods"].items()}
    for key in (
        "budget",
        "search",
        "training",
        "resources",
        "storage",
        "tracking",
        "latency",
        "confirm",
        "plugins",
    ):
        if key in values and values[key] is None:
            del values[key]
    values.setdefault("name", path.stem)
    try:
        file = located(path, Path())
        typed = None if str(path) == str(file) else str(path)
        config = StudyConfig(file=file, typed=typed, **{str(k): v for k, v in values.items()})
        _ = config.rungs
        return config
    except ValidationError as error:
        raise Refusal(f"{path}: {explain(error, StudyConfig)}") from None
    except ValueError as error:
        raise Refusal(f"{path}: search.{error}") from None
    except Refusal as refusal:
        raise Refusal(f"{path}: {refusal}") from None


def _is_macs(value: object) -> bool:
    try:
        parse_macs(value)
    except ValueError:
        return False
    return True


def _mapped(where: str, methods: Sequence[Any]) -> dict[str, Any]:
    mapped: dict[str, Any] = {}
    for item in methods:
        pair = item.items() if isinstance(item, dict) else [(item, {})]
        for name, fields in pair:
            if not isinstance(name, str):
                raise Refusal(f"{where}: methods: a method must be a name, got {shown(name)}")
            if name in mapped:
                raise Refusal(f"{where}: methods: each method must be named once, got {shown(name)} twice")
            mapped[name] = fields
    return mapped


def _dig(values: Any, dotted: str) -> Any:
    for part in dotted.split("."):
        values = values.get(part) if isinstance(values, dict) else None
    return values


def digest(value: Any) -> str:
    """Sixteen hexadecimal digits of any JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]
