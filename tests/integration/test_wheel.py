"""The wheels work where the clone is not: in an empty environment, found by their entry points alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PLUGINS = sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))


class Environment:
    """A fresh virtual environment with some wheels; what runs in it runs away from the clone, unhelped.

    pip must find every requirement of the wheels met by ``others``: it is given no index to ask.
    """

    def __init__(self, folder: Path, others: Path, *wheels: Path) -> None:
        venv.create(folder / "venv", with_pip=False)
        self.folder, self.bin = folder, folder / "venv/bin"
        (self.packages,) = folder.glob("venv/lib/python*/site-packages")
        (self.packages / "others.pth").write_text(f"{others}\n")
        self.run(
            sys.executable, "-m", "pip", "--python", self.bin / "python", "install", "--no-index", *wheels
        )

    def run(self, *command: str | Path) -> str:
        env = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "PIP_"))}
        done = subprocess.run(command, cwd=self.folder, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def routesearch(self, *arguments: str) -> str:
        return self.run(self.bin / "routesearch", *arguments)


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Name -> wheel of the project and of each plugin, built by way of their source archives."""
    built = {}
    for project in (ROOT, *PLUGINS):
        out = tmp_path_factory.mktemp("dist")
        build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", out, project]
        done = subprocess.run(build, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        (built[_project(project)["name"]],) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of links to the packages that the tests run with, less the project and its plugins."""
    folder = tmp_path_factory.mktemp("others")
    for scheme in ("purelib", "platlib"):
        for package in Path(sysconfig.get_path(scheme)).iterdir():
            link = folder / package.name
            ours = "routesearch" in package.name
            if not ours and package.suffix != ".pth" and not link.is_symlink():
                link.symlink_to(package)
    return folder


@pytest.fixture(scope="module")
def core(wheels: dict[str, Path], others: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with the project's wheel only."""
    return Environment(tmp_path_factory.mktemp("core"), others, wheels["routesearch"])


@pytest.fixture(scope="module")
def full(wheels: dict[str, Path], others: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with the project's wheel and the plugins'."""
    return Environment(tmp_path_factory.mktemp("full"), others, *wheels.values())


def _project(folder: Path) -> dict[str, str]:
    project: dict[str, str] = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    return project


def test_without_plugins_the_core_offers_its_own(core: Environment) -> None:
    where = core.run(core.bin / "python", "-c", "import routesearch; print(routesearch.__file__)")
    assert Path(where.strip()).is_relative_to(core.packages)
    assert set(json.loads(core.routesearch("methods", "--json"))) == {"static"}
    assert {"nin", "resnet38"} <= set(json.loads(core.routesearch("backbones", "--json")))
    assert {"digits", "arrays"} <= set(json.loads(core.routesearch("datasets", "--json")))


def test_version_is_the_project_files(core: Environment) -> None:
    assert _project(ROOT)["version"] in core.routesearch("--version").split()


def test_data_come_along(core: Environment) -> None:
    source, installed = ROOT / "routesearch", core.packages / "routesearch"
    for file in ("py.typed", "data/digits.npz"):
        assert (installed / file).read_bytes() == (source / file).read_bytes()
    assert (installed / "studies/quickstart.yaml").read_bytes() == (
        ROOT / "studies/quickstart.yaml"
    ).read_bytes()
    assert {path.relative_to(source) for path in source.rglob("*.py")} == {
        path.relative_to(installed) for path in installed.rglob("*.py")
    }


def test_plugins_join_by_their_entry_points(full: Environment) -> None:
    assert {"static", "dgate"} <= set(json.loads(full.routesearch("methods", "--json")))
    for method in ("static", "dgate"):
        price = full.routesearch("cost", method, "--backbone", "nin@0.25", "--dataset", "digits", "--json")
        assert 0 < json.loads(price)["macs"]["min"] <= json.loads(price)["macs"]["max"]


def test_each_plugin_declares_what_its_folder_says(full: Environment, wheels: dict[str, Path]) -> None:
    code = (
        "import importlib.metadata as m; print(*(e.dist.name for e in m.entry_points(group='routesearch')))"
    )
    assert sorted(full.run(full.bin / "python", "-c", code).split()) == sorted(wheels)
