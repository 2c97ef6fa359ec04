"""Searches compared at equal training MACs, on recorded trainings.

    .venv/bin/python bench/compare.py                         # digits, 3 seeds, the nearest rivals
    .venv/bin/python bench/compare.py compare fashion --seeds 20 --plot fashion.png
    .venv/bin/python bench/compare.py workers digits --workers 1 16 256 4096
    .venv/bin/python bench/compare.py error digits            # how far the table is from the trainings
    .venv/bin/python bench/compare.py record digits --file /tmp/digits.jsonl --minutes 20
    .venv/bin/python bench/compare.py pack digits --file /tmp/digits.jsonl

bench/comparison/README.md says what is compared, and how.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from comparison.arms import Bench
from comparison.comparison import PLAIN_TRIALS, plot, report, run
from comparison.fidelity import fidelity
from comparison.problems import PROBLEMS
from comparison.workers import scaling

CACHE = Path(tempfile.gettempdir()) / "routesearch-bench"
"""Where prices are kept from one run to the next."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.set_defaults(command="compare", problem="digits")
    commands = parser.add_subparsers(dest="command")
    record = commands.add_parser("record", help="train what a table lacks")
    record.add_argument("--minutes", type=float, default=1e9, help="begin no training after these")
    record.add_argument("--part", default="1/1", help="which of how many recorders: 1/2 and 2/2")
    pack = commands.add_parser("pack", help="put recorded trainings into the repository")
    error = commands.add_parser("error", help="how far the table is from the trainings")
    compare = commands.add_parser("compare", help="searches at equal training MACs")
    workers = commands.add_parser("workers", help="what many workers cost: lost time, and MACs of a front")
    workers.add_argument("--workers", type=int, nargs="+", default=[1, 16, 256])
    workers.add_argument("--minutes", type=float, default=10.0, help="of the shortest whole training")
    workers.add_argument("--rounds", type=int, default=3, help="trials for each worker")
    workers.add_argument("--fewest", type=int, default=200, help="trials at least")
    for command in (record, pack, error, compare, workers):
        command.add_argument("problem", choices=PROBLEMS, nargs="?", default="digits")
        needed = command in (record, pack)
        command.add_argument("--file", type=Path, required=needed, help="JSON lines of recorded trainings")
    add_compare_options(compare)
    options = parser.parse_args()
    if options.command is None or not hasattr(options, "file"):
        options = parser.parse_args(["compare", "digits", "--seeds", "3", "--only", "TPE", "random"])
    problem = PROBLEMS[options.problem]
    match options.command:
        case "record":
            from comparison.record import Recorder

            first, parts = map(int, options.part.split("/"))
            Recorder(problem, options.file, options.minutes, (first - 1, parts)).run()
        case "pack":
            from comparison.table import pack as packed

            packed(options.file, problem.table)
            print(f"{problem.table}: {problem.table.stat().st_size / 1000:.0f} kB")
        case "error":
            bench = Bench(problem, options.file, CACHE)
            for line in fidelity(bench.table, bench.task):
                print(line)
            bench.task.prices.save()
        case "workers":
            bench = Bench(problem, options.file, CACHE)
            for line in scaling(bench, options.workers, options.minutes, options.rounds, options.fewest):
                print(line, flush=True)
            bench.task.prices.save()
        case _:
            compared(options)


def add_compare_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--macs", type=float, help="training MACs of a search, in 10^12; the problem's own")
    parser.add_argument("--workers", type=int, default=1, help="of our search; the others have one")
    parser.add_argument("--syne-tune", type=Path, help="a folder that Syne Tune was installed into")
    parser.add_argument("--only", nargs="*", help="searches whose names contain one of these, and ours")
    parser.add_argument("--histories", type=Path, help="a file that keeps histories from run to run")
    parser.add_argument("--again", nargs="*", default=[], help="searches to be run anew, by their names")
    parser.add_argument(
        "--nearest", action="store_true", help="trainings are the nearest recorded one, not interpolated"
    )
    parser.add_argument("--plot", type=Path, help="a PNG")


def compared(options: argparse.Namespace) -> None:
    """Run the comparison and print what it says."""
    problem = PROBLEMS[options.problem]
    bench = Bench(problem, options.file, CACHE, options.workers, options.nearest)
    limit = 1e12 * (options.macs or problem.training_macs)
    arms = bench.arms(PLAIN_TRIALS, options.syne_tune)
    if options.only is not None:
        ours = next(iter(arms))
        arms = {n: a for n, a in arms.items() if n == ours or any(part in n for part in options.only)}
    again = [name for name in arms if any(part in name for part in options.again)]
    histories = run(bench, arms, options.seeds, limit, options.histories, again)
    bench.task.prices.save()
    for line in report(histories, limit):
        print(line)
    if options.plot is not None:
        plot(histories, limit, options.plot)


if __name__ == "__main__":
    main()
