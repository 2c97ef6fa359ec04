"""What a stored study needs before it goes on: the same study file, and an end for what a crash cut off."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from optuna.trial import TrialState

from routesearch.results.journal import Journal
from routesearch.results.reader import StudyResults, read_record
from routesearch.results.record import Outcome, State, TrialRecord
from routesearch.results.replay import ASKED
from routesearch.search.observations import budget_violation
from routesearch.search.optuna_studies import BEGUN, OptunaStudies
from routesearch.search.trials import Trials
from routesearch.utils.memory import collection_paused

if TYPE_CHECKING:
    from routesearch.task.resolve import Task

MAX_ADOPTED = 2
"""How often a trial is run again that was running when its search died; a search that was interrupted or
ended by itself does not count."""

log = logging.getLogger("routesearch")


def open_trials(journal: Journal, task: Task) -> tuple[Trials, StudyResults]:
    """A study's trials, ready to go on, and its results so far: checked, recovered, and read once.

    The results hold every curve in memory; the trials do not.

    Args:
        journal: opened for writing.

    Raises:
        Refusal: as :func:`check_same_study`.
    """
    with collection_paused():
        check_same_study(journal, task)
        recover(journal, task)
        results = StudyResults(task.config, journal)
        return Trials(journal, task, results.records), results


def check_same_study(journal: Journal, task: Task) -> None:
    """Check that a stored study is still the one that is asked for, and keep what its readers need to know.

    Args:
        journal: opened for writing.

    Raises:
        Refusal: the study's data, backbone, training, split or seed changed.
    """
    started = any(ASKED in trial.user_attrs for _, trial in journal.trials())
    journal.check_fingerprint(task.fingerprint(), started)
    if changed := journal.update_code_versions(task.code(), started):
        log.warning(
            "the code of a study should stay as it was while it is continued, changed: %s"
            " (--fresh starts anew)",
            ", ".join(changed),
        )
    # Readers compute budgets and hypervolume from the backbone's MACs; saving a model then needs no data.
    for name, value in (("reference", task.backbone_macs), ("inputs", task.inputs())):
        if journal.get(name) != value:
            journal.set(name, value)


def recover(journal: Journal, task: Task) -> None:
    """Finish what a crash left half done.

    Outcomes that Optuna has not got are reported, proposals that never got a number are closed. A trial that
    was running stays so, to be run again, unless its method left the study, the budget now excludes it, or
    it was cut off so often that it may be why.

    Args:
        journal: opened for writing.
    """
    studies = OptunaStudies(journal, task)
    for name, trial in list(journal.trials()):
        if trial.state is not TrialState.RUNNING:
            continue
        if ASKED not in trial.user_attrs:  # never numbered: nobody knows of it
            studies.open(name).tell(trial.number, state=TrialState.FAIL)
            continue
        record = read_record(journal.path, journal.stored()[trial._trial_id])
        if record.outcome is not None:
            studies.tell(record, name, trial._trial_id)
        elif (outcome := _ended(record, task, trial.user_attrs.get(BEGUN, 1))) is not None:
            studies.finish(record.with_outcome(outcome), name, trial._trial_id)


def _ended(record: TrialRecord, task: Task, begun: int) -> Outcome | None:
    """The outcome of an interrupted trial that is not to be run again; None where it is."""
    if record.method not in task.spaces:
        gone = f"interrupted, and its method {record.method} is no longer in the study"
        return Outcome.failure(gone)
    if begun > max(MAX_ADOPTED, task.config.resources.retries):
        return Outcome.failure(f"interrupted {begun} times while it ran; the search may have died of it")
    reason = budget_violation(record.bounds, task.budget)
    return None if reason is None else Outcome(State.REFUSED, reason=reason)
