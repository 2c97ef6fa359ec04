"""The command that chooses one point of a study, and saves it."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from routesearch.cli.options import Json, Settings, StudyFile, open_study
from routesearch.cli.output import Answer, log
from routesearch.cli.results import confirmed_text
from routesearch.errors import Refusal

if TYPE_CHECKING:
    from routesearch.results.drop import Promise
    from routesearch.results.points import Point
    from routesearch.results.reader import StudyResults


def best(
    study: StudyFile,
    max_macs: Annotated[
        str | None,
        typer.Option(
            metavar="B",
            help="40M, 1.2G, 0.4x; by default the study's budget.",
            show_default=False,
        ),
    ] = None,
    max_latency: Annotated[
        str | None,
        typer.Option(
            metavar="T",
            help="500us, 2ms for a batch, where the study has a latency budget. An option that is given"
            " stands in place of the whole budget.",
            show_default=False,
        ),
    ] = None,
    confidence: Annotated[
        float | None,
        typer.Option(
            metavar="C",
            help="Choose by the lower end of the interval of this confidence, such as 0.95: of the mean over"
            " seeds, where a point was confirmed; else the binomial one of its validation images, which knows"
            " nothing of other seeds, nor that the point was chosen from many.",
            show_default=False,
        ),
    ] = None,
    max_drop: Annotated[
        str | None,
        typer.Option(
            metavar="D",
            help="The cheapest setting instead that loses at most so much accuracy (1%) against the whole"
            " network, at --confidence (0.95 by default), and costs at most --max-macs, where that is given."
            " Needs images that chose nothing: data.calibration.",
            show_default=False,
        ),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--save",
            metavar="DIR",
            help="Write it as a model for `predict` and Python; an older model in DIR is replaced.",
            show_default=False,
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            "--register",
            metavar="NAME",
            help="Put the model into MLflow's registry, as NAME's next version.",
            show_default=False,
        ),
    ] = None,
    settings: Settings = None,
    as_json: Json = False,
) -> Answer:
    """Show the most accurate point within a budget, on validation data; --save writes it as a model."""
    from routesearch.report import Table
    from routesearch.report.table import mega, milli, percent, short
    from routesearch.results.drop import promised
    from routesearch.results.intervals import CONFIDENCE

    opened = open_study(study, settings)
    results = opened.results()
    promise = None
    if max_drop is not None:
        if max_latency is not None:
            raise Refusal("--max-drop must be given without --max-latency: only MACs bound it")
        promise = promised(results, max_drop, CONFIDENCE if confidence is None else confidence, max_macs)
        point = promise.point
    else:
        point = results.best_within(max_macs, max_latency, confidence)
    backbone_macs, document = results.backbone_macs, point.as_dict()
    bound, kept = "", _promise_text(promise)
    if promise is not None:
        document |= promise.as_dict()
    elif confidence is not None:
        lower = results.lower_bound(point, confidence)
        document |= {"confidence": confidence, "lower_bound": lower}
        bound = f"{percent(lower)} at confidence {confidence:g}, on validation"
    again = results.on_test(point)
    if folder is not None or name is not None:
        _save(results, point, folder, name)
    rows = [
        ("trial", f"{point.trial}, seed {point.seed}"),
        ("accuracy", percent(point.accuracy) + (f", on test {percent(again.accuracy)}" if again else "")),
        ("over seeds", confirmed_text(point)),
        ("on test", confirmed_text(again if promise is None else None)),
        ("lower bound", bound),
        ("promised", kept),
        ("MACs per image", f"{mega(point.macs)} M, {point.macs / backbone_macs:.3f}x of the backbone"),
        ("time per batch", "" if point.latency is None else f"{milli(point.latency)} ms"),
        ("parameters", f"{point.params:,}"),
        ("knob", short(point.knob)),
        ("share per route", ", ".join(f"{share:.1%}" for share in point.route_share)),
        ("config", short(point.config)),
    ]
    shown = tuple((name, value) for name, value in rows if value)
    return Answer(document, (Table(("method", point.method), shown, texts=(point.method,)),))


def _promise_text(promise: Promise | None) -> str:
    if promise is None:
        return ""
    loss = f"loses at most {100 * promise.max_drop:.4g} % of the accuracy of the whole network"
    whole = f"{100 * promise.whole.accuracy:.2f} % at {promise.whole.macs / 1e6:.4g} M MACs on validation"
    moved = "lost" if promise.drop >= 0 else "gained"
    seen = f"{100 * abs(promise.drop):.2f} % {moved} on the {promise.images} images set aside"
    return f"{loss} ({whole}), at confidence {promise.confidence:g}; {seen}"


def _save(results: StudyResults, point: Point, folder: Path | None, name: str | None) -> None:
    """Save a point as a model, and register it where a name is given."""
    from routesearch.saved import save

    with TemporaryDirectory() as scratch:
        place = Path(scratch) / "model" if folder is None else folder
        save(results, point, place)
        if folder is not None:
            log.info("saved trial %d (%s) in %s", point.trial, point.method, folder)
        if name is not None:
            from routesearch.tracking import registry, tracking_uri

            uri = registry.register(results, name, place)
            log.info("registered as %s in %s", uri, tracking_uri(results.config))
