"""The journal's lines as Optuna's log: the one module of ``results`` that imports Optuna."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.study import StudyDirection

from routesearch.results.journal_file import parse_line
from routesearch.results.replay import Replay


def open_storage(replay: Replay, writable: bool) -> JournalStorage:
    """An Optuna storage over a journal's file, which is read."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return JournalStorage(_Log(replay, writable))


def create_study(storage: JournalStorage, name: str) -> None:
    """Begin an Optuna study that will hold no trials."""
    storage.create_new_study([StudyDirection.MAXIMIZE], name)


class _Log(BaseJournalBackend):
    """The journal's file for Optuna, which hands every line that it reads to the replay as well."""

    def __init__(self, replay: Replay, writable: bool) -> None:
        self._replay, self._writable = replay, writable

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        for number, (text, _) in enumerate(self._replay.file.read(log_number_from), log_number_from + 1):
            entry = parse_line(text)
            if number > self._replay.line:
                self._replay.take(entry)
            yield entry

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        if not self._writable:
            raise RuntimeError("a journal opened for reading is never written")
        self._replay.file.append(logs)
