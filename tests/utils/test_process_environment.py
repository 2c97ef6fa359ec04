"""What a shell, a cluster or a container sets: put right for this process and its children, inside."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import pytest

from routesearch.study.config import load_study
from routesearch.utils.process_environment import restart_in_utf8, sane_environment, temporary_folders

SCRIPT = [str(Path(sys.executable).with_name("routesearch"))]
MODULE = [sys.executable, "-m", "routesearch.cli"]
NAMES = ("TMPDIR", "HOME", "USER", "LOGNAME", "MPLCONFIGDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "NO_PROXY")
NAMES += ("no_proxy", "http_proxy", "HTTPS_PROXY", "PYTHONPATH", "PYTHONIOENCODING", "PYTHONSAFEPATH")


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is set but a home."""
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)


def inside() -> dict[str, str]:
    """The environment inside, as far as it is looked at here; outside nothing must have changed."""
    before = dict(os.environ)
    with sane_environment():
        found = dict(os.environ)
    assert dict(os.environ) == before
    return {name: found[name] for name in NAMES if name in found and name != "PYTHONSAFEPATH"}


def test_a_sound_environment_stays_as_it_is(tmp_path: Path) -> None:
    assert inside() == {"HOME": str(tmp_path)}


def test_what_is_set_inside_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy:3128")

    @sane_environment()
    def work() -> None:
        assert os.environ["PYTHONSAFEPATH"] == "1"
        os.environ["no_proxy"] = "mine"

    work()
    assert (os.environ.pop("no_proxy"), os.environ.get("NO_PROXY")) == ("mine", None)


# ---- temporary folders, homes ------------------------------------------------------------------------


def test_a_temporary_folder_that_is_there_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert inside()["TMPDIR"] == str(tmp_path)
    assert next(temporary_folders()) == str(tmp_path)


@pytest.mark.parametrize("folder", ["/nowhere/at/all", "/proc/self", ""])
def test_a_temporary_folder_that_cannot_be_written(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", folder)
    found = inside()["TMPDIR"]
    assert found != folder
    assert os.access(found, os.W_OK)


def test_a_temporary_folder_is_the_same_from_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "scratch").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", "scratch")
    assert inside()["TMPDIR"] == str(tmp_path / "scratch")


@pytest.mark.parametrize("home", ["/nowhere/at/all", "/proc/version"])
def test_without_a_home_caches_lie_elsewhere(
    home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``HOME`` itself stays: ``~`` in a study means what the user set."""
    (tmp_path / "scratch").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    monkeypatch.setenv("HOME", home)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = inside()
    cache = tmp_path / "scratch" / f"routesearch-cache-{os.getuid()}"
    assert (found["HOME"], found["MPLCONFIGDIR"]) == (home, str(cache))
    assert found["XDG_CACHE_HOME"] == str(tmp_path), "the user's own, which can be written"
    assert cache.stat().st_mode & 0o777 == 0o700


def test_a_user_whom_the_system_does_not_know(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    found = inside()
    assert found["HOME"] == found["MPLCONFIGDIR"]
    assert found["USER"] == str(os.getuid())


def test_a_folder_for_caches_that_is_another_users_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("HOME", "/nowhere")
    (tmp_path / "theirs").mkdir(mode=0o777)
    taken = tmp_path / f"routesearch-cache-{os.getuid()}"
    taken.symlink_to(tmp_path / "theirs")
    assert inside()["MPLCONFIGDIR"] not in (str(taken), str(tmp_path / "theirs"))


# ---- proxies -----------------------------------------------------------------------------------------

HERE = "127.0.0.1,localhost,::1"


@pytest.mark.parametrize(
    ("given", "lower", "upper"),
    [
        ({}, HERE, HERE),
        ({"NO_PROXY": "a, .b"}, f"a,.b,{HERE}", f"a,.b,{HERE}"),
        ({"no_proxy": "a", "NO_PROXY": "b"}, f"a,{HERE}", f"b,{HERE}"),
        ({"no_proxy": "localhost"}, "localhost,127.0.0.1,::1", "localhost,127.0.0.1,::1"),
        ({"no_proxy": "*"}, "*", "*"),
    ],
)
@pytest.mark.parametrize("proxy", ["http_proxy", "HTTPS_PROXY"])
def test_this_machine_is_never_reached_through_a_proxy(
    given: Mapping[str, str], lower: str, upper: str, proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {proxy: "http://proxy:3128", **given}.items():
        monkeypatch.setenv(name, value)
    found = inside()
    assert (found["no_proxy"], found["NO_PROXY"]) == (lower, upper)
    with sane_environment():
        assert urllib.request.proxy_bypass_environment("127.0.0.1:5000")
        assert urllib.request.proxy_bypass_environment("localhost")
        assert urllib.request.proxy_bypass_environment("example.org") == (lower == "*")


# ---- Python processes --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "found"), [(":/a", "/a"), ("/a:", "/a"), ("/a::/b", "/a:/b"), (".:/a", ".:/a"), ("/a", "/a")]
)
def test_an_empty_entry_does_not_mean_the_working_directory(
    given: str, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", given)
    assert inside()["PYTHONPATH"] == found


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    """A working directory with modules in it that nobody asked for."""
    folder = tmp_path / "50% of #1? é"
    folder.mkdir()
    for name in ("random", "string", "torch", "numpy", "mlflow", "ray", "yaml"):
        (folder / f"{name}.py").write_text("raise SystemExit('imported from the working directory')")
    return folder


def command(
    words: list[str], folder: Path, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*words, *arguments],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize("words", [SCRIPT, MODULE], ids=["script", "module"])
@pytest.mark.parametrize("path", ["", ":/more", "/more:"])
def test_a_command_imports_nothing_from_the_working_directory(
    words: list[str], path: str, trap: Path
) -> None:
    done = command(words, trap, "--version", **({"PYTHONPATH": path} if path else {}))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("routesearch ")


ASCII = {
    "C": {"LC_ALL": "C"},
    "POSIX, not coerced": {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0"},
    "C, no remedy": {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    "output": {"PYTHONIOENCODING": "ascii"},
}


@pytest.mark.parametrize("kind", ASCII)
def test_a_command_prints_and_writes_in_any_locale(kind: str, trap: Path) -> None:
    done = command(SCRIPT, trap, "init", "für mich", **ASCII[kind])
    assert (done.returncode, done.stderr) == (0, "")
    assert "Wrote f" in done.stdout
    assert load_study(trap / "für mich" / "study.yaml").data["name"] == "image_folder"


def test_a_folder_in_another_encoding_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    (folder / "study.yaml").write_text("data: digits\nbackbone: nin\nmethods: [static]\n")
    for words in (["plan", "study.yaml"], ["init", "new"]):
        done = command(SCRIPT, folder, *words)
        assert done.returncode == 2
        told = "a study must lie in a folder whose name is UTF-8, got '"
        assert done.stderr.startswith(f"routesearch: {told}{tmp_path}/caf\\udce9")
    assert sorted(path.name for path in folder.iterdir()) == ["study.yaml"]


def test_a_working_directory_that_was_deleted(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    script = f"cd {tmp_path}/gone && rmdir ../gone && exec {SCRIPT[0]} --version"
    done = command(["sh", "-c"], tmp_path, script)
    assert (done.returncode, done.stdout) == (2, "")
    told = "routesearch: the working directory must be a folder that is there, go to another: No such file"
    assert done.stderr.startswith(told)
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(("encoding", "again"), [("ascii", True), ("iso8859-1", True), ("utf-8", False)])
def test_a_command_whose_file_names_are_no_utf8_starts_again(
    encoding: str, again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it starts reads names as UTF-8, and they must agree."""
    started: list[list[str]] = []
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: encoding)
    monkeypatch.setattr(os, "execv", lambda program, words: started.append(words))
    restart_in_utf8()
    assert started == ([[sys.executable, "-X", "utf8", *sys.orig_argv[1:]]] if again else [])
