"""What a journal keeps of calibration: how a trial's points differ from its whole network, as counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from routesearch.results.checks import check_curve, need, need_count
from routesearch.results.points import OperatingPoint
from routesearch.results.risk_control import Losses

CALIBRATED = "calibrated:"
"""How the facts' names begin: ``calibrated:TRIAL``."""


@dataclass(frozen=True)
class Calibration:
    """A trial's stored points beside its whole network, on images that chose nothing.

    Attributes:
        whole: the whole network, the setting at which most runs, as measured on validation.
        images: of the calibration split.
        lost, gained: for each stored point in order, images that only the whole network labels right, and
            images that only this point does.
    """

    whole: OperatingPoint
    images: int
    lost: tuple[int, ...]
    gained: tuple[int, ...]

    def at(self, place: int) -> Losses:
        """The losses of a stored point, by its place in the trial's curve."""
        return Losses(self.lost[place], self.gained[place], self.images)

    def as_fact(self) -> list[Any]:
        """JSON values; the inverse of :func:`read_calibrations`."""
        w = self.whole
        whole = [dict(w.knob), w.accuracy, w.macs, list(w.route_share)]
        return [whole, self.images, list(self.lost), list(self.gained)]


def check_calibration(name: str, value: object) -> None:
    """Refuse a fact that is none of a calibration."""
    need(name.removeprefix(CALIBRATED).isdecimal(), "its name", "that of a trial's number", name)
    parts: Any = value
    whole = isinstance(value, list) and len(value) == 4 and all(isinstance(value[i], list) for i in (0, 2, 3))
    need(whole, "it", "a point, a number of images and two lists of numbers", value)
    point, images, lost, gained = parts
    check_curve([point])
    need_count("images", images)
    need(len(lost) == len(gained), "gained", f"as long as the {len(lost)} of lost", gained)
    for first, second in zip(lost, gained, strict=True):
        need_count("lost", first)
        need_count("gained", second)
        need(first + second <= images, "lost and gained", f"{images} images at most", first + second)


def read_calibrations(facts: Mapping[str, Any]) -> dict[int, Calibration]:
    """Trial -> its calibration, of facts that were checked."""
    found = {}
    for name, value in facts.items():
        if name.startswith(CALIBRATED):
            (knob, accuracy, macs, shares), images, lost, gained = value
            whole = OperatingPoint(knob, accuracy, macs, tuple(shares))
            found[int(name.removeprefix(CALIBRATED))] = Calibration(whole, images, tuple(lost), tuple(gained))
    return found
