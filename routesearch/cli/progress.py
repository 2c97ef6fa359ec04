"""How a running search shows itself on standard error: drawn on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import sys
import time
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Self

from routesearch.cli.output import log
from routesearch.report.table import limits, mega, percent
from routesearch.results.budget import Budget

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from routesearch.search.dispatcher import Snapshot

QUIET = 30.0
"""Seconds without a line, where lines are printed, before one comes though little has happened."""

BAR, SHORTEST_BAR = 30, 8
"""Characters of the bar, and how few are not worth drawing."""


def watching(name: str, backbone_macs: float, budget: Budget) -> Lines:
    """A context that is called with each snapshot of a search.

    Args:
        name: of the study.
        backbone_macs: per image of the static backbone.
        budget: what a point may cost.
    """
    if sys.stderr.isatty():
        from rich.console import Console

        console = Console(stderr=True, highlight=False)
        if not console.is_dumb_terminal:
            return Drawing(name, backbone_macs, budget, console)
    return Lines(name, backbone_macs, budget)


class Lines:
    """A line for every tenth of the trials, and after ``QUIET`` seconds of silence."""

    def __init__(self, name: str, backbone_macs: float, budget: Budget) -> None:
        self.name, self.backbone_macs, self.budget = name, backbone_macs, budget
        self.snapshot: Snapshot | None = None
        self._started, self._done_before, self._spent_before = 0.0, 0, 0
        self._last: tuple[int, float] | None = None
        self._note: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def __call__(self, snapshot: Snapshot) -> None:
        now = time.monotonic()
        if self.snapshot is None:
            self._started, self._done_before = now - snapshot.elapsed, done(snapshot)
            self._spent_before = snapshot.training_macs
        self.snapshot = snapshot
        if snapshot.note and snapshot.note != self._note:
            self._note = snapshot.note
            log.warning("%s", snapshot.note)
        self.show(now)

    def show(self, now: float) -> None:
        """Say how things stand, if it is time to."""
        snapshot = self.snapshot
        assert snapshot is not None
        share = done(snapshot) / max(1, snapshot.total)
        if snapshot.confirming is not None:  # after the trials
            share = 1 + snapshot.confirming[0] / max(1, snapshot.confirming[1])
        elif snapshot.total_macs is not None:
            share = max(share, snapshot.training_macs / snapshot.total_macs)
        tenth = int(10 * share)
        if self._last is None:
            self._last = (tenth, now)
        elif tenth > self._last[0] or now - self._last[1] >= QUIET:
            self._last = (tenth, now)
            log.info("%s: %s; %s; %s", self.name, self.counts(), self.best(), self.times(now))

    def counts(self) -> str:
        s = self.snapshot
        assert s is not None
        parts = [f"{done(s)}/{s.total} trials", f"{s.running} running"]
        others = {"stopped early": s.stopped, "refused": s.refused, "failed": s.failed}
        parts += [f"{count} {word}" for word, count in others.items() if count]
        return ", ".join(parts)

    def best(self) -> str:
        s = self.snapshot
        assert s is not None
        where = f" within {limits(self.budget, self.backbone_macs)}" if self.budget else ""
        if s.best is None:
            return f"nothing{where} yet"
        return (
            f"best{where}: {s.best.method} {percent(s.best.accuracy)} at {mega(s.best.macs)} M"
            f" ({s.best.macs / self.backbone_macs:.2f}x)"
        )

    def volume(self) -> str:
        s = self.snapshot
        assert s is not None
        text, within = f"hypervolume {s.hypervolume:.4f}", s.feasible_hypervolume
        text = text if within is None else f"{text}, {within:.4f} within the budget"
        return f"{text}; {self.spent()}" if s.training_macs else text

    def spent(self) -> str:
        s = self.snapshot
        assert s is not None
        limit = "" if s.total_macs is None else f" of {in_units(s.total_macs)}"
        return f"{in_units(s.training_macs)}{limit} training MACs"

    def times(self, now: float) -> str:
        s, elapsed = self.snapshot, now - self._started
        assert s is not None
        if s.confirming is not None:
            now_at, of = s.confirming
            return f"{duration(elapsed)}, confirming the front: {now_at} of {of} retrainings"
        if done(s) >= s.total and not s.running:
            return f"{duration(elapsed)}, measuring the front on test data"
        left = self._left(elapsed)
        return duration(elapsed) + ("" if left is None else f", about {duration(left)} left")

    def _left(self, elapsed: float) -> float | None:
        """Seconds that the remaining trials take at the pace so far, or that the time limit leaves."""
        s = self.snapshot
        assert s is not None
        ended = done(s) - self._done_before
        left = [] if s.time_left is None else [max(0.0, s.time_left - (elapsed - s.elapsed))]
        if ended:
            left.append(max(0.0, s.elapsed / ended * (s.total - done(s)) - (elapsed - s.elapsed)))
        spent = s.training_macs - self._spent_before
        if s.total_macs is not None and spent > 0:
            rest = max(0.0, s.total_macs - s.training_macs)
            left.append(max(0.0, s.elapsed / spent * rest - (elapsed - s.elapsed)))
        return min(left, default=None)


class Drawing(Lines):
    """A bar and the figures under it, redrawn in place; gone when the search has ended."""

    def __init__(self, name: str, backbone_macs: float, budget: Budget, console: Console) -> None:
        super().__init__(name, backbone_macs, budget)
        from rich.live import Live
        from rich.spinner import Spinner

        self._console = console
        self._spinner = Spinner("dots", f"{name}: starting")
        # Live stands between: what is logged meanwhile scrolls by above the drawing.
        self._live: AbstractContextManager[Any] = Live(
            get_renderable=self.draw, console=console, refresh_per_second=4, transient=True
        )

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(self, *ending: Any) -> None:
        self._live.__exit__(*ending)

    def show(self, now: float) -> None:
        """Nothing: the drawing looks by itself four times a second."""

    def draw(self) -> RenderableType:
        from rich.cells import cell_len
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        s = self.snapshot
        if s is None:
            return self._spinner
        counts = self.counts()
        room = self._console.width - cell_len(self.name) - len(counts) - 3
        head = Table.grid(padding=(0, 1))
        if room >= SHORTEST_BAR:
            bar = ProgressBar(total=max(1, s.total), completed=done(s), width=min(room, BAR))
            head.add_row(Text(self.name, "bold"), bar, Text(counts))
        else:
            head.add_row(Text(f"{self.name} {counts}", "bold"))
        lines = [self.best(), f"{self.volume()}; {self.times(time.monotonic())}"]
        return Group(head, *(Text(f"  {line}") for line in lines))


def done(snapshot: Snapshot) -> int:
    """Trials that count against the total."""
    return snapshot.finished + snapshot.stopped + snapshot.failed


def in_units(macs: float) -> str:
    """``850 M``, ``1.234 T``: multiply-adds, four digits of them."""
    size, unit = next(((s, u) for s, u in ((1e12, "T"), (1e9, "G")) if macs >= s), (1e6, "M"))
    return f"{macs / size:.4g} {unit}"


def duration(seconds: float) -> str:
    """``42 s``, ``3 min 5 s``, ``2 h 10 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min" + (f" {whole % 60} s" if whole % 60 else "")
    return f"{whole // 3600} h" + (f" {whole % 3600 // 60} min" if whole % 3600 // 60 else "")
