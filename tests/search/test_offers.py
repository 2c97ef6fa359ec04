"""The most promising of many configs."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Annotated, Any

import pytest
from optuna.distributions import CategoricalDistribution, IntDistribution

from routesearch.results.points import OperatingPoint
from routesearch.results.record import Outcome, State, TrialRecord
from routesearch.search.effort import Effort
from routesearch.search.evidence import Evidence
from routesearch.search.observations import config_text
from routesearch.search.offers import Offers, _near
from routesearch.space.space import SearchSpace, Space


def shown(task: Any, *widths: float) -> Evidence:
    """Evidence of trials of ``wide``, the better the wider up to 0.3, and worse beyond."""
    evidence = Evidence(task)
    for number, width in enumerate(widths):
        config = task.spaces["wide"].parse({"width": width, "depth": 2})
        bounds = task.bounds("wide", config)
        record = TrialRecord(number, "wide", config.model_dump(mode="json"), 1, bounds)
        evidence.begin(record)
        accuracy = 0.9 - 2 * abs(width - 0.3)
        points = (OperatingPoint({}, max(accuracy, 0.05), bounds.min),)
        evidence.end(record.with_outcome(Outcome(State.FINISHED, points, training_macs=1000)))
    return evidence


def offers_of(task: Any, evidence: Evidence) -> Offers:
    offers = Offers(task, "wide", Effort(task.config.search, evidence))
    assert offers.learn(evidence.ended["wide"])
    return offers


def test_nothing_is_offered_that_costs_more_and_is_worse(make_fake: Any) -> None:
    task = make_fake(sampler="auto", budget=900.0)
    evidence = shown(task, 0.0, 0.1, 0.2, 0.25, 0.45, 0.6, 0.8)
    offers = offers_of(task, evidence)
    front = max((one.curve for one in evidence.ended["wide"]), key=lambda c: float(c[0, 0]))
    found = [offers.best(evidence.ended["wide"], front, (), seed) for seed in range(5)]
    assert all(each is not None and each.params["width"] < 0.4 for each in found)
    assert all(each is not None and each.worth > 0 for each in found)


def test_nothing_over_the_budget_is_offered(make_fake: Any) -> None:
    task = make_fake(sampler="auto", budget=200.0)
    evidence = shown(task, 0.02, 0.05, 0.1)
    offers = offers_of(task, evidence)
    for seed in range(5):
        offer = offers.best(evidence.ended["wide"], evidence.ended["wide"][0].curve, (), seed)
        assert offer is not None
        config = task.spaces["wide"].parse({"width": offer.params["width"], "depth": offer.params["depth"]})
        assert task.bounds("wide", config).min <= 200


def test_nothing_that_was_trained_or_refused_is_offered_again(make_fake: Any) -> None:
    class Four(Space):
        kind: Annotated[str, CategoricalDistribution(["a", "b", "c", "d"])] = "a"

    task = make_fake(sampler="auto")
    task.spaces["wide"] = SearchSpace(Four)
    task.bounds = lambda method, config: type(task).bounds(task, "deep", task.spaces["deep"].default())
    evidence = Evidence(task)
    record = TrialRecord(0, "wide", {"kind": "a"}, 1, task.bounds("wide", None))
    evidence.begin(record)
    points = (OperatingPoint({}, 0.5, 300.0),)
    evidence.end(record.with_outcome(Outcome(State.FINISHED, points, training_macs=1000)))
    offers = offers_of(task, evidence)
    front, taken, order = evidence.ended["wide"][0].curve, {config_text({"kind": "a"})}, []
    for _ in range(5):
        if (offer := offers.best(evidence.ended["wide"], front, taken, 1)) is not None:
            order.append(offer.params["kind"])
            taken.add(config_text({"kind": offer.params["kind"]}))
    assert sorted(order) == ["b", "c", "d"]


def test_a_study_is_not_trained_twice_as_long_as_there_is_something_new(
    make_fake: Any, folder: Any, outcome: Any
) -> None:
    from routesearch.results.journal import Journal
    from routesearch.search.resume import open_trials

    class Few(Space):
        kind: Annotated[str, CategoricalDistribution(list("abcdefgh"))] = "a"

    task = make_fake(sampler="auto")
    task.spaces.clear()
    task.spaces["wide"] = SearchSpace(Few)
    task.bounds = lambda method, config: type(task).bounds(task, "wide", _Width(0.2))
    with Journal.open_for_writing(folder) as journal:
        trials, drawn = open_trials(journal, task)[0], []
        for _ in range(8):
            record = trials.ask("wide")
            drawn.append(record.config["kind"])
            trials.finish(record.number, outcome(0.3, 300.0))
    assert sorted(drawn) == list("abcdefgh")


@pytest.mark.parametrize(
    "distribution", [IntDistribution(0, 1), IntDistribution(0, 9, step=3), IntDistribution(1, 9)]
)
def test_the_next_value_of_an_integer_is_near_however_few_there_are(distribution: IntDistribution) -> None:
    random = Random(0)
    values = range(distribution.low, distribution.high + 1, distribution.step)
    for value in values:
        found = Counter(_near(value, distribution, random) for _ in range(2000))
        assert found.keys() <= set(values)
        for other in {value - distribution.step, value + distribution.step} & set(values):
            assert found[other] > 100
        assert found[value] > 1000


class _Width:
    def __init__(self, width: float) -> None:
        self.width = width
