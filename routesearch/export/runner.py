"""Run an exported model: images to labels, each by the part of the network that it needs.

This file and the folder that it lies in are all there is to it: numpy, and onnxruntime for a model of ONNX
files or torch for one of ``.pt2`` files; routesearch itself and its plugins are not needed.

    from runner import Runner
    runner = Runner("exported")
    found = runner.predict(images)      # N,H,W or N,H,W,C; uint8, or floats in [0, 1]; not normalised
    found.labels, found.logits, found.macs, found.route

    python exported/runner.py images.npy          # a line of JSON for each image

``program.json`` lists the graphs and the steps between them. A way's steps are: ``run`` a graph for the
group of images; ``patch``, run others for the masked images only; ``split`` the group by a choice; ``finish``
with logits.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

FORMAT = 1
"""Version of ``program.json``; raised when an older runner could not read what is written now."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a model says of N images, in their order.

    Attributes:
        labels: N, int64: positions in the model's ``classes``.
        confidence: N, float32: the softmax of the chosen label, in [0, 1].
        logits: N, classes, float32.
        macs: N, int64: multiply-adds spent on each image.
        route: N, int64: the exit or leaf that each image finished at.
        ran: N, sites, bool: which skippable blocks ran; no columns where the network skips nothing.
    """

    labels: Array
    confidence: Array
    logits: Array
    macs: Array
    route: Array
    ran: Array

    def __len__(self) -> int:
        return len(self.labels)


@dataclass
class _Group:
    """Images that went the same way so far: their rows in the batch, what they paid, what was patched."""

    rows: Array
    macs: Array
    ran: list[Array]

    def part(self, take: Array) -> _Group:
        return _Group(self.rows[take], self.macs[take], [mask[take] for mask in self.ran])


class Runner:
    """An exported model in memory.

    Args:
        folder: what ``routesearch export`` wrote.
        threads: that a graph may use; None: as many as the library thinks right.
        providers: of onnxruntime, the first that can run a graph does; torch's graphs run on the CPU.

    Attributes:
        program: what ``program.json`` says.
        classes: names, in the order of the labels.

    Raises:
        ValueError: the folder holds no exported model, or one that this runner is too old for.
    """

    def __init__(
        self,
        folder: Path | str,
        threads: int | None = None,
        providers: Sequence[str] = ("CPUExecutionProvider",),
    ) -> None:
        folder = Path(folder)
        try:
            self.program: dict[str, Any] = json.loads((folder / "program.json").read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise ValueError(f"{folder} must hold an exported model's program.json, got: {error}") from None
        if not isinstance(self.program, dict):
            raise ValueError(f"{folder}: program.json must hold a mapping, got {repr(self.program)[:80]}")
        if self.program.get("kind") != "routesearch program" or self.program.get("format") != FORMAT:
            got = f"{self.program.get('kind')!r}, {self.program.get('format')!r}"
            raise ValueError(f"kind 'routesearch program', format {FORMAT} must hold, got {got}")
        try:
            _check(self.program)
        except (KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
            raise ValueError(f"{folder}: program.json is damaged: {type(error).__name__}: {error}") from None
        self.classes: list[str] = self.program["classes"]
        pieces = self.program["pieces"]
        files = [folder / piece["file"] for piece in pieces]
        try:
            if self.program["engine"] == "onnx":
                self._graphs = [_onnx(file, threads, providers, len(files)) for file in files]
            else:
                self._graphs = [_torch(file, threads) for file in files]
        except ImportError:
            raise
        except Exception as error:  # the libraries' own kinds
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"{folder}: its graphs cannot be loaded: {reason}") from None

    def predict(self, images: Any, batch_size: int = 256) -> Prediction:
        """Label images.

        Args:
            images: N,H,W or N,H,W,C; uint8, or floats in the training images' range, mostly [0, 1]: before
                any normalisation.
            batch_size: images that go through the network at a time.

        Raises:
            ValueError: another shape or type, or values outside of that range.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size >= 1 must hold, got {batch_size}")
        rows = self._checked(np.asarray(images))
        parts = [
            self.route(self._normalised(rows[i : i + batch_size])) for i in range(0, len(rows), batch_size)
        ]
        if not parts:
            none = np.zeros(0, np.int64)
            logits = np.zeros((0, len(self.classes)), np.float32)
            return Prediction(none, np.zeros(0, np.float32), logits, none, none, np.zeros((0, 0), np.bool_))
        logits, macs, route = (np.concatenate([part[i] for part in parts]) for i in range(3))
        sites = max(part[3].shape[1] for part in parts)  # fewer where no image of a batch met one
        ran = np.concatenate([_padded(part[3], sites) for part in parts])
        shares = np.exp(logits - logits.max(1, keepdims=True))
        labels = logits.argmax(1)
        confidence = (shares.max(1) / shares.sum(1)).astype(np.float32)
        return Prediction(labels, confidence, logits, macs, route, ran)

    def route(self, inputs: Array) -> tuple[Array, Array, Array, Array]:
        """One batch, N,C,H,W, float32, normalised, N >= 1: logits, MACs, routes, and what blocks ran."""
        count = len(inputs)
        everyone = _Group(np.arange(count), np.zeros(count, np.int64), [])
        done: list[tuple[_Group, Array, int]] = []
        self._follow(self.program["way"], everyone, {self.program["images"]: inputs}, done)
        logits = np.empty((count, done[0][1].shape[1]), np.float32)
        macs, route = np.zeros(count, np.int64), np.zeros(count, np.int64)
        ran = np.zeros((count, max(len(group.ran) for group, _, _ in done)), np.bool_)
        for group, values, number in done:
            logits[group.rows], macs[group.rows], route[group.rows] = values, group.macs, number
            for site, mask in enumerate(group.ran):
                ran[group.rows, site] = mask
        return logits, macs, route, ran

    def _follow(
        self,
        way: dict[str, Any],
        group: _Group,
        values: dict[str, Array],
        done: list[tuple[_Group, Array, int]],
    ) -> None:
        """Take a group along a way to its ends, with the values that it starts with."""
        group.macs = group.macs + way["macs"]
        for step in way["steps"]:
            if step["do"] == "run":
                self._run(step["piece"], values)
            elif step["do"] == "patch":
                self._patch(step, group, values)
            elif step["do"] == "split":
                choice = values[step["choice"]].astype(np.int64)
                for number, branch in enumerate(step["ways"]):
                    take = np.flatnonzero(choice == number)
                    if len(take):
                        self._follow(branch, group.part(take), _cut(branch["state"], values, take), done)
                if choice.min() < 0 or choice.max() >= len(step["ways"]):
                    raise ValueError(f"0 <= choice < {len(step['ways'])} must hold, got {choice.max()}")
            else:
                done.append((group, values[step["logits"]], step["route"]))

    def _patch(self, step: dict[str, Any], group: _Group, values: dict[str, Array]) -> None:
        """Run a block for the masked images; the others keep their rows of ``into``."""
        mask, into = values[step["mask"]].astype(np.bool_), values[step["into"]]
        group.ran.append(mask)
        group.macs = group.macs + step["macs"] * mask
        take = np.flatnonzero(mask)
        if not len(take):
            values[step["value"]] = into
            return
        inside = _cut(step["state"], values, take)
        for inner in step["steps"]:
            self._run(inner["piece"], inside)
        out = inside[step["out"]]
        if len(take) < len(mask):
            whole = into.astype(out.dtype)  # a copy: others may read what it was
            whole[take] = out
            out = whole
        values[step["value"]] = out

    def _run(self, piece: int, values: dict[str, Array]) -> None:
        names = self.program["pieces"][piece]
        outputs = self._graphs[piece]([values[name] for name in names["inputs"]])
        values.update(zip(names["outputs"], outputs, strict=True))

    def _checked(self, images: Array) -> Array:
        channels, height, width = self.program["shape"]
        rows = images[..., None] if images.ndim == 3 and channels == 1 else images
        if rows.shape[1:] != (height, width, channels):
            raise ValueError(f"images must be N,{height},{width},{channels}, got shape {images.shape}")
        if rows.dtype != np.uint8:
            least, most = self.program.get("pixel_range", (0, 1))
            if rows.dtype.kind != "f":
                raise ValueError(
                    f"images must be uint8, or floats in [{least:g}, {most:g}], got {rows.dtype}"
                )
            if rows.size and not (rows.min() >= least and rows.max() <= most):  # false for NaN too
                got = f"{rows.min():g} to {rows.max():g}"
                raise ValueError(f"images must lie in [{least:g}, {most:g}], got {got}")
        return rows

    def _normalised(self, rows: Array) -> Array:
        white = 255.0 if rows.dtype == np.uint8 else 1.0
        mean, std = np.array(self.program["mean"]), np.array(self.program["std"])
        scale, shift = (1 / (white * std)).astype(np.float32), (-mean / std).astype(np.float32)
        return np.ascontiguousarray((rows.astype(np.float32) * scale + shift).transpose(0, 3, 1, 2))


def _check(program: dict[str, Any]) -> None:
    """Raise unless a program can be followed: an error of any kind that looking for its parts may end in."""
    channels, height, width = program["shape"]
    mean, std, classes = program["mean"], program["std"], program["classes"]
    if not all(isinstance(each, int) and 0 < each <= 1 << 14 for each in (channels, height, width)):
        raise ValueError(f"shape must be three numbers of 1 to {1 << 14}, got {program['shape']}")
    numbers = all(isinstance(each, int | float) for each in (*mean, *std))
    if not numbers or not len(mean) == len(std) == channels or not min(std) > 0:
        raise ValueError("mean and std must have a number per channel, and std more than 0")
    if not all(isinstance(name, str) for name in classes) or len(set(classes)) < max(2, len(classes)):
        raise ValueError("classes must be two names or more, each once")
    if program["engine"] not in ("onnx", "torch"):
        raise ValueError(f"engine must be onnx or torch, got {program['engine']!r}")
    for piece in program["pieces"]:
        if piece["file"] in (".", "..") or Path(piece["file"]).name != piece["file"]:
            raise ValueError(f"a piece must be a file of the folder, got {piece['file']!r}")
    _check_way(program["way"], {program["images"]}, program)


def _check_way(way: dict[str, Any], known: set[str], program: dict[str, Any]) -> None:
    """Raise unless every step's values come from the steps before it."""
    known, ended = set(known), False
    _check_count("macs", way["macs"])
    for step in way["steps"]:
        needs: list[str] = []
        gives: list[str] = []
        if step["do"] == "run":
            needs, gives = (
                program["pieces"][step["piece"]]["inputs"],
                program["pieces"][step["piece"]]["outputs"],
            )
        elif step["do"] == "patch":
            needs, gives = (
                [step["mask"], step["into"], *(outer for outer, _ in step["state"])],
                [step["value"]],
            )
            _check_count("macs", step["macs"])
            inside = {inner for _, inner in step["state"]}
            for piece in (program["pieces"][inner["piece"]] for inner in step["steps"]):
                needs += sorted(set(piece["inputs"]) - inside)
                inside.update(piece["outputs"])
            needs += [] if step["out"] in inside else [step["out"]]
        elif step["do"] == "split":
            needs = [step["choice"], *(outer for each in step["ways"] for outer, _ in each["state"])]
            for branch in step["ways"]:
                _check_way(branch, {inner for _, inner in branch["state"]}, program)
        elif step["do"] == "finish":
            needs = [step["logits"]]
            _check_count("route", step["route"])
        else:
            raise ValueError(f"a step must run, patch, split or finish, got {step['do']!r}")
        if missing := set(needs) - known:
            raise ValueError(f"step {step['do']!r} must have its values, got none for {sorted(missing)[0]!r}")
        known.update(gives)
        ended = step["do"] in ("split", "finish")
    if not ended:
        raise ValueError("a way must end in a split or in logits")


def _check_count(name: str, value: Any) -> None:
    if not isinstance(value, int) or not 0 <= value < 1 << 62:
        raise ValueError(f"{name} must be 0 or more, got {repr(value)[:40]}")


def _cut(state: Sequence[Sequence[str]], values: dict[str, Array], take: Array) -> dict[str, Array]:
    """The state that a group starts with; a value that has two names is copied once, none where all stay."""
    rows: dict[str, Array] = {}
    for outer, _ in state:
        if outer not in rows:
            whole = values[outer]
            rows[outer] = whole if len(take) == len(whole) else whole[take]
    return {inner: rows[outer] for outer, inner in state}


def _padded(ran: Array, sites: int) -> Array:
    return np.pad(ran, ((0, 0), (0, sites - ran.shape[1])))


def _onnx(file: Path, threads: int | None, providers: Sequence[str], count: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    if count > 1:  # threads of one graph must not keep the cores busy while another runs
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(file), options, providers=list(providers))
    names = [each.name for each in session.get_inputs()]
    return lambda inputs: session.run(None, dict(zip(names, inputs, strict=True)))


def _torch(file: Path, threads: int | None) -> Any:
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    module = torch.export.load(file).module()

    def run(inputs: Sequence[Array]) -> list[Array]:
        with torch.inference_mode():
            return [each.numpy() for each in module(*map(torch.from_numpy, inputs))]

    return run


def main(arguments: Sequence[str] | None = None) -> int:
    """Label the images of an ``.npy`` file by the model in this file's folder."""
    parser = argparse.ArgumentParser(description="A line of JSON for each image of an .npy file.")
    parser.add_argument("images", type=Path, help="N,H,W or N,H,W,C; uint8, or floats in [0, 1]")
    parser.add_argument("--model", type=Path, default=Path(__file__).parent, help="the exported folder")
    given = parser.parse_args(arguments)
    try:
        runner = Runner(given.model)
        found = runner.predict(np.load(given.images, allow_pickle=False))
    except (ValueError, OSError) as error:
        sys.stderr.write(f"runner: {error}\n")
        return 2
    columns = (found.labels, found.confidence, found.macs, found.route)
    for label, sure, macs, route in zip(*(column.tolist() for column in columns), strict=True):
        line = {"label": runner.classes[label], "confidence": sure, "macs": macs, "route": route}
        sys.stdout.write(json.dumps(line) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
