"""Why a worker ended: as its process said itself in its log, and as Ray says.

That a process crashed, or that something in it called ``os._exit``, nobody else knows: Ray sees that a worker
is gone, and is not its parent.
"""

from __future__ import annotations

import faulthandler
import os
import re
import sys
import traceback
from pathlib import Path

from routesearch.errors.texts import one_line

_EXIT = "routesearch: os._exit"
_TAIL = 1 << 16
MAX_COMPLAINT = 300
"""Characters of what Ray says of a worker that it lost."""
_LIBRARY = re.compile(r"/lib/python3|/site-packages/")


def announce() -> None:
    """Have this process write to stderr why it ends, where it can: not where it is killed."""
    if not faulthandler.is_enabled():
        faulthandler.enable(all_threads=False)
    own, leave = os.getpid(), os._exit

    def announced(status: int) -> None:
        if os.getpid() == own:  # a forked child ends like this too, and takes nobody with it
            caller = traceback.extract_stack(limit=2)[0]
            sys.stderr.write(f"{_EXIT}({status}) ({Path(caller.filename).name}:{caller.lineno})\n")
            sys.stderr.flush()
        leave(status)

    os._exit = announced  # type: ignore[assignment]


def log_of_this_process() -> str | None:
    """The file that stderr is written to; None where it is no file."""
    try:
        path = Path("/proc/self/fd/2").readlink()
    except OSError:
        return None
    return str(path) if path.is_file() else None


def last_words(log: str) -> str | None:
    """Why the process that wrote this log ended; None where that cannot be read."""
    try:
        with Path(log).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
            text = file.read().decode(errors="replace")
    except OSError:
        return None
    if _EXIT in text:
        return f"the process called os._exit{text.rpartition(_EXIT)[2].splitlines()[0]}"
    if "Fatal Python error: " in text:
        story = text.rpartition("Fatal Python error: ")[2]
        frames = re.findall(r'File "([^"]+)", line (\d+)', story)
        own = [frame for frame in frames if not _LIBRARY.search(frame[0])]
        place = f" ({Path(own[0][0]).name}:{own[0][1]})" if own else ""
        return f"the process crashed: {story.splitlines()[0]}{place}"
    return "the process was killed from outside, perhaps by the system for want of memory"


def complaint(error_file: str | None) -> tuple[str, str | None]:
    """Why Ray lost a worker, as Tune wrote it down: reason and the whole text."""
    try:
        text = re.sub(r"\x1b\[[0-9;]*m", "", Path(error_file or "").read_text(errors="replace"))
    except (OSError, TypeError):
        return "the worker was lost", None
    lines = [line for line in text.splitlines()[1:] if line.strip()] or ["no reason given"]
    if re.search(r"OutOfMemoryError|low (on )?memory", lines[0]):
        has = re.search(r"used / (\S+) limit", text)
        size = f" (the machine has {has[1]})" if has else ""
        return f"out of memory: Ray's memory monitor ended the worker{size}", text
    return f"the worker was lost: {one_line(' '.join(_telling(lines)), MAX_COMPLAINT)}", text


def _telling(lines: list[str]) -> list[str]:
    """The lines of an error of Ray's that say why: after its own words, or after a traceback's frames."""
    for place, line in enumerate(lines):
        _, found, why = line.partition("The actor is dead because ")
        if found:
            return [" ".join([why, *lines[place + 1 :]]).partition("Some common causes")[0]]
    frames = [place for place, line in enumerate(lines) if line.startswith(("  File ", "ray::"))]
    if not frames:
        return lines
    rest = lines[frames[-1] + 1 :]
    while len(rest) > 1 and rest[0].startswith("    "):  # code, and what points at it
        rest = rest[1:]
    return rest or lines
