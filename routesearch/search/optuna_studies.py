"""The Optuna studies in a journal, from which a sampler learns: one for each method, budget and search space.

Every trial of ours lives in exactly one trial of an Optuna study, as two attributes beside what Optuna
writes itself: ``asked`` (number, config, seed, bounds) and ``outcome``. When a method's budget or space
changes, a new Optuna study is begun, and the trials that are stored elsewhere are added to it as copies
that carry only our number. All of it is append-only and in this order: ``asked`` before a trial runs,
``outcome`` before Optuna gets it, so that a crash anywhere leaves something that can be finished
(:mod:`routesearch.search.resume`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import optuna
from optuna.study import Study, StudyDirection
from optuna.trial import Trial, TrialState, create_trial

from routesearch.results.journal import Journal
from routesearch.results.record import TrialRecord
from routesearch.results.replay import OUTCOME
from routesearch.search.observations import observation_of, sampler_params
from routesearch.search.sampler import make_sampler
from routesearch.search.study_names import budget_of, study_name

if TYPE_CHECKING:
    from routesearch.task.resolve import Task

COPY = "copy_of"
"""Attribute of a trial that was copied from another Optuna study: the number of ours."""

BEGUN = "begun"
"""Attribute of a trial: how often it was begun and did not come to an end that the search chose; missing:
once. It is stored before the trial is handed out, so that one that kills its driver is counted."""

_DIRECTIONS = [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE]  # accuracy, MACs


class OptunaStudies:
    """A journal's Optuna studies, opened and made as they are needed.

    Args:
        journal: opened for writing.
        task: the resolved study.

    Attributes:
        current: method -> name of its Optuna study under the present budget and space.
    """

    def __init__(self, journal: Journal, task: Task) -> None:
        self.journal = journal
        self.task = task
        self.current = {name: study_name(name, task.budget, space) for name, space in task.spaces.items()}
        self._open: dict[str, Study] = {}

    def open(self, name: str) -> Study:
        """The Optuna study of this name, made where it is missing."""
        if name not in self._open:
            storage = self.journal.storage
            if name not in self.journal.names():
                storage.create_new_study(_DIRECTIONS, name)
            sampler = make_sampler("random", seed=0, fixed_seed=0)  # replaced at every ask
            self._open[name] = optuna.load_study(study_name=name, storage=storage, sampler=sampler)
        return self._open[name]

    def finish(self, record: TrialRecord, optuna_study: str, trial_id: int) -> None:
        """Store a trial's outcome, then tell the sampler."""
        assert record.outcome is not None, "only a trial that ended has an outcome"
        Trial(self.open(optuna_study), trial_id).set_user_attr(OUTCOME, record.outcome.dumps())
        self.tell(record, optuna_study, trial_id)

    def set_begun(self, begun: int, optuna_study: str, trial_id: int) -> None:
        """Store how often a trial was begun."""
        Trial(self.open(optuna_study), trial_id).set_user_attr(BEGUN, begun)

    def tell(self, record: TrialRecord, optuna_study: str, trial_id: int) -> None:
        """Report a stored outcome to the sampler.

        Args:
            optuna_study: name of the Optuna study that holds the trial.
            trial_id: id of the Optuna trial.
        """
        opened = self.open(optuna_study)
        reported = Trial(opened, trial_id)
        observation = observation_of(record, self.task.backbone_macs, budget_of(optuna_study))
        known = self.journal.storage.get_trial(trial_id).constraints
        for name, value in observation.constraints.items():
            if name not in known:  # else a crash came between this and the line below
                reported.set_constraint(name, value)
        opened.tell(reported, values=observation.values, state=observation.state)

    def copy_missing(self, method: str, records: Iterable[tuple[TrialRecord, str]]) -> None:
        """Copy trials that ended, and that the method's present Optuna study does not know, into it.

        Args:
            records: trials of the method, each with the name of the Optuna study that holds it.
        """
        current = self.current[method]
        trials = self.open(current).get_trials(deepcopy=False)
        known = {trial.user_attrs[COPY] for trial in trials if COPY in trial.user_attrs}
        for record, study in records:
            if study != current and record.number not in known and record.outcome is not None:
                self.copy(record)

    def copy(self, record: TrialRecord) -> None:
        """Add a trial that is stored in an earlier Optuna study to the present one of its method."""
        task = self.task
        observation = observation_of(record, task.backbone_macs, task.budget)
        placed = sampler_params(task.spaces[record.method], record.config)
        if placed is None or observation.state is TrialState.FAIL or not observation.useful:
            return
        params, distributions = placed
        self.open(self.current[record.method]).add_trial(
            create_trial(
                state=observation.state,
                values=observation.values,
                params=params,
                distributions=distributions,
                constraints=observation.constraints,
                user_attrs={COPY: record.number},
            )
        )
