"""What Linux grants a container: the CPU quota of the control groups that this process is in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

_PROCESS = Path("/proc/self")


class _Mount(NamedTuple):
    """A hierarchy of control groups, as it is mounted.

    Attributes:
        root: the group that is seen at ``point``: in a container not the hierarchy's own root.
        controllers: of version 1; empty for version 2, which has one hierarchy for all.
    """

    root: PurePosixPath
    point: Path
    controllers: frozenset[str]


def cpu_quota(process: Path = _PROCESS) -> float | None:
    """Cores' worth of time that this process may use, the least of its groups; None without a limit.

    Args:
        process: a folder as ``/proc/self``.
    """
    try:
        mounts = list(_mounts((process / "mountinfo").read_text("utf-8", "replace")))
        groups = list(_groups((process / "cgroup").read_text("utf-8", "replace")))
    except OSError:  # no Linux
        return None
    found = [
        quota
        for mount in mounts
        for controllers, group in groups
        if mount.controllers == controllers
        for folder in _folders(mount, group)
        if (quota := _quota(folder)) is not None
    ]
    return min(found, default=None)


def _mounts(mountinfo: str) -> Iterator[_Mount]:
    """The hierarchies that may limit CPU time: version 2, and version 1's with the controller ``cpu``."""
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields, (kind, *rest) = before.split(" "), after.split(" ") if after else [""]
        if kind not in ("cgroup", "cgroup2") or len(fields) < 5:
            continue
        root, point = (part.replace("\\040", " ") for part in fields[3:5])
        options = frozenset(rest[-1].split(",")) if rest else frozenset()
        if kind == "cgroup2":
            yield _Mount(PurePosixPath(root), Path(point), frozenset())
        elif "cpu" in options:
            yield _Mount(PurePosixPath(root), Path(point), frozenset({"cpu"}))


def _groups(cgroup: str) -> Iterator[tuple[frozenset[str], PurePosixPath]]:
    """The groups of this process, with what they control, as in :class:`_Mount`."""
    for line in cgroup.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        names = frozenset(controllers.split(","))
        if not controllers:
            yield frozenset(), PurePosixPath(group)
        elif "cpu" in names:
            yield frozenset({"cpu"}), PurePosixPath(group)


def _folders(mount: _Mount, group: PurePosixPath) -> Iterator[Path]:
    """A group's folder and those of the groups around it, as far as they are seen here."""
    inner = group.relative_to(mount.root) if group.is_relative_to(mount.root) else PurePosixPath()
    parts = inner.parts if ".." not in inner.parts else ()  # outside of what a namespace shows
    for count in range(len(parts), -1, -1):
        yield mount.point.joinpath(*[part for part in parts[:count] if part != "/"])


def _quota(folder: Path) -> float | None:
    """The quota that one group sets, in cores."""
    try:
        if (whole := folder / "cpu.max").is_file():
            limit, period = whole.read_text().split()
        else:
            limit = (folder / "cpu.cfs_quota_us").read_text().strip()
            period = (folder / "cpu.cfs_period_us").read_text().strip()
        cores = int(limit) / int(period)
    except (OSError, ValueError, ZeroDivisionError):  # no file, or "max"
        return None
    return cores if cores > 0 else None
