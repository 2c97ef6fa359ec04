"""The command that writes a study file for the user's own images."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from routesearch.cli.output import Answer, tell_problems
from routesearch.cli.survey import showing_decoding, tell_survey
from routesearch.errors import Refusal
from routesearch.errors.texts import printable
from routesearch.utils.paths import check_utf8_folder, escape

if TYPE_CHECKING:
    from routesearch.data.base import Dataset, Shape
    from routesearch.data.image_folder import ImageFiles
    from routesearch.data.survey import Survey
    from routesearch.space.space import SearchSpace

BACKBONE = "nin@0.25"
BUDGET = "0.5x"
MAX_SIDE = 64
"""Larger images are not suggested by themselves: MACs grow with the square of the side."""

LOOKED_AT = 200
"""Images that are opened at most, spread over the classes."""


MANY, FEW = 5000, 32
"""Below so many images, batches of so few: an epoch should have more than a handful of steps."""


@dataclass(frozen=True)
class Found:
    """What is known of the user's images.

    Attributes:
        dataset: settings that read them.
        images: how many there are in all; 0: not known.
        facts: lines that tell what was found.
    """

    dataset: Dataset
    shape: Shape
    classes: int
    images: int
    facts: tuple[str, ...]


def init(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder for the study file.", show_default=False)
    ],
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Your images: a folder with a folder per class (or train, val, test of these), or an .npz.",
            show_default=False,
        ),
    ] = None,
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="Leave image files out that cannot be read.")
    ] = False,
) -> Answer:
    """Write a commented study file for your own images, with every default in it; nothing is overwritten."""
    from routesearch.study.config import USUAL_NAME

    check_utf8_folder(folder, "a study")
    file = folder / USUAL_NAME
    if file.exists() or file.is_symlink():
        raise Refusal(f"init writes a new file, and {file} is already there")
    found = _empty(folder) if data is None else _look(data, _as_seen_from(folder, data), skip_broken)
    text = _text(folder, found)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with file.open("x", encoding="utf-8") as out:
            out.write(text)
    except OSError as error:
        raise Refusal(f"DIR must be a folder that can be written, got {folder}: {error.strerror}") from error
    path = shlex.quote(str(file))
    then = "" if data is not None else f", once your images are in {folder / 'images'}"
    return Answer(
        parts=(
            f"Wrote {file}",
            *found.facts,
            f"Next       routesearch plan {path}{then}",
            f"           routesearch search {path}",
        )
    )


def _empty(folder: Path) -> Found:
    from routesearch.data import ImageFolder

    size = MAX_SIDE
    where = f"No data named: it expects {folder / 'images'}/CLASS/image.jpg; change data.path, or use --data."
    return Found(ImageFolder(path=Path("images"), size=size), (3, size, size), 10, 0, (where,))


def _look(data: Path, seen: Path, skip_broken: bool) -> Found:
    """Find out what lies at ``data``; the study file calls it ``seen``."""
    if data.is_dir():
        return _look_at_folder(data, seen, skip_broken)
    if data.suffix == ".npz":
        return _look_at_arrays(data, seen)
    what = "which is another kind of file" if data.exists() else "which does not exist"
    raise Refusal(f"--data must be a folder of images or an .npz file, got {data}, {what}")


def _look_at_folder(data: Path, seen: Path, skip_broken: bool) -> Found:
    from routesearch.data import ImageFolder
    from routesearch.data.survey import BrokenFiles

    given = ImageFolder(path=data.resolve(), skip_broken=skip_broken)
    try:
        with showing_decoding():
            survey = given.survey(Path())
    except BrokenFiles as broken:  # there is no study file yet that could say so
        raise Refusal(f"{broken.found}; repair or remove them, or leave them out by --skip-broken") from None
    tell_survey(survey, counts=False)
    found = given.files(Path())
    sides = sorted(_sides(file) for file in _some_files(found, survey))
    short, long = sides[len(sides) // 2]
    size = max(8, min(MAX_SIDE, short))
    dataset = ImageFolder(path=seen, size=size, skip_broken=skip_broken)
    why = (
        f"the images' own shorter side (median of {len(sides)})"
        if size == short
        else f"the images' shorter side is {short} (median of {len(sides)}), their longer {long}; "
        f"MACs grow with the square of the size"
    )
    counts = {split: sum(each.values()) for split, each in survey.counts.items()}
    facts = (_told(counts, found.classes), f"data.size: {size}; {why}")
    return Found(dataset, (3, size, size), len(found.classes), sum(counts.values()), facts)


def _some_files(found: ImageFiles, survey: Survey) -> list[Path]:
    """``LOOKED_AT`` readable image files at most, spread over the classes."""
    every = [name for names, _ in found.splits.values() for name in names]
    names = [name for name in every if printable(name) not in survey.broken]
    return [found.root / name for name in names[:: max(1, -(-len(names) // LOOKED_AT))]]


def _sides(file: Path) -> tuple[int, int]:
    """Shorter and longer side of an image."""
    from PIL import Image

    from routesearch.data.formats import readable_formats

    with Image.open(file, formats=readable_formats()) as image:
        return min(image.size), max(image.size)


def _look_at_arrays(data: Path, seen: Path) -> Found:
    from routesearch.data import SPLITS, Arrays

    dataset = Arrays(path=data.resolve())
    source = dataset.checked_read(Path())
    dataset.splits_of(source)  # refuses what a search would
    splits = {name: getattr(source, name) for name in SPLITS}
    counts = {name: len(images) for name, images in splits.items() if images is not None}
    channels, height, width = source.train.shape
    facts = (_told(counts, source.classes), f"images of {height}x{width}, {channels} channels")
    return Found(Arrays(path=seen), source.train.shape, len(source.classes), sum(counts.values()), facts)


def _told(counts: Mapping[str, int], classes: tuple[str, ...]) -> str:
    names = ", ".join(classes[:8]) + (", …" if len(classes) > 8 else "")
    if set(counts) == {"train"}:
        splits = f"{counts['train']} images, no splits given: they will be cut 60/20/20"
    else:
        splits = ", ".join(f"{count} {split} images" for split, count in counts.items())
        absent = [name for name in ("validation", "test") if name not in counts]
        splits += f"; {' and '.join(absent)} will be cut from train" if absent else ""
    return f"Found {len(classes)} classes ({names}): {splits}"


def _as_seen_from(folder: Path, data: Path) -> Path:
    """How the study file names the data: relative to its folder, unless the user gave an absolute path."""
    folder = folder.resolve()
    if data.is_absolute() and not data.resolve().is_relative_to(folder):
        return escape(data, folder)
    return escape(Path(os.path.relpath(data.resolve(), folder)), folder)


def _text(folder: Path, found: Found) -> str:
    from routesearch.cli.template import study_text
    from routesearch.plugin.loader import load_plugins
    from routesearch.study.config import USUAL_NAME, BackboneConfig, BudgetConfig, StudyConfig, parse_backbone
    from routesearch.study.recipe import Recipe

    registry = load_plugins()
    tell_problems(registry.problems)
    name, width = parse_backbone(BACKBONE)
    backbone = registry.backbones.find(name)(found.shape, found.classes, width)
    spaces: dict[str, SearchSpace] = {}
    left_out: list[str] = []
    for method, kind in registry.methods.items.items():
        try:
            spaces[method] = kind.space(backbone)
        except Refusal as refusal:  # a method that cannot use this backbone
            left_out.append(f"Left out: {refusal}")
    config = StudyConfig(
        file=folder / USUAL_NAME,
        name=re.sub(r"[^A-Za-z0-9._-]+", "-", folder.resolve().name).strip("-._")[:100] or "study",
        data={"name": found.dataset.name},
        backbone=BackboneConfig(name=BACKBONE),
        methods={method: {} for method in spaces},
        budget=BudgetConfig(max_macs=BUDGET),
        training=Recipe(batch_size=FEW if 0 < found.images < MANY else Recipe().batch_size),
    )
    head = "\n".join(
        (
            "Which routed network is best for these images?  routesearch search THIS_FILE",
            *found.facts,
            *left_out,
            "Every key but data, backbone and methods may be left out. What stands here are the defaults,",
            f"but for the images' size, batches of {FEW} where they are few, and budget.max_macs.",
            f"A budget is what routing is for: {BUDGET}, half of what the backbone costs, is a start; say",
            "what you can spend.",
        )
    )
    return study_text(config, found.dataset, spaces, head)
