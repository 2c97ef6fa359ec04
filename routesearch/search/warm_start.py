"""Trials of earlier studies: a search's models learn from them, and the best configs are tried first."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from routesearch.errors import Refusal
from routesearch.errors.texts import shown
from routesearch.results.points import Interval
from routesearch.results.reader import StudyResults
from routesearch.results.record import State, TrialRecord
from routesearch.study.config import load_study

if TYPE_CHECKING:
    from routesearch.task.resolve import Task


def earlier_trials(task: Task) -> list[TrialRecord]:
    """Trials of the studies that ``search.warm_start`` names, of methods that this study has too.

    MACs are as if they had been measured on this study's backbone: shares of the backbone's stay.

    Raises:
        Refusal: a study cannot be read, has other classes, or none of this study's methods.
    """
    found: list[TrialRecord] = []
    for typed, file in zip(task.config.search.warm_start, task.config.warm_start_files, strict=True):
        found += _trials_of(task, f"{task.config.where}: search.warm_start: {typed}", file)
    return found


def _trials_of(task: Task, where: str, file: Path) -> list[TrialRecord]:
    try:
        results = StudyResults.read(load_study(file))
    except Refusal as refusal:
        raise Refusal(f"{where}: {refusal}") from None
    classes = results.facts.get("inputs", {}).get("classes", [])
    if list(classes) != list(task.classes):
        raise Refusal(f"{where}: must have the classes {shown(list(task.classes))}, got {shown(classes)}")
    records = [record for record in results.records if record.method in task.spaces]
    if not records:
        methods = ", ".join(dict.fromkeys(record.method for record in results.records)) or "no trials"
        raise Refusal(f"{where}: must have trials of {', '.join(task.spaces)}, got {methods}")
    ratio = task.backbone_macs / results.backbone_macs
    if results.config.rungs != task.config.rungs:
        # trials that stopped there say little, and the others nothing at the rungs of this study
        records = [_at_its_end(record) for record in records if record.state is not State.STOPPED]
    return records if ratio == 1 else [_rescaled(record, ratio) for record in records]


def _at_its_end(record: TrialRecord) -> TrialRecord:
    return record if record.outcome is None else replace(record, outcome=replace(record.outcome, rungs=()))


def _rescaled(record: TrialRecord, ratio: float) -> TrialRecord:
    """The trial as if it had been on this study's backbone."""
    bounds, outcome = record.bounds, record.outcome
    if bounds is not None:
        bounds = Interval(round(bounds.min * ratio), round(bounds.max * ratio))
    if outcome is not None:
        rungs = tuple(
            (round(macs * ratio), tuple((accuracy, cost * ratio) for accuracy, cost in curve))
            for macs, curve in outcome.rungs
        )
        outcome = replace(
            outcome,
            points=tuple(replace(point, macs=point.macs * ratio) for point in outcome.points),
            training_macs=round(outcome.training_macs * ratio),
            rungs=rungs,
        )
    return replace(record, bounds=bounds, outcome=outcome)
