"""MLflow's database: what a file is, and that a new one is there whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from routesearch import Refusal, RunFailed
from routesearch.results.reader import StudyResults
from routesearch.results.record import TrialRecord
from routesearch.tracking import Tracker, charts_link, publish
from routesearch.tracking import database as module
from routesearch.tracking.addresses import uri_of
from routesearch.tracking.client import connect, default_uri, import_mlflow
from routesearch.tracking.database import Condition, alone, examine, make, move_aside, upgrade
from routesearch.tracking.registry import register

OLDER = "c48cb773bb87"
"""A schema of MLflow 1."""


@pytest.fixture
def file(empty_database: Path, tmp_path: Path) -> Path:
    """A whole database with an experiment in it."""
    copy = Path(shutil.copy(empty_database, tmp_path / "mlflow.db"))
    connect(uri_of(copy)).create_experiment("mine")
    return copy


def names(folder: Path) -> list[str]:
    """What lies there but the lock, which stays."""
    return sorted(each.name for each in folder.iterdir() if each.name != ".mlflow.lock")


def run(file: Path, *statements: str) -> None:
    with closing(sqlite3.connect(file, isolation_level=None)) as database:
        for statement in statements:
            database.execute(statement)


def older(file: Path) -> Path:
    """A database as an older MLflow made it, with an experiment in it."""
    from alembic import command
    from mlflow.store.db.utils import _get_alembic_config, create_sqlalchemy_engine
    from mlflow.store.tracking.dbmodels.initial_models import Base

    engine = create_sqlalchemy_engine(uri_of(file))  # type: ignore[no-untyped-call]
    Base.metadata.create_all(engine)
    config = _get_alembic_config(uri_of(file))  # type: ignore[no-untyped-call]
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, OLDER)
    engine.dispose()
    run(file, "INSERT INTO experiments VALUES (7, 'old', 'file:///x', 'active')")
    return file


def empty(file: Path) -> None:
    file.write_bytes(b"")


def half_made(file: Path) -> None:
    """As a kill leaves it: some tables are there, and no word of how far the migrations came."""
    file.unlink()
    older(file)
    run(file, "DELETE FROM alembic_version")


def stopped_between(file: Path) -> None:
    """Half-made too, and no migration goes on from here: one of its tables is there already."""
    file.unlink()
    older(file)
    run(file, "CREATE TABLE trace_info (x INTEGER)")


def truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:300_000])


def overwritten(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[4096 * 3 : 4096 * 40] = random.Random(0).randbytes(4096 * 37)
    file.write_bytes(content)


def not_sqlite(file: Path) -> None:
    file.write_text("hello\n" * 1000)


def table_dropped(file: Path) -> None:
    run(file, "DROP TABLE latest_metrics")


def another_program(file: Path) -> None:
    file.unlink()
    run(file, "CREATE TABLE songs (title TEXT)")


def folder(file: Path) -> None:
    file.unlink()
    file.mkdir()
    (file / "precious").write_text("")


def link_to_nothing(file: Path) -> None:
    file.unlink()
    file.symlink_to("gone.db")


DAMAGES: list[Callable[[Path], None]] = [
    *(empty, half_made, stopped_between, truncated, overwritten),
    *(not_sqlite, table_dropped, another_program, folder, link_to_nothing),
]


def newer(file: Path) -> None:
    run(file, "UPDATE alembic_version SET version_num = 'ffffffffffff'")


def test_what_a_file_is(file: Path, tmp_path: Path) -> None:
    assert examine(file).condition is Condition.WHOLE
    assert examine(tmp_path / "none.db").condition is Condition.MISSING
    assert examine(older(tmp_path / "older.db")).condition is Condition.OLDER
    newer(file)
    assert examine(file).condition is Condition.NEWER


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_one_is_recognised_and_left_as_it_is(damage: Callable[[Path], None], file: Path) -> None:
    damage(file)
    before = file.read_bytes() if file.is_file() else None
    found = examine(file)
    assert found.condition is (Condition.OLDER if damage is stopped_between else Condition.BROKEN)
    assert found.reason
    assert (file.read_bytes() if file.is_file() else None) == before


def test_one_that_is_written_to_is_in_use_and_not_broken(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BUSY", 0.1)
    with closing(sqlite3.connect(file, isolation_level=None)) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        assert examine(file).condition is Condition.WHOLE


def test_what_a_kill_left_in_the_journal_is_rolled_back_first(file: Path, tmp_path: Path) -> None:
    """A writer that was killed: the file is half written, its journal has the other half."""
    ready = tmp_path / "ready"
    code = f"""
import pathlib, sqlite3, time
db = sqlite3.connect({str(file)!r}, isolation_level=None)
db.execute("PRAGMA cache_size = 5"); db.execute("BEGIN"); db.execute("CREATE TABLE big (x)")
for i in range(3000):
    db.execute("INSERT INTO big VALUES (randomblob(900))")
pathlib.Path({str(ready)!r}).touch(); time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        while not ready.exists():
            assert process.poll() is None
            time.sleep(0.02)
        process.kill()
    assert file.with_name("mlflow.db-journal").exists()
    assert examine(file).condition is Condition.WHOLE


def test_a_new_one_is_whole_and_has_nothing_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "mlflow.db"
    make(file, tmp_path / "artifacts")
    assert examine(file).condition is Condition.WHOLE
    assert names(file.parent) == ["mlflow.db"]


def test_what_another_process_made_meanwhile_stays(file: Path) -> None:
    before = file.read_bytes()
    make(file, file.parent / "artifacts")
    assert file.read_bytes() == before
    assert names(file.parent) == ["mlflow.db"]


def test_one_that_cannot_be_made_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "sync", fail)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "mlflow.db", tmp_path / "artifacts")
    assert names(tmp_path) == []


def test_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*paths: Path) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "link", link)
    for _ in range(2):
        make(tmp_path / "mlflow.db", tmp_path / "artifacts")
    assert examine(tmp_path / "mlflow.db").condition is Condition.WHOLE


CONNECT = """
import sys
from pathlib import Path
from routesearch.tracking.client import connect, default_uri
print("go", flush=True)
connect(default_uri(Path(sys.argv[1])))
"""


@pytest.mark.parametrize(("after", "sign"), [(0.0, "kill"), (0.1, "kill"), (0.2, "kill"), (0.1, "interrupt")])
def test_a_process_that_is_killed_leaves_it_whole_or_not_at_all(
    after: float, sign: str, tmp_path: Path
) -> None:
    """From the moment when its first draft shows, at several times."""
    with subprocess.Popen(
        [sys.executable, "-c", CONNECT, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        while process.poll() is None and not list(tmp_path.rglob("mlflow.db")):
            time.sleep(0.005)
        time.sleep(after)
        if sign == "kill":
            process.kill()
        else:
            process.send_signal(signal.SIGINT)
            time.sleep(0.02)
            process.send_signal(signal.SIGINT)
    file = tmp_path / "mlflow.db"
    import_mlflow("")
    assert examine(file).condition in (Condition.WHOLE, Condition.MISSING)
    assert connect(default_uri(tmp_path)).search_experiments()
    assert names(tmp_path) == ["mlflow.db"]  # the next one to make it clears up


def test_several_processes_at_once_make_one(tmp_path: Path) -> None:
    code = CONNECT + "print(connect(default_uri(Path(sys.argv[1]))).create_experiment(sys.argv[2]))"
    command = [sys.executable, "-c", code, str(tmp_path)]
    processes = [subprocess.Popen([*command, name], stdout=subprocess.PIPE) for name in ("a", "b", "c")]
    for process in processes:
        process.communicate()
    assert [process.returncode for process in processes] == [0, 0, 0]
    found = {each.name for each in connect(default_uri(tmp_path)).search_experiments()}
    assert found == {"Default", "a", "b", "c"}


def test_the_lock_is_waited_for_and_not_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.3)
    rule = "another process must be done with MLflow's database"
    with alone(tmp_path), pytest.raises(RunFailed, match=rule), alone(tmp_path):
        pass
    with alone(tmp_path):
        pass


def test_the_lock_holds_where_only_a_file_open_for_writing_can_be_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on NFS."""
    flock = fcntl.flock

    def of_nfs(handle: int, operation: int) -> None:
        if fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        flock(handle, operation)

    monkeypatch.setattr(fcntl, "flock", of_nfs)
    monkeypatch.setattr(module, "PATIENCE", 0.0)
    with alone(tmp_path), pytest.raises(RunFailed), alone(tmp_path):
        pass


def test_a_file_system_without_locks_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def without(handle: int, operation: int) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", without)
    with alone(tmp_path):
        pass
    (told,) = [record.getMessage() for record in caplog.records]
    assert told.startswith(f"{tmp_path} allows no file locks (Operation not supported): let one process at")


def test_drafts_of_killed_processes_go_and_those_of_other_machines_only_after_a_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def draft_of(machine: str) -> Path:
        monkeypatch.setattr(socket, "gethostname", lambda: machine)
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "rmtree", lambda *_, **__: None)  # killed
            with module._draft(tmp_path) as draft:
                return draft

    monkeypatch.setattr(module, "_running", lambda process: False)
    there, old, here = draft_of("node-2"), draft_of("node-3"), draft_of("node-1")
    day = 24 * 3600
    os.utime(old, (time.time() - 2 * day,) * 2)
    with module._draft(tmp_path) as draft:
        assert (there.is_dir(), old.exists(), here.exists(), draft.is_dir()) == (True, False, False, True)


def test_an_older_one_is_upgraded_as_a_copy(tmp_path: Path) -> None:
    file = older(tmp_path / "mlflow.db")
    before = file.read_bytes()
    aside = upgrade(file)
    assert aside is not None
    assert aside.name.startswith("mlflow.db.older-")
    assert aside.read_bytes() == before
    assert examine(file).condition is Condition.WHOLE
    assert connect(uri_of(file)).get_experiment("7").name == "old"
    assert names(tmp_path) == sorted(["mlflow.db", aside.name])


def test_one_that_is_upgraded_with_a_log_beside_it_leaves_none(tmp_path: Path) -> None:
    """SQLite would read the log of the older one into the new one."""
    file = older(tmp_path / "mlflow.db")
    code = f"""
import os, sqlite3
db = sqlite3.connect({str(file)!r}, isolation_level=None)
db.execute("PRAGMA journal_mode = WAL")
db.execute("INSERT INTO experiments VALUES (8, 'late', 'file:///x', 'active')")
os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", code], check=False)
    assert file.with_name("mlflow.db-wal").stat().st_size
    aside = upgrade(file)
    assert aside is not None
    assert names(tmp_path) == sorted(["mlflow.db", aside.name])
    assert examine(file).condition is Condition.WHOLE
    assert connect(uri_of(file)).get_experiment("8").name == "late"
    with closing(sqlite3.connect(aside)) as database:
        assert ("late",) in database.execute("SELECT name FROM experiments").fetchall()


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("steps", [0, 1])
def test_a_kill_while_it_is_upgraded_leaves_a_database(
    steps: int, links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before each of the two names that are given."""
    file, left = older(tmp_path / "mlflow.db"), steps

    def counted(give: Callable[[Path, Path], Path]) -> Callable[[Path, Path], Path]:
        def step(self: Path, target: Path) -> Path:
            nonlocal left
            if left == 0:
                raise KeyboardInterrupt
            left -= 1
            return give(self, target)

        return step

    def link(*paths: Path) -> None:
        raise PermissionError

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", counted(Path.rename))
        patch.setattr(Path, "replace", counted(Path.replace))
        if not links:
            patch.setattr(os, "link", link)
        with pytest.raises(KeyboardInterrupt):
            upgrade(file)
    asides = list(tmp_path.glob("mlflow.db.older-*"))
    assert len(asides) == steps
    assert [examine(each).condition for each in (file, *asides)] == [Condition.OLDER] * (1 + steps)
    assert upgrade(file) is not None
    assert connect(uri_of(file)).get_experiment("7").name == "old"
    assert len(list(tmp_path.glob("mlflow.db.older-*"))) == steps + 1


def test_one_that_cannot_be_upgraded_is_as_it_was(tmp_path: Path) -> None:
    file = older(tmp_path / "mlflow.db")
    stopped_between(file)
    before = file.read_bytes()
    assert upgrade(file) is None
    assert file.read_bytes() == before
    assert names(tmp_path) == ["mlflow.db"]


def test_a_mlflow_without_its_migration_migrates_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow.store.db.utils

    file = older(tmp_path / "mlflow.db")
    monkeypatch.delattr(mlflow.store.db.utils, "_upgrade_db")
    assert upgrade(file) is None
    assert examine(file).condition is Condition.OLDER


def test_what_is_moved_aside_takes_its_journal_along_and_replaces_nothing(tmp_path: Path) -> None:
    file, asides = tmp_path / "mlflow.db", []
    for text in ("a", "b", "c"):
        file.write_text(text)
        file.with_name("mlflow.db-journal").write_text(text)
        asides.append(move_aside(file, "broken"))
    assert [aside.read_text() for aside in asides] == ["a", "b", "c"]
    assert [aside.with_name(aside.name + "-journal").read_text() for aside in asides] == ["a", "b", "c"]
    assert not file.exists()


# ---- a study's own ------------------------------------------------------------------------------


@pytest.fixture
def results(
    make_results: Callable[..., StudyResults], make_records: Callable[..., list[TrialRecord]], tmp_path: Path
) -> StudyResults:
    """A study of six trials with a folder of its own."""
    folder = tmp_path / "study"
    folder.mkdir()
    return make_results(make_records(6), folder=folder)


def shown(results: StudyResults) -> int:
    """Runs that MLflow shows of the study."""
    client = connect(default_uri(results.config.dir))
    experiment = client.get_experiment_by_name("quickstart")
    return len(client.search_runs([experiment.experiment_id])) if experiment else 0


@pytest.mark.parametrize("way", ["publish", "ui", "search"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_broken_one_is_moved_aside_and_filled_again(
    damage: Callable[[Path], None],
    way: str,
    file: Path,
    results: StudyResults,
    caplog: pytest.LogCaptureFixture,
) -> None:
    mine = results.config.dir / "mlflow.db"
    file.rename(mine)
    damage(mine)
    if way == "publish":
        assert publish(results) == "quickstart"
    elif way == "ui":
        assert charts_link(results).startswith("#/experiments/")
    else:
        tracker = Tracker(default_uri(results.config.dir))
        tracker.search_started(results)
        tracker.close()
        assert tracker.failure is None
    assert shown(results) >= 6
    (aside,) = [each for each in mine.parent.iterdir() if each.name.startswith("mlflow.db.broken-")]
    told = [record.getMessage() for record in caplog.records if "no whole database" in record.getMessage()]
    assert len(told) == 1
    assert aside.name in told[0]
    assert "\n" not in told[0]
    publish(results)  # and once more there is nothing to mend
    assert len(list(mine.parent.glob("mlflow.db.broken-*"))) == 1


def test_a_model_is_registered_where_a_broken_one_was(
    results: StudyResults, trained_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its trial's run is there by then."""
    (results.config.dir / "mlflow.db").write_bytes(b"SQLite format 3\0 and no more")
    assert register(results, "mine", trained_model) == "models:/mine/1"
    assert shown(results) == 7
    assert connect(default_uri(results.config.dir)).get_model_version("mine", "1").run_id
    assert "no whole database" in caplog.text


def test_an_older_one_keeps_what_is_in_it(results: StudyResults, caplog: pytest.LogCaptureFixture) -> None:
    mine = older(results.config.dir / "mlflow.db")
    publish(results)
    assert shown(results) == 7
    assert connect(uri_of(mine)).get_experiment("7").name == "old"
    assert "an older MLflow made it; upgraded, the older one is mlflow.db.older-" in caplog.text


def test_a_newer_one_stays(file: Path, results: StudyResults, caplog: pytest.LogCaptureFixture) -> None:
    mine = results.config.dir / "mlflow.db"
    file.rename(mine)
    newer(mine)
    before = mine.read_bytes()
    for call in (publish, charts_link):
        with pytest.raises(Refusal, match=r"a newer MLflow made it .*: upgrade mlflow, or rename the file"):
            call(results)
    tracker = Tracker(default_uri(results.config.dir))
    tracker.search_started(results)
    tracker.close()
    assert "the search goes on" in caplog.text
    assert mine.read_bytes() == before
    assert names(mine.parent) == ["mlflow.db"]


def test_one_that_is_removed_is_made_again(results: StudyResults) -> None:
    """Also in the process that had it open."""
    publish(results)
    (results.config.dir / "mlflow.db").unlink()
    publish(results)
    assert shown(results) == 7


def test_one_that_is_removed_while_a_search_runs_is_there_at_its_end(results: StudyResults) -> None:
    tracker = Tracker(default_uri(results.config.dir))
    tracker.search_started(results)
    deadline = time.monotonic() + 60
    while shown(results) < 7 and time.monotonic() < deadline:
        time.sleep(0.1)
    (results.config.dir / "mlflow.db").unlink()
    tracker.search_ended(results)
    tracker.close()
    assert tracker.failure is None
    assert shown(results) == 7


def test_one_that_cannot_be_written_is_shown_and_not_published_to(
    results: StudyResults, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(results)
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)  # root may write everything
    assert charts_link(results)
    with pytest.raises(Refusal, match=r"mlflow\.db must be writable for MLflow, got mode 644"):
        publish(results)


def test_a_place_where_nothing_can_be_mended_is_named(
    results: StudyResults, monkeypatch: pytest.MonkeyPatch
) -> None:
    (results.config.dir / "mlflow.db").write_bytes(b"")

    def rename(path: Path, to: Path) -> Path:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(Refusal, match="must be in a writable folder"):
        publish(results)


# ---- the user's ---------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", [*(each for each in DAMAGES if each is not link_to_nothing), newer])
def test_a_file_that_the_user_names_is_never_moved(
    damage: Callable[[Path], None],
    file: Path,
    make_results: Callable[..., StudyResults],
    make_records: Callable[..., list[TrialRecord]],
) -> None:
    damage(file)
    before = file.read_bytes() if file.is_file() else None
    results = make_results(make_records(3), uri=uri_of(file))
    for call in (publish, charts_link):
        with pytest.raises(
            Refusal, match="must be a whole database of the MLflow that is installed"
        ) as error:
            call(results)
        assert "\n" not in str(error.value)
    assert names(file.parent) == ["mlflow.db"]
    assert (file.read_bytes() if file.is_file() else None) == before


def test_an_older_one_of_the_users_is_not_upgraded_unasked(
    tmp_path: Path, make_results: Callable[..., StudyResults], make_records: Callable[..., list[TrialRecord]]
) -> None:
    file = older(tmp_path / "mlflow.db")
    before = file.read_bytes()
    with pytest.raises(Refusal, match="keep a copy, then `mlflow db upgrade sqlite:///"):
        publish(make_results(make_records(3), uri=uri_of(file)))
    assert file.read_bytes() == before
