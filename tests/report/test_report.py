"""The front for people: rows, files, a picture and a page."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from routesearch import report
from routesearch.errors import Refusal
from routesearch.report.chart import MAX_FAINT, chart, chart_of, shape
from routesearch.report.html_page import SYMBOLS
from routesearch.report.png_figure import MARKERS
from routesearch.report.table import mega, short
from routesearch.results.budget import Budget
from routesearch.results.intervals import Confirmation
from routesearch.results.points import OperatingPoint, Point, front
from routesearch.results.reader import StudyResults
from routesearch.results.record import Outcome, State, TrialRecord

REFERENCE, BUDGET = 3.2e6, Budget(1.6e6)


def point(trial: int, accuracy: float, macs: float, method: str = "static", **changes: Any) -> Point:
    usual: dict[str, Any] = {
        "config": {"depth": 8},
        "knob": {},
        "split": "validation",
        "seed": 0,
        "params": 1,
    }
    return Point(trial, method, accuracy=accuracy, macs=macs, feasible=macs <= 1.6e6, **usual | changes)


Results = Callable[..., StudyResults]


@pytest.fixture(scope="module")
def records(make_records: Callable[..., list[TrialRecord]]) -> list[TrialRecord]:
    return make_records(60)


@pytest.fixture(scope="module")
def every(records: list[TrialRecord]) -> list[Point]:
    return [p for record in records for p in record.points(BUDGET)]


@pytest.fixture(scope="module")
def one(make_results: Results) -> StudyResults:
    """A study of one trial of one point."""
    outcome = Outcome(State.FINISHED, (OperatingPoint({}, 0.5, 1e6),))
    return make_results([TrialRecord(0, "static", {}, 0, None, outcome)], budget=Budget())


def test_a_row_says_what_a_point_is() -> None:
    one = point(3, 0.91234, 0.8e6, "dgate", knob={"thresholds": [0.123456, 1.0]}, config={"loss": "a|b"})
    again = replace(one, accuracy=0.9, macs=0.9e6, split="test")
    other = point(4, 0.95, 2e6)
    table = report.front_table([one, other], REFERENCE, [again])
    assert table.rows[0] == (
        *("3", "dgate", "91.23 %", "90.00 %", "0.8", "0.250", "0.9"),
        *("yes", "thresholds=[0.1235, 1]", "loss=a|b"),
    )
    assert table.rows[1][3] == table.rows[1][6] == ""  # not measured on test
    assert table.rows[1][7] == "no"
    head, rule, row, _ = table.markdown().splitlines()
    assert head.count("|") == rule.count("|") == len(table.columns) + 1
    assert r"loss=a\|b" in row


def test_the_same_knob_of_another_trial_is_another_point() -> None:
    table = report.front_table([point(1, 0.9, 1e6)], REFERENCE, [point(2, 0.8, 1e6, split="test")])
    assert table.rows[0][3] == ""


def test_numbers_and_settings_stay_short() -> None:
    assert [mega(macs) for macs in (1234.0, 41.2e6, 3.4567e9)] == ["0.001234", "41.2", "3457"]
    assert short({"a": True, "b": None, "c": 1e-7, "d": "x"}) == "a=true, b=null, c=1e-07, d=x"
    assert len(short({"a": list(range(1000))}, 50)) == 50


def test_csv_holds_the_exact_values(every: list[Point], tmp_path: Path) -> None:
    chosen = front(every)
    report.write_csv(chosen, tmp_path / "front.csv")
    with (tmp_path / "front.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["macs"]) for row in rows] == [p.macs for p in chosen]
    assert [json.loads(row["config"]) for row in rows] == [dict(p.config) for p in chosen]
    assert [row["feasible"] for row in rows] == [str(p.macs <= 1.6e6).lower() for p in chosen]


def test_the_stairs_hold_an_accuracy_until_a_point_buys_more() -> None:
    c = chart([point(0, 0.5, 0.4e6), point(1, 0.8, 1.6e6)], [], BUDGET, REFERENCE)
    xs, ys = c.stairs()
    assert xs[:2] == [0.4, 1.6]
    assert xs[2] == c.x[1] > 3.2
    assert ys == [50.0, 80.0, 80.0]


def test_on_test_the_stairs_pass_above_a_point_that_fell_behind() -> None:
    points = [point(0, 0.8, 0.4e6, split="test"), point(1, 0.7, 1.6e6, split="test")]
    assert chart(points, [], Budget(), REFERENCE).stairs()[1] == [80.0, 80.0, 80.0]


def test_points_of_the_front_or_of_another_split_are_not_drawn_faint() -> None:
    one, other = point(0, 0.8, 1e6), point(1, 0.7, 2e6)
    assert chart([one], [one, other], BUDGET, REFERENCE).faint == (other,)
    assert chart([replace(one, split="test")], [one, other], BUDGET, REFERENCE).faint == ()


def test_a_dense_cloud_is_thinned_and_counted() -> None:
    cloud = [point(i, 0.5, 1e6 + i) for i in range(2 * MAX_FAINT)]
    c = chart([point(9999, 0.9, 1e6)], cloud, BUDGET, REFERENCE)
    assert (len(c.faint), c.dropped) == (MAX_FAINT, MAX_FAINT)
    assert (c.faint[0], c.faint[-1]) == (cloud[0], cloud[-1])


def test_the_best_within_the_budget_is_marked() -> None:
    points = [point(0, 0.5, 1e6), point(1, 0.8, 1.6e6), point(2, 0.9, 1.7e6)]
    assert chart(points, [], BUDGET, REFERENCE).best is points[1]
    assert chart(points, [], Budget(), REFERENCE).best is None


def test_a_front_over_decades_gets_a_logarithmic_axis() -> None:
    assert chart([point(0, 0.5, 1e4), point(1, 0.9, 1e6)], [], Budget(), REFERENCE).logarithmic
    assert not chart([point(0, 0.5, 1e6)], [], Budget(), REFERENCE).logarithmic


@pytest.mark.parametrize("shapes", [MARKERS, SYMBOLS])
def test_each_of_many_methods_looks_different(shapes: tuple[str, ...]) -> None:
    points = [point(i, 0.5, 1e6, f"method{i:02}") for i in range(40)]
    found = chart(points, [], Budget(), REFERENCE).colours
    assert len({(colour, shape(i, shapes)) for i, colour in enumerate(found.values())}) == 40
    assert [shape(i, shapes) for i in range(len(shapes))] == list(shapes), "the first keep theirs"


def test_on_test_data_the_best_is_still_the_one_that_validation_chose(make_results: Results) -> None:
    def trained(number: int, accuracy: float, macs: float) -> TrialRecord:
        outcome = Outcome(State.FINISHED, (OperatingPoint({}, accuracy, macs),))
        return TrialRecord(number, "static", {}, 0, None, outcome)

    records = [trained(0, 0.8, 0.5e6), trained(1, 0.9, 1e6)]
    tested = [point(0, 0.85, 0.5e6), point(1, 0.82, 1e6)]
    results = make_results(records, tested)
    assert [p.accuracy for p in results.front_on_test] == [0.85, 0.82]
    best = chart_of(results, "test").best
    assert best is not None
    assert (best.trial, best.accuracy, best.split) == (1, 0.82, "test")
    best = chart_of(results, "validation").best
    assert best is not None
    assert (best.trial, best.accuracy) == (1, 0.9)


def test_a_method_that_joins_later_leaves_the_others_their_colours() -> None:
    early = [point(0, 0.5, 1e6, "skipnet"), point(1, 0.6, 2e6, "dgate")]
    before = chart(early, [], Budget(), REFERENCE).colours
    after = chart([*early, point(2, 0.7, 2.5e6, "actor")], [], Budget(), REFERENCE).colours
    assert {name: after[name] for name in before} == before
    assert len(set(after.values())) == 3


def test_the_window_shows_the_whole_front(every: list[Point]) -> None:
    c = chart(front(every), every, BUDGET, REFERENCE)
    assert c.x[0] <= c.front[0].macs / 1e6
    assert c.x[1] >= REFERENCE / 1e6
    assert c.y[0] < 100 * c.front[0].accuracy < 100 * c.front[-1].accuracy < c.y[1]


@pytest.mark.parametrize("budget", [BUDGET, Budget()])
def test_the_picture_is_a_png_of_its_own_size(
    records: list[TrialRecord], make_results: Results, tmp_path: Path, budget: Budget
) -> None:
    from matplotlib.image import imread

    results = make_results(records, budget=budget)
    report.front_figure_png(results, tmp_path / "front.png", title="study")
    picture = imread(tmp_path / "front.png")
    assert picture.shape[:2] == (676, 1092)
    reds = (picture[..., 0] > 0.7) & (picture[..., 1] < 0.35)  # the budget's line
    assert bool(reds.sum(axis=0).max() > 200) is (bool(budget))


class _Page(HTMLParser):
    """Collects what a page would fetch, and the cells of its table."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.cells: list[str] = []
        self.scripts: list[str] = []
        self._inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href")]
        self._inside = tag

    def handle_data(self, data: str) -> None:
        if self._inside == "td":
            self.cells.append(data)
        if self._inside == "script":
            self.scripts.append(data)


def test_the_page_needs_no_network_and_lists_the_front(
    records: list[TrialRecord], make_results: Results, tmp_path: Path
) -> None:
    results = make_results(records)
    report.front_html(results, tmp_path / "front.html", title="study")
    page = _Page()
    page.feed((tmp_path / "front.html").read_text())
    assert page.fetched == []
    assert {str(p.trial) for p in results.front} <= set(page.cells)
    assert any(len(script) > 1_000_000 for script in page.scripts)  # plotly itself


def test_the_page_takes_names_as_text(make_results: Results, tmp_path: Path) -> None:
    evil = "<img src=x onerror=alert(1)>"
    outcome = Outcome(State.FINISHED, (OperatingPoint({evil: "</script>"}, 0.5, 1e6),))
    results = make_results([TrialRecord(0, evil, {"name": evil}, 0, None, outcome)])
    report.front_html(results, tmp_path / "front.html", title=evil)
    page = _Page()
    page.feed((tmp_path / "front.html").read_text())
    assert page.fetched == []
    assert evil in page.cells


@pytest.mark.parametrize("write", ["csv", "png", "html"])
def test_a_path_that_cannot_be_written_is_refused(write: str, one: StudyResults, tmp_path: Path) -> None:
    writers: dict[str, Callable[[Path], None]] = {
        "csv": lambda path: report.write_csv(one.front, path),
        "png": lambda path: report.front_figure_png(one, path),
        "html": lambda path: report.front_html(one, path),
    }
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "front", tmp_path / "missing" / "front", tmp_path):
        with pytest.raises(Refusal, match="must be a file in a writable folder"):
            writers[write](path)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_an_empty_front_is_drawn_too(make_results: Results, tmp_path: Path) -> None:
    report.front_figure_png(make_results([]), tmp_path / "a.png")
    report.front_html(make_results([]), tmp_path / "a.html")
    assert "No point is within it." in (tmp_path / "a.html").read_text()


def confirmed(one: Point, *accuracies: float) -> Point:
    macs = tuple(one.macs - 1e4 for _ in accuracies)
    return replace(one, confirmation=Confirmation(accuracies, macs, 1000))


def test_a_confirmed_point_has_its_mean_its_interval_and_its_seeds_in_the_table() -> None:
    cheap, dear = point(1, 0.8, 1e6), confirmed(point(2, 0.9, 2e6), 0.85, 0.87)
    table = report.front_table([cheap, dear], REFERENCE, shrinkage={dear.key: 0.0123})
    plain, row = (dict(zip(table.columns, cells, strict=True)) for cells in table.rows)
    low, high = dear.confirmation.interval() if dear.confirmation else (0, 0)
    assert (row["accuracy"], row["mean"], row["seeds"]) == ("90.00 %", "86.00 %", "2")
    assert row["95 % interval"] == f"{100 * low:.2f} to {100 * high:.2f} %"
    assert row["validation - test"] == "+1.23 points"
    assert plain["mean"] == plain["95 % interval"] == plain["seeds"] == plain["validation - test"] == ""
    assert "mean" not in report.front_table([cheap], REFERENCE).columns


def test_csv_of_a_confirmed_front_has_the_ends_of_its_intervals(tmp_path: Path) -> None:
    cheap, dear = point(1, 0.8, 1e6), confirmed(point(2, 0.9, 2e6), 0.85, 0.87)
    report.write_csv([cheap, dear], tmp_path / "front.csv")
    with (tmp_path / "front.csv").open(newline="") as file:
        plain, row = csv.DictReader(file)
    assert dear.confirmation is not None
    ends = (float(row["interval_low"]), float(row["interval_high"]))
    assert ends == dear.confirmation.interval()
    assert (float(row["accuracy_mean"]), row["seeds"]) == (dear.confirmation.mean, "2")
    assert plain["seeds"] == plain["accuracy_mean"] == ""
    report.write_csv([cheap], tmp_path / "front.csv")
    assert "seeds" not in (tmp_path / "front.csv").read_text().splitlines()[0]


def test_bars_stand_at_the_mean_and_the_window_holds_them() -> None:
    cheap, dear = point(1, 0.8, 1e6), confirmed(point(2, 0.9, 2e6), 0.5, 0.6)
    c = chart([cheap, dear], [], BUDGET, REFERENCE)
    (macs,), (mean,), (down,), (up,) = c.bars("static")
    assert dear.confirmation is not None
    low, high = (100 * end for end in dear.confirmation.interval())
    assert (macs, mean) == (pytest.approx(1.99), pytest.approx(55.0))
    assert (mean - down, mean + up) == (pytest.approx(low), pytest.approx(high))
    assert c.y[0] < low
    assert c.bars("dgate") == ([], [], [], [])
