"""The study file: read safely, validated whole; a complaint names file, key, value, and what is right."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from routesearch.errors import Refusal
from routesearch.recipe import Recipe

NOT_YET = {
    "confirm": "confirmation by more seeds",
    "budget.max_latency": "a latency budget",
    "budget.batch": "a latency budget",
    "storage.journal": "a shared journal",
    "backbone.weights": "pretrained weights",
}
"""Keys of the study format that this version does not serve; a value other than null is refused by name."""

_UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}
_TIMES = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_macs(text: object) -> str:
    """Canonical text of a budget: ``40M``, ``1.2G``, a plain number of MACs, ``0.4x`` of the backbone."""
    if isinstance(text, bool) or not re.fullmatch(
        r"\d+(\.\d+)?([eE]\+?\d+)?\s*[kKmMgGtTxX]?", str(text).strip()
    ):
        raise ValueError(
            "a budget must be MACs such as 40M, 1.2G, 40000000, or a fraction of the backbone such as 0.4x"
        )
    canonical = str(text).strip().replace(" ", "")
    if float(canonical.rstrip("kKmMgGtTxX")) <= 0:
        raise ValueError("a budget must be more than 0")
    return canonical


def macs_of(text: str, reference: float) -> float:
    """The MACs that a budget means on a backbone of ``reference`` MACs."""
    unit = text[-1].lower() if text[-1].isalpha() else ""
    number = float(text[:-1] if unit else text)
    return number * reference if unit == "x" else number * _UNITS[unit]


def parse_time(value: object) -> float | None:
    """Seconds of ``90``, ``90s``, ``10m``, ``1.5h``, ``2d``; None stays None."""
    if value is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", str(value).strip().lower())
    if isinstance(value, bool) or found is None or float(found[1]) <= 0:
        raise ValueError("a time must be more than 0, such as 90s, 10m or 1.5h")
    return float(found[1]) * _TIMES[found[2]]


def parse_backbone(text: str) -> tuple[str, float]:
    """Name and width of ``nin`` or ``nin@0.25``.

    Raises:
        Refusal: for anything else.
    """
    found = re.fullmatch(r"([A-Za-z0-9_.-]+)(?:@(\d+(?:\.\d+)?|\.\d+))?", text)
    if found is None or (found[2] is not None and float(found[2]) <= 0):
        raise Refusal(f"a backbone must be NAME or NAME@WIDTH such as nin@0.25, got {text!r}")
    return found[1], 1.0 if found[2] is None else float(found[2])


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BackboneConfig(_Part):
    """``nin@0.25``, or a mapping with these keys."""

    name: Annotated[str, AfterValidator(lambda text: parse_backbone(text) and text)] = Field(
        description="a backbone, or NAME@WIDTH"
    )
    weights: None = Field(None, description="pretrained weights")


class BudgetConfig(_Part):
    max_macs: Annotated[str, BeforeValidator(parse_macs)] | None = Field(
        None,
        description="mean MACs per image: 40M, 1.2G, 0.4x of the backbone; null: the whole front is the goal",
    )


class SearchConfig(_Part):
    trials: int = Field(
        40, ge=1, description="trials of the whole study that are trained: finished, stopped or failed"
    )
    sampler: Literal["tpe", "random", "nsga2", "qmc", "gp"] = Field("tpe", description="Optuna sampler")
    time_limit: Annotated[float | None, BeforeValidator(parse_time)] = Field(
        None, description="of one invocation's search phase (90s, 10m, 1.5h): no trial starts after it"
    )
    seed: int = Field(0, ge=0, lt=2**31, description="of the search: proposals, weights, order of images")


class ResourcesConfig(_Part):
    cpu: float = Field(1, gt=0, description="cores of one trial; its torch threads")
    gpu: float = Field(0, ge=0, description="GPUs of one trial; a fraction shares one")


class StorageConfig(_Part):
    dir: str | None = Field(None, description="folder of the study's journal, weights and database")
    journal: None = Field(None, description="journal of many drivers")


class TrackingConfig(_Part):
    uri: str | None = Field(None, description="MLflow tracking URI; null: SQLite inside storage.dir")


class StudyConfig(_Part):
    """A validated study file."""

    file: Path = Field(
        exclude=True, description="where it was read from; paths in it are relative to its folder"
    )
    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$", description="letters, digits, '.', '_', '-'"
    )
    data: dict[str, Any] = Field(description="{name: DATASET, ...its settings}")
    backbone: BackboneConfig
    methods: dict[str, dict[str, Any]] = Field(
        min_length=1, description="method -> its fields, fixed or narrowed"
    )
    budget: BudgetConfig = BudgetConfig()
    search: SearchConfig = SearchConfig()
    training: Recipe = Recipe()
    resources: ResourcesConfig = ResourcesConfig()
    storage: StorageConfig = StorageConfig()
    tracking: TrackingConfig = TrackingConfig()
    plugins: list[str] = Field([], description="plain Python files with hooks in them")

    @property
    def base(self) -> Path:
        return self.file.parent

    @property
    def dir(self) -> Path:
        """The study's folder."""
        return (self.base / (self.storage.dir or f".routesearch/{self.name}")).resolve()

    @property
    def plugin_files(self) -> list[Path]:
        return [(self.base / p).resolve() for p in self.plugins]


def load_study(path: Path | str, overrides: Mapping[str, Any] | None = None) -> StudyConfig:
    """Read a study file.

    Args:
        path: YAML, read by the safe loader.
        overrides: dotted path -> value, as ``--set`` gives them.

    Raises:
        Refusal: one line with file, key, value and what would be right.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise Refusal(f"{path}: a study must be a readable YAML file: {reason}") from None
    try:
        raw = yaml.load(text, _Loader)  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise Refusal(f"{path}{where}: not valid YAML: {getattr(error, 'problem', None) or error}") from None
    if not isinstance(raw, dict):
        raise Refusal(f"{path}: a study must be a mapping with data, backbone and methods, got {_short(raw)}")
    for key, value in (overrides or {}).items():
        _override(raw, key, value)
    return _validate(path, raw)


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice (the second would win silently)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str | int | float) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is given twice", key_node.start_mark
                )
            seen.add(key if isinstance(key, str | int | float) else id(key_node))
        return super().construct_mapping(node, deep)


def _override(raw: dict[str, Any], dotted: str, value: Any) -> None:
    parts = dotted.split(".")
    if not all(parts):
        raise Refusal(f"--set {dotted}: a key must be a dotted path such as search.trials")
    here = raw
    for i, part in enumerate(parts[:-1]):
        if i == 0 and part == "methods" and isinstance(here.get(part), list):
            here[part] = {m: {} for m in here[part]}
        if i == 0 and part in ("data", "backbone") and isinstance(here.get(part), str):
            here[part] = {"name": here[part]}
        inner = here.get(part)
        if inner is None:
            inner = here[part] = {}
        if not isinstance(inner, dict):
            raise Refusal(f"--set {dotted}: {'.'.join(parts[: i + 1])} is {_short(inner)}, which has no keys")
        here = inner
    here[parts[-1]] = value


def _validate(path: Path, raw: Mapping[str, Any]) -> StudyConfig:
    values = dict(raw)
    if "file" in values:
        raise Refusal(f"{path}: unknown key 'file'{_nearest('file', StudyConfig)}")
    for dotted, what in NOT_YET.items():
        if _dig(values, dotted) is not None:
            raise Refusal(f"{path}: {dotted}: {what} is not served by this version; leave the key out")
    values.pop("confirm", None)
    if isinstance(values.get("budget"), dict):
        values["budget"] = {k: v for k, v in values["budget"].items() if f"budget.{k}" not in NOT_YET}
    if isinstance(values.get("backbone"), str):
        values["backbone"] = {"name": values["backbone"]}
    if isinstance(values.get("data"), str):
        values["data"] = {"name": values["data"]}
    if isinstance(values.get("methods"), list):
        values["methods"] = _mapped(path, values["methods"])
    if isinstance(values.get("methods"), dict):
        values["methods"] = {str(k): {} if v is None else v for k, v in values["methods"].items()}
    for key in ("budget", "search", "training", "resources", "storage", "tracking"):
        if key in values and values[key] is None:
            del values[key]
    values.setdefault("name", path.stem)
    try:
        config = StudyConfig(file=path.resolve(), **{str(k): v for k, v in values.items()})
    except ValidationError as error:
        raise Refusal(f"{path}: {explain(error, StudyConfig)}") from None
    except Refusal as refusal:
        raise Refusal(f"{path}: {refusal}") from None
    _check_names(path, config)
    return config


def _mapped(path: Path, methods: Sequence[Any]) -> dict[str, Any]:
    mapped: dict[str, Any] = {}
    for item in methods:
        pair = item.items() if isinstance(item, dict) else [(item, {})]
        for name, fields in pair:
            if name in mapped:
                raise Refusal(f"{path}: methods: each method must be named once, got {name!r} twice")
            mapped[name] = fields
    return mapped


def _check_names(path: Path, config: StudyConfig) -> None:
    if not isinstance(config.data.get("name"), str):
        raise Refusal(
            f"{path}: data.name: a data set's name must be given, got {_short(config.data.get('name'))}"
        )


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """The first complaint of pydantic as one line: key, what is wrong, the value."""
    first = error.errors()[0]
    path = [
        str(part) for part in first["loc"] if not (isinstance(part, str) and ("[" in part or part == "none"))
    ]
    key = ".".join(path)
    if first["type"] == "extra_forbidden":
        return f"unknown key {key!r}{_nearest(path[-1], _model_at(model, path[:-1]))}"
    if first["type"] == "missing":
        return f"{key} must be given"
    message = first["msg"].removeprefix("Value error, ")
    return f"{key}: {message[0].lower()}{message[1:]}, got {_short(first['input'])}"


def _model_at(model: type[BaseModel], path: Sequence[str]) -> type[BaseModel]:
    for part in path:
        field = model.model_fields.get(part)
        kind = field.annotation if field else None
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            model = kind
    return model


def _nearest(name: str, model: type[BaseModel]) -> str:
    keys = [k for k, f in model.model_fields.items() if not f.exclude]
    close = difflib.get_close_matches(name, keys, 1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(keys)}"


def _dig(values: Any, dotted: str) -> Any:
    for part in dotted.split("."):
        values = values.get(part) if isinstance(values, dict) else None
    return values


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def digest(value: Any) -> str:
    """Sixteen hexadecimal digits of any JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]
