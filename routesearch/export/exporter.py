"""The export of a saved model to a folder that runs without routesearch."""

from __future__ import annotations

import copy
import json
import logging
import shutil
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from routesearch.errors import Refusal, RouteSearchError, RunFailed, origin, shortened
from routesearch.export import runner
from routesearch.export.engines import check_engine, write
from routesearch.export.program import Program, programmed
from routesearch.export.trace import walk
from routesearch.methods.base import Knob, RoutedNet
from routesearch.saved import SavedModel
from routesearch.utils.folders import check_replaceable, folder_draft
from routesearch.utils.paths import check_utf8_folder

log = logging.getLogger("routesearch")

PROGRAM, RUNNER = "program.json", "runner.py"

PROBES = 5
"""Random images that go every way when an export is checked: more than the graphs were recorded with."""
CLOSE = 1e-3
"""How far a value of the export may be from the original's, relative to the largest: other kernels round
differently."""


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        folder: where.
        engine: ``onnx`` or ``torch``.
        pieces: graphs.
        bytes: of all files together.
    """

    folder: Path
    engine: str
    pieces: int
    bytes: int


def export_model(model: SavedModel, folder: Path | str, format: str = "onnx") -> Exported:  # noqa: A002
    """Write a saved model as graphs, a list of steps and a runner; it is checked before it takes its name.

    Args:
        model: on the CPU; it stays as it is.
        folder: a new one, an empty one, or an older export, which is replaced.
        format: ``onnx`` or ``torch``.

    Raises:
        Refusal: no such format, its packages are not installed, the folder is taken, or the method's route
            cannot be recorded.
        RunFailed: the export gives other values than the model.
    """
    engine, folder = check_engine(format), Path(folder)
    if model.device.type != "cpu":
        raise Refusal(f"a model must be on the CPU to be exported, got {model.device}")
    check_utf8_folder(folder, "an export")
    card = model.card
    # Plain memory: what channels_last weights give would stand in the graphs as strides.
    net = copy.deepcopy(model.net).to(memory_format=torch.contiguous_format).eval()
    with (
        folder_draft(folder, _replaceable, "an export") as draft,
        torch.no_grad(),
        torch.random.fork_rng(devices=[]),
    ):
        try:
            program = programmed(net, card.knob)
            files = write(program.pieces, engine, draft)
        except RouteSearchError as error:
            raise Refusal(f"{card.method} cannot be exported: {error}") from None
        except OSError:
            raise
        except Exception as error:  # a plugin's route, and two compilers
            rule = "every operation of a route must be one that torch can record and write"
            raise Refusal(
                f"{card.method} cannot be exported: {rule}, got {shortened(error)}{origin(error)}"
            ) from error
        document = {
            "kind": "routesearch program",
            "format": runner.FORMAT,
            "engine": engine,
            "shape": card.shape,
            "mean": card.mean,
            "std": card.std,
            "pixel_range": card.pixel_range,
            "classes": card.classes,
            "model": {"study": card.study, "trial": card.trial, "method": card.method, "knob": card.knob},
            "versions": {"routesearch": version("routesearch"), "torch": torch.__version__},
            "pieces": [
                {"file": file, "inputs": piece.inputs, "outputs": piece.outputs}
                for file, piece in zip(files, program.pieces, strict=True)
            ],
            "images": program.images,
            "way": program.way,
        }
        text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
        (draft / PROGRAM).write_text(text + "\n", encoding="utf-8")
        shutil.copyfile(runner.__file__, draft / RUNNER)
        _check(draft, program, net, card.knob)
        size = sum(file.stat().st_size for file in draft.iterdir())
    return Exported(folder, engine, len(files), size)


def _check(draft: Path, program: Program, net: RoutedNet, knob: Knob) -> None:
    """Compare every value that the export decides or ends by with the model's, on every way."""
    images = torch.randn(PROBES, *net.backbone.image_shape)
    values: dict[str, Any] = {program.images: images.numpy()}
    _every_way(runner.Runner(draft, threads=torch.get_num_threads()), program.way, values)
    for name, wanted in zip(program.results, walk(net, images, knob)[1].outputs, strict=True):
        if not _agree(values[name], wanted):
            rule = "an export must give what its model gives"
            raise RunFailed(f"{rule}, got other values of {name} from the written graphs")


def _every_way(running: runner.Runner, way: dict[str, Any], values: dict[str, Any]) -> None:
    """Take every way with all images, as a tracer does; ``values`` gets all that is computed."""
    for step in way["steps"]:
        if step["do"] == "run":
            running._run(step["piece"], values)
        elif step["do"] == "patch":
            values.update({inner: values[outer] for outer, inner in step["state"]})
            for each in step["steps"]:
                running._run(each["piece"], values)
            values[step["value"]] = values[step["out"]]
        elif step["do"] == "split":
            for branch in step["ways"]:
                values.update({inner: values[outer] for outer, inner in branch["state"]})
                _every_way(running, branch, values)


def _agree(found: Any, wanted: Tensor) -> bool:
    original = wanted.numpy()
    if found.shape != original.shape or found.dtype != original.dtype:
        return False
    if found.dtype.kind != "f":
        return bool(np.array_equal(found, original))
    largest = float(np.abs(original).max(initial=1.0))
    return bool(np.allclose(found, original, rtol=0.0, atol=CLOSE * largest, equal_nan=True))


def _replaceable(folder: Path) -> None:
    """Raise Refusal unless an export may be written here: a new name, an empty folder, or an older export."""
    rule = "a model is exported to a new folder or in place of an older export"
    own = (PROGRAM, RUNNER, "__pycache__")
    check_replaceable(folder, rule, PROGRAM, lambda name: name in own or name.startswith("piece"))
