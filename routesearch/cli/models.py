"""Commands on saved models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from routesearch.cli.options import Json, Plugins
from routesearch.cli.output import Answer, log
from routesearch.cli.survey import tell_survey
from routesearch.errors import Refusal, RunFailed
from routesearch.errors.texts import printable

if TYPE_CHECKING:
    from routesearch.saved import Prediction

CHUNK = 256
"""Files that are in memory at a time."""


def predict(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="What `best --save` wrote.", show_default=False)
    ],
    images: Annotated[
        list[Path],
        typer.Argument(
            metavar="IMAGES...", help="Image files, folders of them, or .npy of several.", show_default=False
        ),
    ],
    device: Annotated[str, typer.Option(metavar="D", help="cpu, cuda or cuda:N.")] = "cpu",
    plugins: Plugins = None,
    as_json: Json = False,
) -> Answer:
    """Label image files by a saved model, and say what each one cost.

    Of a folder every image below it is taken. Files of another size are scaled and cut to their middle, as
    the images of an image_folder are. Those that cannot be read are named, the others are predicted, and the
    exit status is 1. An .npy holds images as `predict` in Python takes them: N,H,W or N,H,W,C; uint8, or
    floats in the range of the training images.
    """
    from routesearch.report import Table
    from routesearch.report.table import mega
    from routesearch.saved import files_in, load, read_files
    from routesearch.saved.image_arrays import SUFFIX, read_array

    model = load(folder, plugins=plugins or (), device=device)
    found: list[dict[str, Any]] = []
    unreadable: list[dict[str, str]] = []
    arrays = [path for path in images if path.suffix == SUFFIX]
    for path in arrays:
        try:
            labels = model.predict(read_array(path))
            found += _rows([f"{path}[{row}]" for row in range(len(labels))], labels, model.classes)
        except Refusal as refusal:
            reason = str(refusal)
            told = reason if reason.startswith(str(path)) else f"{path}: {reason}"
            unreadable.append({"file": str(path), "reason": told})
    files, surveys, empty = files_in([path for path in images if path not in arrays])
    for place, survey in surveys.items():
        tell_survey(survey, printable(place))
    unreadable += [
        {"file": str(path), "reason": f"{printable(path)} is a folder without images"} for path in empty
    ]
    for start in range(0, len(files), CHUNK):
        paths = files[start : start + CHUNK]
        pixels, bad = read_files(model.card, paths)
        good = [path for i, path in enumerate(paths) if i not in bad]
        found += _rows(good, model.predict(pixels), model.classes)
        unreadable += [{"file": str(paths[i]), "reason": reason} for i, reason in bad.items()]
    for each in unreadable:
        log.warning("%s", each["reason"])
    error, given = None, len(arrays) + len(files) + len(empty)
    if unreadable:
        error = RunFailed(
            f"every file must be a readable image, got {len(unreadable)} of {given} that are not"
        )
    rows = tuple(
        (printable(each["file"]), each["label"], f"{each['confidence']:.3f}", mega(each["macs"]), _way(each))
        for each in found
    )
    table = Table(("file", "label", "confidence", "M MACs", "route"), rows, texts=("file", "label"))
    return Answer({"predictions": found, "unreadable": unreadable}, (table,) if rows else (), error)


def _rows(paths: Sequence[Path | str], found: Prediction, classes: Sequence[str]) -> list[dict[str, Any]]:
    columns = (found.labels, found.confidence, found.macs, found.route, found.ran)
    return [
        {
            "file": str(path),
            "label": classes[label],
            "confidence": sure,
            "macs": macs,
            "route": route,
            "ran": ran,
        }
        for path, label, sure, macs, route, ran in zip(paths, *(c.tolist() for c in columns), strict=True)
    ]


def _way(row: Mapping[str, Any]) -> str:
    """The exit or leaf; where blocks can be skipped, how many ran."""
    return f"{sum(row['ran'])} of {len(row['ran'])} blocks" if row["ran"] else str(row["route"])
