"""What users write, read with care: YAML by the safe loader, and pydantic's complaints as one plain line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from routesearch.errors import Refusal

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


class Part(BaseModel):
    """A part of a study file: immutable, unknown keys refused, numbers finite and never true or false."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth(cls, value: Any) -> Any:
        if isinstance(value, bool):  # else yes would count as 1
            raise ValueError("must not be true or false")
        return value


def parse_yaml(text: str, where: str) -> Any:
    """Read YAML by the safe loader.

    Args:
        where: how a refusal calls the text.
    """
    try:
        return yaml.load(text, _Loader)  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark and "\n" in text.strip() else ""
        reason = getattr(error, "problem", None) or getattr(error, "reason", None) or error
        raise Refusal(f"{where}{line}: not valid YAML: {reason}") from None
    except RecursionError:
        raise Refusal(f"{where}: not valid YAML: brackets within brackets, too deep") from None
    except ValueError as error:  # a date that no calendar has
        raise Refusal(f"{where}: not valid YAML: {error}") from None


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice (the second would win silently) and reads 1e-3 as a number."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str | int | float) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is given twice", key_node.start_mark
                )
            seen.add(key if isinstance(key, str | int | float) else id(key_node))
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(  # YAML 1.1 would want 1.0e-3
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def explain(error: ValidationError, model: type[BaseModel], under: str = "") -> str:
    """The first complaint of pydantic as one line: key (below ``under``), what is wrong, the value."""
    first = error.errors()[0]
    if not first["loc"]:  # a constraint on the whole mapping
        where = f"{under}: " if under else ""
        return f"{where}{_law(first, model)}, got {short(first['input'])}"
    unknown = first["type"] == "extra_forbidden"
    *above, last = first["loc"]
    path = [str(part) for part in above if not _names_a_type(part)]
    if unknown or not _names_a_type(last):  # an unknown key may be called anything
        path.append(str(last))
    key = ".".join([under, *path] if under else path)
    if unknown:
        return f"unknown key {key!r}{nearest(path[-1], _model_at(model, path[:-1]))}"
    if first["type"] == "missing":
        return f"{key} must be given"
    return f"{key}: {_law(first, _model_at(model, path))}, got {short(first['input'])}"


def _names_a_type(part: int | str) -> bool:
    """Whether pydantic put it into a path to say which member of a union complains."""
    return isinstance(part, str) and ("[" in part or part == "none")


def _law(complaint: ErrorDetails, model: type[BaseModel]) -> str:
    """What must hold, in plain words."""
    kind = complaint["type"]
    if kind == "model_type":
        return f"must be a mapping with {', '.join(_keys(model))}"
    plain = {
        "dict_type": "must be a mapping",
        "list_type": "must be a list",
        "string_type": "must be text",
        "too_short": "must not be empty",
        "int_parsing": "must be an integer",
        "int_type": "must be an integer",
        "int_from_float": "must be an integer",
        "float_parsing": "must be a number",
        "float_type": "must be a number",
        "path_type": "must be a path",
    }
    message = re.sub("^(Value error|Assertion failed), ", "", complaint["msg"])
    message = message.replace("Input should be", "must be") or "must be valid"
    return plain.get(kind, f"{message[0].lower()}{message[1:]}")


def _model_at(model: type[BaseModel], path: Sequence[str]) -> type[BaseModel]:
    for part in path:
        field = model.model_fields.get(part)
        kind = field.annotation if field else None
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            model = kind
    return model


def nearest(name: str, model: type[BaseModel]) -> str:
    """What the user may have meant by an unknown key."""
    keys = _keys(model)
    close = difflib.get_close_matches(name, keys, 1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(keys)}"


def _keys(model: type[BaseModel]) -> list[str]:
    """What a study file may say, without the keys that are not offered yet."""
    return [k for k, f in model.model_fields.items() if not f.exclude and f.annotation is not type(None)]


def short(value: Any) -> str:
    """A value as a message shows it: at most 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
