"""A search on a Ray cluster that runs already: two nodes on this machine, one with a GPU that is none."""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from routesearch.results.journal import Journal
from routesearch.results.reader import StudyResults
from routesearch.results.record import State
from routesearch.search.trial_weights import read_weights

SCRIPT = Path(__file__).with_name("fake_study.py")
CONFIG: Any = None
"""No study file: the records of trials do not depend on it."""
RAY = Path(sys.executable).with_name("ray")


TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16), "RAY_USAGE_STATS_ENABLED": "0"}
"""The cluster is one that asks for a token; the driver finds it where Ray's users put it."""


@contextmanager
def ray_start(*arguments: str, **environment: str) -> Iterator[None]:
    command = [
        str(RAY),
        "start",
        "--block",
        "--disable-usage-stats",
        "--node-ip-address=127.0.0.1",
        *arguments,
    ]
    out = subprocess.PIPE
    process = subprocess.Popen(
        command, env=os.environ | TOKEN | environment, stdout=out, stderr=subprocess.STDOUT, text=True
    )
    try:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "--block" in line:  # the last thing that it says
                break
        else:
            pytest.fail(f"ray did not start: {''.join(lines)}")
        yield
    finally:
        process.terminate()
        process.communicate(timeout=60)


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """HOST:PORT of a head with no CPUs to give, and a node with 2 CPUs and 1 GPU."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    with tempfile.TemporaryDirectory(prefix="rs-") as folder:  # Ray's sockets need a short name
        head = ["--head", f"--port={address.partition(':')[2]}", "--num-cpus=0", "--num-gpus=0"]
        with (
            ray_start(*head, "--include-dashboard=false", f"--temp-dir={folder}"),
            ray_start(f"--address={address}", "--num-cpus=2", "--num-gpus=1"),
        ):
            yield address


def run(folder: Path, **settings: Any) -> tuple[int, str]:
    command = [sys.executable, str(SCRIPT), str(folder), json.dumps(settings)]
    done = subprocess.run(
        command, env=os.environ | TOKEN, capture_output=True, text=True, timeout=120, check=False
    )
    return done.returncode, done.stderr


def test_weights_travel_to_the_driver_and_the_cluster_stays_up(cluster: str, tmp_path: Path) -> None:
    assert run(tmp_path / "one", trials=5, budget=None, address=cluster) == (0, "")
    assert run(tmp_path / "two", trials=5, budget=None, address=cluster) == (0, "")
    with Journal.open_for_reading(tmp_path / "two") as journal:
        kept = {r.number: r for r in StudyResults(CONFIG, journal).records}
    assert Counter(r.state for r in kept.values()) == {State.FINISHED: 5}
    files = list((tmp_path / "two" / "weights").iterdir())
    assert files
    for file in files:
        weights = read_weights(file)
        assert weights["x"][0] == kept[int(file.stem)].config["x"]


@pytest.mark.parametrize(("share", "together"), [(0.5, True), pytest.param(1, False, marks=pytest.mark.slow)])
def test_trials_share_a_gpu_by_fractions(cluster: str, tmp_path: Path, share: float, together: bool) -> None:
    status, complaint = run(tmp_path, trials=4, seconds=1.0, gpu=share, budget=None, address=cluster)
    assert (status, complaint) == (0, "")
    with Journal.open_for_reading(tmp_path) as journal:
        workers = {r.outcome.params for r in StudyResults(CONFIG, journal).records if r.outcome is not None}
    assert (len(workers) == 2) is together  # as many worker processes as trials at a time


@pytest.mark.slow
def test_a_machine_that_cannot_set_up_is_avoided(cluster: str, tmp_path: Path) -> None:
    with ray_start(f"--address={cluster}", "--num-cpus=2", "--num-gpus=0", FAKE_MACHINE="broken"):
        assert run(tmp_path, trials=8, seconds=0.5, budget=None, address=cluster) == (0, "")
    with Journal.open_for_reading(tmp_path) as journal:
        states = Counter(r.state for r in StudyResults(CONFIG, journal).records)
    assert states == {State.FINISHED: 8}


def test_more_than_the_largest_machine_has_is_refused(cluster: str, tmp_path: Path) -> None:
    status, complaint = run(tmp_path, cpu=3, address=cluster)
    assert status == 2
    assert re.search(r"got cpu=3, gpu=0; the largest here has 2 CPUs and 1 GPUs$", complaint.strip())
