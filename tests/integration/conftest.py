"""A study whose trials only wait, as a module that Ray's workers find too."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

HERE = str(Path(__file__).parent)


@pytest.fixture(scope="module")
def fake() -> Iterator[ModuleType]:
    """``fake_study.py``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(HERE)
        patch.setenv("PYTHONPATH", HERE, prepend=os.pathsep)
        yield importlib.import_module("fake_study")
