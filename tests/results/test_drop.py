"""Which setting max-drop chooses, and what it says where none can be promised."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from routesearch.errors import Refusal
from routesearch.results.budget import Budget
from routesearch.results.calibrated import CALIBRATED, Calibration, check_calibration, read_calibrations
from routesearch.results.drop import promised
from routesearch.results.points import OperatingPoint
from routesearch.results.record import Outcome, State, TrialRecord

N = 2000


def trial(number: int, *curve: tuple[float, float]) -> TrialRecord:
    points = tuple(OperatingPoint({"t": i}, a, m, (1.0,)) for i, (a, m) in enumerate(curve))
    return TrialRecord(number, "exits", {}, number, None, Outcome(State.FINISHED, points))


def results(records: Sequence[TrialRecord], *calibrations: Calibration, front: Sequence[int] = ()) -> Any:
    facts: dict[str, Any] = {"inputs": {"images": {"calibration": N}}}
    facts |= {f"{CALIBRATED}{i}": each.as_fact() for i, each in enumerate(calibrations)}
    on_front = [SimpleNamespace(trial=n) for n in front or range(len(records))]
    return SimpleNamespace(
        facts=facts, records=records, front=on_front, budget=Budget(), config=SimpleNamespace(name="toy"),
        bounds_within=lambda macs: Budget(float(macs)),
    )  # fmt: skip


def calibration(accuracy: float, lost: Sequence[int]) -> Calibration:
    whole = OperatingPoint({"t": 99}, accuracy, 1000.0, (0.0, 1.0))
    return Calibration(whole, N, tuple(lost), (0,) * len(lost))


CURVE = ((0.70, 200.0), (0.88, 400.0), (0.90, 600.0), (0.91, 800.0))


def test_the_cheapest_that_is_promised() -> None:
    study = results([trial(0, *CURVE)], calibration(0.91, (400, 90, 10, 0)))
    found = promised(study, "2%")
    assert (found.point.macs, found.drop, found.images) == (600.0, 10 / N, N)
    assert (found.whole.macs, found.whole.knob, found.confidence) == (1000.0, {"t": 99}, 0.95)
    assert promised(study, 0.08).point.macs == 400.0
    assert promised(study, "2%", 0.5).point.macs == 600.0
    assert promised(study, 0.3, max_macs=500).point.macs == 200.0


def test_a_curve_of_one_point_that_costs_less_than_the_whole_network_is_tested_too() -> None:
    study = results([trial(0, (0.95, 100.0))], calibration(0.91, (0,)))  # nobody needs the later exits
    assert promised(study, "1%").point.macs == 100.0


def test_a_cheap_setting_beyond_one_that_fails_is_not_reached() -> None:
    study = results([trial(0, *CURVE)], calibration(0.91, (0, 0, 200, 0)))
    assert promised(study, "2%").point.macs == 800.0


def test_validation_chooses_the_trial() -> None:
    weak = trial(0, (0.4, 50.0), (0.5, 60.0))  # cheap and near its own whole network, which is poor
    study = results([weak, trial(1, *CURVE)], calibration(0.5, (0, 0)), calibration(0.91, (400, 90, 10, 0)))
    assert promised(study, "2%").point.trial == 1


def test_what_cannot_be_promised_names_the_smallest_drop_that_can() -> None:
    study = results([trial(0, *CURVE)], calibration(0.91, (400, 90, 60, 40)))
    with pytest.raises(Refusal) as refused:
        promised(study, "1%")
    told = str(refused.value)
    assert told.startswith("max_drop must be at least 2.")
    assert told.endswith("got 1 %: no less can be promised at confidence 0.95 from 2000 calibration images")
    least = float(told.split("at least ")[1].split(" %")[0]) / 100
    assert promised(study, least + 1e-9).point.macs == 800.0


def test_refusals() -> None:
    study = results([trial(0, *CURVE)], calibration(0.91, (0, 0, 0, 0)))
    for wrong in ("1", "0%", "100%", "-1%", "few", 1.5, None):
        with pytest.raises(Refusal, match=r"max_drop: must be a share such as 1% or 0\.01"):
            promised(study, wrong)  # type: ignore[arg-type]
    with pytest.raises(Refusal, match="confidence must be from"):
        promised(study, "1%", 1.0)
    with pytest.raises(Refusal, match="that costs less than the whole network and at most"):
        promised(study, "1%", max_macs=100)
    with pytest.raises(Refusal, match="a setting that costs less than its whole network, got none"):
        promised(results([trial(0, (0.9, 1000.0))], calibration(0.9, (0,))), "1%")
    with pytest.raises(Refusal, match="1 of 2 trials on the front are not calibrated yet"):
        promised(results([trial(0, *CURVE), trial(1, *CURVE)], calibration(0.91, (0, 0, 0, 0))), "1%")
    study.facts["inputs"] = {"images": {"validation": 40}}
    with pytest.raises(Refusal, match=r"set data\.calibration to a share"):
        promised(study, "1%")


@pytest.mark.parametrize(
    ("fact", "told"),
    [
        ([], "it must be"),
        ([[{}, 0.5, 10.0, []], 10, [1], []], "gained must be"),
        ([[{}, 0.5, 10.0, []], 10, [8], [8]], "lost and gained must be"),
        ([[{}, 2.0, 10.0, []], 10, [8], [1]], "accuracy must be"),
        ([[{}, 0.5, 10.0, []], 10, [-1], [1]], "lost must be"),
    ],
)
def test_a_fact_that_is_none_is_refused(fact: Any, told: str) -> None:
    with pytest.raises(Refusal, match=told):
        check_calibration("calibrated:1", fact)
    with pytest.raises(Refusal, match="its name"):
        check_calibration("calibrated:x", fact)


def test_a_calibration_survives_being_a_fact() -> None:
    before = calibration(0.9, (1, 2))
    check_calibration("calibrated:7", before.as_fact())
    assert read_calibrations({"calibrated:7": before.as_fact()}) == {7: before}
