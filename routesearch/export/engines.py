"""Pieces as files: ONNX for onnxruntime, or torch's own ``.pt2``."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from routesearch.errors import Refusal
from routesearch.export.program import Piece

Engine = Literal["onnx", "torch"]
"""What an exported model's graphs are written for."""

OPSET = 20
"""Version of ONNX's operators: with IR version 10, which onnxruntime reads since 1.18."""

MAX_BYTES = 1_900_000_000
"""Bytes of weights in ONNX: a file, and the message that it is cut from, hold less than 2 GiB."""


def check_engine(name: str) -> Engine:
    """The engine of this name.

    Raises:
        Refusal: there is none, or what it needs is not installed.
    """
    for engine in get_args(Engine):
        if name == engine:
            missing = [each for each in _needs(engine) if find_spec(each) is None]
            if missing:
                rule = "--format onnx needs onnx, onnxscript and onnxruntime"
                raise Refusal(f"{rule}, got no {missing[0]}: pip install 'routesearch[export]'")
            return engine  # type: ignore[no-any-return]
    raise Refusal(f"--format must be one of {', '.join(get_args(Engine))}, got {name!r}")


def _needs(engine: Engine) -> Sequence[str]:
    return ("onnx", "onnxscript", "onnxruntime") if engine == "onnx" else ()


def write(pieces: Sequence[Piece], engine: Engine, folder: Path) -> list[str]:
    """Write each piece as a file of its own; their names."""
    with _quiet():
        return _write_onnx(pieces, folder) if engine == "onnx" else _write_torch(pieces, folder)


class _All(nn.Module):
    """All pieces side by side: one conversion takes a third of the time of one for each."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        super().__init__()
        self.pieces = nn.ModuleList(piece.module for piece in pieces)
        self.counts = [len(piece.inputs) for piece in pieces]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        outputs: list[Tensor] = []
        at = 0
        for piece, count in zip(self.pieces, self.counts, strict=True):
            outputs += piece(*inputs[at : at + count])
            at += count
        return tuple(outputs)


def _write_onnx(pieces: Sequence[Piece], folder: Path) -> list[str]:
    import onnx
    from onnx.utils import Extractor

    whole = _All(pieces)
    weights = {id(each): each.nbytes for each in (*whole.parameters(), *whole.buffers())}
    if sum(weights.values()) > MAX_BYTES:
        rule = f"weights <= {MAX_BYTES:,} bytes must hold for --format onnx"
        raise Refusal(f"{rule}, got {sum(weights.values()):,}: take --format torch")
    dims = [{0: torch.export.Dim(f"n{i}")} for i, piece in enumerate(pieces) for _ in piece.inputs]
    examples = tuple(example for piece in pieces for example in piece.examples)
    exported = torch.export.export(whole, examples, dynamic_shapes=(tuple(dims),), strict=False)
    inputs = [[f"x{i}_{k}" for k in range(len(piece.inputs))] for i, piece in enumerate(pieces)]
    outputs = [[f"y{i}_{k}" for k in range(len(piece.outputs))] for i, piece in enumerate(pieces)]
    made = torch.onnx.export(
        exported,
        dynamo=True,
        input_names=[name for names in inputs for name in names],
        output_names=[name for names in outputs for name in names],
        opset_version=OPSET,
        verbose=False,
    )
    assert made is not None
    extractor = Extractor(made.model_proto)
    files = [f"piece{i:03}.onnx" for i in range(len(pieces))]
    for i, file in enumerate(files):
        onnx.save(extractor.extract_model(inputs[i], outputs[i]), folder / file)
    return files


def _write_torch(pieces: Sequence[Piece], folder: Path) -> list[str]:
    files = [f"piece{i:03}.pt2" for i in range(len(pieces))]
    for piece, file in zip(pieces, files, strict=True):
        size = torch.export.Dim("n")
        dims: Any = tuple({0: size} for _ in piece.inputs)
        exported = torch.export.export(piece.module, piece.examples, dynamic_shapes=dims, strict=False)
        torch.export.save(exported, folder / file)
    return files


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporters' own remarks, which are about their insides, are not shown."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)
