"""Why a process ended, as it said itself in its log: it crashed, or something in it called ``os._exit``.

Nobody else knows: Ray sees that a worker is gone, and is not its parent.
"""

from __future__ import annotations

import faulthandler
import os
import re
import sys
import traceback
from pathlib import Path

_EXIT = "routesearch: os._exit"
_TAIL = 1 << 16
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
