"""Trials of earlier studies: a search's models learn from them, and the best configs are tried first."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from routesearch.errors import Refusal
from routesearch.errors.texts import shown
from routesearch.results.points import Interval
from routesearch.results.reader import StudyResults
from routesearch.results.record import Outcome, TrialRecord
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
    return records if ratio == 1 else [_rescaled(record, ratio) for record in records]


def _rescaled(record: TrialRecord, ratio: float) -> TrialRecord:
    bounds, outcome = record.bounds, record.outcome
    if bounds is not None:
        bounds = Interval(round(bounds.min * ratio), round(bounds.max * ratio))
    return replace(record, bounds=bounds, outcome=None if outcome is None else _at(outcome, ratio))


def _at(outcome: Outcome, ratio: float) -> Outcome:
    points = tuple(replace(point, macs=point.macs * ratio) for point in outcome.points)
    macs = round(outcome.training_macs * ratio)
    return replace(outcome, points=points, training_macs=macs, rungs=())
