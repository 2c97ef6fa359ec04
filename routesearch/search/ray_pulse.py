"""Whether Ray itself lives while a search runs."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
from collections.abc import Callable, Mapping

from routesearch.errors import RunFailed
from routesearch.search.ray_cluster import joined_ray, nodes

PAUSE = 1.0
"""Seconds between looks."""
REFUSED, UNREACHED = 3, 10
"""Looks in a row at which a process is given up: where nobody listens, and where it cannot be reached."""
LAST_CALL = 10.0
"""Seconds that a search whose Ray died has to end by itself."""


class RayLost(RunFailed):
    """Ray itself died while a search ran."""


class Pulse:
    """Whether the two processes of Ray that a driver needs still listen, looked at every second in a thread.

    Without them Ray's calls wait for up to a minute, and then Ray's core ends this process with words of its
    own. Where such a call, also that which leaves Ray, keeps the search from ending by itself, this ends the
    process sooner; not where the process has a Ray of its own, for it has other work.

    Args:
        addresses: name -> HOST:PORT of each process.
        probe: an address to an error, or None where somebody listens.
        joined: a mark of the Ray that this process is connected to for a search, None after it has left.
        leave: ends the process.
    """

    def __init__(
        self,
        addresses: Mapping[str, str],
        *,
        probe: Callable[[str], OSError | None] | None = None,
        joined: Callable[[], object | None] = joined_ray,
        leave: Callable[[int], object] = os._exit,
        pause: float = PAUSE,
        last_call: float = LAST_CALL,
    ) -> None:
        self._addresses = addresses
        self._probe = probe or _probe
        self._joined, self._ray = joined, joined()
        self._leave = leave
        self._pause, self._last_call = pause, last_call
        self._failed = dict.fromkeys(addresses, 0.0)  # 1: to be given up
        self._lost: RayLost | None = None
        self._stopped = threading.Event()

    @classmethod
    def of_ray(cls) -> Pulse:
        """The pulse of the Ray that this process is connected to."""
        import ray

        context = ray.get_runtime_context()
        own = next(n for n in nodes() if n["NodeID"] == context.get_node_id())
        return cls(
            {
                "control store (GCS)": context.gcs_address,
                "node manager (raylet)": f"{own['NodeManagerAddress']}:{own['NodeManagerPort']}",
            }
        )

    def __enter__(self) -> Pulse:
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()

    def check(self) -> None:
        """Raise RayLost where one of them is gone."""
        if self._lost is not None:
            raise self._lost

    def _watch(self) -> None:
        while self._lost is None:
            if self._stopped.wait(self._pause):
                return
            self._lost = next((_lost(*each) for each in self._addresses.items() if self._gone(*each)), None)
        threading.Event().wait(self._last_call)  # also once the search has ended: leaving Ray may take long
        if self._ray is None or self._joined() is not self._ray:
            return
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.write(f"{self._lost}\n")
            sys.stderr.flush()
        self._leave(1)

    def _gone(self, name: str, address: str) -> bool:
        """Whether a process was looked for often enough in vain."""
        error = self._probe(address)
        if error is None or isinstance(error, TimeoutError):  # a busy machine
            self._failed[name] = 0.0
        else:
            self._failed[name] += 1 / (REFUSED if isinstance(error, ConnectionRefusedError) else UNREACHED)
        return self._failed[name] > 1 - 1e-9


def _lost(name: str, address: str) -> RayLost:
    return RayLost(
        f"Ray died while the search ran: its {name} at {address} is gone; finished trials are kept, and the"
        " same command goes on from there"
    )


def _probe(address: str) -> OSError | None:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except OSError as error:
        return error
    return None
