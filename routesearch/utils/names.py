"""Names that people and plugins give, of studies, methods, fields: fit for a path, a command and a table."""

from __future__ import annotations

import re

MAX_NAME = 100
NAME_RULE = f"letters, digits, '.', '_' and '-', a letter or digit first, {MAX_NAME} at most"
FIELD_RULE = f"letters, digits and '_', no digit first, {MAX_NAME} at most"

_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{MAX_NAME - 1}}}")
_FIELD = re.compile(rf"[A-Za-z_][A-Za-z0-9_]{{0,{MAX_NAME - 1}}}")


def is_name(text: str) -> bool:
    """Whether a name can be a folder's and leads nowhere else (:data:`NAME_RULE`)."""
    return _NAME.fullmatch(text) is not None


def is_field(text: str) -> bool:
    """Whether a name can be that of a field or a knob (:data:`FIELD_RULE`)."""
    return _FIELD.fullmatch(text) is not None
