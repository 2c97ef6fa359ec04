"""How long a user waits before anything happens: --help, methods and cost, beside importing torch.

    .venv/bin/python bench/startup.py [--repeats 7]

Each command is a fresh process; they take turns, and medians of wall-clock seconds are printed. Goals:
--help under 0.5 s; methods and cost under 1 s beyond importing torch.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROUTESEARCH = str(Path(sys.executable).with_name("routesearch"))
COMMANDS = {
    "import torch": [sys.executable, "-c", "import torch"],
    "routesearch --help": [ROUTESEARCH, "--help"],
    "routesearch methods": [ROUTESEARCH, "methods", "--json"],
    "routesearch cost static": [
        *(ROUTESEARCH, "cost", "static", "--json", "--backbone", "nin", "--dataset", "digits"),
    ],
    "routesearch cost dgate": [
        *(ROUTESEARCH, "cost", "dgate", "--json", "--backbone", "resnet110", "--dataset", "fashion_mnist"),
    ],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for repeat in range(options.repeats + 1):  # the first fills the file cache
        for name, command in COMMANDS.items():
            started = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            if repeat:
                seconds[name].append(time.perf_counter() - started)
    torch = statistics.median(seconds["import torch"])
    for name, values in seconds.items():
        median = statistics.median(values)
        print(f"{name:>26} {median:6.2f} s   {median - torch:+6.2f} s beside importing torch")


if __name__ == "__main__":
    main()
