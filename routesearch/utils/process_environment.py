"""The environment of this process and of all that it starts, with what would make them fail put right.

Whatever a shell, a cluster or a container sets: a proxy, an ASCII locale, a home or a temporary folder that
cannot be written, a ``random.py`` in the working directory. Other modules look at none of that.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

# The rest of the standard library is imported inside functions: forget_working_directory comes before it.

SAFE_PYTHON = {
    "PYTHONSAFEPATH": "1",  # `python -m` would put the working directory before the standard library
    "PYTHONUTF8": "1",
}
"""Variables for the Python processes that are started, on other machines as well."""

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@contextmanager
def sane_environment() -> Iterator[None]:
    """Put the environment right for a while; also a decorator. What needs no change stays as it is set."""
    changes = {**_temporary_folder(), **_home(), **_proxies(), **_python()}
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if os.environ.get(name) != changes[name]:  # somebody has set it since
                continue
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def temporary_folders() -> Iterator[str]:
    """Folders for temporary files, the user's choice first; some may not be there or not be writable."""
    import tempfile

    with suppress(FileNotFoundError):
        yield tempfile.gettempdir()
    yield from ("/tmp", "/var/tmp", "/dev/shm", f"/run/user/{os.getuid()}")


def _temporary_folder() -> Mapping[str, str]:
    """Python passes over a ``TMPDIR`` that cannot be written; libraries in other languages do not."""
    if "TMPDIR" not in os.environ:
        return {}
    import tempfile

    with suppress(FileNotFoundError):
        return {"TMPDIR": tempfile.gettempdir()}
    return {}


def _home() -> Mapping[str, str]:
    """Caches elsewhere where there is no home to write into; ``HOME`` itself only where it is unknown."""
    home = os.path.expanduser("~")  # noqa: PTH111 (Path raises where nobody knows it)
    if _can_write(home):
        return {}
    try:
        folder = _own_folder()
    except OSError:
        return {}
    names = ("MPLCONFIGDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")
    changes = {name: folder for name in names if not _can_write(os.environ.get(name, ""))}
    if home == "~":  # a container's user without an entry in /etc/passwd
        changes["HOME"] = folder
        if not {"USER", "LOGNAME"} & set(os.environ):
            changes["USER"] = str(os.getuid())
    return changes


def _own_folder() -> str:
    """A folder for caches that only this user can write, the same for every process."""
    import stat
    import tempfile
    from pathlib import Path

    folder = Path(tempfile.gettempdir(), f"routesearch-cache-{os.getuid()}")
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        return tempfile.mkdtemp(prefix="routesearch-cache-")  # somebody else has the name
    return str(folder)


def _can_write(folder: str) -> bool:
    return os.access(folder, os.W_OK | os.X_OK) and os.path.isdir(folder)  # noqa: PTH112


def _proxies() -> Mapping[str, str]:
    """Nothing that runs on this machine is reached through a proxy."""
    if not any(name.lower().endswith("_proxy") and value for name, value in os.environ.items()):
        return {}
    lower, upper = (os.environ.get(name, "") for name in ("no_proxy", "NO_PROXY"))
    return {"no_proxy": _with_loopback(lower or upper), "NO_PROXY": _with_loopback(upper or lower)}


def _with_loopback(hosts: str) -> str:
    known = [host.strip() for host in hosts.split(",") if host.strip()]
    if "*" in known:
        return hosts
    return ",".join([*known, *(host for host in _LOOPBACK if host not in known)])


def _python() -> Mapping[str, str]:
    """Python processes that are started speak UTF-8 and take no module from the working directory."""
    changes = dict(SAFE_PYTHON)
    if "PYTHONIOENCODING" in os.environ:
        changes["PYTHONIOENCODING"] = "utf-8:backslashreplace"
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if len(paths) > 1 and "" in paths:
        changes["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    return changes


def forget_working_directory() -> None:
    """Have this command import nothing from the working directory; to be called before any other import.

    ``python -m`` puts it before the standard library, and so does an empty entry of ``PYTHONPATH``, which
    ``PYTHONPATH=$PYTHONPATH:/more`` leaves where it was not set.
    """
    by_module = sys.argv[:1] == ["-m"] and any(
        word.removeprefix("-m") in ("routesearch.cli", "routesearch.cli.__main__") for word in sys.orig_argv
    )
    if by_module and not sys.flags.safe_path and sys.path:
        del sys.path[0]
    ours = by_module or os.path.basename(sys.argv[0]) == "routesearch"  # noqa: PTH119
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if ours and len(paths) > 1 and "" in paths and not sys.flags.ignore_environment:
        with suppress(OSError, ValueError):
            sys.path.remove(os.getcwd())  # noqa: PTH109


def check_working_directory() -> None:
    """Refuse to run in a folder that was deleted: libraries end the process there without a word of ours.

    Raises:
        Refusal: it is gone.
    """
    from routesearch.errors import Refusal

    try:
        os.getcwd()  # noqa: PTH109
    except OSError as error:
        rule = "the working directory must be a folder that is there"
        raise Refusal(f"{rule}, go to another: {error.strerror}") from None


def restart_in_utf8() -> None:
    """Start this command again in Python's UTF-8 mode where the names of files are in another encoding.

    That is the C locale with both of Python's own remedies switched off, or a locale of Latin-1: nothing can
    change it later, and the processes that are started read names as UTF-8.
    """
    if sys.getfilesystemencoding() != "utf-8" and not sys.flags.utf8_mode and sys.executable:
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def print_anything() -> None:
    """Characters that the output's encoding lacks are printed as escapes, instead of ending the command."""
    from io import TextIOWrapper

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")
