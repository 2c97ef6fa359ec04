"""The invariants of a data set, as tests that a plugin's test file inherits."""

from __future__ import annotations

import copy
import hashlib
import inspect
import json
import pickle
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from routesearch.data.base import SPLITS, Data, Dataset, Source
from routesearch.data.checks import check_declared, check_source
from routesearch.data.images import Images, to_nhwc
from routesearch.errors import Refusal
from routesearch.errors.texts import shown
from routesearch.testing.declarations import broken, declare
from routesearch.utils.validation import explain

NOWHERE = Path("no such folder")
DARK = 0.02
"""What is white somewhere, on the scale where white is 1, is lighter than this."""


class DatasetContract:
    """What every data set promises. A test file inherits it and names the data set.

        class TestMine(DatasetContract):
            dataset = MyDataset
            settings = [{}, {"size": 32}]

    Declarations that the data set itself makes (``Dataset.contract``) are taken over, so that
    ``routesearch check`` knows them too; those of the test class go first.

    Attributes:
        dataset: the class.
        settings: what to try it with, as a study would write it, one mapping each.
        base: the folder that paths in them start from.
        shared: share of the validation and test images that may be training images too.
        every_class: whether each class must have an image in each split.
    """

    dataset: ClassVar[type[Dataset]]
    settings: ClassVar[Sequence[Mapping[str, Any]]] = ({},)
    base: ClassVar[Path] = Path()
    shared: ClassVar[float] = 0.01
    every_class: ClassVar[bool] = True

    _read: ClassVar[dict[str, Source]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls._read = {}
        declare(cls, vars(cls).get("dataset"), ("settings", "base", "shared", "every_class"))

    @classmethod
    def arguments(cls, rule: Callable[..., None]) -> list[tuple[Any, ...]]:
        """What an invariant is to be called with, one tuple a call."""
        wanted = "made" in inspect.signature(rule).parameters
        return [(made,) for made in cls.made()] if wanted else [()]

    @classmethod
    def made(cls) -> list[Dataset]:
        """The data set with each of the settings.

        Raises:
            Refusal: for a setting that it does not take.
        """
        return [_made(cls.dataset, values) for values in cls.settings]

    @classmethod
    def source(cls, made: Dataset) -> Source:
        """What it reads, kept for all invariants.

        Raises:
            Refusal: its files are not there.
        """
        key = made.model_dump_json()
        if key not in cls._read:
            cls._read[key] = made.read(cls.base)
        return cls._read[key]

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """One test for each invariant and each of the settings."""
        if "made" in metafunc.fixturenames:
            ids = [json.dumps(dict(values), default=str) for values in self.settings]
            metafunc.parametrize("made", self.made(), ids=ids)

    def test_what_is_read_is_sound(self, made: Dataset) -> None:
        """Forms of images, class names, labels and pixels are what a study can use."""
        try:
            check_source(made.name, self.source(made))
            made.load(self.base)
        except Refusal as refusal:
            raise broken(f"{made.name}: a study must be able to use what is read", str(refusal)) from refusal

    def test_facts_are_those_of_the_images(self, made: Dataset) -> None:
        """Shape and class names that are told without the images are theirs."""
        try:
            check_declared(made.name, self.source(made), *made.checked_facts(self.base))
        except Refusal as refusal:
            raise broken(f"{made.name}: facts must be those of what is read", str(refusal)) from refusal

    def test_images_are_the_same_every_time(self, made: Dataset) -> None:
        """Read again, the images are the same, whatever the seeds outside are."""
        digests = set()
        for seed in (1, 2):
            with _seeds(seed):
                digests.add(_digest(made.read(self.base)))
        if len(digests) > 1:
            raise broken(f"{made.name}: images must follow from the settings", "others after another seed")

    def test_reading_leaves_the_seeds_alone(self, made: Dataset) -> None:
        """Reading draws from a generator of its own: that of torch, of numpy and of Python stay."""
        with _seeds(1):
            before = _states()
            made.read(self.base)
            moved = [name for name, state in _states().items() if state != before[name]]
        if moved:
            rule = f"{made.name}: reading must leave the global generators as they were"
            raise broken(rule, f"another state of {', '.join(moved)}")

    def test_settings_are_json_and_described(self) -> None:
        """Every field has a description, and settings come through JSON as they were."""
        kind = self.dataset
        if silent := [name for name, field in kind.model_fields.items() if not field.description]:
            raise broken(f"{kind.name}: every field must have a description", f"none of {', '.join(silent)}")
        if unknown := sorted((kind.whereabouts | kind.later) - set(kind.model_fields)):
            rule = f"{kind.name}: whereabouts and later must name fields"
            raise broken(rule, ", ".join(unknown))
        for made in self.made():
            try:
                again = kind.model_validate(json.loads(json.dumps(made.model_dump(mode="json"))))
            except (ValueError, TypeError) as error:  # pydantic's and json's
                raise broken(f"{kind.name}: settings must survive JSON", shown(str(error))) from error
            if again != made:
                raise broken(f"{kind.name}: settings must survive JSON", f"{again!r} of {made!r}")

    def test_it_travels_to_workers(self, made: Dataset) -> None:
        """Packed for another process and unpacked there, the numbers are the same."""
        data = made.load(self.base)
        back = Data.from_numpy(pickle.loads(pickle.dumps(data.to_numpy())))  # noqa: S301 (its own)
        if back.fingerprint() != data.fingerprint():
            raise broken(f"{made.name}: images must come through pack() and unpack()", "others")

    def test_splits_share_no_images(self, made: Dataset) -> None:
        """What is validated and tested on was not trained on."""
        data = made.load(self.base)
        seen = set(_each(data.train))
        for name in SPLITS[1:]:
            images = data.split(name)
            again = sum(row in seen for row in _each(images))
            if again > self.shared * len(images):
                rule = f"{made.name}: at most {self.shared:.0%} of the {name} images may be training images"
                raise broken(rule, f"{again} of {len(images)}")

    def test_every_class_is_in_every_split(self, made: Dataset) -> None:
        """A split that is given has images of each class."""
        if not self.every_class:
            pytest.skip("declared: every_class = False")
        source = self.source(made)
        for name, images in source.splits().items():
            there = set(images.labels.tolist())
            if absent := [c for label, c in enumerate(source.classes) if label not in there]:
                rule = f"{made.name}: every class must have an image in {name}"
                raise broken(rule, f"none of {', '.join(map(repr, absent[:5]))}")

    def test_pixels_use_their_scale(self, made: Dataset) -> None:
        """Something is light: bytes reach towards 255, floats towards 1."""
        images = self.source(made).train
        white = 255 if images.dtype == torch.uint8 else 1
        lightest = max(float(piece.pixels.max()) for piece in images.pieces())
        if lightest < DARK * white:
            rule = f"{made.name}: pixels of {images.dtype} must be on a scale where {white} is white"
            raise broken(rule, f"at most {lightest:g}")

    def test_without_its_files_it_refuses(self, made: Dataset) -> None:
        """Where the files are not, a Refusal says so in one line."""
        places = {name: NOWHERE for name, value in made if isinstance(value, Path)}
        calm = {"download": False} if "download" in type(made).model_fields else {}
        elsewhere = made.model_copy(update={**places, **calm})
        with tempfile.TemporaryDirectory() as folder:
            try:
                elsewhere.read(Path(folder))
            except Refusal as refusal:
                if "\n" in str(refusal):
                    raise broken(f"{made.name}: a refusal must be one line", repr(str(refusal))) from None
            except Exception as error:  # a plugin's code may raise anything
                rule = f"{made.name}: missing files must be a Refusal"
                raise broken(rule, f"{type(error).__name__}: {error}") from error


def _made(kind: type[Dataset], values: Mapping[str, Any]) -> Dataset:
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        rule = "settings must be its fields (in `settings`, or --set)"
        raise Refusal(f"{kind.name}: {rule}: {explain(error, kind)}") from None


def _each(images: Images) -> Iterator[bytes]:
    """A digest of each image's pixels."""
    for piece in images.pieces():
        for row in to_nhwc(piece.pixels).cpu().numpy():
            yield hashlib.blake2b(row.tobytes(), digest_size=16).digest()


def _digest(source: Source) -> str:
    """A digest of all that was read."""
    digest = hashlib.sha256(repr((source.classes, source.pixel_range)).encode())
    for name, images in source.splits().items():
        digest.update(f"{name} {images.sizes} {images.dtype}".encode())
        for row in _each(images):
            digest.update(row)
        for values in (images.labels, *(images.aux[key] for key in sorted(images.aux))):
            digest.update(values.cpu().numpy().tobytes())
    return digest.hexdigest()


def _states() -> dict[str, Any]:
    """States of the generators that a process has."""
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002 (the global one is meant)
    return {
        "torch": torch.get_rng_state().tolist(),
        "numpy": (kind, np.asarray(keys).tolist(), *rest),
        "random": random.getstate(),
    }


@contextmanager
def _seeds(seed: int) -> Iterator[None]:
    """The generators at a seed; afterwards as they were."""
    before = (torch.get_rng_state(), np.random.get_state(), copy.deepcopy(random.getstate()))  # noqa: NPY002
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    random.seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        random.setstate(before[2])
