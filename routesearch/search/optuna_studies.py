"""The Optuna studies in a journal: one for each method, budget and search space.

Every trial of ours is one trial of an Optuna study, with two attributes beside what Optuna writes itself:
``asked`` (number, config, seed, bounds) and ``outcome``. All of it is append-only and in this order:
``asked`` before a trial runs, ``outcome`` before Optuna gets it, so that a crash anywhere leaves something
that can be finished (:mod:`routesearch.search.resume`).

They are the record; what samplers read is made of it in memory (:mod:`routesearch.search.histories`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import optuna
from optuna.samplers import RandomSampler
from optuna.study import Study, StudyDirection
from optuna.trial import Trial, TrialState, create_trial

from routesearch.results.journal import Journal
from routesearch.results.record import TrialRecord
from routesearch.results.replay import ASKED, OUTCOME
from routesearch.search.observations import observation_of
from routesearch.search.proposals import Proposal
from routesearch.search.study_names import budget_of, study_name

if TYPE_CHECKING:
    from routesearch.task.resolve import Task

BEGUN = "begun"
"""Attribute of a trial: how often it was begun and did not come to an end that the search chose; missing:
once. It is stored before the trial is handed out, so that one that kills its driver is counted."""

LEFT = "sampler"
"""Attribute of a trial: what is kept of its draw (:attr:`Proposal.attributes`)."""

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
            sampler = RandomSampler()  # never asked
            self._open[name] = optuna.load_study(study_name=name, storage=storage, sampler=sampler)
        return self._open[name]

    def begin(self, record: TrialRecord, proposal: Proposal) -> tuple[str, int]:
        """Store a trial that was drawn; on disk, all in one line, when this returns.

        Returns:
            Name of the Optuna study that holds it, and the id of the Optuna trial.
        """
        name = self.current[record.method]
        study = self.open(name)
        trial = create_trial(
            state=TrialState.RUNNING,
            params=dict(proposal.params),
            distributions=dict(proposal.distributions),
            user_attrs={ASKED: record.proposal()}
            | ({LEFT: dict(proposal.attributes)} if proposal.attributes else {}),
        )
        return name, self.journal.storage.create_new_trial(study._study_id, template_trial=trial)

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
