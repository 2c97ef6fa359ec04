"""What users write, read with care: YAML by the safe loader, and pydantic's complaints as one plain line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator

from routesearch.errors import Refusal
from routesearch.errors.texts import MAX_MESSAGE, MAX_VALUE, one_line, shown

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


class Part(BaseModel):
    """A part of a study file: immutable, unknown keys refused, numbers finite and never true or false."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    switches: ClassVar[Collection[str]] = ()
    """Fields that may be true or false."""

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool) and info.field_name not in cls.switches:  # else yes would count as 1
            raise ValueError("must not be true or false")
        return value


MAX_TEXT = 1 << 18
"""Characters of a YAML text at most: a study file has a few thousand."""
MAX_DEPTH = 32
"""Brackets within brackets at most."""
MAX_VALUES = 10_000
"""Values at most, those that aliases repeat counted each time."""


def parse_yaml(text: str, where: str) -> Any:
    """Read YAML by the safe loader, with numbers as people mean them.

    Args:
        where: how a refusal calls the text.

    Raises:
        Refusal: it is no YAML, or larger than any study is.
    """
    if len(text) > MAX_TEXT:
        raise Refusal(f"{where}: must be at most {MAX_TEXT:,} characters, got {len(text):,} or more")
    try:
        loader = _Loader(text)
        try:
            return loader.read()
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark and "\n" in text.strip() else ""
        reason = getattr(error, "problem", None) or getattr(error, "reason", None) or error
        raise Refusal(f"{where}{line}: not valid YAML: {one_line(str(reason), MAX_MESSAGE)}") from None
    except RecursionError:
        raise Refusal(f"{where}: not valid YAML: {_DEEP}") from None
    except (
        ValueError,
        OverflowError,
        TypeError,
        AttributeError,
    ) as error:  # such as !!int x
        raise Refusal(f"{where}: not valid YAML: {one_line(str(error), MAX_MESSAGE)}") from None


_DEEP = f"brackets within brackets, too deep (more than {MAX_DEPTH})"


class _Loader(yaml.SafeLoader):
    """Safe YAML that reads numbers as they look, and refuses what would be misread silently.

    PyYAML follows YAML 1.1, in which 010 is 8, 1:30 is 90, 1e-3 is text and 2026-01-01 is a date. Here 010 is
    ten, 1e-3 a number, and what is no decimal number is text. A key given twice is refused: the second would
    win silently.
    """

    def read(self) -> Any:
        """The one document."""
        node = self.get_single_node()
        if node is None:
            return None
        _check_size(node, {}, 0)
        return self.construct_document(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str | int | float) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {shown(key)} is given twice", key_node.start_mark
                )
            seen.add(key if isinstance(key, str | int | float) else id(key_node))
        return super().construct_mapping(node, deep)

    def number(self, node: yaml.ScalarNode) -> int | float:
        text = node.value.replace("_", "").lower()
        if text.endswith((".inf", ".nan")):
            return float(text.replace(".", ""))
        return int(text) if re.fullmatch(r"[-+]?\d+", text) else float(text)


_PLAIN = ("null", "bool", "merge", "str", "seq", "map")
_Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in pairs if tag.rpartition(":")[2] in _PLAIN]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.yaml_constructors = {
    tag: make
    for tag, make in yaml.SafeLoader.yaml_constructors.items()
    if tag is None or tag.rpartition(":")[2] in _PLAIN
}
_DIGITS = r"\d+(?:_\d+)*"
_NUMBER = rf"[-+]?(?:{_DIGITS}(?:\.(?:{_DIGITS})?)?|\.{_DIGITS})(?:[eE][-+]?\d+)?"
for _tag, _form in (
    ("int", rf"[-+]?{_DIGITS}"),
    ("float", rf"{_NUMBER}|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_form})$", re.ASCII), list("-+.0123456789")
    )
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", _Loader.number)


def _check_size(node: yaml.Node, sizes: dict[int, int | None], depth: int) -> int:
    """Values below a node, with those that aliases repeat; raises where there are too many.

    Nothing is built before this: nested aliases would be written out by whoever prints the values.

    Args:
        sizes: of nodes that are known; None while one is being looked at.
    """
    known = sizes.get(id(node), 0)
    if known is None or depth > MAX_DEPTH:
        raise yaml.constructor.ConstructorError(None, None, _DEEP, node.start_mark)
    if known:
        return known
    sizes[id(node)] = None
    inner: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        inner = [each for pair in node.value for each in pair]
    elif isinstance(node, yaml.SequenceNode):
        inner = node.value
    size = 1 + sum(_check_size(each, sizes, depth + 1) for each in inner)
    if size > MAX_VALUES:
        rule = f"more than {MAX_VALUES:,} values, aliases written out"
        raise yaml.constructor.ConstructorError(None, None, rule, node.start_mark)
    sizes[id(node)] = size
    return size


def explain(error: ValidationError, model: type[BaseModel], under: str = "") -> str:
    """The first complaint of pydantic as one line: key (below ``under``), what is wrong, the value."""
    first = error.errors()[0]
    if not first["loc"]:  # a constraint on the whole mapping
        where = f"{under}: " if under else ""
        return f"{where}{_rule(first, model)}, got {shown(first['input'])}"
    unknown = first["type"] == "extra_forbidden"
    *above, last = first["loc"]
    path = [str(part) for part in above if not _names_a_type(part)]
    if unknown or not _names_a_type(last):  # an unknown key may be called anything
        path.append(str(last))
    key = one_line(".".join([under, *path] if under else path), MAX_MESSAGE)
    if unknown:
        return f"unknown key {shown(key)}{nearest(path[-1], _model_at(model, path[:-1]))}"
    if first["type"] == "missing":
        return f"{key} must be given"
    return f"{key}: {_rule(first, _model_at(model, path))}, got {_got(first['input'])}"


def _got(value: Any) -> str:
    """A value, and where YAML has made true or false of a word, what to do."""
    return f"{value} (a text such as no or on needs quotes)" if isinstance(value, bool) else shown(value)


def _names_a_type(part: int | str) -> bool:
    """Whether pydantic put it into a path to say which member of a union complains."""
    return isinstance(part, str) and ("[" in part or part == "none")


def _rule(complaint: ErrorDetails, model: type[BaseModel]) -> str:
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
    close = difflib.get_close_matches(name, keys, 1) if len(name) <= MAX_VALUE else []
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(keys)}"


def _keys(model: type[BaseModel]) -> list[str]:
    """What a study file may say, without the keys that are not offered yet."""
    return [k for k, f in model.model_fields.items() if not f.exclude and f.annotation is not type(None)]
