"""Which method is tried next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from routesearch.results.points import Interval, OperatingPoint
from routesearch.results.record import Outcome, State, TrialRecord
from routesearch.search.allocation import Allocation
from routesearch.search.effort import Effort
from routesearch.search.evidence import RECENT, Evidence

BOTH = ("wide", "deep")


class Shared:
    """A search's trials, and the method that is tried next."""

    def __init__(self, task: Any) -> None:
        self.evidence = Evidence(task)
        self.allocation = Allocation(self.evidence, Effort(task.config.search, self.evidence))
        self.asked: list[Sequence[str]] = []
        self._begun = 0

    def begin(self, method: str, times: int = 1) -> list[TrialRecord]:
        records = [
            TrialRecord(self._begun + i, method, {}, 1, Interval(100, 1000), None) for i in range(times)
        ]
        self._begun += times
        for record in records:
            self.evidence.begin(record)
        return records

    def end(
        self, method: str, accuracy: float = 0.5, macs: int = 100, times: int = 1, cost: float = 100.0
    ) -> None:
        points = (OperatingPoint({}, accuracy, cost),)
        for record in self.begin(method, times):
            self.evidence.end(record.with_outcome(Outcome(State.FINISHED, points, training_macs=macs)))

    def next(
        self, offer: tuple[str, float] | None = None, methods: Sequence[str] = BOTH, asked: bool = True
    ) -> str:
        def first(known: Sequence[str]) -> tuple[str, float] | None:
            self.asked.append(list(known))
            assert asked, "what is not known must not be asked for"
            return offer

        return self.allocation.next(methods, first)


@pytest.fixture
def shared(make_fake: Callable[..., Any]) -> Callable[..., Shared]:
    """A search of ten trials; half of the backbone's MACs are within the budget."""
    return lambda **search: Shared(make_fake(search={"trials": 10, **search}))


# ---- the start ---------------------------------------------------------------------------------------


def test_of_one_method_there_is_no_choice(shared: Callable[..., Shared]) -> None:
    given = shared()
    for _ in range(3):
        assert given.next(methods=["deep"], asked=False) == "deep"
        given.end("deep")
    given.end("wide", 0.9)
    assert given.next(methods=["deep"], asked=False) == "deep"


def test_as_long_as_nothing_is_known_methods_take_turns(shared: Callable[..., Shared]) -> None:
    given = shared()
    found = []
    for _ in range(6):
        found.append(given.next(asked=False))
        given.begin(found[-1])
    assert found == ["wide", "deep"] * 3


def test_methods_that_only_another_study_tried_are_not_tried_yet(shared: Callable[..., Shared]) -> None:
    given = shared()
    points = (OperatingPoint({}, 0.9, 100.0),)
    record = TrialRecord(0, "deep", {}, 1, Interval(100, 1000))
    given.evidence.learn_from([record.with_outcome(Outcome(State.FINISHED, points, training_macs=100))])
    assert given.next(asked=False) == "wide"
    given.begin("wide")
    assert given.next(asked=False) == "deep"


# ---- the floor ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("times", "found"), [(2, "wide"), (13, "wide"), (15, "deep"), (30, "deep")])
def test_a_starved_method_comes_first_whatever_others_promise(
    shared: Callable[..., Shared], times: int, found: str
) -> None:
    given = shared()
    given.end("deep")
    given.end("wide", times=times)
    # with its next one it has two; its floor is an eighth of all
    assert given.next(("wide", 1e6)) == found


def test_the_floor_is_one_of_what_is_spent_and_not_of_trials(shared: Callable[..., Shared]) -> None:
    given = shared(training_macs=1000, trials=10**6)
    given.end("deep", macs=10)
    given.end("wide", macs=10, times=5)
    assert given.next(("wide", 1e6)) == "wide"
    given.end("wide", macs=1000)
    assert given.next(("wide", 1e6)) == "deep"


def test_trials_under_way_count_towards_the_floor(shared: Callable[..., Shared]) -> None:
    given = shared()
    given.end("deep")
    given.end("wide", times=13)
    assert given.next(("wide", 1e6)) == "wide"
    given.begin("wide", 2)
    assert given.next(("wide", 1e6)) == "deep"
    given.begin("deep")
    assert given.next(("wide", 1e6)) == "wide"


@pytest.mark.parametrize(("times", "found"), [(7, "wide"), (8, "deep")])
def test_a_method_that_was_not_tried_yet_has_a_floor_too(
    shared: Callable[..., Shared], times: int, found: str
) -> None:
    given = shared()
    given.end("wide", times=times)
    assert given.next(("wide", 1e6)) == found


def test_no_method_starves_in_the_long_run(shared: Callable[..., Shared]) -> None:
    given = shared()
    found = []
    for _ in range(120):
        found.append(given.next(("wide", 1e6)))
        given.end(found[-1], macs=100 if found[-1] == "wide" else 300)
    spent = {name: given.allocation._effort.share(given.evidence.summaries[name].mean_macs) for name in BOTH}
    parts = {name: found.count(name) * spent[name] for name in BOTH}
    assert 0.1 < parts["deep"] / sum(parts.values()) < 0.15


# ---- offers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("best", BOTH)
def test_above_the_floor_the_best_offer_is_taken(shared: Callable[..., Shared], best: str) -> None:
    given = shared()
    given.end("wide", 0.9, macs=100, times=3)
    given.end("deep", 0.1, macs=900)
    assert given.next((best, 0.01)) == best
    assert given.asked == [["wide", "deep"]]


def test_only_methods_that_were_tried_and_are_left_are_asked_for_offers(
    shared: Callable[..., Shared],
) -> None:
    given = shared()
    given.end("wide")
    given.begin("deep")
    assert given.next(("wide", 0.0)) == "wide"
    given.end("deep")
    given.next(("deep", 0.0), methods=["deep"], asked=False)
    assert given.asked == [["wide"]]


@pytest.mark.parametrize(("promised", "found"), [(0.16, "wide"), (0.14, "deep")])
def test_an_untried_method_waits_while_others_promise_more(
    shared: Callable[..., Shared], promised: float, found: str
) -> None:
    given = shared()
    given.end("wide", accuracy=0.5, cost=100.0)
    # 0.5 over 0.4 of the cost are found, of 0.5: a tenth of the rest, 0.3, for a fifth of the budget is 0.15
    assert given.next(("wide", promised)) == found


def test_an_untried_method_is_expected_to_take_as_much_as_the_dearest_one(
    shared: Callable[..., Shared], make_fake: Callable[..., Any]
) -> None:
    for macs, found in ((100, "third"), (900, "wide")):
        task = make_fake(search={"trials": 10, "training_macs": 1000})
        task.spaces["third"] = task.spaces["wide"]
        given = Shared(task)
        given.end("wide", accuracy=0.5, cost=100.0, macs=100, times=2)
        given.end("deep", accuracy=0.1, macs=macs)
        assert given.next(("wide", 0.1), [*BOTH, "third"]) == found  # 0.15, or 0.03


def test_an_untried_method_that_is_under_way_is_not_begun_again_for_what_it_may_promise(
    shared: Callable[..., Shared],
) -> None:
    given = shared()
    given.end("wide")
    assert given.next(("wide", 0.0)) == "deep"
    given.begin("deep")
    assert given.next(("wide", 0.0)) == "wide"


# ---- without offers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("good", BOTH)
def test_without_offers_the_method_comes_whose_recent_trials_add_most(
    shared: Callable[..., Shared], good: str
) -> None:
    given = shared()
    for name in BOTH:
        given.end(name, 0.9 if name == good else 0.8, times=2)
    assert given.next() == good


def test_without_offers_what_a_method_added_long_ago_does_not_count(shared: Callable[..., Shared]) -> None:
    given = shared()
    given.end("wide", 0.9)
    given.end("wide", 0.2, times=RECENT - 1)
    given.end("deep", 0.1)
    given.end("deep", 0.5, cost=50.0)
    assert given.next() == "wide"
    given.end("wide", 0.2)
    assert given.next() == "deep"


@pytest.mark.parametrize(("wide", "deep"), [(100, 900), (900, 100)])
def test_without_offers_what_is_added_counts_for_what_it_takes(
    shared: Callable[..., Shared], wide: int, deep: int
) -> None:
    given = shared(training_macs=10_000)
    given.end("wide", 0.3, cost=100.0, macs=wide)
    given.end("deep", 0.6, cost=300.0, macs=deep)  # adds as much
    assert given.next() == ("wide" if wide < deep else "deep")


@pytest.mark.parametrize(("wide", "deep"), [(100, 200), (200, 100)])
def test_without_offers_the_cheapest_goes_on_where_none_adds_anything(
    shared: Callable[..., Shared], wide: int, deep: int
) -> None:
    given = shared()
    given.end("wide", 0.9, macs=wide)
    given.end("wide", 0.2, macs=wide, times=RECENT)
    given.end("deep", 0.2, macs=deep, times=RECENT)
    assert given.next() == ("wide" if wide < deep else "deep")


def test_without_offers_trials_under_way_count_as_taken(shared: Callable[..., Shared]) -> None:
    given = shared()
    given.end("wide", 0.6, cost=100.0, times=1)
    given.end("deep", 0.4, cost=50.0, times=1)
    assert given.next() == "wide"
    given.begin("wide", 5)
    assert given.next() == "deep"


# ---- under way ---------------------------------------------------------------------------------------


def test_trials_under_way_are_expected_to_take_the_mean_of_their_method(
    shared: Callable[..., Shared],
) -> None:
    given = shared()
    assert given.allocation.expected == 0
    given.begin("wide", 3)
    assert given.allocation.expected == 0, "nothing is known of it"
    given.end("wide", macs=100)
    given.end("wide", macs=300)
    given.end("deep", macs=1000)
    assert given.allocation.expected == 3 * 200
    [record] = given.begin("deep")
    assert given.allocation.expected == 3 * 200 + 1000
    given.evidence.end(record.with_outcome(Outcome.failure("out of memory")))
    assert given.allocation.expected == 3 * 200
