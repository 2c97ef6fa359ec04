"""Paths as people write them in a study: ``~`` and ``$VARIABLES`` in them, relative to the study's folder."""

from __future__ import annotations

import os
import re
from pathlib import Path

from routesearch.errors import Refusal
from routesearch.errors.texts import printable

_VARIABLE = re.compile(r"\$(?:(\$)|(\w+)|\{(\w+)\})", re.ASCII)
_LONGEST_NAME, _LONGEST_PATH = 255, 4095  # bytes; Linux takes no more


def expand(text: str) -> str:
    """A path with ``~``, ``$NAME`` and ``${NAME}`` put in; ``$$`` is a dollar sign.

    Raises:
        ValueError: a variable or a home is missing, or no file can have that path.
    """
    path = _VARIABLE.sub(_value, text)
    if path.startswith("~"):
        try:
            path = str(Path(path).expanduser())
        except RuntimeError:
            user = path.partition("/")[0]
            raise ValueError(f"must be a path, and {user} is no home (./{user} is a file)") from None
    check_path(path)
    return path


def escape(path: Path, base: Path) -> Path:
    """The path below ``base`` that :func:`expand` makes this path of."""
    if str(path).startswith("~"):
        path = base / path
    return Path(str(path).replace("$", "$$"))


def _value(found: re.Match[str]) -> str:
    if found[1]:
        return "$"
    name = found[2] or found[3]
    if name not in os.environ:
        raise ValueError(f"must be a path whose variables are set, and ${name} is not ($$ is a dollar sign)")
    return os.environ[name]


def check_path(path: str) -> None:
    """Raise ValueError unless a file can have that path, in UTF-8: MLflow, JSON and Ray take no other."""
    if not is_utf8(path):
        raise ValueError("must be a path in UTF-8")
    if not path or printable(path) != path:  # a message could not show it
        raise ValueError("must be a path, without control characters")
    whole = path.encode()
    if len(whole) > _LONGEST_PATH or any(len(part) > _LONGEST_NAME for part in whole.split(b"/")):
        rule = f"names of {_LONGEST_NAME} bytes and {_LONGEST_PATH} in all at most"
        raise ValueError(f"must be a path with {rule}")


def is_utf8(path: str | Path) -> bool:
    """Whether a path is UTF-8 text; bytes of another encoding are surrogates in Python's text."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def check_utf8_folder(folder: Path, what: str) -> None:
    """Raise Refusal unless a folder, links followed, has a name in UTF-8.

    Args:
        what: that is to lie in it, for the refusal: "a study".
    """
    whole = os.path.realpath(folder)
    if not is_utf8(whole):
        raise Refusal(f"{what} must lie in a folder whose name is UTF-8, got {whole!a}")


def located(path: str | Path, base: Path) -> Path:
    """Where a path of a study file points at, absolute, links followed.

    Args:
        path: as :func:`expand` returns it.
        base: the study file's folder.
    """
    return Path(os.path.realpath(base / path))  # unlike resolve, takes a link that leads to itself
