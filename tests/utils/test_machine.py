"""What a trial gets of this machine."""

from __future__ import annotations

import os

import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from routesearch.utils.machine import cores, device, one_blas_thread, threads


def test_cores_are_those_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("routesearch.utils.machine.cpu_quota", lambda: None)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 3, 5}, raising=False)
    assert cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    assert cores() == 64
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores() == 1


@pytest.mark.parametrize(
    ("quota", "expected"), [(None, 3), (64.0, 3), (2.5, 2), (2.0, 2), (1.0, 1), (0.3, 1)]
)
def test_a_containers_quota_is_fewer_cores(
    quota: float | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounded down, at least one."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 3, 5}, raising=False)
    monkeypatch.setattr("routesearch.utils.machine.cpu_quota", lambda: quota)
    assert cores() == expected


def test_threads_are_whole_and_at_least_one() -> None:
    assert [threads(cpu) for cpu in (0.25, 1, 2.75, 8)] == [1, 1, 2, 8]


def test_a_gpu_is_never_replaced_by_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert [device(gpu) for gpu in (0, 0.5)] == [torch.device("cpu"), None]
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert [device(gpu) for gpu in (0, 0.5)] == [torch.device("cpu"), torch.device("cuda")]


def test_one_thread_computes_inside_and_as_many_as_before_afterwards() -> None:
    def blas() -> list[int]:
        return [each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"]

    with threadpool_limits(limits=2, user_api="blas"):
        with one_blas_thread():
            assert blas()
            assert set(blas()) == {1}
            with pytest.raises(ZeroDivisionError), one_blas_thread():
                raise ZeroDivisionError
            assert set(blas()) == {1}
        assert set(blas()) == {2}
