"""Which method is tried next: a bandit over what recent trials add to the front for what they cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from optuna.trial import TrialState

from routesearch.results.curves import area, merged
from routesearch.search.evidence import Evidence, Shown

FLOOR = 0.25
"""Share of all that is spent on trials that methods have in equal parts, whatever they add."""
RECENT = 4
"""Trials of a method by whose worth its next one is judged."""
CREDIT = 0.01
"""Share of the hypervolume that every method may add: where none adds anything, the cheapest goes on."""


class Allocation:
    """Shares a search among methods.

    Each method's first trial comes first. Then one that had less than its floor; else the one whose recent
    trials' loss would take most hypervolume from the front, for each part of the budget that they took.

    Args:
        evidence: what trials have shown; the caller keeps it.
        share: training MACs of one trial to the part of the budget that it takes.
    """

    def __init__(self, evidence: Evidence, share: Callable[[float], float]) -> None:
        self._evidence = evidence
        self._share = share

    @property
    def expected(self) -> float:
        """Training MACs that trials under way will take, going by what others of their method took."""
        found = 0.0
        for name, count in Counter(each.method for each in self._evidence.pending.values()).items():
            tried = _tried(self._evidence.ended[name]) if name in self._evidence.ended else []
            found += count * sum(one.macs for one in tried) / max(1, len(tried))
        return found

    def next(self, methods: Sequence[str], first: Callable[[Sequence[str]], str | None]) -> str:
        """One of ``methods``, of which there must be some.

        Args:
            first: of some methods the one whose next trial is expected to add most for its cost; None where
                that is not known, and recent trials are judged.
        """
        shown = {name: [one for one in each if one.own] for name, each in self._evidence.ended.items()}
        under_way = Counter(each.method for each in self._evidence.pending.values())
        fresh = [name for name in methods if not _tried(shown[name]) and not under_way[name]]
        if fresh:
            return fresh[0]
        known = [name for name in methods if _tried(shown[name])]
        if len(methods) == 1 or not known:
            return min(methods, key=lambda name: under_way[name])
        spent = self._spent(shown, under_way)
        poorest = min(known, key=lambda name: spent[name])
        if spent[poorest] < FLOOR * sum(spent.values()) / len(methods):
            return poorest
        if (promising := first(known)) is not None:
            return promising
        worth = self._worth(shown, under_way)
        return max(known, key=lambda name: worth[name])

    def _spent(self, shown: Mapping[str, Sequence[Shown]], under_way: Counter[str]) -> dict[str, float]:
        """Part of the budget that each method took, trials under way at what its others cost."""
        found = {}
        for name, each in shown.items():
            costs = [self._share(one.macs) for one in _tried(each)]
            found[name] = sum(costs) + under_way[name] * sum(costs) / max(1, len(costs))
        return found

    def _worth(self, shown: Mapping[str, Sequence[Shown]], under_way: Counter[str]) -> dict[str, float]:
        """Hypervolume that recent trials add, for the part of the bfor the part of the budget taken."""
        edge = self._evidence.edge
        fronts = {name: merged([one.curve for one in each]) for name, each in shown.items()}
        whole = area(merged(list(fronts.values())), edge)
        found = {}
        for name, each in shown.items():
            tried = _tried(each)
            recent = tried[-RECENT:]
            others = [front for other, front in fronts.items() if other != name]
            without = (
                merged([*others, *(one.curve for one in tried[: -len(recent) or None])]) if recent else None
            )
            lost = 0.0 if without is None else whole - area(without, edge)
            costs = [self._share(one.macs) for one in recent]
            taken = sum(costs) + under_way[name] * sum(costs) / max(1, len(costs))
            found[name] = (lost + CREDIT * whole) / max(taken, 1e-12)
        return found


def _tried(shown: Sequence[Shown]) -> list[Shown]:
    """Trials that were begun: refused ones were not."""
    return [one for one in shown if one.observation.state is not TrialState.PRUNED]
