"""Ray's workers as the driver uses them beside Tune: a function sent, an answer waited for."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from routesearch.errors import RunFailed, headline
from routesearch.search.ray_cluster import Capacity
from routesearch.search.ray_tasks import WorkerJob

if TYPE_CHECKING:
    from routesearch.search.worker import TrialRunner, WorkerResources
    from routesearch.task.resolve import Task

_POLL = 0.2  # seconds between looks at a signal while a worker is waited for


class WorkerFailed(RunFailed):
    """A worker process or its machine went away, or the function that it was sent raised."""


class Workers:
    """Functions of :mod:`routesearch.search.ray_tasks`, run with the resources of a trial.

    Args:
        packed: what every worker needs, from :meth:`TrialRunner.pack`; put into Ray once.
        checks: called while an answer is waited for; may raise to end the search.
    """

    def __init__(
        self,
        task: Task,
        runner: type[TrialRunner],
        packed: Any,
        resources: WorkerResources,
        checks: Sequence[Callable[[], None]],
    ) -> None:
        import ray

        node = ray.get_runtime_context().get_node_id()
        self.job = WorkerJob(runner, ray.put(packed), None, task.dir, node, resources)
        self.capacity = Capacity(resources)
        self._checks = checks
        self._sent: set[Any] = set()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        """End what was sent and is not answered: in a process that keeps its own Ray it would go on."""
        import ray

        for handle in self._sent:
            with contextlib.suppress(ray.exceptions.RayError, ValueError):
                ray.cancel(handle, force=True)
        self._sent.clear()

    def check(self) -> None:
        """Raise what ends the search, if there is anything."""
        for check in self._checks:
            check()

    def share_trunk(self, parts: Any) -> None:
        """Give the parts of the trunk to all that is sent from now on."""
        import ray

        self.job = replace(self.job, trunk=ray.put(parts))

    def send(self, function: Callable[..., Any], *arguments: Any, retries: int = 1) -> Any:
        """Have a worker call ``function`` with these arguments and the job.

        Args:
            retries: how often it is called again where a worker was lost.

        Returns:
            A handle for :meth:`finished` and :meth:`result`.
        """
        import ray

        resources = self.job.resources
        remote = ray.remote(function).options(
            num_cpus=resources.cpu, num_gpus=resources.gpu, max_retries=retries
        )
        handle = remote.remote(*arguments, self.job)
        self._sent.add(handle)
        return handle

    def finished(self, handles: Collection[Any]) -> list[Any]:
        """One of ``handles`` whose answer is there, or none after a short wait."""
        import ray

        self.check()
        return list(ray.wait(list(handles), timeout=_POLL)[0])

    def result(self, handle: Any) -> Any:
        """The answer, waited for.

        Raises:
            WorkerFailed: the function raised, or workers died more often than they may.
        """
        import ray

        while not self.finished([handle]):
            pass
        self._sent.discard(handle)
        try:
            return ray.get(handle)
        except ray.exceptions.RayTaskError as error:
            raise WorkerFailed(headline(error)) from error
        except ray.exceptions.RayError as error:
            raise WorkerFailed(f"a worker was lost: {headline(error)}") from error
