"""Help, the ways to end, and what reaches which stream."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from routesearch import Refusal, RunFailed, __version__
from routesearch.cli import app, main

COMMANDS = [
    *("search", "front", "best", "trials", "cost", "plan", "methods", "backbones", "datasets"),
    *("init", "ui", "publish", "predict", "latency", "export", "check", "new-plugin"),
]


def routesearch(*words: str, stdout: Any = subprocess.PIPE) -> subprocess.Popen[str]:
    """The command as a process of its own."""
    code = "import sys; from routesearch.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, *words]
    return subprocess.Popen(command, stdout=stdout, stderr=subprocess.PIPE, text=True)


def test_version(run: Any) -> None:
    assert run("--version") == (0, f"routesearch {__version__}\n", "")


def test_help_names_every_command_and_no_other(run: Any) -> None:
    status, out, err = run("--help")
    assert (status, err) == (0, "")
    assert set(COMMANDS) == set(typer.main.get_command(app.app).commands)
    assert [name for name in COMMANDS if name not in out] == []


def test_without_a_command_the_help_is_shown(run: Any) -> None:
    status, out, err = run()
    assert (status, err) == (0, "")
    assert "search" in out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_each_of_its_options_is_explained(name: str) -> None:
    command = typer.main.get_command(app.app).commands[name]  # type: ignore[attr-defined]
    assert command.help
    assert [p.name for p in command.params if not getattr(p, "help", None)] == []


def test_help_imports_nothing_heavy() -> None:
    heavy = ["torch", "ray", "mlflow", "optuna", "numpy", "matplotlib", "plotly"]
    code = (
        "import sys; from routesearch.cli import main; main(['--help']); main(['search', '--help']); "
        f"print([name for name in {heavy} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["serch"], "No such command"),
        (["search"], "Missing argument"),
        (["search", "s.yaml", "--trails", "3"], "No such option"),
        (["search", "s.yaml", "--trials", "many"], "--trials"),
        (["search", "s.yaml", "--trials"], "--trials"),
        (["front", "s.yaml", "--split", "train"], "--split"),
        (["ui", "s.yaml", "--port", "99999"], "--port"),
        (["cost", "static"], "--backbone"),
        (["best", "a.yaml", "b.yaml"], "b.yaml"),
        (["--loud"], "--loud"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_is_one_line(run: Any, words: list[str], told: str) -> None:
    done = run(*words)
    assert (done.status, done.out, len(done.lines)) == (2, "", 1)
    assert done.err.startswith("routesearch: ")
    assert told in done.err
    assert "--help`" in done.err


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (Refusal("low <= high must hold,\n got 3"), 2, "routesearch: low <= high must hold, got 3"),
        (RunFailed("the disk is full"), 1, "routesearch: the disk is full"),
        (KeyError("key"), 1, "routesearch: KeyError: 'key'; `routesearch -v …` shows the traceback"),
        (OSError(28, "No space"), 1, "routesearch: OSError: [Errno 28] No space; `routesearch -v …` shows"),
        (MemoryError(), 1, "routesearch: MemoryError: ; `routesearch -v …` shows"),
    ],
)
def test_an_error_is_one_line_and_a_status(
    run: Any, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, line: str
) -> None:
    raising(monkeypatch, error)
    done = run("methods", "--json")
    assert (done.status, done.out, len(done.lines)) == (status, "", 1)
    assert done.err.startswith(line)


def test_verbose_adds_the_traceback(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    raising(monkeypatch, ValueError("broken"))
    done = run("-v", "methods")
    assert done.status == 1
    assert done.lines[0] == "routesearch: ValueError: broken"
    assert done.lines[1] == "Traceback (most recent call last):"


def test_verbose_ends_with_its_command(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    raising(monkeypatch, ValueError("broken"))
    run("-v", "methods")
    assert len(run("methods").lines) == 1


def test_an_interrupt_is_130(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    raising(monkeypatch, KeyboardInterrupt())
    assert run("methods") == (130, "", "")


def raising(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def load_plugins(files: object) -> None:
        raise error

    monkeypatch.setattr("routesearch.plugin.loader.load_plugins", load_plugins)


def test_only_the_answer_is_on_standard_output(
    run: Any, write_study: Callable[..., Path], tmp_path: Path
) -> None:
    """A plugin that prints, and a data set that warns, must not spoil the document."""
    talker = tmp_path / "talker.py"
    talker.write_text(
        "import warnings\nfrom routesearch import hookimpl\nprint('hello')\nwarnings.warn('careful')\n"
        "@hookimpl\ndef routesearch_methods():\n    print('hook')\n    return []\n"
    )
    raw = write_study().read_text()
    file = write_study(
        plugins=[*(line[2:] for line in raw.splitlines() if line.endswith(".py")), str(talker)]
    )
    done = run("plan", file, "--json")
    assert done.status == 0
    assert set(done.json["methods"]) == {"static", "skipper"}
    assert done.err == "hello\nhook\n"


def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    """`routesearch … | head -0`, with more output than a pipe holds."""
    process = routesearch("methods", "--json")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    complaint = process.stderr.read()
    assert (process.wait(), complaint) == (1, "")


def test_the_console_script_is_this_main() -> None:
    from importlib.metadata import entry_points

    (script,) = entry_points(group="console_scripts", name="routesearch")
    assert script.load() is main
