"""What was found when the user's data were looked at, and how that is told."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from routesearch.errors import Refusal

log = logging.getLogger("routesearch")

FEW, MANY = 3, 10
"""Names that stand for all of a kind; broken files that are told one by one."""
CLASSES = 8
"""Classes whose images are counted one by one, at most."""


@dataclass(frozen=True)
class Survey:
    """What was found when a user's data were looked at; empty where there is nothing to tell.

    Names of files are relative to what was looked at, and fit to be printed.

    Attributes:
        where: what was looked at.
        counts: split -> class -> images, as found, before missing splits are cut.
        broken: name -> reason, of files that cannot be read and are left out.
        passed_over: reason -> names of what is in the folder and was not taken.
        remarks: sentences on what was read in a way that may surprise.
    """

    where: str = ""
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    broken: Mapping[str, str] = field(default_factory=dict)
    passed_over: Mapping[str, Sequence[str]] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    @property
    def images(self) -> int:
        """How many there are in all splits."""
        return sum(sum(classes.values()) for classes in self.counts.values())

    def with_several(self, names: Sequence[str]) -> Survey:
        """The survey with a remark on files that hold several frames or pages."""
        if not names:
            return self
        several = f"of several frames or pages the first is read: {len(names):,} ({some(names)})"
        return replace(self, remarks=(*self.remarks, several))

    def lines(self, whole: bool = False) -> list[str]:
        """The survey in lines: a bounded number with a few names each, or with every name (``whole``)."""
        return ([self.count_line()] if self.counts else []) + self.exceptions(whole)

    def count_line(self) -> str:
        """How many images each split and class has."""
        splits = []
        for split, classes in self.counts.items():
            each = ", ".join(f"{name} {count:,}" for name, count in list(classes.items())[:CLASSES])
            each += ", …" if len(classes) > CLASSES else ""
            prefix = "" if len(self.counts) == 1 else f"{split} "
            splits.append(f"{prefix}{sum(classes.values()):,} ({each})")
        number = len(next(iter(self.counts.values())))
        return f"{self.where}: {number} classes; images: {'; '.join(splits)}"

    def exceptions(self, whole: bool = False) -> list[str]:
        """All but the counts: what was left out, passed over, or read in a way that may surprise."""
        lines: list[str] = []
        if self.broken:
            lines.append(f"left out {len(self.broken):,} that cannot be read (data.skip_broken: true)")
            shown = list(self.broken.items())[: None if whole else MANY]
            lines += [f"left out {name}: {reason}" for name, reason in shown]
            more = len(self.broken) - len(shown)
            lines += [f"left out {more:,} more; `routesearch -v` names all"] if more else []
        for reason, names in self.passed_over.items():
            lines.append(
                f"passed over {len(names):,}: {reason} ({some(names, len(names) if whole else FEW)})"
            )
        return [*lines, *self.remarks]


NOTHING_TO_TELL = Survey()


def refuse_broken(where: str, broken: Mapping[str, str], images: int, cure: str) -> None:
    """Raise BrokenFiles where files are broken: one line that counts all of them and names the first few."""
    if broken:
        for name, reason in broken.items():
            log.debug("%s cannot be read: %s", name, reason)
        listed = [f"{name} ({reason})" for name, reason in broken.items()]
        raise BrokenFiles(
            f"{where}: {len(broken):,} of {images:,} images cannot be read: {some(listed)}", cure
        )


class BrokenFiles(Refusal):
    """Some of a data set's files cannot be read.

    Attributes:
        found: how many and which.
        cure: how to go on.
    """

    def __init__(self, found: str, cure: str) -> None:
        super().__init__(found, cure)
        self.found, self.cure = found, cure

    def __str__(self) -> str:
        return f"{self.found}; {self.cure}"


def some(names: Sequence[str], most: int = FEW) -> str:
    """The first of the names, and how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
