"""The studies that ship: each is read, its names are known, and every method's own choice can be priced."""

from __future__ import annotations

from pathlib import Path

import pytest

from routesearch.study.config import load_study
from routesearch.task.resolve import resolve

STUDIES = Path(__file__).parents[1] / "studies"
FILES = sorted(STUDIES.rglob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_study_that_ships_can_be_built(file: Path) -> None:
    task = resolve(load_study(file))
    for name, space in task.spaces.items():
        bounds = task.bounds(name, space.default())
        assert 0 < bounds.min <= bounds.max, name
    if task.budget:
        task.preflight()


def test_the_papers_studies_are_listed() -> None:
    listed = (STUDIES / "papers" / "README.md").read_text(encoding="utf-8")
    for file in (STUDIES / "papers").glob("*.yaml"):
        assert f"({file.name})" in listed
