"""What a journal keeps of confirmations: a fact for each retraining of a trial with another seed."""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from routesearch.results.checks import check_curve, need, need_count, need_keys, need_text
from routesearch.results.intervals import Confirmation, Right
from routesearch.results.points import OperatingPoint, PointKey, knob_key

CONFIRMED = "confirmed:"
"""How the facts' names begin: ``confirmed:TRIAL:RETRAINING``, both numbers from 0."""

MAX_KEPT = 20_000
"""Test images whose outcomes are kept, at most; of more, as many spread evenly over the split."""

_KEYS = ("seed", "params", "training_macs", "seconds", "failed", "images", "points", "right")


@dataclass(frozen=True)
class Retuned:
    """A point of the front in a retrained network.

    Attributes:
        member: knob of the point of the front.
        validation, test: the retrained network at its own knob, that for the point's MACs.
    """

    member: Mapping[str, Any]
    validation: OperatingPoint
    test: OperatingPoint


@dataclass(frozen=True)
class Retraining:
    """A trial trained once more with another seed.

    Attributes:
        seed: of its weights, batches and draws.
        params: of the whole network.
        training_macs, seconds: what it took, measuring included in the latter.
        failed: why there is no network, or None.
        images: of validation and of test.
        points: the points of the front, re-tuned.
        right: whether each of the kept test images is labelled right (:func:`pack_right`), a row a point.
    """

    seed: int
    params: int = 0
    training_macs: int = 0
    seconds: float = 0.0
    failed: str | None = None
    images: tuple[int, int] = (0, 0)
    points: tuple[Retuned, ...] = ()
    right: str = ""

    def as_fact(self) -> dict[str, Any]:
        """JSON values; the inverse of :func:`read_retraining`."""
        return {
            "seed": self.seed,
            "params": self.params,
            "training_macs": self.training_macs,
            "seconds": self.seconds,
            "failed": self.failed,
            "images": list(self.images),
            "points": [[dict(p.member), _row(p.validation), _row(p.test)] for p in self.points],
            "right": self.right,
        }

    def merged(self, earlier: Retraining | None) -> Retraining:
        """This one, with the points of an earlier training from the same seed; both are paid for."""
        if earlier is None:
            return self
        if self.failed is not None:
            return earlier
        rows = [*unpack_right(earlier.right), *unpack_right(self.right)]
        return Retraining(
            seed=self.seed,
            params=self.params,
            training_macs=earlier.training_macs + self.training_macs,
            seconds=earlier.seconds + self.seconds,
            images=self.images,
            points=(*earlier.points, *self.points),
            right=pack_right(np.array(rows)),
        )


def _row(p: OperatingPoint) -> list[Any]:
    return [dict(p.knob), p.accuracy, p.macs, list(p.route_share)]


def _point(row: Sequence[Any]) -> OperatingPoint:
    knob, accuracy, macs, shares = row
    return OperatingPoint(knob, accuracy, macs, tuple(shares))


def retuned(curve: Iterable[OperatingPoint], macs: float) -> OperatingPoint:
    """The point of a retrained network that stands for one of so many MACs, both on validation.

    The most accurate one that costs no more; of equals the cheapest. Where all cost more, the cheapest.

    Raises:
        ValueError: for an empty curve.
    """
    points = list(curve)
    within = [p for p in points if p.macs <= macs * (1 + 1e-9)]
    if within:
        return min(within, key=lambda p: (-p.accuracy, p.macs))
    return min(points, key=lambda p: (p.macs, -p.accuracy))


def pack_right(right: Right) -> str:
    """Outcomes, points x images, as text: bits, each row as its difference from the one before, compressed.

    Neighbouring points of a curve differ in few images, so 256 points of 10,000 images take about 50 kB.
    """
    if right.ndim != 2:
        return "0 0 "
    bits = np.packbits(right, axis=1)
    bits[1:] ^= bits[:-1].copy()
    text = base64.b64encode(zlib.compress(bits.tobytes(), 9)).decode()
    return f"{right.shape[0]} {right.shape[1]} {text}"


def unpack_right(text: str) -> Right:
    """The inverse of :func:`pack_right`.

    Raises:
        Refusal: it is none.
    """
    rule = "points, images and their outcomes as compressed bits"
    try:
        rows, images, packed = text.split(" ")
        shape = int(rows), int(images)
        need(min(shape) >= 0 and max(shape) <= MAX_KEPT, "right", rule, text)
        size = shape[0] * -(-shape[1] // 8)
        if not size:
            return np.zeros(shape, bool)
        # No more than there should be is unpacked: a text of a kilobyte could make gigabytes.
        data = zlib.decompressobj().decompress(base64.b64decode(packed, validate=True), size + 1)
        need(len(data) == size, "right", rule, text)
    except (ValueError, binascii.Error, zlib.error):
        need(False, "right", rule, text)
    bits = np.frombuffer(data, np.uint8).reshape(shape[0], -1)
    return np.unpackbits(np.bitwise_xor.accumulate(bits, axis=0), axis=1, count=shape[1]).astype(bool)


def kept_images(count: int) -> list[int]:
    """Indices of the images of a split whose outcomes are kept; the same for all points of a study."""
    from routesearch.utils.sampling import evenly_spaced

    return list(range(count)) if count <= MAX_KEPT else list(evenly_spaced(count, MAX_KEPT))


# ---- facts -----------------------------------------------------------------------------------------


def fact_name(trial: int, number: int) -> str:
    return f"{CONFIRMED}{trial}:{number}"


def check_retraining(name: str, value: object) -> None:
    """Refuse a fact that is none of a retraining."""
    places = name.removeprefix(CONFIRMED).split(":")
    need(len(places) == 2 and all(map(str.isdecimal, places)), "its name", "of a trial and a number", name)
    fact = need_keys(value, _KEYS)
    for key in ("seed", "params", "training_macs"):
        need_count(key, fact[key])
    number = isinstance(fact["seconds"], int | float) and not isinstance(fact["seconds"], bool)
    need(number and fact["seconds"] >= 0, "seconds", "a number from 0", fact["seconds"])
    if fact["failed"] is not None:
        need_text("failed", fact["failed"])
    images = fact["images"]
    need(isinstance(images, list) and len(images) == 2, "images", "two numbers", images)
    for count in images:
        need_count("images", count)
    points = fact["points"]
    whole = isinstance(points, list) and all(
        isinstance(row, list) and len(row) == 3 and isinstance(row[0], dict) for row in points
    )
    need(whole, "points", "rows of a knob and what it gives on validation and on test", points)
    check_curve([row[1] for row in points])
    check_curve([row[2] for row in points])
    need(not points or min(images) > 0, "images", "numbers from 1", images)
    need(isinstance(fact["right"], str), "right", "text", fact["right"])
    if fact["right"]:
        rows = len(unpack_right(fact["right"]))
        need(rows == len(points), "right", f"a row for each of {len(points)} points", rows)


def read_retraining(fact: Mapping[str, Any]) -> Retraining:
    """A retraining as a fact holds it, which was checked."""
    points = tuple(Retuned(member, _point(v), _point(t)) for member, v, t in fact["points"])
    first, second = fact["images"]
    return Retraining(**{**fact, "images": (first, second), "points": points})


def read_retrainings(facts: Mapping[str, Any]) -> dict[int, dict[int, Retraining]]:
    """Trial -> number of a retraining -> what it gave, failed ones too."""
    found: dict[int, dict[int, Retraining]] = {}
    for name, fact in facts.items():
        if name.startswith(CONFIRMED):
            trial, number = map(int, name.removeprefix(CONFIRMED).split(":"))
            found.setdefault(trial, {})[number] = read_retraining(fact)
    return {trial: dict(sorted(each.items())) for trial, each in sorted(found.items())}


# ---- what they say of a point ----------------------------------------------------------------------


@dataclass(frozen=True)
class ConfirmedPoint:
    """A point of the front and its retrainings.

    Attributes:
        validation, test: over the seeds.
        best: number of the retraining that is saved as the model.
        chosen: that retraining.
        point: what it has at this point.
        places: the retrainings, and the point's place in each.
    """

    validation: Confirmation
    test: Confirmation
    best: int
    chosen: Retraining
    point: Retuned
    places: tuple[tuple[Retraining, int], ...]

    @property
    def right(self) -> Right:
        """Seeds x kept test images, unpacked when it is asked for."""
        return np.array([unpack_right(retraining.right)[place] for retraining, place in self.places])

    @property
    def shrinkage(self) -> float:
        """What validation promised more than test held: the difference of the mean accuracies."""
        return self.validation.mean - self.test.mean

    def on(self, split: str) -> Confirmation:
        """What they gave on a split, ``validation`` or ``test``."""
        return self.test if split == "test" else self.validation


def confirmed_points(facts: Mapping[str, Any]) -> dict[PointKey, dict[int, tuple[Retraining, int]]]:
    """Point of the front -> number of a retraining -> that retraining, and the point's place in it."""
    found: dict[PointKey, dict[int, tuple[Retraining, int]]] = {}
    for trial, each in read_retrainings(facts).items():
        for number, retraining in each.items():
            for place, point in enumerate(retraining.points):
                found.setdefault((trial, knob_key(point.member)), {})[number] = (retraining, place)
    return found


def summed_up(each: Mapping[int, tuple[Retraining, int]], macs: float) -> ConfirmedPoint | None:
    """A point's retrainings taken together; None for fewer than two, which say nothing of a spread.

    Args:
        each: number of a retraining -> it, and the point's place in it.
        macs: of the point itself, on validation.
    """
    if len(each) < 2:
        return None
    rows = {number: retraining.points[place] for number, (retraining, place) in each.items()}
    first = next(iter(each.values()))[0]

    def split(name: str, images: int) -> Confirmation:
        measured: list[OperatingPoint] = [getattr(row, name) for row in rows.values()]
        accuracies, costs = tuple(p.accuracy for p in measured), tuple(p.macs for p in measured)
        return Confirmation(accuracies, costs, images)

    best = best_of({number: row.validation for number, row in rows.items()}, macs)
    return ConfirmedPoint(
        validation=split("validation", first.images[0]),
        test=split("test", first.images[1]),
        best=best,
        chosen=each[best][0],
        point=rows[best],
        places=tuple(each.values()),
    )


def best_of(measured: Mapping[int, OperatingPoint], macs: float) -> int:
    """Number of the most accurate one that costs at most ``macs``; where none does, of the cheapest."""
    chosen = retuned(measured.values(), macs)
    return next(number for number, p in measured.items() if p is chosen)


def spent(facts: Mapping[str, Any]) -> dict[str, int]:
    """How many retrainings there were, how many failed, and the training MACs that they took."""
    every = [r for each in read_retrainings(facts).values() for r in each.values()]
    return {
        "retrainings": len(every),
        "failed": sum(r.failed is not None for r in every),
        "training_macs": sum(r.training_macs for r in every),
    }
