"""The studies that ship: each is read, its names are known, and every method's own choice can be priced."""

from __future__ import annotations

from pathlib import Path

import pytest

from routesearch.study.config import load_study
from routesearch.task.resolve import resolve
from routesearch.task.space_costs import SpaceCosts

STUDIES = Path(__file__).parents[1] / "studies"
FILES = sorted(STUDIES.rglob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_study_that_ships_can_be_built(file: Path) -> None:
    """It would run: a pre-flight prices the defaults and more, so its cheapest is no more expensive."""
    task = resolve(load_study(file))
    reached = {
        name: SpaceCosts(1.0, task.bounds(name, space.default())) for name, space in task.spaces.items()
    }
    for name, reach in reached.items():
        assert reach.macs is not None
        assert 0 < reach.macs.min <= reach.macs.max, name
    task.check_weights()
    assert task.unmet(reached) is None


@pytest.mark.parametrize(
    "file",
    [pytest.param(f, marks=[] if f.stem == "quickstart" else pytest.mark.slow, id=f.stem) for f in FILES],
)
def test_a_study_that_ships_passes_its_pre_flight(file: Path) -> None:
    resolve(load_study(file)).preflight()


def test_the_papers_studies_are_listed() -> None:
    listed = (STUDIES / "papers" / "README.md").read_text(encoding="utf-8")
    for file in (STUDIES / "papers").glob("*.yaml"):
        assert f"({file.name})" in listed
