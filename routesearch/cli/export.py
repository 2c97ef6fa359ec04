"""The command that takes a saved model out of this project."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from routesearch.cli.options import Json, Plugins
from routesearch.cli.output import Answer


def export(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="What `best --save` wrote.", show_default=False)
    ],
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="A new folder, or an older export.", show_default=False)
    ],
    engine: Annotated[str, typer.Option("--format", metavar="F", help="onnx or torch (.pt2).")] = "onnx",
    plugins: Plugins = None,
    as_json: Json = False,
) -> Answer:
    """Write a saved model as graphs with a small runner, for use without routesearch.

    OUT/runner.py needs numpy and onnxruntime, or torch for --format torch. Every way is checked against the
    model before the folder takes its name.
    """
    from routesearch.export import check_engine, export_model
    from routesearch.saved import load

    check_engine(engine)
    done = export_model(load(folder, plugins=plugins or ()), out, engine)
    document = {
        "folder": str(done.folder),
        "format": done.engine,
        "pieces": done.pieces,
        "bytes": done.bytes,
    }
    graphs = "1 graph" if done.pieces == 1 else f"{done.pieces} graphs"
    line = (
        f"{done.folder}: {graphs}, {done.bytes / 1e6:.2f} MB; python {done.folder / 'runner.py'} IMAGES.npy"
    )
    return Answer(document, (line,))
