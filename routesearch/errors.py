"""What can go wrong, in two kinds: a request that breaks a law, and a run that failed.

A message states the law that broke, then the values: ``position <= units must hold, got position=9,
units=8``. It is one line, because the command line prints it as it is.
"""

from __future__ import annotations

from collections.abc import Iterable


class RouteSearchError(Exception):
    """Anything this package raises on purpose."""


class Refusal(RouteSearchError):
    """The request cannot be carried out as it stands; nothing was changed (exit status 2)."""


class UnknownName(Refusal):
    """A method, backbone or data set that no plugin offers."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.kind, self.name = kind, name
        offers = ", ".join(sorted(known)) or "none"
        super().__init__(f"no {kind} {name!r}; installed: {offers}")


class PluginError(Refusal):
    """A plugin that cannot be used; the message names the plugin."""


class RunFailed(RouteSearchError):
    """The work was started and could not be finished (exit status 1)."""
