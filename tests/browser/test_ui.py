"""MLflow's pages in a real browser: the stored view draws the study, the front's page works inside them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from routesearch.results.budget import Budget
from routesearch.results.points import front
from routesearch.results.reader import StudyResults
from routesearch.results.record import State, TrialRecord
from routesearch.tracking.client import default_uri
from routesearch.tracking.experiment import link_of
from routesearch.tracking.sync import ExperimentSync, StudyInfo

if TYPE_CHECKING:
    from playwright.sync_api import Page

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
REFERENCE, BUDGET, STUDY, TRIALS = 3.2e6, Budget(1.6e6), "0123456789abcdef", 300

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no Chromium at {CHROMIUM}"),
]

SERVE = """
import sys
from routesearch.tracking import open_ui
open_ui(sys.argv[1], sys.argv[2], None, lambda address: print(address, flush=True))
"""


@pytest.fixture(scope="module")
def records(make_records: Callable[..., list[TrialRecord]]) -> list[TrialRecord]:
    return make_records(TRIALS)


@pytest.fixture(scope="module")
def study(
    records: list[TrialRecord],
    make_results: Callable[..., StudyResults],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    folder = tmp_path_factory.mktemp("study")
    chosen = front([p for record in records for p in record.points(BUDGET)])
    test = [replace(p, accuracy=p.accuracy - 0.01, split="test") for p in chosen]
    results = make_results(records, test, budget=BUDGET, backbone_macs=REFERENCE, study=STUDY)
    ExperimentSync(default_uri(folder), StudyInfo.of(results)).publish(results)
    return folder


@pytest.fixture(scope="module")
def address(study: Path) -> Iterator[str]:
    """The server in a process of its own, ended as Ctrl-C ends it."""
    import signal

    link = link_of(default_uri(study), "quickstart", STUDY)
    assert link is not None
    command = [sys.executable, "-c", SERVE, default_uri(study), link]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().strip()
            server.send_signal(signal.SIGINT)
            assert server.wait(timeout=30) == 0
        finally:
            server.kill()  # leaving the block waits for it, for ever if it does not end


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        opened = browser.new_page(viewport={"width": 1600, "height": 1200})
        opened.set_default_timeout(60_000)
        yield opened
        browser.close()


def keep(page: Page, name: str) -> None:
    """A picture for people, where a folder for them is given."""
    if folder := os.environ.get("ROUTESEARCH_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png")


def follow(page: Page, address: str, name: str) -> None:
    """Open a link of the experiment's note (the pages would open it in another tab)."""
    page.goto(address)
    target = page.get_by_role("link", name=name).evaluate("link => link.href")
    assert target.startswith(address.split("#")[0])
    page.goto(target)


def test_the_view_draws_a_hundred_trials_with_the_whole_front_among_them(
    page: Page, address: str, records: list[TrialRecord]
) -> None:
    page.goto(address)
    scatter = page.locator(".js-plotly-plot").first
    dots = scatter.locator(".points path.point")
    dots.nth(99).wait_for()
    assert dots.count() == 100
    assert scatter.locator(".xtitle").text_content() == "macs"
    assert scatter.locator(".ytitle").text_content() == "accuracy"
    keep(page, "view")
    # The strong colours are the front's; as many are drawn as there are trials on it.
    members = {p.trial for p in front([p for record in records for p in record.points(BUDGET)])}
    strong = [dots.nth(i).evaluate("dot => getComputedStyle(dot).fill") for i in range(100)]
    assert sum(fill in ("rgb(0, 114, 178)", "rgb(213, 94, 0)") for fill in strong) == len(members)
    for method in ("dgate", "static"):
        assert page.get_by_text(f"{method}: its fields").count() == 1
    assert page.get_by_text("Parallel Coordinates").count() >= 1


def test_the_front_page_is_interactive_inside_mlflow(page: Page, address: str, study: Path) -> None:
    follow(page, address, "interactive page")
    frame = page.frame_locator("iframe").first
    markers = frame.locator("#front .points path.point")
    markers.first.wait_for()
    keep(page, "front")
    assert markers.count() > TRIALS
    assert "Best within it" in str(frame.locator("p").first.text_content())
    ring = frame.locator("#front .legendtext", has_text="best within the budget")
    assert ring.count() == 1


def test_the_parent_shows_table_and_curve_of_the_front(page: Page, address: str) -> None:
    follow(page, address, "table and picture")
    page.get_by_text(re.compile("Best within the budget of 1.6 M")).first.wait_for()
    assert page.get_by_text("front_test_accuracy").count() >= 1
    keep(page, "parent")


def test_the_page_on_its_own_draws_every_trial(page: Page, study: Path, records: list[TrialRecord]) -> None:
    files = list(study.glob("artifacts/*/artifacts/front.html"))
    assert len(files) == 1
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(files[0].as_uri())
    page.locator("#front .points path.point").first.wait_for()
    points = [p for r in records if r.state is State.FINISHED for p in r.points(BUDGET)]
    drawn = page.evaluate("document.getElementById('front').data.filter(t => t.mode === 'markers')")
    total = sum(len(trace["x"]) for trace in drawn if trace["name"] != "best within the budget")
    assert total == len(points)
    keep(page, "page")
    assert errors == []
