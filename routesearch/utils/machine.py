"""What this machine offers a trial: cores, torch threads, a GPU."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

from routesearch.utils.cgroups import cpu_quota

if TYPE_CHECKING:
    import torch
    from threadpoolctl import ThreadpoolController


def cores() -> int:
    """Cores that this process may use: those that it may run on, as far as its container's quota reaches.

    A quota of 2.5 cores is two: each trial is to have all of what it is granted.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return allowed if quota is None else max(1, min(allowed, int(quota)))


def threads(cpu: float) -> int:
    """Threads of a trial that is granted ``cpu`` cores: whole ones, at least one."""
    return max(1, int(cpu))


def device(gpu: float) -> torch.device | None:
    """Where a trial that is granted ``gpu`` GPUs runs; None where it asks for one and CUDA is not there."""
    import torch

    if gpu <= 0:
        return torch.device("cpu")
    return torch.device("cuda") if torch.cuda.is_available() else None


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Torch uses so many threads inside; None: as many as before."""
    import torch

    before = torch.get_num_threads()
    try:
        if count is not None:
            torch.set_num_threads(count)
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Numpy and scipy compute with one thread inside: more are of no use for small matrices."""
    with _blas().limit(limits=1, user_api="blas"):
        yield


@cache
def _blas() -> ThreadpoolController:
    """The numerical libraries of this process; those that are loaded by now."""
    import scipy.linalg  # noqa: F401
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
