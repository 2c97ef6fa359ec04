"""Which method is tried next: a floor for each, then what its next trial promises for its cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from routesearch.results.curves import area, merged
from routesearch.search.effort import BudgetShare, Effort
from routesearch.search.evidence import Evidence

FLOOR = 0.25
"""Share of all that is spent on trials that methods have in equal parts, whatever they add."""
NOVELTY = 0.1
"""Share of the hypervolume that is still to be had that a method's first trial is trusted to add."""
CREDIT = 0.01
"""Share of the hypervolume that every method may add: where none adds anything, the cheapest goes on."""


class Allocation:
    """Shares a search among methods.

    A method that had less than its floor comes first. Then the one whose next trial promises most for the
    part of the budget that it takes, or, where that is not known, whose recent trials' loss would take most
    hypervolume from the front; one that was not tried yet promises a share of what is still to be had.

    Args:
        evidence: what trials have shown; the caller keeps it.
        effort: what trials take of the budget.
    """

    def __init__(self, evidence: Evidence, effort: Effort) -> None:
        self._evidence = evidence
        self._effort = effort

    @property
    def expected(self) -> float:
        """Training MACs that trials under way will take, going by what others of their method took.

        Of a method of which none has ended, by what the dearest method's took.
        """
        under_way = Counter(each.method for each in self._evidence.pending.values())
        means = {name: each.mean_macs for name, each in self._evidence.summaries.items()}
        dearest = max(means.values(), default=0.0)
        return sum(count * (means.get(name) or dearest) for name, count in under_way.items())

    def next(
        self, methods: Sequence[str], best_offer: Callable[[Sequence[str]], tuple[str, float] | None]
    ) -> str:
        """One of ``methods``, of which there must be some.

        Args:
            best_offer: of some methods the one whose next trial is expected to add most for its cost, and how
                much; None where that is not known, and recent trials are judged.
        """
        summaries = self._evidence.summaries
        under_way = Counter(each.method for each in self._evidence.pending.values())
        # one whose trials failed is tried like one that was not tried yet
        known = [name for name in methods if summaries[name].comparable]
        fresh = [name for name in methods if name not in known and not under_way[name]]
        fresh.sort(key=lambda name: summaries[name].begun)
        if len(methods) == 1 or not known:
            return fresh[0] if fresh else min(methods, key=lambda name: under_way[name])
        share = self._effort.share
        # what a trial takes: of a method that shows nothing yet as much as of the dearest that does
        each = {name: share(summaries[name].mean_macs) for name in known}
        each |= dict.fromkeys(fresh, max(each.values()))
        spent = {name: (summaries[name].begun + under_way[name]) * each[name] for name in (*known, *fresh)}
        neediest = min(spent, key=lambda name: spent[name] + each[name])
        whole = sum(spent.values()) + each[neediest]
        if spent[neediest] + each[neediest] < FLOOR * whole / len(methods):
            return neediest
        promised = best_offer(known)
        if promised is None:
            worth = self._worth(under_way, share)
            best = max(known, key=lambda name: worth[name])
            promised = best, worth[best]
        edge = self._evidence.edge
        left = edge - area(self._evidence.own_front(), edge)
        if fresh and NOVELTY * left / each[fresh[0]] > promised[1]:
            return fresh[0]
        return promised[0]

    def _worth(self, under_way: Counter[str], share: BudgetShare) -> dict[str, float]:
        """Hypervolume that recent trials add, for the part of the budget that they take."""
        edge, summaries = self._evidence.edge, self._evidence.summaries
        whole = area(self._evidence.own_front(), edge)
        found = {}
        for name, each in summaries.items():
            if not each.begun:
                continue
            others = [other.own_front for other in summaries.values() if other is not each]
            lost = whole - area(merged([*others, each.settled_front]), edge)
            mean = sum(one.macs for one in each.recent) / len(each.recent)
            taken = (len(each.recent) + under_way[name]) * share(mean)
            found[name] = (lost + CREDIT * whole) / max(taken, 1e-12)
        return found
