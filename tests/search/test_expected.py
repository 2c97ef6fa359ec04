"""The front that trials under way are expected to have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from routesearch.results.curves import NOTHING, Curve, area, merged
from routesearch.results.points import OperatingPoint
from routesearch.results.record import Outcome, State, TrialRecord
from routesearch.search import expected
from routesearch.search.effort import Effort
from routesearch.search.evidence import Evidence
from routesearch.search.expected import Expected
from routesearch.search.offers import Offers
from routesearch.search.promise import Priced


def with_accuracy(record: TrialRecord, accuracy: float) -> TrialRecord:
    """A trial that has an accuracy from its cheapest route on."""
    assert record.bounds is not None
    points = (OperatingPoint({}, accuracy, float(record.bounds.min)),)
    return record.with_outcome(Outcome(State.FINISHED, points, training_macs=1000))


class Search:
    """Trials that end or are under way, and what is expected of them.

    Attributes:
        predicted: how many trials were predicted at once, for each time.
    """

    def __init__(self, task: Any) -> None:
        self.task = task
        self.evidence = Evidence(task)
        effort = Effort(task.config.search, self.evidence)
        self.offers = {method: Offers(task, method, effort) for method in task.spaces}
        self.expected = Expected(self.evidence, self.offers)
        self.predicted: list[int] = []
        for each in self.offers.values():
            self._count(each)
        self._records: list[TrialRecord] = []

    def _count(self, offers: Offers) -> None:
        predict = offers.promise.expected

        def counted(configs: Sequence[Priced]) -> Curve:
            self.predicted.append(len(configs))
            return predict(configs)

        offers.promise.expected = counted  # type: ignore[method-assign]

    def _record(self, method: str, config: dict[str, Any]) -> TrialRecord:
        model = self.task.spaces[method].parse(config)
        bounds = self.task.bounds(method, model)
        return TrialRecord(len(self._records), method, model.model_dump(mode="json"), 1, bounds)

    def begin(self, method: str, **config: Any) -> int:
        self._records.append(record := self._record(method, config))
        self.evidence.begin(record)
        return record.number

    def end(self, number: int, accuracy: float) -> None:
        self.evidence.end(with_accuracy(self._records[number], accuracy))

    def learnt(self, method: str, accuracy: float, **config: Any) -> None:
        """A trial of another study."""
        self.evidence.learn_from([with_accuracy(self._record(method, config), accuracy)])

    def ended(self, method: str, accuracy: float, **config: Any) -> None:
        self.end(self.begin(method, **config), accuracy)

    def weigh(self, method: str) -> Curve:
        """The front by which a method's configs are weighed."""
        self.offers[method].learn(self.evidence.summaries[method].modelled)
        return self.expected.front()

    def of(self, *numbers: int) -> Curve:
        """What trials of one method are expected to have."""
        [method] = {self.evidence.pending[number].method for number in numbers}
        under_way = [self.evidence.pending[number] for number in numbers]
        found = self.offers[method].promise.expected(
            [Priced(each.params, each.bounds) for each in under_way if each.params and each.bounds]
        )
        self.predicted.pop()
        return found


@pytest.fixture
def search(make_fake: Callable[..., Any]) -> Callable[..., Search]:
    return lambda **changes: Search(make_fake(sampler="auto", **changes))


def test_without_trials_under_way_the_front_is_what_ended(search: Callable[..., Search]) -> None:
    given = search()
    assert np.array_equal(given.weigh("wide"), NOTHING)
    given.ended("wide", 0.6, width=0.2)
    given.ended("deep", 0.3)
    assert given.weigh("wide").tolist() == [[0.3, 0.1], [0.6, 0.28]]
    assert np.array_equal(given.weigh("deep"), given.evidence.own_front())
    assert given.predicted == []


def test_what_another_study_found_is_not_on_the_front(search: Callable[..., Search]) -> None:
    given = search()
    given.learnt("wide", 0.9, width=0.1)
    assert np.array_equal(given.weigh("wide"), NOTHING)
    number = given.begin("wide", width=0.1)
    front = given.weigh("wide")
    assert np.array_equal(front, given.of(number)), "but by it trials under way are predicted"
    assert front[:, 0].max() == pytest.approx(0.9, abs=0.05)


def test_a_trial_under_way_adds_what_is_expected_of_it_once_its_method_is_known(
    search: Callable[..., Search],
) -> None:
    given = search()
    number = given.begin("wide", width=0.0)
    given.ended("deep", 0.9)
    assert given.weigh("deep").tolist() == [[0.9, 0.1]], "nothing is known of its method"
    given.ended("wide", 0.7, width=0.05)
    front = given.weigh("wide")
    assert np.array_equal(front, merged([given.evidence.own_front(), given.of(number)]))
    given = search()
    given.ended("wide", 0.7, width=0.05)
    before = area(given.weigh("wide"), 0.5)
    given.begin("wide", width=0.0)
    assert area(given.weigh("wide"), 0.5) > before + 0.01, "it is cheaper and expected to be as good"


def test_a_trial_that_ended_is_no_longer_expected_to_be_anything(search: Callable[..., Search]) -> None:
    given = search()
    given.ended("wide", 0.7, width=0.05)
    number = given.begin("wide", width=0.0)
    assert area(given.weigh("wide"), 0.5) > area(given.evidence.own_front(), 0.5) + 0.01
    given.end(number, 0.01)
    assert given.weigh("wide").tolist() == [[0.01, 0.1], [0.7, 0.145]]


def test_a_trial_whose_config_is_not_in_the_space_is_not_predicted(search: Callable[..., Search]) -> None:
    given = search()
    given.ended("wide", 0.7, width=0.05)
    given.evidence.begin(TrialRecord(9, "wide", {"width": 7.0, "depth": 2}, 1))
    given.evidence.begin(TrialRecord(10, "gone", {"width": 0.1}, 1))
    assert given.weigh("wide").tolist() == [[0.7, 0.145]]


def test_the_front_follows_from_what_is_known_whichever_method_was_weighed_before(
    search: Callable[..., Search],
) -> None:
    fronts = []
    for order in (["wide"], ["deep", "wide"], ["wide", "deep"], ["deep"]):
        given = search()
        given.ended("wide", 0.5, width=0.3)
        given.learnt("deep", 0.3)
        if len(order) > 1:
            given.weigh(order[0])
        given.begin("wide", width=0.1)
        given.begin("deep", beta=2.0)
        fronts += [given.weigh(method) for method in order]
    assert fronts[0][:, 0] == pytest.approx([0.3, 0.5], abs=0.05)
    assert fronts[0][:, 1] == pytest.approx([0.1, 0.19], abs=0.02)
    assert all(np.array_equal(front, fronts[0]) for front in fronts)


# ---- how often they are predicted --------------------------------------------------------------------


def test_nothing_is_predicted_again_while_nothing_is_new(search: Callable[..., Search]) -> None:
    given = search()
    given.ended("wide", 0.7, width=0.05)
    for _ in range(3):
        given.begin("wide", width=0.1)
    fronts = [given.weigh("wide") for _ in range(3)]
    assert given.predicted == [3]
    assert fronts[0] is fronts[2]


def test_few_trials_under_way_are_predicted_anew_whenever_one_has_ended(
    search: Callable[..., Search], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expected, "MAX_EACH", 4)
    given = search()
    given.ended("wide", 0.7, width=0.05)
    numbers = [given.begin("wide", width=i / 10) for i in range(4)]
    given.weigh("wide")
    given.end(numbers[3], 0.2)
    front = given.weigh("wide")
    assert given.predicted == [4, 3]
    assert np.array_equal(front, merged([given.evidence.own_front(), given.of(*numbers[:3])]))


def many(given: Search, count: int) -> list[int]:
    """So many trials under way, after one that has ended; they are predicted."""
    given.ended("wide", 0.7, width=0.3)
    numbers = [given.begin("wide", width=0.01 * i) for i in range(count)]
    given.weigh("wide")
    assert given.predicted == [count]
    return numbers


@pytest.mark.parametrize(("count", "ends"), [(5, 1), (8, 1), (10, 2), (16, 3)])
def test_many_trials_under_way_are_predicted_anew_the_less_often_the_more_they_are(
    search: Callable[..., Search], monkeypatch: pytest.MonkeyPatch, count: int, ends: int
) -> None:
    monkeypatch.setattr(expected, "MAX_EACH", 4)
    given = search()
    numbers = many(given, count)
    for i in range(1, ends + 1):
        given.end(numbers[-i], 0.5)
        given.weigh("wide")
        assert given.predicted == [count, count - ends] if i == ends else [count]
    assert np.array_equal(
        given.expected.front(), merged([given.evidence.own_front(), given.of(*numbers[:-ends])])
    )


def test_of_many_under_way_a_new_one_is_added_at_once_and_alone(
    search: Callable[..., Search], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expected, "MAX_EACH", 4)
    given = search()
    given.ended("wide", 0.7, width=0.3)
    numbers = [given.begin("wide", width=0.2 + 0.01 * i) for i in range(10)]
    before = given.weigh("wide")
    new = given.begin("wide", width=0.0)
    front = given.weigh("wide")
    assert given.predicted == [10, 1]
    assert np.array_equal(front, merged([before, given.of(new)]))
    assert area(front, 0.5) > area(before, 0.5) + 0.01
    assert area(front, 0.5) == pytest.approx(
        area(merged([given.evidence.own_front(), given.of(*numbers, new)]), 0.5)
    )


def test_of_many_under_way_what_has_ended_is_still_expected_until_all_are_predicted_anew(
    search: Callable[..., Search], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expected, "MAX_EACH", 4)
    given = search()
    numbers = many(given, 10)  # the first is the cheapest
    before = given.weigh("wide")
    given.end(numbers[0], 0.01)
    assert np.array_equal(given.weigh("wide"), merged([given.evidence.own_front(), before]))
    given.end(numbers[1], 0.01)
    assert area(given.weigh("wide"), 0.5) < area(before, 0.5) - 0.001


def test_few_of_one_method_are_predicted_anew_beside_many_of_another(
    search: Callable[..., Search], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expected, "MAX_EACH", 4)
    given = search()
    many(given, 12)
    given.ended("deep", 0.3)
    few = [given.begin("deep") for _ in range(2)]
    given.weigh("deep")
    given.end(few[0], 0.3)
    given.weigh("deep")
    assert given.predicted == [12, 2, 1]
