"""The invariants of a contract tried outside of a test run: what ``routesearch check`` prints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from routesearch.errors import origin
from routesearch.testing.backbone import BackboneContract
from routesearch.testing.contract import MethodContract
from routesearch.testing.dataset import DatasetContract


@dataclass(frozen=True)
class Verdict:
    """Verdict on one invariant.

    Attributes:
        law: its test's name, without ``test_``.
        title: what it says.
        reason: why it is broken, or why it was not tried; empty where it holds.
        tried: configs (or backbones, or settings) that it was tried on, up to the first that breaks it.
    """

    law: str
    title: str
    state: Literal["ok", "failed", "skipped"]
    reason: str = ""
    tried: int = 0


Contract = type[MethodContract] | type[BackboneContract] | type[DatasetContract]


def examine(contract: Contract, only: Sequence[str] | None = None) -> Iterator[Verdict]:
    """Try each invariant of a contract on all that it is to be tried on.

    Args:
        only: names of invariants; None: all.

    Raises:
        Refusal: where there is nothing to try it on.
    """
    for law in invariants(contract) if only is None else only:
        yield _try(contract, law)


def invariants(contract: Contract) -> list[str]:
    """Names of the invariants, in the order in which they are written; a subclass's own come last."""
    kinds = contract.__mro__
    whole = [kind for kind in kinds if issubclass(kind, MethodContract | BackboneContract | DatasetContract)]
    parts = [kind for kind in kinds if kind not in whole]
    names = {name: None for kind in (*parts, *reversed(whole)) for name in vars(kind)}
    return [name.removeprefix("test_") for name in names if name.startswith("test_")]


def _try(contract: Contract, law: str) -> Verdict:
    instance = contract()
    check = getattr(instance, f"test_{law}")
    title = (check.__doc__ or law).strip().splitlines()[0].rstrip(".")
    skipped, tried = "", 0
    for arguments in contract.arguments(check):
        try:
            check(*arguments)
            tried += 1
        except pytest.skip.Exception as skip:
            skipped = str(skip)
        except Exception as error:  # a plugin's code may raise anything
            return Verdict(law, title, "failed", _reason(error, arguments), tried + 1)
    return Verdict(law, title, "ok", "", tried) if tried else Verdict(law, title, "skipped", skipped)


def _reason(error: Exception, arguments: tuple[Any, ...]) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, AssertionError):
        return text
    where = f"{arguments[0]}: " if arguments and not isinstance(arguments[0], tuple) else ""
    return f"{where}{type(error).__name__}: {text}{origin(error)}"
