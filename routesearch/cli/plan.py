"""The command that says beforehand what a search would take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from routesearch.cli.fields import size_text
from routesearch.cli.options import Json, Settings, StudyFile, open_study
from routesearch.cli.output import Answer, log, tell_problems
from routesearch.cli.survey import showing_decoding, tell_survey
from routesearch.utils.machine import cores

if TYPE_CHECKING:
    from routesearch.task.forecast import Forecast
    from routesearch.task.resolve import Task


def plan(study: StudyFile, settings: Settings = None, as_json: Json = False) -> Answer:
    """Say what a search would take: each method's MACs, its share within the budget, seconds a trial.

    Trains nothing that is kept: a few steps on random images are timed.
    """
    opened = open_study(study, settings)
    task = opened.task
    tell_problems(task.registry.problems)
    from routesearch.task.forecast import forecast

    with showing_decoding():
        survey = task.survey()
    tell_survey(survey)
    found = forecast(task)
    rule = task.unmet(found.reach)
    if rule is not None:
        log.warning("a search would be refused: %s", rule)
    document = {
        name: {
            "share": reach.share,
            "macs": None if reach.macs is None else {"min": reach.macs.min, "max": reach.macs.max},
            "seconds": _rounded(found.seconds[name]),
        }
        for name, reach in found.reach.items()
    }
    return Answer({"methods": document}, _plan_text(task, found, runs=rule is None))


def _plan_text(task: Task, found: Forecast, runs: bool) -> list[Any]:
    from routesearch.cli.progress import duration
    from routesearch.report import Table
    from routesearch.report.table import limits, mega

    def macs(value: int) -> str:
        return f"{mega(value)} M ({value / task.backbone_macs:.3f}x)"

    rows = []
    for name, reach in found.reach.items():
        seconds = found.seconds[name]
        ends = ("", "") if reach.macs is None else (macs(reach.macs.min), macs(reach.macs.max))
        rows.append((name, f"{reach.share:.0%}", *ends, "" if seconds is None else f"{seconds:.1f} s"))
    share = "can be built" if task.budget.max_macs is None else "can meet the budget"
    columns = ("method", share, "cheapest found", "most expensive found", "a trial takes about")
    backbone = (
        f"{task.config.backbone.name}: {mega(task.backbone_macs)} M MACs on {size_text(task.shape)} images"
    )
    budget = f"budget {limits(task.budget, task.backbone_macs)}" if task.budget else "no budget"
    parts: list[Any] = [f"{backbone}; {budget}", Table(columns, tuple(rows))]
    if found.trunk_seconds is not None:
        sharing = ", ".join(
            name for name, space in task.spaces.items() if task.methods[name].uses_trunk(space)
        )
        sharing = sharing or "the others to learn from"
        parts.append(f"The trunk, trained once for {sharing}: about {duration(found.trunk_seconds)}.")
    trials = task.config.search.trials
    at_once = int(cores() / task.config.resources.cpu)  # 0, as none fits here, was refused before
    seconds = found.search_seconds(trials, at_once) if at_once and runs else None
    if seconds is not None:
        parts.append(
            f"{trials} trials, {at_once} at a time on this machine: about {duration(seconds)}, "
            "if trials side by side do not slow each other down."
        )
    return parts


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
