"""A saved model to damage."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def model(trained_model: Path, tmp_path: Path) -> Path:
    """A saved model's folder of the test's own."""
    return Path(shutil.copytree(trained_model, tmp_path / "mine"))


@pytest.fixture
def edit(model: Path) -> Callable[..., None]:
    """Changes fields of ``model.json``."""

    def change(**fields: Any) -> None:
        file = model / "model.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | fields))

    return change


@pytest.fixture
def plugins(trained_model: Path) -> list[Path]:
    """The plain files that the saved model needs, as they lie in its folder."""
    return sorted((trained_model / "plugins").iterdir())
