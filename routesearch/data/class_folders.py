"""Where the images of each split and class lie: one folder per class, or split folders of these."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from routesearch.data.folder_walk import UNLABELLED, PassedOver, subfolders
from routesearch.errors import Refusal
from routesearch.errors.texts import printable

LAYOUT = "FOLDER/CLASS/image.jpg, or FOLDER/train/CLASS/image.jpg with val and test beside train"

_SPLITS = {
    "train": ("train", "training", "trn"),
    "validation": ("val", "valid", "validation", "validate", "dev", "eval", "evaluation"),
    "test": ("test", "testing", "tst"),
}
_SPELLED = {word: split for split, words in _SPLITS.items() for word in words}
_ENDINGS = re.compile(r"(set|data|images?|imgs?|split|folder)$")
_UNLABELLED = ("pred", "predict", "prediction", "predictions", "unlabeled", "unlabelled")
_ALMOST = re.compile(rf"(seg[\W_]*)?({'|'.join(_SPELLED)})([\W_].*|\d.*)?", re.DOTALL)


@dataclass(frozen=True)
class ClassFolders:
    """Where the images of each split and class lie.

    Attributes:
        classes: names, in NFC, in order.
        folders: split -> class -> folder, relative to the whole's.
        remarks: on what may surprise.
    """

    classes: tuple[str, ...]
    folders: Mapping[str, Mapping[str, str]]
    remarks: tuple[str, ...] = ()


def split_of(name: str) -> str | None:
    """The split that a folder's name means, in any common spelling: ``Training``, ``seg_test``, ``val2``."""
    return _SPELLED.get(_word(name))


def find_class_folders(root: Path, passed: PassedOver) -> ClassFolders:
    """Find out how a folder is laid out; no file is opened.

    Args:
        passed: is told what lies beside class folders and is not taken.

    Raises:
        Refusal: there are no class folders, or it is not clear which folders are splits.
    """
    if not root.is_dir():
        got = f"no folder {printable(root)}"
        got = f"path must be a folder, got {printable(root)}" if root.exists() else got
        raise Refusal(f"image_folder: {got}: the layout is {LAYOUT}")
    names = subfolders(root, "", passed)
    splits = {name: split for name in names if (split := split_of(name))}
    holders = {
        name: inner for name in splits if subfolders(root, inner := _descend(root, name), PassedOver())
    }
    if any(splits[name] == "train" for name in holders):
        return _split_folders(root, names, splits, holders, passed)
    if holders:
        rule = "must hold a folder train, with a folder for each class in it"
        _refuse(root, f"{rule}, beside {_listed(holders)}, got {_listed(names)}")
    if names and all(_ALMOST.fullmatch(name.casefold()) or name in splits for name in names):
        rule = "folders that are called like splits must be train, val and test, with class folders in them"
        _refuse(root, f"{rule}, got {_listed(names)} without any")
    if len(splits) > 1:
        rule = "must hold class folders, or train, val and test of these"
        _refuse(root, f"{rule}, got both: {_listed(splits)} beside {_listed(set(names) - set(splits))}")
    if len(names) < 2:
        inner = names[0] if names else ""
        within = subfolders(root, inner, PassedOver()) if inner else []
        hint = f"; did you mean {printable(root / inner)}?" if len(within) > 1 else f": {LAYOUT}"
        got = _listed(names) or "none"
        raise Refusal(f"image_folder: {printable(root)} must hold 2 class folders or more, got {got}{hint}")
    remarks = tuple(
        f"{printable(name)} is taken as a class: it holds no class folders and lies beside classes"
        for name in splits
    )
    classes = _classes(root, "", names)
    folders = {"train": classes}
    return ClassFolders(tuple(sorted(classes)), folders, remarks + _shared(root, folders))


def _split_folders(
    root: Path, names: list[str], splits: Mapping[str, str], holders: Mapping[str, str], passed: PassedOver
) -> ClassFolders:
    found: dict[str, Mapping[str, str]] = {}
    spelled: dict[str, str] = {}
    train = next(name for name in holders if splits[name] == "train")
    for name in names:
        split = splits.get(name)
        if split is None and _word(name) not in _UNLABELLED:
            others = [other for other in names if other not in splits]
            rule = f"beside {printable(root / train)} only val and test may lie"
            raise Refusal(f"image_folder: {rule} (a class's folder belongs into it), got {_listed(others)}")
        if split in (None, "test") and name not in holders:
            passed.add(UNLABELLED, name)
            continue
        assert split is not None
        if name not in holders:
            _refuse(root / name, f"must hold a folder for each class, as {printable(train)} does, got none")
        if split in spelled:
            _refuse(root, f"must hold one folder for {split}, got {_listed([spelled[split], name])}")
        spelled[split] = name
        found[split] = _classes(root, holders[name], subfolders(root, holders[name], passed))
    expected = found["train"]
    for split, classes in found.items():
        lacking, beyond = set(expected) - set(classes), set(classes) - set(expected)
        if lacking or beyond:
            told = [f"lacks {_listed(lacking)}"] if lacking else []
            told += [f"has {_listed(beyond)}, which {printable(train)} has not"] if beyond else []
            rule = "train, val and test must hold the same class folders"
            where = printable(root / holders[spelled[split]])
            raise Refusal(f"image_folder: {rule}; {where} {' and '.join(told)}")
    folders = {split: found[split] for split in _SPLITS if split in found}
    return ClassFolders(tuple(sorted(expected)), folders, _shared(root, folders))


def _shared(root: Path, folders: Mapping[str, Mapping[str, str]]) -> tuple[str, ...]:
    """Remarks on splits that links have in one place; two classes in one place are refused."""
    seen: dict[Path, tuple[str, str]] = {}
    remarks: dict[str, None] = {}
    for split, classes in folders.items():
        for folder in classes.values():
            other, before = seen.setdefault((root / folder).resolve(), (split, folder))
            if before != folder and other == split:
                _refuse(root, f"class folders must be apart, got {before} and {folder}, links to one folder")
            if before != folder:
                remarks[
                    f"{other} and {split} have images in common: {before} and {folder} are one folder"
                ] = None
    return tuple(list(remarks)[:1])


def _descend(root: Path, name: str) -> str:
    """A split's folder, or the one of the same meaning that is all it holds: ``seg_train/seg_train``."""
    inside = name
    while True:
        inner = subfolders(root, inside, PassedOver())
        if len(inner) != 1 or split_of(inner[0]) != split_of(name):
            return inside
        inside = f"{inside}/{inner[0]}"


def _classes(root: Path, inside: str, names: list[str]) -> dict[str, str]:
    """Class -> its folder. Some systems store an accent as a sign of its own: names are compared in NFC."""
    found: dict[str, str] = {}
    for name in names:
        where = printable(root / inside / name)
        try:
            name.encode()
        except UnicodeEncodeError:
            raise Refusal(
                f"image_folder: a class's name must be valid UTF-8, got the folder {where}"
            ) from None
        if name != printable(name):
            raise Refusal(f"image_folder: a class's name must be printable, got the folder {where}")
        usual = unicodedata.normalize("NFC", name)
        if usual in found:
            rule = "names of class folders must differ by more than how an accent is stored"
            raise Refusal(f"image_folder: {rule}, got two folders {usual} in {printable(root / inside)}")
        found[usual] = f"{inside}/{name}" if inside else name
    return found


def _word(name: str) -> str:
    """A folder's name without what often stands around a split's: separators, numbers, ``set``, ``seg``."""
    word = re.sub(r"\d+$", "", re.sub(r"[\W_]+", "", name.casefold())).removeprefix("seg")
    while (shorter := _ENDINGS.sub("", word)) != word:
        word = shorter
    return word


def _listed(names: Iterable[str]) -> str:
    return ", ".join(printable(name) for name in sorted(names))


def _refuse(folder: Path, rule: str) -> NoReturn:
    raise Refusal(f"image_folder: {printable(folder)}: {rule}; the layout is {LAYOUT}")
