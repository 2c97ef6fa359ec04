"""The contract of a data set: sound ones pass, each planted fault is caught by the invariant meant for it."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from pydantic import Field

from routesearch.data import Dataset, Images, Source
from routesearch.errors import Refusal
from routesearch.testing import DatasetContract, examine
from routesearch.testing.verdict import invariants

SOUND = "what_is_read_is_sound"
FACTS = "facts_are_those_of_the_images"
SAME = "images_are_the_same_every_time"
SEEDS = "reading_leaves_the_seeds_alone"
SETTINGS = "settings_are_json_and_described"
TRAVELS = "it_travels_to_workers"
SPLITS = "splits_share_no_images"
CLASSES = "every_class_is_in_every_split"
SCALE = "pixels_use_their_scale"
MISSING = "without_its_files_it_refuses"


# ---- a sound data set, to plant faults in ------------------------------------------------------------


class Stripes(Dataset):
    """Noise, striped in every second image."""

    name: ClassVar[str] = "stripes"
    count: int = Field(default=60, ge=6, description="images in all")
    tests: bool = Field(default=False, description="whether there are test images")

    def read(self, base: Path) -> Source:
        train = self.images(self.count, 0)
        return Source(self.names(), train, test=self.images(20, 1) if self.tests else None)

    def names(self) -> tuple[str, ...]:
        return "plain", "striped"

    def images(self, count: int, seed: int) -> Images:
        labels = torch.arange(count) % 2
        pixels = self.drawn(count, seed) * 0.5
        pixels[labels == 1, :, ::2] += 0.5
        return Images(pixels, labels)

    def drawn(self, count: int, seed: int) -> torch.Tensor:
        return torch.rand(count, 1, 8, 6, generator=torch.Generator().manual_seed(seed))


class WithFacts(Stripes):
    shape: ClassVar[tuple[int, int, int] | None] = (1, 8, 6)
    class_names: ClassVar[tuple[str, ...] | None] = ("plain", "striped")


class TestStripes(DatasetContract):
    dataset = Stripes
    settings = ({}, {"count": 31}, {"tests": True})


class TestWithFacts(DatasetContract):
    dataset = WithFacts
    settings = ({"tests": True},)


# ---- faults ------------------------------------------------------------------------------------------


class Backslash(Stripes):
    def names(self) -> tuple[str, ...]:
        return "plain", "stri\\ped"


class Twice(Stripes):
    def names(self) -> tuple[str, ...]:
        return "striped", "striped"


class TooFew(Stripes):
    """Labels of three classes, names of two."""

    def images(self, count: int, seed: int) -> Images:
        return Images(super().images(count, seed).pixels, torch.arange(count) % 3)


class Loud(Stripes):
    """Leaves [0, 1], and does not say so."""

    def images(self, count: int, seed: int) -> Images:
        plain = super().images(count, seed)
        return Images(plain.pixels * 3 - 1, plain.labels)


class Declared(Loud):
    """Says so."""

    def read(self, base: Path) -> Source:
        return Source(self.names(), self.images(self.count, 0), pixel_range=(-1.0, 2.0))


class Lying(Loud):
    """Says less than it does."""

    def read(self, base: Path) -> Source:
        return Source(self.names(), self.images(self.count, 0), pixel_range=(-0.5, 2.0))


class OtherForm(Stripes):
    """Test images lie on their side."""

    def read(self, base: Path) -> Source:
        test = self.images(20, 1)
        turned = Images(test.pixels.transpose(2, 3), test.labels)
        return Source(self.names(), self.images(self.count, 0), test=turned)


class Nothing(Stripes):
    def read(self, base: Path) -> Source:
        return None  # type: ignore[return-value]


class Swapped(WithFacts):
    """Height and width in the other order."""

    shape: ClassVar[tuple[int, int, int] | None] = (1, 6, 8)


class Renamed(WithFacts):
    class_names: ClassVar[tuple[str, ...] | None] = ("striped", "plain")


class Asked(Stripes):
    """Its own facts forget a setting."""

    def facts(self, base: Path) -> tuple[tuple[int, int, int], tuple[str, ...]]:
        return (1, 8, 6), ("plain", "striped", "dotted")


class Torch(Stripes):
    """Draws from the generator that the whole process uses."""

    def drawn(self, count: int, seed: int) -> torch.Tensor:
        return torch.rand(count, 1, 8, 6)


class Numpy(Stripes):
    def drawn(self, count: int, seed: int) -> torch.Tensor:
        return torch.from_numpy(np.random.rand(count, 1, 8, 6).astype(np.float32))  # noqa: NPY002


class Shuffled(Stripes):
    def images(self, count: int, seed: int) -> Images:
        plain = super().images(count, seed)
        order = torch.tensor(random.sample(range(count), count))
        return Images(plain.pixels[order], plain.labels[order])


class Seeding(Stripes):
    """Always the same, at the cost of everyone's seed."""

    def drawn(self, count: int, seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return torch.rand(count, 1, 8, 6)


class Undescribed(Stripes):
    size: int = 3


class Elsewhere(Stripes):
    whereabouts: ClassVar[frozenset[str]] = frozenset({"folder"})


class Untold(Stripes):
    """A setting that JSON does not bring back."""

    rows: Any = Field(default=(1, 2), description="a tuple that JSON makes a list of")


class Kept(Images):
    """Forgets the order of its pixels on the way."""

    def pack(self) -> dict[str, Any]:
        return super().pack() | {"pixels": super().pack()["pixels"][::-1].copy()}

    def select(self, index: torch.Tensor) -> Images:
        return Kept(**vars(super().select(index)))

    def in_memory(self) -> Images:
        return Kept(**vars(super().in_memory()))


class Travelling(Stripes):
    def images(self, count: int, seed: int) -> Images:
        return Kept(**vars(super().images(count, seed)))


class Leaking(Stripes):
    """Tests on what it trained on."""

    def read(self, base: Path) -> Source:
        images = self.images(self.count, 0)
        return Source(self.names(), images, test=images.select(torch.arange(10)))


class Copied(Stripes):
    """Every image twice, before the splits are cut."""

    def images(self, count: int, seed: int) -> Images:
        plain = super().images(count, seed)
        return Images(torch.cat([plain.pixels] * 2), torch.cat([plain.labels] * 2))


class Half(Stripes):
    """Test images of one class only."""

    def read(self, base: Path) -> Source:
        test = self.images(20, 1).select(torch.arange(0, 20, 2))
        return Source(self.names(), self.images(self.count, 0), test=test)


class Cast(Stripes):
    """Floats made bytes as they are: all but black."""

    def images(self, count: int, seed: int) -> Images:
        plain = super().images(count, seed)
        return Images(plain.pixels.round().to(torch.uint8), plain.labels)


class Dark(Stripes):
    """Divided by 255 twice."""

    def images(self, count: int, seed: int) -> Images:
        plain = super().images(count, seed)
        return Images(plain.pixels / 255, plain.labels)


class Files(Stripes):
    """Opens a file, and lets Python say that it is not there."""

    path: Path = Field(default=Path("stripes.txt"), description="where they are")

    def read(self, base: Path) -> Source:
        (base / self.path).read_text()
        return super().read(base)


class Careful(Files):
    def read(self, base: Path) -> Source:
        try:
            return super().read(base)
        except OSError as error:
            raise Refusal(f"stripes: no file {base / self.path}") from error


class Wordy(Careful):
    def read(self, base: Path) -> Source:
        try:
            return super().read(base)
        except Refusal as refusal:
            raise Refusal(f"{refusal}\nLook for it.") from None


def contract(kind: type[Dataset], **declared: Any) -> type[DatasetContract]:
    return type("Tried", (DatasetContract,), {"dataset": kind, **declared})


def broken(kind: type[Dataset], **declared: Any) -> dict[str, str]:
    """The invariants that it breaks, with the reasons."""
    return {v.law: v.reason for v in examine(contract(kind, **declared)) if v.state == "failed"}


@pytest.fixture
def stripes(tmp_path: Path) -> Path:
    (tmp_path / "stripes.txt").write_text("stripes")
    return tmp_path


@pytest.mark.parametrize(
    ("kind", "rule", "reason"),
    [
        (Backslash, SOUND, "a class name must hold no path"),
        (Twice, SOUND, "class names must differ, got 'striped' twice"),
        (TooFew, SOUND, r"labels must lie in 0..1, got 0..2"),
        (Loud, SOUND, "must lie in [0, 1], where 0 is black and 1 is white, got -0.9"),
        (Lying, SOUND, "must lie in [-0.5, 2], where"),
        (OtherForm, SOUND, "images must have the form of the training images, got (1, 6, 8)"),
        (Nothing, SOUND, "read must give a Source, got None"),
        (Swapped, FACTS, "got (1, 8, 6) and (1, 6, 8) declared"),
        (Renamed, FACTS, "got 'plain' and 'striped' declared"),
        (Asked, FACTS, "got 2 and 3 declared"),
        (Torch, SAME, "others after another seed"),
        (Numpy, SAME, "others after another seed"),
        (Shuffled, SAME, "others after another seed"),
        (Torch, SEEDS, "another state of torch"),
        (Numpy, SEEDS, "another state of numpy"),
        (Shuffled, SEEDS, "another state of random"),
        (Seeding, SEEDS, "another state of torch"),
        (Undescribed, SETTINGS, "every field must have a description, got none of size"),
        (Elsewhere, SETTINGS, "whereabouts and later must name fields, got folder"),
        (Untold, SETTINGS, "settings must survive JSON"),
        (Travelling, TRAVELS, "images must come through pack() and unpack(), got others"),
        (Leaking, SPLITS, "at most 1% of the test images may be training images, got"),
        (Copied, SPLITS, "at most 1% of the validation images may be training images, got"),
        (Half, CLASSES, "every class must have an image in test, got none of 'striped'"),
        (Cast, SCALE, "pixels of torch.uint8 must be on a scale where 255 is white, got at most 1"),
        (Dark, SCALE, "pixels of torch.float32 must be on a scale where 1 is white, got at most 0.0"),
        (Files, MISSING, "missing files must be a Refusal, got FileNotFoundError"),
        (Wordy, MISSING, "a refusal must be one line"),
    ],
)
def test_a_fault_is_caught_by_its_invariant(
    kind: type[Dataset], rule: str, reason: str, stripes: Path
) -> None:
    found = broken(kind, base=stripes)
    assert reason in found[rule]
    assert "\n" not in found[rule]


def test_every_invariant_has_its_fault() -> None:
    mark = test_a_fault_is_caught_by_its_invariant.pytestmark[0]  # type: ignore[attr-defined]
    assert {rule for _, rule, _ in mark.args[1]} == set(invariants(DatasetContract))


@pytest.mark.parametrize("kind", [Stripes, WithFacts, Declared, Careful])
def test_sound_ones_keep_all(kind: type[Dataset], stripes: Path) -> None:
    verdicts = list(examine(contract(kind, base=stripes)))
    assert {(verdict.state, verdict.tried > 0) for verdict in verdicts} == {("ok", True)}
    assert [verdict.law for verdict in verdicts] == invariants(DatasetContract)


def test_what_a_data_set_declares_is_known(stripes: Path) -> None:
    assert broken(Half, base=stripes, every_class=False) == {}
    assert set(broken(Leaking, base=stripes, shared=1.0)) == set()

    class Own(Half):
        contract: ClassVar[Mapping[str, Any]] = {"every_class": False, "settings": [{"count": 40}]}

    kind = contract(Own)
    assert broken(Own) == {}
    assert [len(kind.source(made).train) for made in kind.made()] == [40]
    with pytest.raises(TypeError, match=r"^stripes: contract may declare settings, .*, got 'nonsense'$"):
        contract(type("Odd", (Stripes,), {"contract": {"nonsense": 1}, "__annotations__": {}}))


def test_settings_that_it_does_not_take_are_refused() -> None:
    with pytest.raises(Refusal, match=r"^stripes: settings must be its fields .*: count: must be greater"):
        contract(Stripes, settings=[{"count": 1}]).made()


def test_the_seeds_of_the_process_stay() -> None:
    torch.manual_seed(5)
    random.seed(5)
    expected = (torch.rand(1).item(), random.random())
    torch.manual_seed(5)
    random.seed(5)
    list(examine(contract(Seeding), [SAME, SEEDS]))
    assert (torch.rand(1).item(), random.random()) == expected
