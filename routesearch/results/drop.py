"""The cheapest setting whose loss of accuracy against the whole network is promised to be small."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from routesearch.errors import Refusal
from routesearch.errors.texts import shown
from routesearch.results.calibrated import Calibration, read_calibrations
from routesearch.results.intervals import CONFIDENCE, check_confidence
from routesearch.results.points import Point
from routesearch.results.reader import StudyResults
from routesearch.results.record import TrialRecord
from routesearch.results.risk_control import last_controlled, smallest_drop
from routesearch.utils.units import parse_share


@dataclass(frozen=True)
class Promise:
    """A setting of a trained network, and what is promised of it.

    Attributes:
        point: the trial's own network at the setting, as measured on validation.
        max_drop: share of accuracy that it loses at most against the whole network, with this confidence.
        confidence: over calibration images that might have been drawn.
        whole: the whole network: accuracy and MACs on validation.
        images: calibration images.
        drop: the loss on these.
    """

    point: Point
    max_drop: float
    confidence: float
    whole: Point
    images: int
    drop: float

    def as_dict(self) -> dict[str, Any]:
        """What ``best --max-drop --json`` has more than a point."""
        return {
            "max_drop": self.max_drop,
            "confidence": self.confidence,
            "whole": {"knob": self.whole.knob, "accuracy": self.whole.accuracy, "macs": self.whole.macs},
            "calibration_images": self.images,
            "calibration_drop": self.drop,
        }


def promised(
    results: StudyResults,
    max_drop: str | float,
    confidence: float = CONFIDENCE,
    max_macs: str | float | None = None,
) -> Promise:
    """The cheapest setting that loses at most ``max_drop`` against the whole network, at this confidence.

    Validation chooses the trial: of those on the front that have a cheaper setting, the one that promises
    the fewest MACs within ``max_drop`` of the most accurate whole network among them. Its curve, also found
    on validation, is then tested from its most accurate point to cheaper ones on the calibration images,
    which no search has seen (:func:`last_controlled`).

    Args:
        max_drop: share of accuracy: 1%, 0.01.
        max_macs: settings that cost more are left out.

    Raises:
        Refusal: no images were set aside, or it cannot be promised; names the smallest drop that can.
    """
    check_confidence(confidence)
    try:
        max_drop = parse_share(max_drop)
    except ValueError as error:
        raise Refusal(f"max_drop: {error}, got {shown(max_drop)}") from None
    limit = None if max_macs is None else results.bounds_within(max_macs).max_macs
    record, calibration = _chosen(results, max_drop, limit)
    points = record.points(results.budget)
    order = sorted(range(len(points)), key=lambda i: (-points[i].accuracy, points[i].macs))
    order = [i for i in order if points[i].macs < calibration.whole.macs and _within(points[i].macs, limit)]
    who = f"trial {record.number} ({record.method})"
    if not order:
        rule = f"{who} must have a setting that costs less than the whole network"
        raise Refusal(f"{rule}{'' if limit is None else f' and at most {limit:,.0f} MACs'}")
    last = last_controlled([calibration.at(i) for i in order], max_drop, confidence)
    if last is None:
        least = smallest_drop(calibration.at(order[0]), confidence)
        raise Refusal(
            f"max_drop must be at least {100 * least:.4g} % for {who}, got {100 * max_drop:.4g} %: no less"
            f" can be promised at confidence {confidence:g} from {calibration.images} calibration images"
        )
    losses = calibration.at(order[last])
    return Promise(
        point=points[order[last]],
        max_drop=max_drop,
        confidence=confidence,
        whole=record.as_points([calibration.whole], results.budget, "validation")[0],
        images=calibration.images,
        drop=(losses.lost - losses.gained) / losses.images,
    )


def _chosen(results: StudyResults, max_drop: float, limit: float | None) -> tuple[TrialRecord, Calibration]:
    """The trial whose curve is tested; validation alone has a say."""
    name, known = results.config.name, read_calibrations(results.facts)
    if not results.facts.get("inputs", {}).get("images", {}).get("calibration"):
        rule = "max_drop needs images that chose nothing"
        raise Refusal(
            f"{name}: {rule}: set data.calibration to a share of the validation images, such as 0.3, and"
            " search anew (--fresh)"
        )
    front = {p.trial for p in results.front}
    missing = front - known.keys()
    if missing:
        rule = f"{len(missing)} of {len(front)} trials on the front are not calibrated yet"
        raise Refusal(f"{name}: {rule}; a search does so when it ends: run `routesearch search` to its end")
    found = []
    for number in sorted(front):
        record = results.records[number]
        points = [] if record.outcome is None else record.outcome.points
        cheaper = any(p.macs < known[number].whole.macs for p in points)
        if cheaper and len(points) == len(known[number].lost):
            found.append((record, known[number], [p for p in points if _within(p.macs, limit)]))
    if not found:
        rule = "a trial on the front must have a setting that costs less than its whole network"
        raise Refusal(f"{name}: {rule}, got none: there is nothing to choose")
    target = max(calibration.whole.accuracy for _, calibration, _ in found) - max_drop

    def promise(each: tuple[TrialRecord, Calibration, list[Any]]) -> tuple[float, ...]:
        """A trial's rank: by fewest MACs at the target, after those by accuracy where none reaches it."""
        good = [p.macs for p in each[2] if p.accuracy >= target]
        if good:
            return 0, min(good)
        return 1, -max((p.accuracy for p in each[2]), default=0.0)

    record, calibration, _ = min(found, key=promise)
    return record, calibration


def _within(macs: float, limit: float | None) -> bool:
    return limit is None or macs <= limit
