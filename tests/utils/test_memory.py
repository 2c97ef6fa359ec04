"""The collector, paused."""

from __future__ import annotations

import gc

from routesearch.utils.memory import collection_paused


def test_the_collector_is_as_it_was_afterwards() -> None:
    assert gc.isenabled()
    with collection_paused():
        assert not gc.isenabled()
        with collection_paused():
            pass
        assert not gc.isenabled(), "it was off when the inner one began"
    assert gc.isenabled()
    try:
        with collection_paused():
            raise ValueError
    except ValueError:
        assert gc.isenabled()
