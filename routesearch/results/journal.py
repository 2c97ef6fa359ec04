"""The one durable file of a study: Optuna's append-only journal, opened so that no crash costs a trial.

There is one writer, the driver, which holds a kernel lock on ``driver.lock`` for as long as it lives;
the kernel drops it with the process, however that ends. Every line is on disk before the writer goes
on, so only the last line can ever be torn: it is cut when the next writer opens the file. Readers
need no lock and never write.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from routesearch.errors import Refusal, RunFailed

LOG = "journal.log"
LOCK = "driver.lock"
META = "study"
"""Name of the Optuna study that holds no trials, only what belongs to the whole study."""

ASKED, OUTCOME = "asked", "outcome"
"""Attributes of an Optuna trial that make it a trial of the study: what was proposed, and its result."""

_BLOCK = 1 << 16


class Journal:
    """A study's journal: its storage, and the facts that belong to no single trial.

    Open it with :meth:`open_for_writing` or :meth:`open_for_reading`, close it with ``with``.

    Attributes:
        dir: the study's folder.
        storage: the Optuna storage over the file.
    """

    def __init__(self, folder: Path, storage: JournalStorage, lock: int | None) -> None:
        self.dir = folder
        self.storage = storage
        self._lock = lock
        self._facts_id: int | None = self.names().get(META)

    @classmethod
    def open_for_writing(cls, folder: Path) -> Journal:
        """Open the journal as its only writer, making the folder and the file where they are missing.

        Raises:
            Refusal: another search holds the study, the folder cannot be written, or the file is
                damaged before its last line.
        """
        lock = _take(folder)
        try:
            path = folder / LOG
            _cut_torn_tail(path)
            journal = cls(folder, _open(path, _Written(str(path))), lock)
            if journal._facts_id is None:
                journal._facts_id = journal.storage.create_new_study([StudyDirection.MAXIMIZE], META)
            if journal.get("id") is None:
                journal.set("id", uuid.uuid4().hex)
            return journal
        except OSError as error:
            os.close(lock)
            raise Refusal(f"storage.dir must be writable, got {folder}: {error.strerror}") from error
        except BaseException:
            os.close(lock)
            raise

    @classmethod
    def open_for_reading(cls, folder: Path) -> Journal:
        """Open the journal as it stands, also while a search writes to it; nothing is changed.

        Raises:
            Refusal: there is no study yet, or the file is damaged.
        """
        path = folder / LOG
        if not path.is_file():
            raise Refusal(f"no study in {folder} yet: run `routesearch search` first")
        try:
            journal = cls(folder, _open(path, JournalFileBackend(str(path), lock_obj=_NoAppend())), None)
        except OSError as error:
            raise Refusal(f"the journal must be readable, got {path}: {error.strerror}") from error
        if journal._facts_id is None:
            raise Refusal(f"no study in {folder} yet: run `routesearch search` first")
        return journal

    def close(self) -> None:
        """Let the next driver in."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def id(self) -> str:
        """A UUID, made with the journal, which tells the study from others of its name."""
        return str(self.get("id"))

    def names(self) -> dict[str, int]:
        """Optuna study name -> its id in the storage."""
        return {s.study_name: s._study_id for s in self.storage.get_all_studies()}

    def trials(self) -> Iterator[tuple[str, FrozenTrial]]:
        """All Optuna trials of all methods, with the name of their Optuna study; not to be changed."""
        for name, study in self.names().items():
            if name != META:
                for trial in self.storage.get_all_trials(study, deepcopy=False):
                    yield name, trial

    def get(self, key: str) -> Any:
        """A fact of the whole study (a JSON value), or None."""
        return self.facts().get(key)

    def facts(self) -> dict[str, Any]:
        """All facts of the whole study."""
        assert self._facts_id is not None
        return dict(self.storage.get_study_user_attrs(self._facts_id))

    def set(self, key: str, value: Any) -> None:
        """Keep a fact; it is on disk when this returns."""
        assert self._facts_id is not None
        self.storage.set_study_user_attr(self._facts_id, key, value)

    def check_fingerprint(self, fingerprint: Mapping[str, str], started: bool) -> None:
        """Check that a continued study is still the same one; one without trials takes the new fingerprint.

        Args:
            fingerprint: what must not change, key of the study file -> canonical value.
            started: whether the study has trials.

        Raises:
            Refusal: naming the first key that changed, with both values.
        """
        kept = self.get("fingerprint")
        if kept is None or not started:
            if kept != dict(fingerprint):
                self.set("fingerprint", dict(fingerprint))
            return
        for key in sorted(kept.keys() | fingerprint.keys()):
            old, new = kept.get(key), fingerprint.get(key)
            if old != new:
                raise Refusal(
                    f"{key} must stay as it was while a study is continued: it was {old}, now {new}"
                    " (--fresh starts anew)"
                )

    def update_code_versions(self, code: Mapping[str, str], started: bool) -> list[str]:
        """Compare with the code that the study was begun with, and keep what is new.

        Args:
            code: part of the study (``method dgate``) -> what its code is known by.
            started: whether the study has trials.

        Returns:
            One text for each part that is not what it was.
        """
        kept: dict[str, str] = self.get("code") or {} if started else {}
        merged = {**code, **kept}
        if merged != self.get("code"):
            self.set("code", merged)
        return [f"{part} (was {kept[part]}, now {now})" for part, now in code.items() if merged[part] != now]


def move_aside(folder: Path) -> Path | None:
    """Rename a study's folder so that a new one can start in its place.

    Returns:
        Where the old one is now; None if there was none.

    Raises:
        Refusal: a search is running on it.
    """
    if not (folder / LOG).exists():
        return None
    lock = _take(folder)
    try:
        stamp = time.strftime("%Y%m%d-%H%M%S")
        names = (folder.with_name(f"{folder.name}.{stamp}{tail}") for tail in ("", *"abcdefghij"))
        target = next(name for name in names if not name.exists())
        folder.rename(target)
        return target
    except OSError as error:
        raise Refusal(f"--fresh must be able to rename {folder}: {error.strerror}") from error
    finally:
        os.close(lock)


class _Written(JournalFileBackend):
    """The journal's file under the driver's lock; an append happens whole or not at all."""

    def __init__(self, path: str) -> None:
        super().__init__(path, lock_obj=_DriverHolds())

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        size = Path(self._file_path).stat().st_size
        try:
            super().append_logs(logs)
        except BaseException as error:
            # Half a line must not stay: the next append would glue itself to it. Cutting needs no space.
            os.truncate(self._file_path, size)
            if isinstance(error, OSError):
                raise RunFailed(
                    f"the journal cannot be written: {error.strerror} ({self._file_path}); "
                    "finished trials are kept, run the search again when this is put right"
                ) from error
            raise


class _DriverHolds(JournalFileOpenLock):
    """No lock per line: the driver's lock already makes this process the only writer.

    Optuna's own lock is a file that a killed process leaves behind, and the next one waits for 30 s.
    """

    def __init__(self) -> None:
        pass

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        return None


class _NoAppend(JournalFileOpenLock):
    """A reader that tried to write would be a mistake of this package."""

    def __init__(self) -> None:
        pass

    def acquire(self) -> bool:
        raise RuntimeError("a journal opened for reading is never written")

    def release(self) -> None:
        return None


def _open(path: Path, backend: JournalFileBackend) -> JournalStorage:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        return JournalStorage(backend)
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        raise Refusal(f"the journal {path} is corrupt{_first_bad_line(path)}") from error


def _first_bad_line(path: Path) -> str:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not _whole(line):
                return f" at line {number}"
    return ""


def _whole(line: bytes) -> bool:
    """Whether this is a complete entry."""
    if not line.endswith(b"\n"):
        return False
    try:
        entry = json.loads(line)
    except ValueError:
        return False
    return isinstance(entry, dict) and "op_code" in entry


def _cut_torn_tail(path: Path) -> None:
    """Remove the last line if it is incomplete: a torn write, or zeros where a power loss left no data."""
    with path.open("a+b") as file:
        end = file.seek(0, os.SEEK_END)
        start, last = _last_line(file, end)
        if end == 0 or _whole(last):
            return
        file.truncate(start)
        os.fsync(file.fileno())


def _last_line(file: Any, end: int) -> tuple[int, bytes]:
    """Where the last line starts, and its bytes with the line end, if it has one."""
    start, tail = end, b""
    while start > 0:
        step = min(_BLOCK, start)
        start -= step
        file.seek(start)
        tail = file.read(step) + tail
        found = tail.rfind(b"\n", 0, len(tail) - 1)
        if found >= 0:
            return start + found + 1, tail[found + 1 :]
    return 0, tail


def _take(folder: Path) -> int:
    """Take the driver's lock; the descriptor holds it until it is closed or the process ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise Refusal(f"storage.dir must be a writable folder, got {folder}: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(lock, 200, 0).decode(errors="replace").strip() or "another process"
        os.close(lock)
        raise Refusal(f"the study is locked by {holder}, and takes one search at a time ({folder})") from None
    except OSError as error:
        os.close(lock)
        raise Refusal(f"storage.dir must allow file locks, got {folder}: {error.strerror}") from error
    with contextlib.suppress(OSError):  # only a name for the message above: a full disk may withhold it
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
    return lock
