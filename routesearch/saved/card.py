"""What a saved model says of itself: ``model.json``, written whole and read with care."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from routesearch.errors import Refusal
from routesearch.errors.texts import shown
from routesearch.utils.validation import explain

FORMAT = 1
"""Version of the format, raised by changes that older versions could not read; further keys are none."""

KIND = "routesearch model"


Part = Literal["method", "backbone"]
"""Part of a network that may be a plugin's code."""


class _Values(BaseModel):
    """Unknown keys are passed over: a later version of the same format may say more."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Measured(_Values):
    """The model on one split of the study's data."""

    accuracy: float = Field(ge=0, le=1)
    macs: float = Field(gt=0)
    route_share: tuple[float, ...] = ()


class Code(_Values):
    """Whose code a part of the model is.

    Attributes:
        plugin: the entry point's name, or the file's.
        version: package and version, or a file's name and digest.
        file: where the plain file's copy lies in the model's folder; None for an installed package.
    """

    plugin: str
    version: str
    file: str | None = None


class Files(_Values):
    """How an image file becomes pixels: scaled to cover ``size`` (height, width), its middle kept.

    Attributes:
        mode: Pillow's: L (grey) or RGB.
    """

    size: tuple[int, int]
    mode: Literal["L", "RGB"]


class TrunkFacts(_Values):
    """What a method's structure depends on, where it depends on the trunk."""

    accuracy: float
    confusion: tuple[tuple[float, ...], ...]


class Card(_Values):
    """Everything about a saved model but its weights.

    Attributes:
        shape: C, H, W of the images.
        mean, std: per channel, on the scale where white is 1.
        pixel_range: what float pixels lie in, as the data set declared it; models of earlier versions
            say nothing of it.
        files: how image files are read; None where images have neither one channel nor three.
        backbone_macs: of the static backbone, per image.
        code: of the method and of the backbone.
        versions: of the packages that wrote the model.
        weights: SHA-256 of the weights' file.
    """

    kind: Literal["routesearch model"] = "routesearch model"
    format: int = FORMAT
    study: str
    trial: int
    seed: int
    method: str
    config: dict[str, Any]
    knob: dict[str, Any]
    backbone: str
    shape: tuple[int, int, int]
    classes: tuple[str, ...] = Field(min_length=2)
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pixel_range: tuple[float, float] = (0.0, 1.0)
    files: Files | None = None
    params: int
    backbone_macs: float = Field(gt=0)
    validation: Measured
    test: Measured | None = None
    trunk: TrunkFacts | None = None
    code: dict[Part, Code]
    versions: dict[str, str]
    weights: str = ""

    @model_validator(mode="after")
    def _fits(self) -> Card:
        if min(self.shape) < 1:
            raise ValueError(f"shape: C, H, W must be 1 or more, got {self.shape}")
        if not len(self.mean) == len(self.std) == self.shape[0]:
            counts = f"{len(self.mean)} and {len(self.std)} for {self.shape[0]}"
            raise ValueError(f"mean and std must have a number per channel, got {counts}")
        if min(self.std) <= 0:
            raise ValueError(f"std must be more than 0, got {self.std}")
        if self.pixel_range[0] >= self.pixel_range[1]:
            raise ValueError(f"pixel_range must be the least and the greatest, got {self.pixel_range}")
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
        values = json.loads(file.read_text(encoding="utf-8"), parse_constant=_no_constant)
    except FileNotFoundError:
        rule = "a saved model is a folder with model.json and model.safetensors"
        raise Refusal(f"{file.parent}: {rule}, got no {file.name}") from None
    except OSError as error:
        raise Refusal(f"{file} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # torn, or not UTF-8
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
        return Card.model_validate(values)
    except ValidationError as error:
        raise Refusal(f"{file}: {explain(error, Card)}") from None


def _writer(versions: Any) -> str:
    """What wrote the model, in brackets, where it says so."""
    known = isinstance(versions, dict) and "routesearch" in versions
    return f" (written by routesearch {shown(versions['routesearch'])})" if known else ""


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")
