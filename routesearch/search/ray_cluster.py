"""Ray for the time of a search: on this machine alone, or a cluster that runs already."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from typing import Any

from routesearch.errors import Refusal, headline
from routesearch.search.worker import WorkerResources
from routesearch.utils.internals import internal
from routesearch.utils.machine import cores, threads
from routesearch.utils.paths import is_utf8
from routesearch.utils.process_environment import SAFE_PYTHON, temporary_folders

_TOKEN = secrets.token_hex(16)
"""What this process's own Ray asks of those who connect; without it Ray would leave a token of its own
in the home folder, which may be read-only, and which changes how clusters start there from then on."""

_SOCKET = "/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
"""The longest name of a socket that Ray makes below its temporary folder."""
MAX_FOLDER = 107 - len(_SOCKET)
"""Bytes of a folder's name at most: Linux takes 107 for a socket's."""

WORKER_ENV = SAFE_PYTHON | {
    # glibc otherwise gives large blocks back to the kernel after each operation: up to 2.7 x in training.
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths mean what they mean in the driver
    "PYTHONWARNINGS": "ignore",
}
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # Ray prints a lost worker on stdout; it is that trial's reason
}


@contextlib.contextmanager
def connect(address: str | None, cpu: float) -> Iterator[Path]:
    """Connect to Ray; what was running before is left running.

    Args:
        address: of a cluster; None starts Ray on this machine alone.
        cpu: cores of a trial: what libraries of the workers may use.

    Yields:
        A scratch folder of this search.

    Raises:
        Refusal: there is no Ray to be had.
    """
    with environment(_QUIET):
        import ray  # some of the settings are read here

    if ray.is_initialized():
        with short_folder() as scratch:
            yield scratch
        return
    settings: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "runtime_env": {"env_vars": WORKER_ENV | {"OMP_NUM_THREADS": str(threads(cpu))}},
    }
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(short_folder())
        stack.enter_context(environment(_QUIET))
        for name in ("ray", "ray.tune"):
            stack.enter_context(_silent(logging.getLogger(name)))
        if address is None:
            stack.enter_context(environment({"RAY_AUTH_TOKEN": _TOKEN}))
            settings |= {
                "address": "local",
                "num_cpus": cores(),
                "include_dashboard": False,
                "_temp_dir": str(scratch),
            }
        else:
            _check_address(address)
            settings["address"] = address
        try:
            ray.init(**settings, job_config=_job_config())
        except (OSError, ValueError, RuntimeError) as error:
            ray.shutdown()
            what = "start Ray on this machine" if address is None else f"reach Ray at --address {address}"
            raise Refusal(f"could not {what}: {headline(error)}") from error
        try:
            _joined.append(object())
            yield scratch
        finally:
            ray.shutdown()
            _joined.pop()


_joined: list[object] = []


def joined_ray() -> object | None:
    """A mark of the Ray that this process joined for a search, until it has left it; None for another's."""
    return _joined[-1] if _joined else None


def _job_config() -> Any:
    """Ray's settings of a job: workers import from where this process does.

    Ray would add the working directory, and first: a ``random.py`` or ``torch.py`` that lies there by chance
    would take the place of the real one.
    """
    from ray.job_config import JobConfig

    without = "workers import from the working directory first, whatever lies there"
    for name in ("_serialize", "_py_driver_sys_path"):
        if name not in {*vars(JobConfig), *vars(JobConfig())}:
            internal(f"ray.job_config:JobConfig.{name}", without)
            return JobConfig()

    class Job(JobConfig):  # type: ignore[misc, unused-ignore]
        def _serialize(self) -> str:
            own = {os.path.abspath(path) for path in sys.path}  # noqa: PTH100 ("" is the working directory)
            self._py_driver_sys_path = [path for path in self._py_driver_sys_path if path in own]
            return super()._serialize()  # type: ignore[no-any-return, unused-ignore]

    return Job()


def _check_address(address: str) -> None:
    """Refuse an address where nobody listens: Ray itself would try for minutes."""
    if address == "auto":
        return
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit():
        raise Refusal(f"--address must be auto or HOST:PORT, got {address}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise Refusal(f"could not reach Ray at --address {address}: {error}") from error


@contextlib.contextmanager
def short_folder() -> Iterator[Path]:
    """A folder for Ray, short enough for its sockets; those of killed searches are removed."""
    folder, lock = _new_folder()
    try:
        with lock:
            for old in folder.parent.glob(f"{PREFIX}*"):  # ours is held
                with contextlib.suppress(OSError), _held(old / "lock"):
                    shutil.rmtree(old)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


PREFIX = f"routesearch-{os.getuid()}-"
TRIES = 3
"""New folders that are tried: another start may take one for a dead search's, before it is held."""


def _new_folder() -> tuple[Path, contextlib.ExitStack]:
    """A new folder, held, in the first place for temporary files that is short enough and can be written.

    Raises:
        Refusal: there is no such place.
    """
    most = MAX_FOLDER - len(f"/{PREFIX}12345678")
    for base in temporary_folders():
        if len(os.fsencode(base)) > most or not is_utf8(base):
            continue
        for _ in range(TRIES):
            with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
                folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
                stack.enter_context(_held(folder / "lock"))
                return folder, stack.pop_all()
    rule = f"Ray needs a folder for temporary files that can be written, with a name of {most} bytes at most"
    raise Refusal(f"{rule}: set TMPDIR, got {os.environ.get('TMPDIR', 'none')}")


@contextlib.contextmanager
def _held(path: Path) -> Iterator[None]:
    """Hold a file's lock; OSError if somebody else does."""
    with path.open("a") as file:
        flock(file, LOCK_EX | LOCK_NB)
        yield


def check_fits(resources: WorkerResources) -> None:
    """Refuse resources that no machine has: such trials would wait for ever."""
    if Capacity(resources)() == 0:
        alive = [n["Resources"] for n in nodes() if n["Alive"]]
        cpu, gpu = (max((n.get(name, 0) for n in alive), default=0) for name in ("CPU", "GPU"))
        raise Refusal(
            f"resources of a trial must fit on one machine, got cpu={resources.cpu:g}, gpu={resources.gpu:g};"
            f" the largest here has {cpu:g} CPUs and {gpu:g} GPUs"
        )


def nodes() -> list[dict[str, Any]]:
    """Ray's machines, as it describes them."""
    import ray

    found: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call, unused-ignore]
    return found


class Capacity:
    """How many trials fit on the cluster at once, looked up every few seconds: machines come and go."""

    def __init__(self, resources: WorkerResources) -> None:
        self._grant = resources
        self._known: dict[str, int] = {}
        self._when = -1e9

    def __call__(self) -> int:
        return sum(self._look().values())

    def nodes(self) -> set[str]:
        """The machines that trials fit on, by Ray's names."""
        return {node for node, count in self._look().items() if count}

    def _look(self) -> dict[str, int]:
        if time.monotonic() - self._when > 5:
            self._known = {n["NodeID"]: self._fit(n["Resources"]) for n in nodes() if n["Alive"]}
            self._when = time.monotonic()
        return self._known

    def _fit(self, resources: Mapping[str, float]) -> int:
        wanted = {"CPU": self._grant.cpu, "GPU": self._grant.gpu}
        return min(int(resources.get(name, 0) / need + 1e-9) for name, need in wanted.items() if need > 0)


@contextlib.contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set what is not set, for a while."""
    new = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(new)
    try:
        yield
    finally:
        for name in new:
            os.environ.pop(name, None)


@contextlib.contextmanager
def _silent(logger: logging.Logger) -> Iterator[None]:
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
