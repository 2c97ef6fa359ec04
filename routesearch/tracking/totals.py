"""What the view must know of a whole study while trials come one by one: little, without their curves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from routesearch.errors.texts import bounded, printable
from routesearch.report import PALETTE
from routesearch.results.points import Point, front, undominated
from routesearch.results.record import State, TrialRecord

MAX_SETTING = 5_000
"""Characters of a setting; MLflow cuts a parameter after 6,000."""


@dataclass
class Totals:
    """What is known of the whole study without keeping its curves."""

    front: list[Point] = field(default_factory=list)
    candidates: list[Point] = field(default_factory=list)  # for the best within any budget
    states: dict[int, State] = field(default_factory=dict)
    colours: dict[str, str] = field(default_factory=dict)
    values: dict[str, dict[str, set[str]]] = field(
        default_factory=dict
    )  # method -> field -> two values at most

    @property
    def members(self) -> set[int]:
        return {p.trial for p in self.front}

    @property
    def spent(self) -> int:
        return sum(state.spends for state in self.states.values())

    @property
    def varied(self) -> dict[str, list[str]]:
        """Method -> its fields that had more than one value."""
        fields = {m: [name for name, seen in f.items() if len(seen) > 1] for m, f in self.values.items()}
        return dict(sorted(fields.items()))

    def colour(self, method: str, member: bool) -> str:
        """The method's colour, pale off the front.

        Colours go to methods in the order in which their first trials ended, and stay while a search runs.
        """
        strong = self.colours.get(method, PALETTE[-1])
        if member:
            return strong
        parts = (int(strong[i : i + 2], 16) for i in (1, 3, 5))
        return "#" + "".join(f"{round(0.3 * part + 0.7 * 255):02x}" for part in parts)

    def add(self, record: TrialRecord, points: Sequence[Point]) -> None:
        self.states[record.number] = record.state
        if not points:
            return
        self.colours.setdefault(record.method, PALETTE[len(self.colours) % len(PALETTE)])
        self.front = front([*(p for p in self.front if p.trial != record.number), *points])
        others = (p for p in self.candidates if p.trial != record.number)
        self.candidates = undominated([*others, *points])
        seen = self.values.setdefault(record.method, {})
        for name, value in record.config.items():
            values = seen.setdefault(name, set())
            if len(values) < 2:
                values.add(as_text(value))


def as_text(value: Any) -> str:
    """A setting as MLflow takes it: text as it is shown, everything else as JSON, not too long."""
    return bounded(printable(value) if isinstance(value, str) else json.dumps(value), MAX_SETTING)
