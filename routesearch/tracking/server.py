"""MLflow's pages on this machine."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import IO

from routesearch.errors import Refusal, RunFailed
from routesearch.tracking.client import CALM, artifact_folder

HOST = "127.0.0.1"
USUAL_PORT = 5000
"""MLflow's own, tried first: a browser remembers by address which panels its user has closed."""
PATIENCE = 120.0
"""Seconds for the server to start; a busy machine takes 20."""


def open_ui(uri: str, link: str, port: int | None, on_ready: Callable[[str], None]) -> None:
    """Serve MLflow's pages until Ctrl-C; where ``uri`` is a server already, only tell its address.

    Args:
        uri: the study's tracking URI.
        link: what follows the server's address (``link_of``).
        port: None takes 5000 or, where that is taken, a free one.
        on_ready: gets the address of the study's charts once they can be opened.

    Raises:
        Refusal: the port is taken.
        RunFailed: the server ended by itself.
    """
    if uri.startswith(("http://", "https://")):
        on_ready(f"{uri.rstrip('/')}/{link}")
        return
    port = _free(port)
    with TemporaryFile("w+", encoding="utf-8", errors="replace") as output, TemporaryDirectory() as empty:
        server = _start(uri, port, output, empty)
        try:
            _wait(server, port, output)
            on_ready(f"http://{HOST}:{port}/{link}")
            server.wait()
            raise RunFailed(f"MLflow's server ended by itself: {_last_line(output)}")
        except KeyboardInterrupt:
            pass
        finally:
            _stop(server)


def _free(port: int | None) -> int:
    """``port`` if nobody has it; without one the usual port, or any that is free."""
    for candidate in (USUAL_PORT, 0) if port is None else (port,):
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, candidate))
            return int(probe.getsockname()[1])
    raise Refusal(f"port {port} is in use on {HOST}; pass another or omit --port")


def _start(uri: str, port: int, output: IO[str], empty: str) -> subprocess.Popen[str]:
    folder = artifact_folder(uri)
    # A closed terminal or a SIGKILL must leave no server behind.
    guard = Path(__file__).with_name("child_guard.py")
    command = [
        sys.executable,
        "-I",
        str(guard),
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--backend-store-uri",
        uri,
    ]
    command += ["--host", HOST, "--port", str(port), "--workers", "1", "--no-serve-artifacts"]
    command += ["--uvicorn-opts", "--log-level warning"]
    if folder is not None:
        command += ["--default-artifact-root", folder.as_uri()]
    quiet = {**CALM, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **os.environ}
    # Its own session: Ctrl-C reaches us alone, and the whole family of processes can be ended at once.
    return subprocess.Popen(
        command,
        env=quiet,
        cwd=empty,  # uvicorn imports from the working directory before anything else
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def _wait(server: subprocess.Popen[str], port: int, output: IO[str]) -> None:
    give_up = time.monotonic() + PATIENCE
    while time.monotonic() < give_up:
        if server.poll() is not None:
            raise RunFailed(f"MLflow's server did not start: {_last_line(output)}")
        with suppress(urllib.error.URLError, OSError):
            urllib.request.urlopen(f"http://{HOST}:{port}/health", timeout=5).close()
            return
        time.sleep(0.2)
    raise RunFailed(f"MLflow's server did not answer within {PATIENCE:.0f} s: {_last_line(output)}")


def _last_line(output: IO[str]) -> str:
    output.seek(0)
    lines = [line.strip() for line in output if line.strip()]
    return lines[-1] if lines else "it said nothing"


def _stop(server: subprocess.Popen[str]) -> None:
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(server.pid, sign)
        with suppress(subprocess.TimeoutExpired):
            server.wait(timeout=5)
            return
