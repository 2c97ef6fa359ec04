"""The command that times a saved model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from routesearch.cli.options import Json, Plugins
from routesearch.cli.output import Answer
from routesearch.errors import Refusal

if TYPE_CHECKING:
    import torch

BATCHES = "1,8,64,256"


def latency(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="What `best --save` wrote.", show_default=False)
    ],
    batch: Annotated[str, typer.Option(metavar="N,N", help="Batch sizes.")] = BATCHES,
    device: Annotated[str, typer.Option(metavar="D", help="cpu, cuda or cuda:N.")] = "cpu",
    threads: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Torch's; default: its own choice.")
    ] = None,
    plugins: Plugins = None,
    as_json: Json = False,
) -> Answer:
    """Time a saved model beside its static backbone: what the saved MACs are worth here.

    Images are noise; they take the ways in the shares that real ones had on validation data, drawn anew for
    every batch. Both networks run in turn; p50 and p95 are of a batch.
    """
    from routesearch.report import Table
    from routesearch.report.table import milli, whole

    sizes = _sizes(batch)
    import torch

    from routesearch.saved import load
    from routesearch.utils.machine import torch_threads

    with torch_threads(threads):
        model = load(folder, plugins=plugins or (), device=device)
        timings, used = model.latency(sizes), torch.get_num_threads()
    rows = tuple(
        (
            str(t.batch),
            milli(t.p50),
            milli(t.p95),
            f"{t.images_per_second:.0f}",
            milli(t.static_p50),
            whole(t.mac_saving),
            whole(t.time_saving),
        )
        for t in timings
    )
    columns = ("batch", "p50 ms", "p95 ms", "images/s", "static p50 ms", "MAC saving", "time saving")
    where = _name(model.device)
    plural = "thread" if used == 1 else "threads"
    card = model.card
    title = f"{card.method} on {card.backbone}: {where}, {used} {plural}, torch {torch.__version__}"
    document = {
        "device": where,
        "threads": used,
        "torch": str(torch.__version__),
        "timings": [t.as_dict() for t in timings],
    }
    return Answer(document, (title, Table(columns, rows)))


def _sizes(text: str) -> list[int]:
    """``1,8,64`` as numbers, each once, in this order.

    Raises:
        Refusal: for anything else.
    """
    from routesearch.study.config import MAX_BATCH

    parts = [part.strip() for part in text.split(",")]
    if not all(p.isascii() and p.isdigit() and len(p) < 7 and 1 <= int(p) <= MAX_BATCH for p in parts):
        rule = f"--batch must be sizes of 1 to {MAX_BATCH} such as {BATCHES}"
        raise Refusal(f"{rule}, got {text!r}")
    return list(dict.fromkeys(map(int, parts)))


def _name(device: torch.device) -> str:
    import torch

    return "cpu" if device.type == "cpu" else f"{device} ({torch.cuda.get_device_name(device)})"
