"""The trunk of a study: each part trained once by a worker, kept in a file, given to every trial."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from routesearch.errors import Refusal, RunFailed
from routesearch.results.journal import Journal
from routesearch.results.measurements import TRUNK_MACS
from routesearch.results.record import Outcome
from routesearch.search.ray_tasks import train_trunk_part
from routesearch.utils.arrays import Stored, read_arrays, write_arrays

if TYPE_CHECKING:
    from routesearch.search.ray_workers import Workers
    from routesearch.search.worker import TrialRunner
    from routesearch.task.resolve import Task


def share_trunk(task: Task, workers: Workers, journal: Journal) -> dict[str, str]:
    """Train the parts that methods need and that are not there, and give all to the workers.

    What their training took is kept in the journal.

    Returns:
        The methods that cannot be run, for a part that they need could not be trained, each with the reason.

    Raises:
        Refusal: a file is something else than a part of the trunk.
        RunFailed: a part could not be trained and no method can do without it, or it could not be written.
    """
    paths, missing = task.trunk_files(), dict[str, str]()
    if not paths:
        return missing
    seed = task.config.search.seed
    running = {
        part: workers.send(train_trunk_part, part, seed, retries=3)
        for part, path in paths.items()
        if not path.exists()
    }
    for part, handle in running.items():
        answer = workers.result(handle)
        if "outcome" in answer:
            reason = f"the {part} could not be trained: {Outcome.loads(answer['outcome']).reason}"
            missing |= dict.fromkeys(task.dependent(part), reason)
            if missing.keys() == task.spaces.keys():
                raise RunFailed(reason)
            del paths[part]
        else:
            _keep(part, answer["trunk"], paths[part])
    parts = {part: _read(part, path, workers.job.runner) for part, path in paths.items()}
    macs = sum(int(facts.get("training_macs", 0)) for _, facts in parts.values())
    if journal.get(TRUNK_MACS) != macs:
        journal.set(TRUNK_MACS, macs)
    workers.share_trunk(parts)
    return missing


def _keep(part: str, stored: Stored, path: Path) -> None:
    try:
        write_arrays(path, *stored)
    except OSError as error:
        raise RunFailed(f"the {part} cannot be written to {path}: {error.strerror}") from error


def _read(part: str, path: Path, runner: type[TrialRunner]) -> Stored:
    try:
        stored = read_arrays(path)
        runner.check_trunk(part, stored)
        return stored
    except (OSError, KeyError, ValueError) as error:
        raise Refusal(f"the {part} must be a readable safetensors file, got {path}: {error}") from None
