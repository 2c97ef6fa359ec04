"""A study file with every default in it, written from the models themselves so that it cannot drift."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel

from routesearch.cli.fields import range_of
from routesearch.data.base import Dataset
from routesearch.space.space import SearchSpace
from routesearch.study.config import StudyConfig

COLUMN = 30
"""Where comments begin."""


def study_text(config: StudyConfig, dataset: Dataset, spaces: Mapping[str, SearchSpace], head: str) -> str:
    """The commented file.

    Args:
        config: what the file is to say.
        dataset: the settings under ``data``.
        spaces: method -> its space on the study's backbone; their fields are shown, commented out.
        head: the comment at the top, lines without ``#``.
    """
    lines = [f"# {line}".rstrip() for line in head.splitlines()]
    for name, field in StudyConfig.model_fields.items():
        value = getattr(config, name)
        if field.exclude:
            continue
        if name in ("data", "methods") or isinstance(value, BaseModel):
            lines.append("")
        if name == "data":
            lines += ["data:", _line("  name", dataset.name, "`routesearch datasets` lists them")]
            lines += _block(dataset, "  ")
        elif name == "methods":
            comment = "fields with a range are searched; one that loses its # is fixed"
            lines += [f"{'methods:':<{COLUMN}}# {comment}", *_methods(spaces)]
        elif isinstance(value, BaseModel):
            lines += [f"{name}:", *_block(value, "  ")]
        else:
            lines += [""] if name == "plugins" else []
            lines.append(_line(name, value, field.description or ""))
    return "\n".join(lines) + "\n"


def _block(model: BaseModel, indent: str) -> Iterator[str]:
    values, own = model.model_dump(mode="json"), type(model).__annotations__
    # a data set's own settings before those that all of them have
    for name, field in sorted(type(model).model_fields.items(), key=lambda item: item[0] not in own):
        if field.annotation is type(None):  # a key that this version does not serve
            continue
        inner = getattr(model, name)
        if isinstance(inner, BaseModel):
            yield (
                f"{f'{indent}{name}:':<{COLUMN}}# {field.description}"
                if field.description
                else f"{indent}{name}:"
            )
            yield from _block(inner, indent + "  ")
            continue
        yield _line(indent + name, values[name], _told(field.description or "", field.annotation))


def _methods(spaces: Mapping[str, SearchSpace]) -> Iterator[str]:
    for name, space in spaces.items():
        yield f"  {name}:"
        defaults = space.default().model_dump(mode="json")
        for field, facts in space.schema().get("properties", {}).items():
            searched = range_of(facts) if "search" in facts else "fixed"
            about = "; ".join(part for part in (searched, facts.get("description")) if part)
            yield _line(f"    # {field}", defaults[field], about)


def _line(key: str, value: Any, comment: str) -> str:
    left = f"{key}: {_scalar(value)}"
    return f"{left:<{COLUMN - 1}} # {comment}" if comment else left


def _scalar(value: Any) -> str:
    text: str = yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


def _told(description: str, annotation: Any) -> str:
    """The description, with the choices of a field where it does not speak of them itself."""
    choices: Sequence[str] = get_args(annotation) if get_origin(annotation) is Literal else ()
    if not choices or any(choice in description for choice in choices):
        return description
    return f"{description}: {', '.join(choices)}"
