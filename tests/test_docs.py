"""The documentation says what is so: its code runs, its hooks exist."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from routesearch.plugin import hookspecs
from routesearch.plugin.loader import load_plugins
from routesearch.study.config import load_study
from routesearch.task.resolve import resolve
from routesearch.testing import BackboneContract, MethodContract, examine

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "docs" / "plugins.md").read_text()
README = (ROOT / "README.md").read_text()


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.M | re.S)


def plugins(text: str) -> list[str]:
    """The Python that is a plugin, not a test of one."""
    return [code for code in blocks(text, "python") if "Contract" not in code]


def test_every_hook_is_in_the_guide_with_its_arguments() -> None:
    for name, hook in inspect.getmembers(hookspecs, inspect.isfunction):
        if name.startswith("routesearch_"):
            assert f"`{name}({', '.join(inspect.signature(hook).parameters)})`" in GUIDE


def test_the_guides_plugins_load_and_make_a_study_together(tmp_path: Path) -> None:
    files = []
    for number, code in enumerate(plugins(GUIDE)):
        files.append(tmp_path / f"plugin{number}.py")
        files[-1].write_text(code)
    before, registry = load_plugins(), load_plugins(files)
    assert not [p for p in registry.problems if "plugin" in p and str(tmp_path) in p]
    new = {
        shelf.kind: sorted(shelf.items.keys() - known.items.keys())
        for shelf, known in (
            (registry.methods, before.methods),
            (registry.backbones, before.backbones),
            (registry.datasets, before.datasets),
        )
    }
    assert new == {
        "method": ["mixture", "one_exit", "slimmable"],
        "backbone": ["tiny"],
        "data set": ["stripes"],
    }
    study = tmp_path / "study.yaml"
    study.write_text(
        yaml.safe_dump(
            {
                "data": {"name": "stripes"},
                "backbone": "tiny",
                "methods": ["one_exit"],
                "plugins": [str(f) for f in files],
            }
        )
    )
    task = resolve(load_study(study))
    reach = task.reach("one_exit")
    assert reach.share == 1.0
    assert reach.macs is not None
    assert 0 < reach.macs.min < reach.macs.max
    assert len(task.data.train) == 240


@pytest.mark.parametrize(
    ("module", "contract"), [("my_method", "MethodContract"), ("stripes", "DatasetContract")]
)
def test_the_guides_test_files_pass(module: str, contract: str, tmp_path: Path) -> None:
    [code] = [code for code in blocks(GUIDE, "python") if f"import {contract}" in code]
    subject = next(each for each in plugins(GUIDE) if module == "my_method" or f'name = "{module}"' in each)
    (tmp_path / f"{module}.py").write_text(subject)
    (tmp_path / f"test_{module}.py").write_text(code)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir=."]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


def test_the_guides_backbone_keeps_every_invariant(tmp_path: Path) -> None:
    file = tmp_path / "plugin.py"
    file.write_text(next(code for code in plugins(GUIDE) if 'name = "tiny"' in code))
    backbone = load_plugins([file]).backbones.find("tiny")
    verdicts = list(examine(type("Tried", (BackboneContract,), {"backbone": backbone})))
    assert [(v.law, v.reason) for v in verdicts if v.state != "ok"] == []


@pytest.mark.parametrize(("name", "options"), [("mixture", {"most_configs": 3}), ("slimmable", {})])
def test_the_guides_methods_keep_every_invariant(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "plugin.py"
    file.write_text(next(code for code in plugins(GUIDE) if f'name = "{name}"' in code))
    method = load_plugins([file]).methods.find(name)
    verdicts = list(examine(type("Tried", (MethodContract,), {"method": method, **options})))
    assert [v.reason for v in verdicts if v.state == "failed"] == []
    assert sum(v.state == "ok" for v in verdicts) == 15


@pytest.mark.parametrize("text", [README, GUIDE], ids=["README", "guide"])
def test_every_study_that_is_shown_is_valid(text: str, tmp_path: Path) -> None:
    shown = blocks(text, "yaml")
    assert shown
    for number, code in enumerate(shown):
        path = tmp_path / f"study{number}.yaml"
        path.write_text(code)
        load_study(path)


def test_the_quickstart_that_is_shown_is_the_one_that_runs(tmp_path: Path) -> None:
    shown = tmp_path / "shown.yaml"
    shown.write_text(blocks(README, "yaml")[0])
    real = load_study(ROOT / "studies" / "quickstart.yaml")
    assert load_study(shown).model_dump() == real.model_dump()
