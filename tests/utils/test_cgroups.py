"""The CPU quota of a container, read from made-up control groups of both versions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from routesearch.utils.cgroups import cpu_quota

MOUNT = {
    1: "32 31 0:29 {root} {point} rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n",
    2: "32 31 0:29 {root} {point} rw,relatime - cgroup2 cgroup2 rw\n",
}
Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A ``/proc/self`` of a process in ``group``, and the files of its groups: folder -> limit."""

    def process(version: int, group: str, limits: dict[str, str], root: str = "/") -> Path:
        point = tmp_path / "cgroup"
        for folder, limit in limits.items():
            (point / folder).mkdir(parents=True, exist_ok=True)
            if version == 2:
                (point / folder / "cpu.max").write_text(f"{limit}\n")
                continue
            quota, period = limit.split()
            (point / folder / "cpu.cfs_quota_us").write_text(f"{quota}\n")
            (point / folder / "cpu.cfs_period_us").write_text(f"{period}\n")
        proc = tmp_path / "self"
        proc.mkdir()
        other = "24 23 0:22 / /proc rw - proc proc rw\n33 31 0:30 / /x rw - cgroup cgroup rw,memory\n"
        (proc / "mountinfo").write_text(other + MOUNT[version].format(root=root, point=point))
        controllers = "4:cpu,cpuacct:" if version == 1 else "0::"
        (proc / "cgroup").write_text(f"9:memory:/elsewhere\n{controllers}{group}\n")
        return proc

    return process


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("group", "limits", "cores"),
    [
        ("/", {"": "150000 100000"}, 1.5),
        ("/a/b", {"a/b": "50000 100000", "a": "200000 100000"}, 0.5),
        ("/a/b", {"a/b": "300000 100000", "a": "200000 100000"}, 2.0),
        ("/a/b", {"a": "10000 20000"}, 0.5),
        ("/not/seen/here", {"": "100000 100000"}, 1.0),
        ("/../../outside", {"": "100000 100000"}, 1.0),
        ("/a", {"b": "100000 100000"}, None),
        ("/a", {}, None),
        ("/a", {"a": "100000 0"}, None),
    ],
)
def test_the_least_of_the_groups_around_a_process(
    version: int, group: str, limits: dict[str, str], cores: float | None, make: Make
) -> None:
    assert cpu_quota(make(version, group, limits)) == cores


@pytest.mark.parametrize(("version", "limit"), [(1, "-1 100000"), (2, "max 100000"), (2, "max"), (2, "")])
def test_no_limit(version: int, limit: str, make: Make) -> None:
    assert cpu_quota(make(version, "/", {"": limit})) is None


@pytest.mark.parametrize("version", [1, 2])
def test_in_a_container_the_mount_shows_an_inner_group(version: int, make: Make) -> None:
    """Docker without a namespace of its own: the paths are the host's, the folder is the container's."""
    limits = {"": "200000 100000", "inner": "100000 100000"}
    assert cpu_quota(make(version, "/docker/abc/inner", limits, root="/docker/abc")) == 1.0


def test_where_there_are_no_control_groups(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) is None
    (tmp_path / "mountinfo").write_text("garbage\n - \n1 2 - cgroup2\n")
    (tmp_path / "cgroup").write_bytes(b"garbage\n\xff::\n0::/\n")
    assert cpu_quota(tmp_path) is None
