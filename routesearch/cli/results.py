"""Commands that show what a study has found; they work while its search runs."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from routesearch.cli.options import Json, Settings, StudyFile, open_study
from routesearch.cli.output import Answer, log

if TYPE_CHECKING:
    from routesearch.results.budget import Budget
    from routesearch.results.comparison import Comparison
    from routesearch.results.points import Point, PointKey
    from routesearch.results.reader import StudyResults
    from routesearch.results.record import TrialRecord
    from routesearch.results.timing import Timing


REPEATED = "M MACs on test"
"""Next to the same on validation it says little: files have it, the terminal has no room."""


MAX_POINTS = 20
"""Points of a front that ``front`` shows without ``--all``."""


class Split(StrEnum):
    """Where points are measured."""

    VALIDATION = "validation"
    TEST = "test"


def front(
    study: StudyFile,
    split: Annotated[Split, typer.Option(help="Where the points are measured.")] = Split.VALIDATION,
    html: Annotated[Path | None, typer.Option(metavar="F", help="Write an interactive page.")] = None,
    png: Annotated[Path | None, typer.Option(metavar="F", help="Write a picture.")] = None,
    csv: Annotated[Path | None, typer.Option(metavar="F", help="Write a CSV file.")] = None,
    every_point: Annotated[bool, typer.Option("--all", help="Show all points of a long front.")] = False,
    settings: Settings = None,
    as_json: Json = False,
) -> Answer:
    """Show the front: the points that no other point beats in both accuracy and MACs.

    Of a long one a selection is shown; --json and files have all of it.

    It is chosen on validation data; the same points are measured again on test when a search ends.
    """
    from routesearch import report
    from routesearch.results.comparison import best_against_static

    opened = open_study(study, settings)
    results = opened.results()
    points, backbone_macs, budget, timings = (
        results.front_on(split),
        results.backbone_macs,
        results.budget,
        results.timings,
    )
    tested = results.front_on_test if split == Split.VALIDATION else []
    if html is not None:
        config = opened.config
        title = f"{config.name}: {config.backbone.name} on {config.data['name']}"
        report.front_html(results, html, split, title)
    if png is not None:
        report.front_figure_png(results, png, split)
    if csv is not None:
        report.write_csv(points, csv)
    for file in (html, png, csv):
        if file is not None:
            log.info("wrote %s", file)
    ranks = _rank_correlations(points, timings)
    rows = [p.as_dict() for p in points]
    document: dict[str, Any] = {"split": str(split), "reference": backbone_macs, "front": rows}
    if opened.config.latency.batch:
        for p, row in zip(points, rows, strict=True):
            row["timings"] = [t.as_dict() for t in timings.get(p.key, ())]
        document["rank_correlation"] = ranks
    if results.shrinkage:
        for p, row in zip(points, rows, strict=True):
            if p.key in results.shrinkage:
                row["shrinkage"] = results.shrinkage[p.key]
        document["shrinkage"] = results.mean_shrinkage
    mega = report.table.mega
    within = f"; budget {report.table.limits(budget, backbone_macs)}" if budget else ""
    title = (
        f"{opened.config.name}: front on {split}, {len(points)} points; backbone {mega(backbone_macs)} M MACs"
    )
    shown = points if every_point else few(points, budget.best(points), MAX_POINTS)
    table = report.front_table(shown, backbone_macs, tested, timings, results.shrinkage).without(REPEATED)
    left = len(points) - len(shown)
    rest = (f"{left} of {len(points)} points in between are not shown; --all shows them.",) if left else ()
    comparison = best_against_static(results)
    if comparison is not None:
        document["comparison"] = comparison.as_dict()
    footer = [*shrinkage_line(results), *_comparison_line(comparison), *(_rank_line(rank) for rank in ranks)]
    return Answer(document, (f"{title}{within}", table, *rest, *footer))


def _rank_correlations(
    points: Iterable[Point], timings: Mapping[PointKey, Sequence[Timing]]
) -> list[dict[str, Any]]:
    """Whether fewer MACs are less time: Spearman's coefficient for each method and batch size."""
    from routesearch.results.timing import rank_correlation

    found: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for p in points:
        for timing in timings.get(p.key, ()):
            found.setdefault((p.method, timing.batch), []).append((p.macs, timing.p50))
    return [
        {
            "method": method,
            "batch": batch,
            "points": len(pairs),
            "spearman": rank_correlation(*zip(*pairs, strict=True)),
        }
        for (method, batch), pairs in sorted(found.items())
    ]


def shrinkage_line(results: StudyResults) -> list[str]:
    """What validation promised more than test held, where points of the front were confirmed."""
    lost = results.shrinkage.values()
    if results.mean_shrinkage is None:
        return []
    mean, low, high = (f"{100 * each:+.2f}" for each in (results.mean_shrinkage, min(lost), max(lost)))
    what = "Accuracy on validation less that on test, in percentage points"
    return [f"{what}: {mean} in the mean of the confirmed points of the front, {low} to {high}."]


def confirmed_text(point: Point | None) -> str:
    """The mean of a confirmed point, with its interval and seeds; empty for another."""
    from routesearch.report.table import between, percent

    c = None if point is None else point.confirmation
    if c is None:
        return ""
    spread = f"standard deviation {percent(c.std)}"
    return f"mean {percent(c.mean)} ({between(*c.interval())}), {spread}, {c.seeds} seeds"


def _comparison_line(comparison: Comparison | None) -> list[str]:
    if comparison is None:
        return []
    point, other = (f"{p.method} (trial {p.trial})" for p in (comparison.point, comparison.other))
    low, high = (f"{100 * end:+.2f}" for end in comparison.interval)
    found = f"{100 * comparison.difference:+.2f} percentage points, {low} to {high}"
    how = "95 %, paired bootstrap over images and seeds"
    return [f"On test, {point} less {other}, which costs no more: {found} ({how})."]


def _rank_line(rank: Mapping[str, Any]) -> str:
    value = "unknown: too few" if rank["spearman"] is None else f"{rank['spearman']:.2f}"
    points = f"{rank['points']} points" if rank["points"] != 1 else "1 point"
    return f"MACs and time by rank, {rank['method']} at batch {rank['batch']}: {value} ({points})"


def trials(study: StudyFile, settings: Settings = None, as_json: Json = False) -> Answer:
    """List all trials, with the result of each."""
    from routesearch.report import Table

    results = open_study(study, settings).results()
    records, backbone_macs, budget = results.records, results.backbone_macs, results.budget
    tell_failures(records)
    columns = ("trial", "method", "state", "accuracy", "M MACs", "points", "seconds", "config", "reason")
    rows = tuple(_trial_row(record, backbone_macs, budget) for record in records)
    table = Table(columns, rows, texts=("config", "reason"), spare=("config", "seconds", "points"))
    return Answer({"trials": [r.as_dict(budget) for r in records]}, (table,))


def _trial_row(record: TrialRecord, backbone_macs: float, budget: Budget) -> tuple[str, ...]:
    from routesearch.report.table import mega, percent, short
    from routesearch.results.budget import representative

    outcome = record.outcome
    points = () if outcome is None else outcome.points
    accuracy = macs = ""
    if points:
        one = representative(points, backbone_macs, budget)
        accuracy, macs = percent(one.accuracy), mega(one.macs)
    elif record.bounds is not None:
        macs = f"{mega(record.bounds.min)} or more"
    seconds = f"{outcome.seconds:.1f}" if outcome and outcome.seconds else ""
    reason = (outcome.reason or "") if outcome else ""
    cells = (accuracy, macs, str(len(points)), seconds, short(record.config), reason)
    return (str(record.number), record.method, str(record.state), *cells)


def publish(study: StudyFile, settings: Settings = None) -> None:
    """Fill MLflow again from what is stored: runs, tags, curves and the front; nothing is doubled."""
    summary = open_study(study, settings).publish()
    log.info("published to %s, experiment %s", summary.tracking_uri, summary.experiment)


def ui(
    study: StudyFile,
    port: Annotated[
        int | None,
        typer.Option(
            metavar="P",
            min=1,
            max=65535,
            help="Default: 5000, or a free one where that is taken.",
            show_default=False,
        ),
    ] = None,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Only print the address.")] = False,
    settings: Settings = None,
) -> None:
    """Open MLflow's pages on the study's front, on this machine only, until Ctrl-C."""
    results = open_study(study, settings).results()
    from routesearch.tracking import charts_link, open_ui, tracking_uri

    def ready(address: str) -> None:
        log.info("%s  (Ctrl-C ends it)", address)
        if not no_browser:
            import webbrowser

            webbrowser.open(address)

    charts = charts_link(results)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # the server is to end with this
    try:
        open_ui(tracking_uri(results.config), charts, port, ready)
    finally:
        signal.signal(signal.SIGTERM, before)


def tell_failures(records: Iterable[TrialRecord]) -> None:
    """Failed trials with their tracebacks, where the user asked for detail."""
    for record in records:
        if record.outcome is None or record.state != "failed":
            continue
        log.debug("trial %d (%s) failed: %s", record.number, record.method, record.outcome.reason)
        if record.outcome.traceback:
            log.debug("%s", record.outcome.traceback)


def few(points: list[Point], best: Point | None, most: int) -> list[Point]:
    """Some points of a front, ``most`` at the most, evenly chosen, both ends and the best among them."""
    if len(points) <= most:
        return points
    from routesearch.utils.sampling import evenly_spaced

    keep = set(evenly_spaced(len(points), most - 1))
    return [p for i, p in enumerate(points) if i in keep or p is best]
