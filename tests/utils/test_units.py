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
        ("50%", 500.0),
        ("12.5 %", 125.0),
        (".5x", 500.0),
        ("5.x", 5e3),
        ("1_000_000", 1e6),
        ("40 MMACs", 4e7),
        ("40M MACs", 4e7),
        ("1.2 G multiply-adds", 1.2e9),
        ("0.5x MACs", 500.0),
    ],
)
def test_budgets(text: Any, macs: float) -> None:
    assert macs_of(parse_macs(text), 1000.0) == pytest.approx(macs)


@pytest.mark.parametrize(
    ("text", "forms"),
    [
        (0.5, "0.5x"),
        ("0.5", "0.5x"),
        (".5", ".5x"),
        ("0.5 MACs", "0.5x"),
        ("0,5x", "0.5x"),
        ("1,200,000", "1200000 or 1.200,000"),
        ("40MFLOPs", "20M or 40M"),
        ("40 MFLOP", "20M or 40M"),
        ("1.2 GFLOPs", "0.6G or 1.2G"),
    ],
)
def test_a_budget_that_could_mean_something_else(text: Any, forms: str) -> None:
    with pytest.raises(ValueError, match=r"^a budget must be .*; write ") as refused:
        parse_macs(text)
    assert str(refused.value).endswith(f"; write {forms}")


@given(st.floats(1, 1e6), st.sampled_from(["", "k", "K", "m", "M", "g", "G", "t", "T", "x", "X"]))
def test_a_budget_is_its_number_times_its_unit(number: float, unit: str) -> None:
    factor = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "x": 7.0}[unit.lower()]
    canonical = parse_macs(f"{number:.6f} {unit}")
    assert " " not in canonical
    assert macs_of(canonical, 7.0) == pytest.approx(float(f"{number:.6f}") * factor)
    assert parse_macs(canonical) == canonical


@pytest.mark.parametrize(
    "text",
    [
        "",
        "M",
        "-1",
        "1.2.3",
        "4 0",
        "40 MB",
        True,
        "0",
        "0x",
        "1e40",
        "nan",
        "inf",
        "٣",
        "4_",
        "_4",
        "4__0",
        [4],
        "0x10",
        "4 million",
        "4" * 200,
    ],
)
def test_no_budget(text: Any) -> None:
    with pytest.raises(ValueError, match=r"^a budget must be (MACs such as|more than 0)"):
        parse_macs(text)


@pytest.mark.parametrize(
    ("parse", "text", "seconds"),
    [
        *[(parse_latency, t, s) for t, s in (("500us", 5e-4), ("2 ms", 2e-3), ("0.1s", 0.1), (None, None))],
        *[(parse_time, t, s) for t, s in ((90, 90.0), ("90s", 90.0), ("10m", 600.0), ("1.5H", 5400.0))],
        *[(parse_time, t, s) for t, s in (("2d", 172_800.0), (None, None), ("1e3", 1e3), (1e3, 1e3))],
        *[(parse_time, t, 5400.0) for t in ("1h30m", "1h 30min", "1 hour 30 minutes", "90 min", "5_400")],
        *[(parse_time, t, s) for t, s in (("10 minutes", 600.0), ("1d2h3m4s", 93_784.0))],
        *[(parse_latency, t, s) for t, s in (("500 µs", 5e-4), ("2 msec", 2e-3), ("1e3us", 1e-3))],
    ],
)
def test_times(parse: Any, text: Any, seconds: float | None) -> None:
    assert parse(text) == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize("text", ["2", 2, "0", "0ms", "2m", "-1s", True, "ms", "1:30", "2,5ms"])
def test_no_latency(text: Any) -> None:
    with pytest.raises(ValueError, match=r"^a latency must be more than 0 with its unit"):
        parse_latency(text)


@pytest.mark.parametrize(
    "text", ["0", True, False, "-5", "1h30", "30m1h", "1h1h", "m", "", [90], "5 fortnights", "1e3s", "9" * 99]
)
def test_no_time(text: Any) -> None:
    with pytest.raises(ValueError, match=r"^a time must be more than 0"):
        parse_time(text)


@pytest.mark.parametrize(
    ("parse", "text", "forms"),
    [
        (parse_time, "1:30", "1h30m or 1m30s"),
        (parse_time, "1:30:05", "1h30m5s"),
        (parse_time, "1,5h", "1.5h"),
        (parse_latency, 2, "2ms or 2s"),
        (parse_latency, "0.5", "0.5ms or 0.5s"),
        (parse_latency, "2,5ms", "2.5ms"),
        (parse_bytes, "1,5G", "1.5g"),
    ],
)
def test_what_could_mean_something_else(parse: Any, text: Any, forms: str) -> None:
    with pytest.raises(ValueError, match=r"must be .*; write ") as refused:
        parse(text)
    assert str(refused.value).endswith(f"; write {forms}")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("4GB", 4 << 30),
        ("4 GiB", 4 << 30),
        ("4 G", 4 << 30),
        ("1_000", 1000),
        ("4G", 4 << 30),
        ("512m", 512 << 20),
        (100_000, 100_000),
        ("1.5k", 1536),
    ],
)
def test_bytes(text: Any, number: int) -> None:
    assert bytes_of(parse_bytes(text)) == number


@pytest.mark.parametrize("text", ["", "G", "-1", True, "1e3", "4GG", "4i", "b", [4]])
def test_no_bytes(text: Any) -> None:
    with pytest.raises(ValueError, match=r"^must be bytes such as 4G"):
        parse_bytes(text)
