"""The front that trials under way are expected to have, so that others do not go where these already go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from routesearch.results.curves import NOTHING, Curve, merged
from routesearch.search.evidence import Evidence
from routesearch.search.offers import Offers
from routesearch.search.promise import Priced

MAX_EACH = 256
"""Trials of a method under way that are predicted anew whenever one of its trials has ended; of twice as
many, whenever two have, and so on."""


@dataclass
class _Predicted:
    """The predictions of one method.

    Attributes:
        told: trials that had ended when all of them were made.
        numbers: trials that they are of; some may have ended since.
    """

    told: int = -1
    numbers: set[int] = field(default_factory=set)
    front: Curve = field(default_factory=lambda: NOTHING)


class Expected:
    """Predicts trials that are under way.

    Args:
        evidence: what trials have shown; the caller keeps it.
        offers: of each method.
    """

    def __init__(self, evidence: Evidence, offers: Mapping[str, Offers]) -> None:
        self._evidence = evidence
        self._offers = offers
        self._predicted = {method: _Predicted() for method in offers}
        self._front: tuple[int, Curve] = -1, NOTHING

    def front(self) -> Curve:
        """The front of this study's trials that ended and, as far as that can be said, of those under way."""
        revision = self._evidence.revision
        if self._front[0] != revision:
            self._front = revision, merged([self._evidence.own_front(), *self._under_way()])
        return self._front[1]

    def _under_way(self) -> list[Curve]:
        configs: dict[str, dict[int, Priced]] = {}
        for number, each in self._evidence.pending.items():
            if each.params is not None and each.bounds is not None:
                configs.setdefault(each.method, {})[number] = Priced(each.params, each.bounds)
        # learnt here too: which methods were weighed before is not known any more when a search goes on
        summaries = self._evidence.summaries
        return [
            self._of(method, each)
            for method, each in configs.items()
            if self._offers[method].learn(summaries[method].modelled)
        ]

    def _of(self, method: str, configs: Mapping[int, Priced]) -> Curve:
        done, told = self._predicted[method], len(self._evidence.ended[method])
        few = len(configs) <= MAX_EACH
        if few or not done.numbers or told - done.told >= len(configs) // MAX_EACH:
            done = self._predicted[method] = _Predicted(told)
        if new := [number for number in configs if number not in done.numbers]:
            added = self._offers[method].promise.expected([configs[number] for number in new])
            done.numbers.update(new)
            done.front = merged([done.front, added])
        return done.front
