"""The command that runs a study."""

from __future__ import annotations

import math
import shlex
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from routesearch.cli.options import Json, Settings, StudyFile, open_study
from routesearch.cli.output import Answer, log, tell_problems
from routesearch.cli.results import REPEATED, confirmed_text, few, shrinkage_line, tell_failures
from routesearch.cli.survey import showing_decoding, tell_survey
from routesearch.errors import RunFailed

if TYPE_CHECKING:
    from routesearch.results.budget import Budget
    from routesearch.results.points import Point
    from routesearch.results.record import TrialRecord
    from routesearch.results.summary import Summary

MAX_ROWS = 16
"""Points of the front that the end of a search shows; ``front --all`` shows every one."""


def search(
    study: StudyFile,
    settings: Settings = None,
    max_macs: Annotated[
        str | None, typer.Option(metavar="B", help="Budget of mean MACs per image: 40M, 1.2G, 0.4x.")
    ] = None,
    trials: Annotated[int | None, typer.Option(metavar="N", help="Trials of the study in all.")] = None,
    time_limit: Annotated[
        str | None, typer.Option(metavar="T", help="No trial starts after it: 90s, 10m, 1.5h.")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="A", help="A running Ray cluster that this machine is a node of: auto, HOST:PORT."
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Of proposals, weights and draws.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Move what is stored aside and start anew.")] = False,
    as_json: Json = False,
) -> Answer:
    """Run or continue a study up to its total of trials, then show its front and best.

    Finished trials are kept whatever happens: the same command goes on where an interrupted or killed one
    stood.
    """
    opened = open_study(
        study,
        settings,
        budget__max_macs=max_macs,
        search__trials=trials,
        search__time_limit=time_limit,
        search__seed=seed,
    )
    from routesearch.cli.progress import watching

    task = opened.task
    tell_problems(task.registry.problems)
    try:
        with showing_decoding():
            survey = task.data.survey
        tell_survey(survey)
        with watching(opened.config.name, task.backbone_macs, task.budget) as progress:
            summary = opened.search(address=address, fresh=fresh, on_progress=progress)
    except KeyboardInterrupt:
        log.warning("interrupted; the same command goes on from here")
        raise
    failed = [r for r in summary.results.records if r.outcome is not None and r.state == "failed"]
    error = None if summary.finished + summary.stopped else _nothing_finished(summary, failed)
    if failed and error is None:
        count = "1 trial" if len(failed) == 1 else f"{len(failed)} trials"
        log.warning("%s failed: %s (`routesearch trials` lists them)", count, _reasons(failed))
    tell_failures(failed)
    return Answer(summary.as_dict(), _ending(summary, study), error)


def _nothing_finished(summary: Summary, failed: list[TrialRecord]) -> RunFailed:
    text = f"{summary.study}: no trial has finished, {summary.failed} failed, {summary.refused} refused"
    if failed:
        spent = summary.failed >= summary.results.config.search.trials
        then = (
            "raise search.trials, or --fresh" if spent else "the same command goes on, --fresh starts anew,"
        )
        return RunFailed(f"{text}: {_reasons(failed)} ({then} after a fix)")
    return RunFailed(f"{text} (raise budget.max_macs)" if summary.refused else text)


def _reasons(failed: list[TrialRecord], most: int = 3) -> str:
    """Why trials failed: each reason once, the commonest first."""
    counts = Counter(str(r.outcome.reason) for r in failed if r.outcome)
    listed = [f"{reason} ({count}x)" if count > 1 else reason for reason, count in counts.most_common(most)]
    return "; ".join(listed) + ("; …" if len(counts) > most else "")


def _ending(summary: Summary, file: Path) -> list[Any]:
    from routesearch.report import front_table
    from routesearch.report.table import limits

    if not summary.front:
        return []
    results = summary.results
    backbone_macs, budget = results.backbone_macs, results.budget
    shown = few(summary.front, summary.best, MAX_ROWS)
    more = "" if len(shown) == len(summary.front) else f" ({len(shown)} of {len(summary.front)} points)"
    parts: list[Any] = [
        f"{summary.study}: front on validation{more}",
        front_table(shown, backbone_macs, results.front_on_test, results.timings, results.shrinkage).without(
            REPEATED
        ),
    ]
    if budget and summary.best is None:
        parts.append(f"No point is within the budget of {limits(budget, backbone_macs)}.")
    elif summary.best is not None:
        parts.append(_best_line(summary.best, results.on_test(summary.best), backbone_macs, budget))
    stopped = f", {summary.stopped} stopped early" if summary.stopped else ""
    refused = f"{summary.refused} refused"
    if summary.refused:
        refused += " (never trained: over the budget, or not to be built; `trials` says why)"
    within = summary.feasible_hypervolume
    command = f"routesearch {{}} {shlex.quote(str(file))}"
    parts += [
        f"Trials: {summary.finished} finished{stopped}, {summary.failed} failed, {refused}.",
        f"Hypervolume: {summary.hypervolume:.4f}"
        + ("" if within is None else f", within the budget {within:.4f}")
        + " (the area under the front: 1 is every image right for nothing).",
        *_confirmations(summary),
        "",
        f"Stored in  {summary.storage}",
        f"MLflow     {summary.tracking_uri}, experiment {summary.experiment}",
        f"Next       {command.format('front')} --html front.html",
        f"           {command.format('best')} --max-macs {_tighter(summary.front, backbone_macs, budget)}",
        f"           {command.format('ui')}",
    ]
    return parts


def _confirmations(summary: Summary) -> list[str]:
    """What confirming the front took and gave; nothing where it was not confirmed."""
    from routesearch.cli.progress import in_units

    done = summary.confirmations
    if not done["retrainings"]:
        return []
    failed = f", {done['failed']} failed" if done["failed"] else ""
    took = f"{in_units(done['training_macs'])} training MACs beside those of the trials"
    return [
        f"Confirmed by {done['retrainings']} retrainings{failed}: {took}.",
        *shrinkage_line(summary.results),
    ]


def _best_line(best: Point, tested: Point | None, backbone_macs: float, budget: Budget) -> str:
    from routesearch.report.table import limits, mega, milli, percent, short

    within = f" within {limits(budget, backbone_macs)}" if budget else ""
    on_test = "" if tested is None else f" (on test {percent(tested.accuracy)})"
    cost = f"{mega(best.macs)} M ({best.macs / backbone_macs:.3f}x)"
    cost += "" if best.latency is None else f", {milli(best.latency)} ms"
    # where a knob is named like a field, it is what this network does
    fields = {name: value for name, value in best.config.items() if name not in best.knob}
    origin = f"{best.method}, trial {best.trial}, {short({**best.knob, **fields})}"
    confirmed = confirmed_text(tested) or confirmed_text(best)
    over = f"; over seeds{' on test' if tested is not None else ''}: {confirmed}" if confirmed else ""
    return f"Best{within}: {percent(best.accuracy)}{on_test} at {cost}: {origin}{over}"


def _tighter(front: list[Point], backbone_macs: float, budget: Budget) -> str:
    """A budget to ask for next: half of the study's (or of the backbone), more if no point is so cheap."""
    half, least = (
        (budget.max_macs or backbone_macs) / 2 / backbone_macs,
        min(p.macs for p in front) / backbone_macs,
    )
    return f"{max(half, math.ceil(least * 1000) / 1000):.4g}x"
