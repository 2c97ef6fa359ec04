"""What a journal says, replayed without Optuna: facts of the study, and its trials as they are stored.

Readers need half of Optuna's operations; its own replay makes every parameter and distribution anew,
which takes seconds for 8,000 trials. The order of operations is checked on the way: a trial that was
never begun, or was proposed twice, shows that a line is missing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from routesearch.errors import Refusal, shortened
from routesearch.errors.texts import shown
from routesearch.results.journal_file import Damaged, JournalFile, parse_line

META = "study"
"""Name of the Optuna study that holds no trials, only what belongs to the whole study."""

ASKED, OUTCOME = "asked", "outcome"
"""Attributes of an Optuna trial that make it a trial of the study: what was proposed, and its result."""

FORMAT = 3
"""Number of the format that this version writes: the fact ``format``.

Without it, it is 1 (no checksums); up to 2 a trial was begun in one line and proposed in another.
"""

_OTHERS = (b'{"op_code":5,', b'{"op_code":7,', b'{"op_code":9,')
"""How the lines begin that say nothing to a reader: parameters, intermediate values, system attributes."""

_ENDED = (1, 2, 3)
"""Optuna's states of a trial that has ended: complete, pruned, failed."""


@dataclass(slots=True)
class StoredTrial:
    """A trial of Optuna's as far as readers need it.

    Attributes:
        asked: what was proposed; None for one that is no trial of the study (yet).
        outcome: its result as text; None while it runs.
        asked_line, outcome_line: of the journal, where they stand.
        ended: whether Optuna has it as ended; nothing is set in it afterwards.
    """

    asked: Any = None
    outcome: Any = None
    asked_line: int = 0
    outcome_line: int = 0
    ended: bool = False


@dataclass
class Replay:
    """The state of a journal after the lines that were read.

    Attributes:
        line: number of lines that were taken.
        studies: name of an Optuna study -> its id.
        facts: of the whole study, JSON values.
        trials: all of Optuna's, by id.
    """

    file: JournalFile
    line: int = 0
    studies: dict[str, int] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    trials: list[StoredTrial] = field(default_factory=list)

    def update(self) -> None:
        """Take in what was appended since.

        Raises:
            Damaged: the file is not as it was written.
            Refusal: a newer version wrote it.
            OSError: it cannot be read.
        """
        for text, checked in self.file.read(self.line):
            # A line whose checksum is right is as it was written; what it says of a sampler is not needed.
            if checked and text.startswith(_OTHERS):
                self.line += 1
            else:
                self.take(parse_line(text))

    def take(self, entry: dict[str, Any]) -> None:
        """Apply the operation in the next line, as Optuna does.

        Raises:
            Damaged, Refusal: as :meth:`update`.
        """
        self.line += 1
        try:
            self._apply(entry)
        except (LookupError, TypeError, AttributeError, ValueError, OverflowError) as error:
            raise self._damaged(f"is no operation of Optuna's ({shortened(error)})") from None

    def _damaged(self, how: str) -> Damaged:
        return self.file.damaged(how, self.line)

    def _apply(self, entry: dict[str, Any]) -> None:
        match entry["op_code"]:
            case 0:
                if isinstance(entry["study_name"], str):
                    self.studies.setdefault(entry["study_name"], len(self.studies))
                    return
            case 2:
                self._study(entry)
                if entry["study_id"] == self.studies.get(META):
                    self._facts(entry["user_attr"])
                return
            case 3:
                self._study(entry)
                return
            case 4:
                self._study(entry)
                trial = StoredTrial(ended=False)
                self.trials.append(trial)
                self._attributes(trial, entry.get("user_attrs") or {})
                trial.ended = entry.get("state", 0) in _ENDED
                return
            case 5 | 6 | 7 | 8 | 9:
                trial = self._trial(entry)
                if entry["op_code"] == 8:
                    self._attributes(trial, entry["user_attr"])
                elif entry["op_code"] == 6 and entry["state"] in _ENDED:
                    self._end(trial)
                return
        raise self._damaged(f"is no operation that is known: {shown(entry['op_code'])}")

    def _study(self, entry: dict[str, Any]) -> None:
        known = entry["study_id"]
        if not (type(known) is int and 0 <= known < len(self.studies)):
            raise self._missing("Optuna study", known, len(self.studies))

    def _trial(self, entry: dict[str, Any]) -> StoredTrial:
        known = entry["trial_id"]
        if not (type(known) is int and 0 <= known < len(self.trials)):
            raise self._missing("Optuna trial", known, len(self.trials))
        return self.trials[known]

    def _missing(self, what: str, number: object, there: int) -> Damaged:
        return self._damaged(f"speaks of {what} {shown(number)} where {there} are begun: a line is missing")

    def _facts(self, attributes: dict[str, Any]) -> None:
        self.facts.update(attributes)
        if "format" not in attributes:
            return
        number = attributes["format"]
        if type(number) is not int or number < 1:
            raise self._damaged(f"has a number of format that is none: {shown(number)}")
        if number > FORMAT:
            raise Refusal(
                f"the journal {self.file.path} was written by a newer routesearch"
                f" (format {number}, this reads up to {FORMAT}): update routesearch"
            )

    def _attributes(self, trial: StoredTrial, attributes: dict[str, Any]) -> None:
        lost = "a line is missing or repeated"
        for name, value in attributes.items():
            if name == ASKED:
                if trial.asked is not None or trial.ended:
                    raise self._damaged(f"proposes a trial that was proposed before: {lost}")
                trial.asked, trial.asked_line = value, self.line
            elif name == OUTCOME:
                if trial.asked is None or trial.outcome is not None or trial.ended:
                    raise self._damaged(
                        f"has the result of a trial that was not proposed, or has one: {lost}"
                    )
                trial.outcome, trial.outcome_line = value, self.line

    def _end(self, trial: StoredTrial) -> None:
        if trial.asked is not None and trial.outcome is None:
            raise self._damaged("ends a trial without a result: a line is missing")
        trial.ended = True
