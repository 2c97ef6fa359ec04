"""The one durable file of a study: Optuna's append-only journal, opened so that no crash costs a trial.

There is one writer, the driver, which holds a kernel lock on ``driver.lock`` for as long as it lives;
the kernel drops it with the process, however that ends. Every line is on disk before the writer goes
on, so only the last line can ever be torn: it is cut when the next writer opens the file. Readers
need no lock and never write. What the lines are: :mod:`routesearch.results.journal_file`; what they
say: :mod:`routesearch.results.replay`.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import socket
import time
import uuid
from collections.abc import Iterator, Mapping
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from routesearch.errors import Refusal, shortened
from routesearch.results.journal_file import JournalFile
from routesearch.results.replay import FORMAT, META, Replay, StoredTrial
from routesearch.utils.memory import collection_paused

if TYPE_CHECKING:
    from optuna.storages import JournalStorage
    from optuna.trial import FrozenTrial

LOG = "journal.log"
LOCK = "driver.lock"

log = logging.getLogger("routesearch")


class Journal:
    """A study's journal: its storage, and the facts that belong to no single trial.

    Open it with :meth:`open_for_writing` or :meth:`open_for_reading`, close it with ``with``.

    Attributes:
        dir: the study's folder.
        path: of the file.
    """

    def __init__(self, folder: Path, lock: int | None) -> None:
        self.dir = folder
        self.path = folder / LOG
        self._lock = lock
        self._file = JournalFile(self.path)
        self._replay = Replay(self._file)

    @classmethod
    def open_for_writing(cls, folder: Path) -> Journal:
        """Open the journal as its only writer, making the folder and the file where they are missing.

        Raises:
            Refusal: another search holds the study, the folder cannot be written, the file is damaged
                before its last line, or a newer version wrote it.
        """
        lock = _take(folder)
        try:
            journal = cls(folder, lock)
            journal.path.touch()
            from routesearch.results.optuna_log import create_study

            _ = journal.storage  # reads the file
            if cut := journal._file.cut_torn():
                log.warning(
                    "the last line of the journal %s was incomplete, as a crash leaves it: %d bytes removed",
                    journal.path,
                    cut,
                )
            if META not in journal.names():
                create_study(journal.storage, META)
            for key, value in (("format", FORMAT), ("id", journal.get("id") or uuid.uuid4().hex)):
                if journal.get(key) != value:
                    journal.set(key, value)
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
            Refusal: there is no study yet, the file is damaged, or a newer version wrote it.
        """
        journal = cls(folder, None)
        if not journal.path.is_file():
            raise Refusal(f"no study in {folder} yet: run `routesearch search` first")
        if META not in journal.names():
            raise Refusal(f"no study in {folder} yet: run `routesearch search` first")
        if journal._file.torn.endswith(b"\n"):  # an append that is under way has no line end yet
            log.warning("the last line of the journal %s is damaged and left out", journal.path)
        return journal

    @cached_property
    def storage(self) -> JournalStorage:
        """The Optuna storage over the file."""
        from routesearch.results.optuna_log import open_storage  # Optuna takes long to import

        try:
            with collection_paused():
                return open_storage(self._replay, writable=self._lock is not None)
        except (Refusal, OSError):
            raise
        except Exception as error:  # Optuna trusts its lines
            how = f"cannot be replayed by Optuna ({shortened(error)})"
            raise self._file.damaged(how, self._replay.line) from error

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
        return dict(self._read().studies)

    def trials(self) -> Iterator[tuple[str, FrozenTrial]]:
        """All Optuna trials of all methods, with the name of their Optuna study; not to be changed."""
        for name, study in self.names().items():
            if name != META:
                for trial in self.storage.get_all_trials(study, deepcopy=False):
                    yield name, trial

    def stored(self) -> list[StoredTrial]:
        """What was proposed to and became of all Optuna trials, by Optuna's ids; not to be changed."""
        return self._read().trials

    def proposed(self) -> list[StoredTrial]:
        """The trials of the study as they stand now, by Optuna's ids.

        Raises:
            Refusal: one of them is missing, or there twice: they are numbered one after the other.
        """
        found = [copy(trial) for trial in self.stored() if trial.asked is not None]
        given: list[Any] = [trial.asked.get("number") for trial in found if isinstance(trial.asked, dict)]
        numbers = sorted(number for number in given if type(number) is int)
        for place, number in enumerate(numbers):
            if number != place and len(numbers) == len(found):  # others are refused when they are read
                how = f"trial {number} is there twice" if number < place else f"trial {place} is missing"
                raise Refusal(
                    f"the journal {self.path} is damaged: {how} (restore a copy, or --fresh starts anew)"
                )
        return found

    def get(self, key: str) -> Any:
        """A fact of the whole study (a JSON value), or None."""
        return self._read().facts.get(key)

    def facts(self) -> dict[str, Any]:
        """All facts of the whole study."""
        return dict(self._read().facts)

    def _read(self) -> Replay:
        """What the journal says now."""
        try:
            with collection_paused():
                self._replay.update()
        except OSError as error:
            raise Refusal(f"the journal must be readable, got {self.path}: {error.strerror}") from error
        return self._replay

    def set(self, key: str, value: Any) -> None:
        """Keep a fact; it is on disk when this returns."""
        self.storage.set_study_user_attr(self.names()[META], key, value)

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
