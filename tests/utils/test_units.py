"""Quantities as people write them, and what they mean."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routesearch.utils.units import bytes_of, macs_of, parse_bytes, parse_latency, parse_macs, parse_time


@pytest.mark.parametrize(
    ("text", "macs"),
    [
        ("40M", 4e7),
        ("1.2G", 1.2e9),
        (40_000_000, 4e7),
        ("0.4x", 400.0),
        ("1e6", 1e6),
        (" 3 k ", 3e3),
        ("2X", 2e3),
    ],
)
def test_budgets(text: Any, macs: float) -> None:
    assert macs_of(parse_macs(text), 1000.0) == pytest.approx(macs)


@given(st.floats(1e-3, 1e6), st.sampled_from(["", "k", "K", "m", "M", "g", "G", "t", "T", "x", "X"]))
def test_a_budget_is_its_number_times_its_unit(number: float, unit: str) -> None:
    factor = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "x": 7.0}[unit.lower()]
    canonical = parse_macs(f"{number:.6f} {unit}")
    assert " " not in canonical
    assert macs_of(canonical, 7.0) == pytest.approx(float(f"{number:.6f}") * factor)
    assert parse_macs(canonical) == canonical


@pytest.mark.parametrize(
    "text", ["", "M", "-1", "1.2.3", "4 0", "40 MB", True, "0", "0x", "1e40", "nan", "inf", "٣"]
)
def test_no_budget(text: Any) -> None:
    with pytest.raises(ValueError, match=r"^a budget must be (MACs such as|more than 0)"):
        parse_macs(text)


@pytest.mark.parametrize(
    ("parse", "text", "seconds"),
    [
        *[(parse_latency, t, s) for t, s in (("500us", 5e-4), ("2 ms", 2e-3), ("0.1s", 0.1), (None, None))],
        *[(parse_time, t, s) for t, s in ((90, 90.0), ("90s", 90.0), ("10m", 600.0), ("1.5H", 5400.0))],
        *[(parse_time, t, s) for t, s in (("2d", 172_800.0), (None, None))],
    ],
)
def test_times(parse: Any, text: Any, seconds: float | None) -> None:
    assert parse(text) == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize("text", ["2", "0ms", "2m", "-1s", "1e3us", True, "ms"])
def test_no_latency(text: Any) -> None:
    with pytest.raises(ValueError, match=r"^a latency must be more than 0 with its unit"):
        parse_latency(text)


@pytest.mark.parametrize("text", ["0", "10 minutes", "1e3", True, False, "1:30", "-5"])
def test_no_time(text: Any) -> None:
    with pytest.raises(ValueError, match=r"^a time must be more than 0"):
        parse_time(text)


@pytest.mark.parametrize(
    ("text", "number"), [("4G", 4 << 30), ("512m", 512 << 20), (100_000, 100_000), ("1.5k", 1536)]
)
def test_bytes(text: Any, number: int) -> None:
    assert bytes_of(parse_bytes(text)) == number


@pytest.mark.parametrize("text", ["", "G", "4GB", "-1", True, "1e3", "4 G", "4\tG"])
def test_no_bytes(text: Any) -> None:
    with pytest.raises(ValueError, match=r"^must be bytes such as 4G"):
        parse_bytes(text)
