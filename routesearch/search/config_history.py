"""Configs of a method that a search has drawn, so that it does not draw them again while others are left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from routesearch.search.design import Design
from routesearch.space.domains import Suggest

MAX_DECLINED = 10
"""Proposals in a row that repeat a trained config before a repetition is trained with a new seed (fewer if
the trials before were repetitions too)."""
MAX_REPEATED = 50
"""Proposals in a row that repeat a refusal before it is refused once more."""


@dataclass
class ConfigHistory:
    """A method's configs that were drawn, by :func:`~routesearch.search.observations.config_text`.

    Attributes:
        design: that fills the method's space.
        place: in the design.
        queue: configs to be tried before all others, as parameters.
        trained: how often a config is trained or under way.
        refused: configs that were refused.
        repeats: trials in a row that repeated a config.
        fresh: whether nothing of the method was drawn yet.
    """

    design: Design
    place: int = 0
    queue: list[Mapping[str, Any]] = field(default_factory=list)
    trained: Counter[str] = field(default_factory=Counter)
    refused: set[str] = field(default_factory=set)
    repeats: int = 0
    fresh: bool = True

    @property
    def drawn(self) -> set[str]:
        """All configs, the refused ones too."""
        return self.trained.keys() | self.refused

    def note(self, text: str, refused: bool) -> None:
        """Count a config that is stored."""
        self.fresh = False
        if refused:
            self.refused.add(text)
            return
        self.repeats = self.repeats + 1 if self.trained[text] else 0
        self.trained[text] += 1

    def at(self, place: int) -> Suggest:
        """The config at a place of the design."""
        return lambda name, distribution: self.design.suggest(place, name, distribution)


class Repetitions:
    """How many proposals of one draw may still be passed over because they repeat what was drawn before.

    A space that has nothing new left is not searched for it at every draw.
    """

    def __init__(self, history: ConfigHistory) -> None:
        self._history = history
        self._declined, self._repeated = MAX_DECLINED >> history.repeats, MAX_REPEATED

    def passes_over(self, text: str, refused: bool) -> bool:
        """Whether a proposal is passed over.

        Args:
            refused: whether it would be refused.
        """
        if refused and text in self._history.refused and self._repeated:
            self._repeated -= 1
            return True
        if not refused and self._history.trained[text] and self._declined:
            self._declined -= 1
            return True
        return False
