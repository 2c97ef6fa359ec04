"""What a saved model says of itself: ``model.json``, written whole and read with care."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from routesearch.data.class_names import LONGEST
from routesearch.errors import Refusal
from routesearch.errors.texts import shown
from routesearch.saved.plain_json import read_plain_json
from routesearch.utils.validation import explain

FORMAT = 1
"""Version of the format, raised by changes that older versions could not read; further keys are none."""

KIND = "routesearch model"

MODES = {1: "L", 3: "RGB"}
"""Channels -> how Pillow calls such images."""

Part = Literal["method", "backbone"]
"""Part of a network that may be a plugin's code."""

PLUGINS = "plugins"
"""Where copies of plain files with code lie in a model's folder."""

MAX_PIXELS = 1 << 26
"""Values of one image: three channels of 4,700 x 4,700."""

MAX_CHANNELS, MAX_SIDE, MAX_CLASSES = 4096, 1 << 14, 100_000

BOUND = 1e6
"""Bound of a mean and of a deviation, up and down: float32 can hold pixels that are normalised by them."""


def _in_plugins(name: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or path.parts[:1] != (PLUGINS,):
        raise ValueError(f"must be a file below {PLUGINS}/ of the model's folder")
    return name


def _share(value: float) -> float:
    if not -1e-6 <= value <= 1 + 1e-6:  # a sum of float32 shares may be that much over
        raise ValueError("a share must be 0 to 1")
    return value


Name = Annotated[str, Field(min_length=1, max_length=200)]
Whole = Annotated[int, Field(ge=0, lt=1 << 63)]
Share = Annotated[float, AfterValidator(_share)]
Shares = Annotated[tuple[Share, ...], Field(max_length=MAX_CLASSES)]


class _Values(BaseModel):
    """Unknown keys are passed over: a later version of the same format may say more."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Measured(_Values):
    """The model on one split of the study's data."""

    accuracy: float = Field(ge=0, le=1)
    macs: float = Field(gt=0)
    route_share: Shares = ()


class Spread(_Values):
    """The mean over the seeds that a point was confirmed with, on one split.

    Attributes:
        interval: of the mean, at a confidence of 95 %.
        macs_mean: MACs per image, each seed at its own knob.
    """

    accuracy_mean: float = Field(ge=0, le=1)
    accuracy_std: float = Field(ge=0, le=1)
    interval: tuple[float, float]
    macs_mean: float = Field(gt=0)
    seeds: Whole


class Confirmed(_Values):
    """What retrainings of the model's trial gave; the model is the best of them on validation."""

    validation: Spread
    test: Spread


class Code(_Values):
    """Whose code a part of the model is.

    Attributes:
        plugin: the entry point's name, or the file's.
        version: package and version, or a file's name and digest.
        file: where the plain file's copy lies in the model's folder; None for an installed package.
    """

    plugin: Name
    version: Name
    file: Annotated[Name, AfterValidator(_in_plugins)] | None = None


class Files(_Values):
    """How an image file becomes pixels: scaled to cover ``size`` (height, width), its middle kept.

    Attributes:
        mode: Pillow's: L (grey) or RGB.
    """

    size: tuple[int, int]
    mode: Literal["L", "RGB"]


class TrunkFacts(_Values):
    """What a method's structure depends on, where it depends on the trunk."""

    accuracy: float = Field(ge=0, le=1)
    confusion: tuple[Shares, ...]


class Card(_Values):
    """Everything about a saved model but its weights.

    Attributes:
        shape: C, H, W of the images.
        mean, std: per channel, on the scale where white is 1.
        pixel_range: what float pixels lie in, as the data set declared it; models of earlier versions
            say nothing of it.
        files: how image files are read; None where images have neither one channel nor three.
        backbone_macs: of the static backbone, per image.
        confirmed: None where the front was not confirmed; ``seed``, ``knob``, ``validation`` and ``test`` are
            always the model's own.
        code: of the method and of the backbone.
        versions: of the packages that wrote the model.
        weights: SHA-256 of the weights' file.
    """

    kind: Literal["routesearch model"] = "routesearch model"
    format: int = FORMAT
    study: Name
    trial: Whole
    seed: Whole
    method: Name
    config: dict[str, Any]
    knob: dict[str, Any]
    backbone: Name
    shape: tuple[int, int, int]
    classes: tuple[Annotated[str, Field(min_length=1, max_length=LONGEST)], ...] = Field(
        min_length=2, max_length=MAX_CLASSES
    )
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pixel_range: tuple[float, float] = (0.0, 1.0)
    files: Files | None = None
    params: Whole
    backbone_macs: float = Field(gt=0)
    validation: Measured
    test: Measured | None = None
    confirmed: Confirmed | None = None
    trunk: TrunkFacts | None = None
    code: dict[Part, Code]
    versions: dict[str, Name]
    weights: str = ""

    @model_validator(mode="after")
    def _fits(self) -> Card:
        channels, *sides = self.shape
        if min(self.shape) < 1:
            raise ValueError(f"shape: C, H, W must be 1 or more, got {self.shape}")
        if channels > MAX_CHANNELS or max(sides) > MAX_SIDE or channels * sides[0] * sides[1] > MAX_PIXELS:
            most = f"{MAX_CHANNELS} channels, {MAX_SIDE} x {MAX_SIDE} pixels and {MAX_PIXELS:,} values"
            raise ValueError(f"shape: {most} at most, got {shown(self.shape)}")
        if not len(self.mean) == len(self.std) == channels:
            counts = f"{len(self.mean)} and {len(self.std)} for {channels}"
            raise ValueError(f"mean and std must have a number per channel, got {counts}")
        if min(self.std) <= 0:
            raise ValueError(f"std must be more than 0, got {shown(self.std)}")
        if self.pixel_range[0] >= self.pixel_range[1]:
            raise ValueError(f"pixel_range must be the least and the greatest, got {self.pixel_range}")
        if max(map(abs, chain(self.mean, self.std))) > BOUND or min(self.std) < 1 / BOUND:
            raise ValueError(f"mean and std must be {BOUND:g} at most, std no less than {1 / BOUND:g}")
        if len(set(self.classes)) < len(self.classes):
            raise ValueError("classes: each name must be there once")
        if self.files is not None and (
            list(self.files.size) != sides or MODES.get(channels) != self.files.mode
        ):
            raise ValueError(f"files must be of the shape {self.shape}, got {self.files}")
        if self.trunk is not None:
            rows = {len(row) for row in self.trunk.confusion}
            if len(self.trunk.confusion) != len(self.classes) or rows != {len(self.classes)}:
                raise ValueError("trunk.confusion must have a row and a column for each class")
        return self

    def dumps(self) -> str:
        """JSON with a line for each field."""
        pairs = self.model_dump(mode="json").items()
        lines = (f"  {json.dumps(k)}: {json.dumps(v, ensure_ascii=False, allow_nan=False)}" for k, v in pairs)
        return "{\n" + ",\n".join(lines) + "\n}\n"


def read_card(file: Path) -> Card:
    """Read ``model.json``.

    Raises:
        Refusal: it is missing, damaged, something else's, or of a newer format.
    """
    try:
        values, text = read_plain_json(file)
    except FileNotFoundError:
        rule = "a saved model is a folder with model.json and model.safetensors"
        raise Refusal(f"{file.parent}: {rule}, got no {file.name}") from None
    except OSError as error:
        raise Refusal(f"{file} cannot be read: {error.strerror}") from None
    except ValueError as error:  # torn, not UTF-8, or out of bounds
        raise Refusal(f"{file} is no readable JSON: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict) or values.get("kind") != KIND:
        got = values.get("kind") if isinstance(values, dict) else values
        raise Refusal(f"{file} must be a saved model's (kind: {KIND!r}), got {shown(got)}")
    version = values.get("format")
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise Refusal(f"{file}: format must be 1 or more, got {shown(version)}")
    if version > FORMAT:
        by = _writer(values.get("versions"))
        raise Refusal(
            f"{file}: format <= {FORMAT} must hold in this version, got {version}{by}: upgrade routesearch"
        )
    try:
        return Card.model_validate_json(text, strict=True)
    except ValidationError as error:
        raise Refusal(f"{file}: {explain(error, Card)}") from None


def _writer(versions: Any) -> str:
    """What wrote the model, in brackets, where it says so."""
    known = isinstance(versions, dict) and "routesearch" in versions
    return f" (written by routesearch {shown(versions['routesearch'])})" if known else ""
