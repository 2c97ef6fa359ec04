"""SQLite files as MLflow's tracking URIs, whatever characters their paths have."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

_PLAIN = "sqlite:///"
_WITH_DRIVER = "sqlite+pysqlite:///"


def uri_of(file: Path) -> str:
    """The tracking URI of an SQLite file at an absolute path.

    SQLAlchemy decodes the path and ends it at a question mark, while MLflow makes the folder of what follows
    ``sqlite:///`` as it stands: with the driver's name in front, that is left to us.
    """
    path = str(file)
    encoded = path.replace("%", "%25").replace("?", "%3F")
    return f"{_PLAIN}{path}" if encoded == path else f"{_WITH_DRIVER}{encoded}"


def file_of(uri: str) -> Path | None:
    """The file of an SQLite URI; None for a server, another database, or one that SQLite's own URI names."""
    for start in (_PLAIN, _WITH_DRIVER):
        if uri.startswith(start) and not uri.startswith((f"{start}file:", f"{start}:memory:")):
            return Path(unquote(uri.removeprefix(start).partition("?")[0]))
    return None
