from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from routesearch.errors import Refusal, RunFailed
from routesearch.results.journal import LOG, Journal, move_aside
from routesearch.results.journal_file import JournalFile


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "study"


def fill(folder: Path, count: int = 3) -> None:
    with Journal.open_for_writing(folder) as journal:
        for i in range(count):
            journal.set(f"fact {i}", i)


def test_facts_survive_and_the_id_stays(folder: Path) -> None:
    with Journal.open_for_writing(folder) as journal:
        journal.set("a", {"b": [1, 2.5, None]})
        name = journal.id
    with Journal.open_for_writing(folder) as journal:
        assert journal.get("a") == {"b": [1, 2.5, None]}
        assert journal.id == name
        assert len(name) == 32


@pytest.mark.parametrize(
    "tail",
    [
        b'{"op_code":2,"worker_id":"x","study_id":0,"user_attr":{"fact 9"',  # a torn write
        b'{"op_code":2}',  # the line end is missing: it may be a part of a longer entry
        b"\0" * 5000,  # power loss: length without data
        b"\0" * 300 + b"\n",
        b'{"op_code":2,"worker\xff\n',
        b'"text"\n',
    ],
)
def test_a_torn_last_line_is_cut_and_all_before_it_kept(folder: Path, tail: bytes) -> None:
    fill(folder)
    whole = (folder / LOG).read_bytes()
    (folder / LOG).write_bytes(whole + tail)
    with Journal.open_for_writing(folder) as journal:
        assert (folder / LOG).read_bytes() == whole
        journal.set("after", 1)
    with Journal.open_for_writing(folder) as journal:
        assert [journal.get(f"fact {i}") for i in range(3)] == [0, 1, 2]
        assert journal.get("after") == 1


def test_every_prefix_of_the_file_opens_and_can_be_continued(folder: Path) -> None:
    fill(folder, 1)
    whole = (folder / LOG).read_bytes()
    for size in range(0, len(whole), 7):
        (folder / LOG).write_bytes(whole[:size])
        fill(folder, 1)
        with Journal.open_for_reading(folder) as journal:
            assert journal.get("fact 0") == 0


def test_a_last_line_longer_than_a_block_is_found(folder: Path) -> None:
    with Journal.open_for_writing(folder) as journal:
        journal.set("small", 1)
        kept = (folder / LOG).stat().st_size
        journal.set("large", "x" * 200_000)
    with (folder / LOG).open("r+b") as file:
        file.truncate((folder / LOG).stat().st_size - 5)
    with Journal.open_for_writing(folder) as journal:
        assert (folder / LOG).stat().st_size == kept
        assert journal.get("small") == 1


def test_damage_before_the_last_line_is_refused_by_its_line(folder: Path) -> None:
    fill(folder)
    whole = (folder / LOG).read_bytes()
    lines = whole.splitlines(keepends=True)
    lines[2] = b"\0" * len(lines[2])
    (folder / LOG).write_bytes(b"".join([*lines[:2], lines[2] + b"\n", *lines[3:]]))
    for mode in (Journal.open_for_writing, Journal.open_for_reading):
        with pytest.raises(
            Refusal, match=r"^the journal .*journal\.log is damaged: line 3 is incomplete, and"
        ):
            mode(folder)
    (folder / LOG).write_bytes(whole)
    fill(folder)  # a refused opening leaves no lock behind


@pytest.mark.parametrize("mode", [Journal.open_for_writing, Journal.open_for_reading])
@pytest.mark.parametrize(
    "change",
    [
        lambda lines: [*lines[:3], *lines[4:]],
        lambda lines: [*lines[:4], *lines[3:]],
        lambda lines: [*lines[:3], lines[4], lines[3], *lines[5:]],
        lambda lines: [*lines[:3], lines[3].replace(b'"fact 0":0', b'"fact 0":1'), *lines[4:]],
        lambda lines: lines[1:],
        lambda lines: [*lines[:-1], lines[-1].replace(b'"fact 2":2', b'"fact 2":7')],
    ],
    ids=["removed", "repeated", "swapped", "edited", "first removed", "last edited"],
)
def test_a_line_that_is_not_where_it_was_written_is_seen(
    change: Callable[[list[bytes]], list[bytes]], mode: Callable[[Path], Journal], folder: Path
) -> None:
    fill(folder)
    lines = (folder / LOG).read_bytes().splitlines(keepends=True)
    (folder / LOG).write_bytes(b"".join(change(lines)))
    with pytest.raises(Refusal, match=r"is damaged: line \d was changed, or a line before it was removed"):
        mode(folder)


def test_optuna_reads_a_journal_with_checksums(folder: Path) -> None:
    """They are a key more in each line, so that Optuna's own tools still open it."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    fill(folder)
    [study] = JournalStorage(JournalFileBackend(str(folder / LOG))).get_all_studies()
    assert study.user_attrs["fact 2"] == 2


def without_checksums(folder: Path) -> None:
    """Make a journal what the first format was."""
    lines = (folder / LOG).read_bytes().splitlines()
    entries = [{k: v for k, v in json.loads(line).items() if k != "check"} for line in lines]
    kept = [e for e in entries if "format" not in e.get("user_attr", {})]
    text = "".join(json.dumps(entry, separators=(",", ":")) + "\n" for entry in kept)
    (folder / LOG).write_text(text)


def test_a_journal_of_the_first_format_opens_and_gets_checksums_as_it_goes_on(folder: Path) -> None:
    fill(folder)
    without_checksums(folder)
    before = (folder / LOG).read_bytes()
    with Journal.open_for_reading(folder) as journal:
        assert journal.get("fact 2") == 2
        assert journal.get("format") is None
    with Journal.open_for_writing(folder) as journal:
        journal.set("after", 1)
    with Journal.open_for_reading(folder) as journal:
        assert [journal.get(key) for key in ("fact 2", "after", "format")] == [2, 1, 3]
    whole = (folder / LOG).read_bytes()
    assert whole.startswith(before)
    lines = whole.splitlines(keepends=True)
    (folder / LOG).write_bytes(b"".join([*lines[:2], *lines[3:]]))  # one of the first format's
    with pytest.raises(Refusal, match="is damaged"):
        Journal.open_for_reading(folder)
    (folder / LOG).write_bytes(whole + lines[2])  # an earlier version went on with it
    with pytest.raises(Refusal, match=r"line 8 has no checksum, and those before it have"):
        Journal.open_for_reading(folder)


def test_a_newer_format_says_so(folder: Path) -> None:
    Journal.open_for_writing(folder).close()
    with (folder / LOG).open("ab") as file:  # whatever its lines end with
        file.write(b'{"op_code":2,"worker_id":"w","study_id":0,"user_attr":{"format":4}}\n')
    lines = (folder / LOG).read_bytes().splitlines(keepends=True)
    (folder / LOG).write_bytes(b"".join(line.replace(b'"check"', b'"sum"') for line in lines))
    for mode in (Journal.open_for_writing, Journal.open_for_reading):
        with pytest.raises(
            Refusal,
            match=r"^the journal .*journal\.log was written by a newer routesearch"
            r" \(format 4, this reads up to 3\): update routesearch$",
        ):
            mode(folder)


def test_a_cut_line_is_told(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(folder)
    with (folder / LOG).open("ab") as file:
        file.write(b'{"op_code":2,')
    with caplog.at_level("WARNING", "routesearch"):
        Journal.open_for_reading(folder).close()
        assert caplog.messages == [], "a search may be writing it"
        Journal.open_for_writing(folder).close()
    [told] = caplog.messages
    assert told.endswith("was incomplete, as a crash leaves it: 13 bytes removed")
    (folder / LOG).write_bytes((folder / LOG).read_bytes() + b"\0\0\n")
    with caplog.at_level("WARNING", "routesearch"):
        Journal.open_for_reading(folder).close()
    assert caplog.messages[1:] == [f"the last line of the journal {folder / LOG} is damaged and left out"]


def test_line_ends_do_not_count(folder: Path) -> None:
    fill(folder)
    (folder / LOG).write_bytes((folder / LOG).read_bytes().replace(b"\n", b"\r\n"))
    with Journal.open_for_writing(folder) as journal:
        journal.set("after", 1)
    with Journal.open_for_reading(folder) as journal:
        assert (journal.get("fact 2"), journal.get("after")) == (2, 1)


def test_reading_changes_nothing_even_with_a_torn_line(folder: Path) -> None:
    fill(folder)
    before = (folder / LOG).read_bytes() + b'{"op_code":2,'
    (folder / LOG).write_bytes(before)
    with Journal.open_for_reading(folder) as journal:
        assert journal.get("fact 2") == 2
        with pytest.raises(RuntimeError, match="opened for reading"):
            journal.set("fact 2", 3)
    assert (folder / LOG).read_bytes() == before


def test_reading_works_while_a_driver_writes(folder: Path) -> None:
    with Journal.open_for_writing(folder) as writer:
        writer.set("a", 1)
        with Journal.open_for_reading(folder) as reader:
            assert reader.get("a") == 1
            writer.set("a", 2)
            assert reader.get("a") == 2


def test_a_line_that_is_finished_while_it_is_read_is_no_damage(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader beside a search: at the file's end there is half a line, a moment later the other half."""
    fill(folder)
    *lines, last = (folder / LOG).read_bytes().splitlines(keepends=True)
    parts = [*lines, last[:20], last[20:]]

    class Growing(io.BytesIO):
        def __iter__(self) -> Iterator[bytes]:  # type: ignore[override]
            return iter(parts)

    monkeypatch.setattr(Path, "open", lambda self, mode: Growing())
    file = JournalFile(folder / LOG)
    assert [text for text, _ in file.read()] == lines
    assert file.torn == last[:20]


def test_a_missing_study_is_refused_and_not_made(folder: Path) -> None:
    with pytest.raises(Refusal, match=r"no study in .* yet: run `routesearch search` first"):
        Journal.open_for_reading(folder)
    assert not folder.exists()


def test_an_empty_file_is_no_study(folder: Path) -> None:
    folder.mkdir()
    (folder / LOG).touch()
    with pytest.raises(Refusal, match="no study in"):
        Journal.open_for_reading(folder)


def test_a_second_driver_is_refused_with_the_first_ones_process(folder: Path) -> None:
    with Journal.open_for_writing(folder):
        with pytest.raises(
            Refusal, match=rf"^the study is locked by process {os.getpid()} on .* one search at a time"
        ):
            Journal.open_for_writing(folder)
        with pytest.raises(Refusal, match="one search at a time"):
            move_aside(folder)
    Journal.open_for_writing(folder).close()


def test_the_kernel_drops_the_lock_of_a_killed_driver(folder: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from routesearch.results.journal import Journal\n"
        "journal = Journal.open_for_writing(Path(sys.argv[1])); journal.set('a', 1)\n"
        "print('ready', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    with pytest.raises(Refusal, match=f"process {process.pid} on "):
        Journal.open_for_writing(folder)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    with Journal.open_for_writing(folder) as journal:
        assert journal.get("a") == 1


def test_a_folder_that_cannot_be_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Refusal, match=r"storage\.dir must be a writable folder, got .*file/study"):
        Journal.open_for_writing(tmp_path / "file" / "study")


def test_a_changed_study_is_refused_by_key_once_it_has_trials(folder: Path) -> None:
    with Journal.open_for_writing(folder) as journal:
        journal.check_fingerprint({"backbone": "nin", "data": "digits"}, started=False)
        journal.check_fingerprint({"backbone": "nin@0.5", "data": "digits"}, started=False)
        journal.check_fingerprint({"backbone": "nin@0.5", "data": "digits"}, started=True)
        with pytest.raises(Refusal, match=r"^backbone must stay .* it was nin@0\.5, now nin \(--fresh"):
            journal.check_fingerprint({"backbone": "nin", "data": "digits"}, started=True)
        with pytest.raises(Refusal, match=r"^data must stay .* it was digits, now None"):
            journal.check_fingerprint({"backbone": "nin@0.5"}, started=True)


def test_move_aside_makes_room_and_keeps_the_old_study(folder: Path) -> None:
    assert move_aside(folder) is None
    fill(folder)
    first = move_aside(folder)
    fill(folder, 1)
    second = move_aside(folder)
    assert first is not None
    assert second is not None
    assert first != second
    with Journal.open_for_reading(first) as journal:
        assert journal.get("fact 2") == 2
    assert not folder.exists()


@pytest.fixture
def small_disk(make_disk: Callable[[int], Path]) -> Path:
    return make_disk(256)


def test_a_full_disk_is_one_line_and_the_study_goes_on_when_there_is_space(small_disk: Path) -> None:
    folder = small_disk / "study"
    written = 0
    with Journal.open_for_writing(folder) as journal:
        with pytest.raises(RunFailed, match=r"^the journal cannot be written: No space left on device \("):  # noqa: PT012
            for i in range(10_000):
                journal.set("fact", [i, "x" * 3000])
                written = i
        assert written > 10
        assert (folder / LOG).read_bytes().endswith(b"\n")
        assert journal.get("fact")[0] == written
    with Journal.open_for_reading(folder) as journal:
        assert journal.get("fact")[0] == written
    subprocess.run(["mount", "-o", "remount,size=1m", str(small_disk)], check=True)
    with Journal.open_for_writing(folder) as journal:
        assert journal.get("fact")[0] == written
        journal.set("fact", [-1])
    with Journal.open_for_reading(folder) as journal:
        assert journal.get("fact") == [-1]


def test_a_study_cannot_start_on_a_full_disk(small_disk: Path) -> None:
    (small_disk / "study").mkdir()
    (small_disk / "study" / "driver.lock").touch()
    with pytest.raises(OSError, match="No space"):
        (small_disk / "filler").write_bytes(b"x" * (1 << 20))
    with pytest.raises(RunFailed, match="No space left on device"):
        Journal.open_for_writing(small_disk / "study")
    (small_disk / "filler").unlink()
    fill(small_disk / "study")


def test_an_interrupted_append_leaves_whole_lines(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Journal.open_for_writing(folder) as journal:
        journal.set("a", 1)

        def interrupted(_: int) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", interrupted)
            with pytest.raises(KeyboardInterrupt):
                journal.set("a", 2)
        journal.set("b", 3)
    with Journal.open_for_reading(folder) as journal:
        assert (journal.get("a"), journal.get("b")) == (1, 3)
