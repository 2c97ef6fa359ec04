"""A search, its results and MLflow's pages where everything around them is hostile at once."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from routesearch.errors import Refusal
from routesearch.search import ray_cluster
from routesearch.search.ray_cluster import connect

SCRIPT = str(Path(sys.executable).with_name("routesearch"))
STUDY: dict[str, Any] = {
    "data": {"name": "digits", "train": 60, "validation": 30, "test": 30},
    "backbone": "nin@0.05",
    "methods": ["static"],
    "budget": {"max_macs": "90%"},
    "search": {"trials": 2},
    "training": {"epochs": 1, "batch_size": 30},
    "storage": {"dir": "$STORE/größe 1"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study in a folder with an odd name, and modules beside it that nobody asked for."""
    folder = tmp_path_factory.mktemp("places") / "50% of #1? é; &"
    folder.mkdir()
    for name in ("random", "string", "torch", "numpy", "mlflow", "ray", "uvicorn"):
        (folder / f"{name}.py").write_text("raise SystemExit('imported from the working directory')")
    (folder / "study.yaml").write_text(yaml.safe_dump(STUDY, allow_unicode=True), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def hostile(folder: Path) -> dict[str, str]:
    """A long temporary folder, a proxy that nobody answers at, no home, an ASCII locale."""
    temporary = folder.parent / ("a-long-name-of-a-folder-" * 4)
    temporary.mkdir()
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        proxy = f"http://127.0.0.1:{nobody.getsockname()[1]}"
    names = ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "ALL_PROXY", "grpc_proxy")
    kept = {k: v for k, v in os.environ.items() if k.lower() != "no_proxy" and not k.startswith("LC_")}
    return {
        **kept,
        **dict.fromkeys(names, proxy),
        "TMPDIR": str(temporary),
        "HOME": "/nowhere/at/all",
        "LC_ALL": "C",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONUTF8": "0",
        "PYTHONIOENCODING": "ascii",
        "PYTHONPATH": ":/nowhere",
        "STORE": str(folder),
    }


@pytest.fixture(scope="module")
def searched(folder: Path, hostile: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return command(folder, hostile, "search", "study.yaml", "--json")


def command(folder: Path, environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SCRIPT, *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        encoding="ascii",
        check=False,
        timeout=300,
    )


def test_a_search_ends_as_anywhere(
    searched: subprocess.CompletedProcess[str], folder: Path, hostile: dict[str, str]
) -> None:
    assert searched.returncode == 0, searched.stderr
    assert "warning" not in searched.stderr
    assert json.loads(searched.stdout)["finished"] == 2
    assert {"journal.log", "mlflow.db"} <= {path.name for path in (folder / "größe 1").iterdir()}
    assert {path.name for path in folder.parent.iterdir()} == {folder.name, Path(hostile["TMPDIR"]).name}


@pytest.mark.usefixtures("searched")
def test_its_best_is_saved_and_registered(folder: Path, hostile: dict[str, str]) -> None:
    done = command(folder, hostile, "best", "study.yaml", "--save", "modèle", "--register", "digits")
    assert done.returncode == 0, done.stderr
    assert (folder / "modèle" / "model.json").is_file()
    assert "registered as models:/digits/1" in done.stderr


@pytest.mark.usefixtures("searched")
def test_its_pages_open(folder: Path, hostile: dict[str, str]) -> None:
    """Through the proxy nobody would answer; beside the modules the server would not start."""
    ui = [SCRIPT, "ui", "study.yaml", "--no-browser"]
    with subprocess.Popen(ui, cwd=folder, env=hostile, stderr=subprocess.PIPE, encoding="ascii") as server:
        try:
            assert server.stderr is not None
            line = server.stderr.readline()
            assert line.startswith("routesearch: http://127.0.0.1:"), line
            address = line.split()[1].partition("#")[0]
            direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with direct.open(f"{address}health", timeout=30) as answer:
                assert answer.status == 200
        finally:
            server.send_signal(signal.SIGINT)
        assert server.wait(timeout=60) == 0


# ---- Ray's folder ------------------------------------------------------------------------------------


@pytest.fixture
def at_the_limit() -> Iterator[Path]:
    """The longest folder that leaves room for Ray's own names."""
    most = ray_cluster.MAX_FOLDER - len(f"/{ray_cluster.PREFIX}12345678")
    folder = Path("/tmp/".ljust(most, "x"))
    folder.mkdir(exist_ok=True)
    yield folder
    folder.rmdir()


def test_the_longest_folder_has_room_for_rays_sockets(
    at_the_limit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And workers import nothing from the working directory that this process would not."""
    import ray

    monkeypatch.setattr(ray_cluster, "temporary_folders", lambda: iter([str(at_the_limit)]))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "random.py").write_text("raise SystemExit('imported from the working directory')")

    def found() -> tuple[str, list[str]]:
        import random

        return random.__file__, sys.path

    with connect(None, 1) as scratch:
        assert len(str(scratch)) == ray_cluster.MAX_FOLDER
        sockets = [path for path in scratch.rglob("*") if path.is_socket()]
        file, paths = ray.get(ray.remote(found).remote())
    assert sockets
    longest = max(len(str(path)) for path in sockets)
    assert longest + len("4194304") - len(str(os.getpid())) <= 107
    assert file != str(tmp_path / "random.py")
    assert str(tmp_path) not in paths
    assert not list(at_the_limit.iterdir())


def test_a_folder_that_is_too_long_or_cannot_be_written_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long, latin = f"{tmp_path}/{'x' * 90}", "/tmp/caf\udce9"
    bases = [long, latin, "/nowhere", "/proc"]
    monkeypatch.setattr(ray_cluster, "temporary_folders", lambda: iter([*bases, "/tmp"]))
    with ray_cluster.short_folder() as folder:
        assert folder.parent == Path("/tmp")
    monkeypatch.setenv("TMPDIR", long)
    monkeypatch.setattr(ray_cluster, "temporary_folders", lambda: iter(bases))
    told = r"^Ray needs a folder .* of 2\d bytes at most: set TMPDIR, got .*xxx$"
    with pytest.raises(Refusal, match=told), ray_cluster.short_folder():
        pass
