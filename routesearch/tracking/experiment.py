"""A study's experiment in MLflow: found by its name and the study's id, made where it is missing."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from routesearch.tracking import view
from routesearch.tracking.client import connect

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

STUDY = "routesearch.study_id"
"""Tag of a study's experiment and of its parent run."""
TRIAL = "routesearch.trial"
"""Tag of a trial's run: its number."""


def link_of(uri: str, experiment: str, study_id: str) -> str | None:
    """Where a study's charts are behind the server's address; None where it was never tracked."""
    client = connect(uri)
    for name in _names(experiment, study_id):
        found = client.get_experiment_by_name(name)
        if found is not None and found.tags.get(STUDY) == study_id and found.lifecycle_stage == "active":
            return view.link(found.experiment_id)
    return None


def _names(experiment: str, study_id: str) -> tuple[str, str]:
    """The study's own name; where another study has it, the name with the study's id."""
    return experiment, f"{experiment} ({study_id[:8]})"


def open_experiment(client: MlflowClient, name: str, study_id: str, folder: Path | None) -> Experiment:
    """The study's experiment, found, restored or made."""
    for candidate in _names(name, study_id):
        found = client.get_experiment_by_name(candidate)
        if found is not None and found.tags.get(STUDY) != study_id:
            continue
        if found is not None and found.lifecycle_stage == "deleted":
            client.restore_experiment(found.experiment_id)
        if found is not None and folder is not None and found.artifact_location != folder.as_uri():
            # The study's folder was moved or copied; MLflow would go on writing into the old one.
            client.rename_experiment(found.experiment_id, f"{candidate} (before {time.time():.0f})")
            client.delete_experiment(found.experiment_id)
            found = None
        if found is None:
            place = None if folder is None else folder.as_uri()
            made = client.create_experiment(candidate, artifact_location=place, tags={STUDY: study_id})
            found = client.get_experiment(made)
        return found
    raise RuntimeError(f"the experiments {' and '.join(_names(name, study_id))} belong to other studies")
