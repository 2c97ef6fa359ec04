"""Run as a script: a command that ends when the process that started it is gone, however that one ended.

Its standard input is a pipe from the starter: it reads nothing until the other end closes. To be started in a
session of its own, since it ends all of its process group.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading


def _terminate_group() -> None:
    sys.stdin.read()
    os.killpg(0, signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=_terminate_group, daemon=True).start()
    sys.exit(subprocess.call(sys.argv[1:], stdin=subprocess.DEVNULL))
