"""MLflow's database in an SQLite file: made whole or not at all, and looked at before MLflow opens it.

MLflow makes its tables in some seventy small migrations, in place. A process that is killed in between leaves
a file that MLflow can neither use nor finish: so a new one is made beside its place, and an older one is
migrated as a copy.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import socket
import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from tempfile import mkdtemp

from routesearch.errors import RunFailed
from routesearch.tracking.addresses import uri_of
from routesearch.utils.files import sync

SIDE_FILES = ("-journal", "-wal", "-shm")
"""What SQLite keeps beside a file while it is written to: a part of what it holds."""

LOCK = ".mlflow.lock"
"""What is locked where folders cannot be."""

DRAFT = ".mlflow-"
"""How the folders begin in which databases are made."""

BUSY = 5.0
"""Seconds that a look waits for another process which writes."""

PATIENCE = 120.0
"""Seconds that a process waits while another one makes or mends the same database."""


class Condition(StrEnum):
    """What an SQLite file is to the MLflow that is installed."""

    WHOLE = "whole"
    MISSING = "missing"
    OLDER = "older"
    NEWER = "newer"
    BROKEN = "broken"


@dataclass(frozen=True)
class Finding:
    """What a look at a file found.

    Attributes:
        reason: what is wrong with it; empty where nothing is.
    """

    condition: Condition
    reason: str = ""


def examine(file: Path) -> Finding:
    """Look at a file without changing it; MLflow's modules must have been imported.

    Raises:
        OSError: it cannot be read.
    """
    if not os.path.lexists(file):
        return Finding(Condition.MISSING)
    if not file.is_file():
        return Finding(Condition.BROKEN, "it is a folder" if file.is_dir() else "it is no plain file")
    if not os.access(file, os.R_OK):
        raise PermissionError(f"{file} must be readable")
    try:
        with closing(
            sqlite3.connect(f"{file.absolute().as_uri()}?mode=rw", uri=True, timeout=BUSY)
        ) as database:
            tables = {
                name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            }
            revisions = []
            if "alembic_version" in tables:
                revisions = [row[0] for row in database.execute("SELECT version_num FROM alembic_version")]
            finding = _judge(tables, revisions)
            if finding.condition is Condition.WHOLE:
                (told,) = database.execute("PRAGMA quick_check(1)").fetchone()
                if told != "ok":
                    return Finding(Condition.BROKEN, f"it is damaged: {' '.join(str(told).split())}"[:200])
            return finding
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):  # somebody writes to it: it is in use
            return Finding(Condition.WHOLE)
        if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_FORMAT):
            return Finding(Condition.BROKEN, f"it is damaged: {error}")
        raise OSError(f"{file} cannot be read: {error}") from error


def _judge(tables: set[str], revisions: list[str]) -> Finding:
    if not tables:
        return Finding(Condition.BROKEN, "it is empty")
    if "experiments" not in tables:
        return Finding(Condition.BROKEN, "it holds no MLflow tables")
    if len(revisions) != 1:
        return Finding(Condition.BROKEN, "its tables were not all made")
    head, known = _revisions()
    if revisions[0] == head:
        missing = sorted(_expected() - tables)
        if missing:
            return Finding(Condition.BROKEN, f"its table {missing[0]} is missing")
        return Finding(Condition.WHOLE)
    if revisions[0] in known:
        return Finding(Condition.OLDER, "an older MLflow made it")
    return Finding(Condition.NEWER, f"a newer MLflow made it (schema {revisions[0][:32]!r})")


def _revisions() -> tuple[str, set[str]]:
    """The schema of the MLflow that is installed, and all schemas on the way to it."""
    import mlflow
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory(str(Path(mlflow.__file__).parent / "store" / "db_migrations"))
    return str(scripts.get_current_head()), {each.revision for each in scripts.walk_revisions()}


def _expected() -> set[str]:
    import mlflow.store.db.utils  # noqa: F401 (brings in the modules that declare tables)
    from mlflow.store.db.base_sql_model import Base

    return set(Base.metadata.tables)


def make(file: Path, artifacts: Path) -> None:
    """Put a new database in place; does nothing where one is there by then.

    Args:
        artifacts: folder of the artifacts of experiments that name none.
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    file.parent.mkdir(parents=True, exist_ok=True)
    with _draft(file.parent) as folder:
        made = folder / file.name
        store = SqlAlchemyStore(uri_of(made), artifacts.as_uri())  # type: ignore[no-untyped-call]
        store.engine.dispose()
        sync(made)
        with suppress(FileExistsError):  # another process was quicker, and may have written to its own
            _put(made, file)
        sync(file.parent)
    let_go(uri_of(file))


def _put(made: Path, file: Path) -> None:
    """Give a file its name, in one step, where nothing has it."""
    try:
        os.link(made, file)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if os.path.lexists(file):
            raise FileExistsError from None
        made.rename(file)


def upgrade(file: Path) -> Path | None:
    """Migrate an older database to the installed MLflow's schema, as a copy that takes its place.

    Returns:
        Where the older one is now; None where it cannot be migrated, and then it is as it was.
    """
    with _draft(file.parent) as folder:
        copy = folder / file.name
        with closing(sqlite3.connect(file, timeout=BUSY, isolation_level=None)) as source:
            source.execute("BEGIN IMMEDIATE")  # nobody writes until the copy is ready
            with closing(sqlite3.connect(file)) as reader, closing(sqlite3.connect(copy)) as target:
                reader.backup(target)
            if not _migrated(copy):
                return None
        sync(copy)
        aside = _aside(file, "older")
        try:
            os.link(file, aside)  # at every moment there is a database of that name
        except OSError:  # a file system without hard links
            shutil.copy2(file, aside)
        _move_side_files(file, aside)
        copy.replace(file)
        sync(file.parent)
    let_go(uri_of(file))
    return aside


def _migrated(copy: Path) -> bool:
    """Migrate as ``mlflow db upgrade`` does; whether that went well."""
    from mlflow.store.db import utils

    engine = utils.create_sqlalchemy_engine(uri_of(copy))  # type: ignore[no-untyped-call]
    try:
        utils._upgrade_db(engine)  # type: ignore[no-untyped-call]
    except Exception:  # a half-made one: a table that is there already, or not there
        return False
    finally:
        engine.dispose()
    return examine(copy).condition is Condition.WHOLE


def move_aside(file: Path, why: str) -> Path:
    """Rename a database with its side files; nothing is deleted.

    Returns:
        Its new name, ``mlflow.db.broken-20270131-235959``.
    """
    aside = _aside(file, why)
    file.rename(aside)
    _move_side_files(file, aside)
    let_go(uri_of(file))
    return aside


def _aside(file: Path, why: str) -> Path:
    """A new name beside a file."""
    stem = f"{file.name}.{why}-{time.strftime('%Y%m%d-%H%M%S')}"
    names = (file.with_name(f"{stem}{tail}") for tail in ("", *"abcdefghijklmnopqrstuvwxyz"))
    return next(name for name in names if not os.path.lexists(name))


def _move_side_files(file: Path, aside: Path) -> None:
    for end in SIDE_FILES:
        with suppress(FileNotFoundError):
            file.with_name(file.name + end).rename(aside.with_name(aside.name + end))


def let_go(uri: str) -> None:
    """Close this process's connections, which would go on writing to a file that has lost its name."""
    from mlflow.store.model_registry import sqlalchemy_store as registry
    from mlflow.store.tracking import sqlalchemy_store as tracking

    for store in (tracking.SqlAlchemyStore, registry.SqlAlchemyStore):
        engine = getattr(store, "_engine_map", {}).get(uri)
        if engine is not None:
            engine.dispose()


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Holds other processes off the databases in a folder, by a lock that a killed process gives up.

    Raises:
        RunFailed: another process has it for too long.
    """
    with ExitStack() as stack:
        for path, flags in ((folder, os.O_RDONLY), (folder / LOCK, os.O_RDWR | os.O_CREAT)):
            with suppress(OSError):  # NFS locks no folder, and some file systems lock nothing
                handle = os.open(path, flags, 0o644)
                stack.callback(os.close, handle)
                if _locked(handle, folder):
                    break
        yield


def _locked(handle: int, folder: Path) -> bool:
    """Lock a file or folder, waiting for whoever has it."""
    give_up = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > give_up:
                rule = "another process must be done with MLflow's database"
                raise RunFailed(f"{rule} in {folder} within {PATIENCE:.0f} s") from None
            time.sleep(0.1)


@contextmanager
def _draft(folder: Path) -> Iterator[Path]:
    """A folder to make a database in, on the same disk; those of killed processes go first."""
    own = f"{DRAFT}{re.sub('[^A-Za-z0-9.]', '.', socket.gethostname())[:60]}-"
    for rest in folder.glob(f"{own}*.part"):  # what runs on another machine is not known here
        if not _running(rest.name.removeprefix(own).partition("-")[0]):
            shutil.rmtree(rest, ignore_errors=True)
    draft = Path(mkdtemp(prefix=f"{own}{os.getpid()}-", suffix=".part", dir=folder))
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _running(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except (ValueError, OverflowError, OSError):  # another user's
        return True
    return True
