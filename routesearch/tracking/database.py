"""MLflow's database in an SQLite file: made whole or not at all, and looked at before MLflow opens it.

MLflow makes its tables in some seventy small migrations, in place. A process that is killed in between leaves
a file that MLflow can neither use nor finish: so a new one is made beside its place, and an older one is
migrated as a copy.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import socket
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from tempfile import mkdtemp

from routesearch.errors import RunFailed
from routesearch.tracking.addresses import uri_of
from routesearch.utils.files import sync
from routesearch.utils.internals import internal

log = logging.getLogger("routesearch.tracking")

SIDE_FILES = ("-journal", "-wal", "-shm")
"""What SQLite keeps beside a file while it is written to: a part of what it holds."""

LOCK = ".mlflow.lock"
"""An empty file whose lock a process holds while it makes or mends a database beside it; it stays."""

DRAFT = ".mlflow-"
"""How the folders begin in which databases are made; the process's number and the machine's name follow."""

DAY = 24 * 3600.0
"""Seconds after which nobody works in a draft any more."""

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

    There is a database at any time, the older one or the new one.

    Returns:
        Where the older one is now; None where it cannot be migrated, and then it is as it was.
    """
    with _draft(file.parent) as folder:
        copy = folder / file.name
        with closing(sqlite3.connect(file, timeout=BUSY, isolation_level=None)) as source:
            source.execute("PRAGMA journal_mode = DELETE")  # else its log would be taken for the copy's
            source.execute("BEGIN IMMEDIATE")  # nobody writes until the copy is in place
            _back_up(file, copy)
            if not _migrated(copy):
                return None
            sync(copy)
            kept, aside = folder / "older", _free(file, "older")
            try:
                os.link(file, kept)
            except OSError:  # a file system without hard links
                _back_up(file, kept)  # not read as a plain file: closing that would give up SQLite's locks
                sync(kept)
            kept.rename(aside)
            copy.replace(file)
            sync(file.parent)
    let_go(uri_of(file))
    return aside


def _back_up(file: Path, copy: Path) -> None:
    with closing(sqlite3.connect(file)) as reader, closing(sqlite3.connect(copy)) as target:
        reader.backup(target)


def _migrated(copy: Path) -> bool:
    """Migrate as ``mlflow db upgrade`` does; whether that went well."""
    from mlflow.store.db.utils import create_sqlalchemy_engine

    migrate = internal("mlflow.store.db.utils:_upgrade_db", "no older database can be migrated")
    if migrate is None:
        return False
    engine = create_sqlalchemy_engine(uri_of(copy))  # type: ignore[no-untyped-call]
    try:
        migrate(engine)
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
    aside = _free(file, why)
    file.rename(aside)
    for end in SIDE_FILES:
        with suppress(FileNotFoundError):
            file.with_name(file.name + end).rename(aside.with_name(aside.name + end))
    let_go(uri_of(file))
    return aside


def _free(file: Path, why: str) -> Path:
    """A name beside a database that nothing has."""
    stem = f"{file.name}.{why}-{time.strftime('%Y%m%d-%H%M%S')}"
    names = (file.with_name(f"{stem}{tail}") for tail in ("", *"abcdefghijklmnopqrstuvwxyz"))
    return next(name for name in names if not os.path.lexists(name))


def let_go(uri: str) -> None:
    """Close this process's connections, which would go on writing to a file that has lost its name."""
    without = "connections to a database that gets another name stay open; start the command again then"
    for store in ("tracking", "model_registry"):
        engines = internal(f"mlflow.store.{store}.sqlalchemy_store:SqlAlchemyStore._engine_map", without)
        engine = (engines or {}).get(uri)
        if engine is not None:
            engine.dispose()


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Holds other processes off the databases in a folder, by a lock that a killed process gives up.

    Raises:
        OSError: the folder cannot be written.
        RunFailed: another process has it for too long.
    """
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)  # NFS locks what is open for writing
    try:
        give_up = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > give_up:
                    rule = "another process must be done with MLflow's database"
                    raise RunFailed(f"{rule} in {folder} within {PATIENCE:.0f} s") from None
                time.sleep(0.1)
            except OSError as error:
                rule = "let one process at a time use MLflow's database there"
                log.warning("%s allows no file locks (%s): %s", folder, error.strerror, rule)
                break
        yield
    finally:
        os.close(handle)


@contextmanager
def _draft(folder: Path) -> Iterator[Path]:
    """A folder to make a database in, on the same disk; those of killed processes go first."""
    machine = socket.gethostname().replace("/", "_")
    for rest in folder.glob(f"{DRAFT}*.part"):
        process, _, of = rest.name.removeprefix(DRAFT).partition("-")
        killed = of.rpartition("-")[0] == machine and not _running(process)  # another machine has own numbers
        if killed or _age(rest) > DAY:
            shutil.rmtree(rest, ignore_errors=True)
    draft = Path(mkdtemp(prefix=f"{DRAFT}{os.getpid()}-{machine}-", suffix=".part", dir=folder))
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _age(file: Path) -> float:
    """Seconds since it was changed; 0 for one that is gone."""
    try:
        return time.time() - file.stat().st_mtime
    except OSError:
        return 0.0


def _running(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except (ValueError, OverflowError, OSError):  # another user's
        return True
    return True
