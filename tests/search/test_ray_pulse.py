"""When Ray is given up, and when that ends this process."""

from __future__ import annotations

import errno
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from routesearch.search.ray_pulse import REFUSED, UNREACHED, Pulse, RayLost

GONE = ConnectionRefusedError(errno.ECONNREFUSED, "refused")
FAR = OSError(errno.EHOSTUNREACH, "no route")


@pytest.fixture
def watch() -> Iterator[Callable[..., tuple[Pulse, list[int]]]]:
    """Starts a pulse whose looks give these errors one after another, the last for ever."""
    running: list[Pulse] = []

    def start(*errors: OSError | None, joined: Callable[[], Any] = lambda: "ray") -> tuple[Pulse, list[int]]:
        looks = itertools.chain(errors, itertools.repeat(errors[-1]))
        left: list[int] = []
        pulse = Pulse(
            {"control store": "host:1"},
            probe=lambda address: next(looks),
            joined=joined,
            leave=left.append,
            pause=0.001,
            last_call=0.02,
        )
        running.append(pulse.__enter__())
        return pulse, left

    yield start
    for pulse in running:
        pulse.__exit__()


def lost(pulse: Pulse, within: float = 5.0) -> bool:
    end = time.monotonic() + within
    while time.monotonic() < end:
        try:
            pulse.check()
        except RayLost:
            return True
        time.sleep(0.002)
    return False


@pytest.mark.parametrize(("error", "looks"), [(GONE, REFUSED), (FAR, UNREACHED)])
def test_it_is_given_up_after_several_looks_in_a_row(watch: Any, error: OSError, looks: int) -> None:
    pulse, _ = watch(*[error] * (looks - 1), None, error)
    assert lost(pulse)
    pulse, _ = watch(*[error] * (looks - 1), None)
    assert not lost(pulse, within=0.2)


def test_a_busy_machine_is_not_given_up(watch: Any) -> None:
    pulse, left = watch(TimeoutError("timed out"))
    assert not lost(pulse, within=0.2)
    assert not left


def test_a_search_that_does_not_end_by_itself_is_ended(
    watch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    pulse, left = watch(GONE)
    assert lost(pulse)
    while not left:
        time.sleep(0.002)
    assert left == [1]
    assert "its control store at host:1 is gone" in capsys.readouterr().err


@pytest.mark.parametrize("marks", [[None], ["ray", None], ["ray", "another"]])
def test_a_process_with_another_ray_lives_on(watch: Any, marks: list[Any]) -> None:
    """The caller's own, one that has been left since, and the next search's."""
    seen = itertools.chain(marks, itertools.repeat(marks[-1]))
    pulse, left = watch(GONE, joined=lambda: next(seen))
    assert lost(pulse)
    time.sleep(0.1)
    assert not left


def test_a_search_that_ended_well_is_not_watched(watch: Any) -> None:
    pulse, left = watch(None)
    pulse.__exit__()
    time.sleep(0.05)
    assert not left
    assert not lost(pulse, within=0.01)
