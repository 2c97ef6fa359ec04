"""What an Optuna sampler is told of trials."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import pytest
from optuna.distributions import FloatDistribution
from optuna.samplers import RandomSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from routesearch.results.curves import NOTHING, standings
from routesearch.results.points import OperatingPoint
from routesearch.results.record import Outcome, State, TrialRecord
from routesearch.search.evidence import EndedTrial, Evidence, RunningTrial
from routesearch.search.histories import history
from routesearch.search.sampler import Strategy
from routesearch.space.space import SearchSpace, Space

Row = tuple[float, float]
"""Accuracy and MACs."""


def told(by_standing: bool = False, most: int | None = None) -> Strategy:
    return Strategy(RandomSampler, by_standing=by_standing, most=most)


def curve(*rows: Row, state: State = State.FINISHED) -> Outcome:
    points = tuple(OperatingPoint({"t": i}, accuracy, macs) for i, (accuracy, macs) in enumerate(rows))
    return Outcome(state, points, training_macs=100)


REFUSED = Outcome(State.REFUSED, reason="over the budget")


class Told:
    """Trials put into evidence, as a search does, and taken out again as the history's arguments."""

    def __init__(self, task: Any) -> None:
        self.task = task
        self.evidence = Evidence(task)
        self._numbers = 0

    def begin(
        self, method: str, config: dict[str, Any], attributes: dict[str, Any] | None = None
    ) -> TrialRecord:
        model = self.task.spaces[method].parse(config)
        plain = model.model_dump(mode="json")
        bounds = None if plain.get("beta", 0) > 9 else self.task.bounds(method, model)
        record = TrialRecord(self._numbers, method, plain, 1, bounds)
        self._numbers += 1
        self.evidence.begin(record, attributes)
        return record

    def end(self, method: str, config: dict[str, Any], outcome: Outcome, **left: Any) -> TrialRecord:
        record = self.begin(method, config, left or None).with_outcome(outcome)
        self.evidence.end(record)
        return record

    def ended(self, method: str) -> list[EndedTrial]:
        return list(self.evidence.ended[method])

    def pending(self, method: str) -> list[RunningTrial]:
        return [each for each in self.evidence.pending.values() if each.method == method]

    def history(self, method: str, strategy: Strategy) -> Study:
        others = self.evidence.others(method)
        return history(strategy, self.ended(method), self.pending(method), others, self.evidence.edge)


@pytest.fixture
def make_told(make_fake: Callable[..., Any]) -> Callable[..., Told]:
    return lambda **changes: Told(make_fake(**changes))


def states(study: Study) -> list[TrialState]:
    return [trial.state for trial in study.trials]


def params(trials: Sequence[FrozenTrial], name: str) -> list[Any]:
    return [trial.params[name] for trial in trials]


def test_a_sampler_of_two_objectives_is_told_the_point_that_stands_for_a_curve(
    make_told: Callable[..., Told],
) -> None:
    given = make_told()  # 500 of the backbone's 1000 MACs
    given.end("wide", {"width": 0.1, "depth": 3}, curve((0.4, 300), (0.6, 450), (0.9, 800)))
    given.end("wide", {"width": 0.9, "depth": 1}, curve((0.8, 750), (0.9, 1000)))
    study = given.history("wide", told())
    assert study.directions == [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE]
    assert states(study) == [TrialState.COMPLETE] * 2
    within, over = study.trials
    assert within.params == {"width": 0.1, "depth": 3}
    assert within.values == [0.6, 450]
    assert within.constraints == {"macs": pytest.approx(300 / 500 - 1)}
    assert over.constraints == {"macs": pytest.approx(0.5)}


def test_a_sampler_of_one_objective_is_told_how_a_curve_stands_beside_those_of_all_methods(
    make_told: Callable[..., Told],
) -> None:
    given = make_told()
    given.end("wide", {"width": 0.1}, curve((0.4, 300), (0.6, 450)))
    given.end("deep", {"beta": 1.0}, curve((0.5, 300)))
    given.end("wide", {"width": 0.2}, curve((0.3, 350)))
    given.end("wide", {"width": 0.9}, curve((0.9, 700)))
    study = given.history("wide", told(by_standing=True))
    assert study.directions == [StudyDirection.MAXIMIZE]
    values = [trial.value for trial in study.trials]
    assert values == pytest.approx([0.1 * 0.05, -0.2, -1.2])
    alone = standings([one.curve for one in given.ended("wide")], 0.5)
    assert values != pytest.approx(list(alone)), "the other method's curve lies above one of these"
    assert [trial.constraints["macs"] > 0 for trial in study.trials] == [False, False, True]


@pytest.mark.parametrize("by_standing", [False, True])
def test_refused_trials_are_pruned_with_the_constraint_that_they_violate(
    make_told: Callable[..., Told], by_standing: bool
) -> None:
    given = make_told()
    given.end("deep", {"beta": 2.0}, curve((0.5, 200)))
    given.end("deep", {"beta": 9.5}, REFUSED)  # cannot be built
    given.end("wide", {"width": 0.1}, curve((0.5, 200)))
    given.end("wide", {"width": 1.0}, REFUSED)  # 1000 of 500 MACs
    deep, wide = (given.history(method, told(by_standing)).trials for method in ("deep", "wide"))
    assert [t.state for t in deep] == [t.state for t in wide] == [TrialState.COMPLETE, TrialState.PRUNED]
    assert deep[1].constraints == {"constraint": 1.0}
    assert wide[1].constraints == {"macs": pytest.approx(1.0)}
    assert wide[1].params == {"width": 1.0, "depth": 2}
    assert deep[1].values is wide[1].values is None


def test_a_refusal_that_the_present_budget_would_not_repeat_is_not_told(
    make_told: Callable[..., Told],
) -> None:
    for budget, count in ((800.0, 1), (2000.0, 0), (None, 0)):
        given = make_told(budget=budget)
        given.end("wide", {"width": 1.0}, REFUSED)
        assert len(given.history("wide", told()).trials) == count


def test_failed_trials_are_not_told(make_told: Callable[..., Told]) -> None:
    given = make_told()
    given.end("wide", {"width": 0.1}, Outcome.failure("out of memory"))
    given.end("wide", {"width": 0.2}, curve((0.5, 300)))
    assert params(given.history("wide", told()).trials, "width") == [0.2]


def test_a_stopped_trial_is_told_as_any_other(make_told: Callable[..., Told]) -> None:
    given = make_told()
    given.end("wide", {"width": 0.1}, curve((0.5, 300), state=State.STOPPED))
    [trial] = given.history("wide", told()).trials
    assert (trial.state, trial.values) == (TrialState.COMPLETE, [0.5, 300])


@pytest.mark.parametrize("by_standing", [False, True])
def test_trials_under_way_are_running(make_told: Callable[..., Told], by_standing: bool) -> None:
    given = make_told()
    given.end("wide", {"width": 0.1}, curve((0.5, 300)))
    running = given.begin("wide", {"width": 0.3, "depth": 4})
    given.begin("deep", {"beta": 1.0})
    given.evidence.show(running.number, curve((0.2, 300)))
    study = given.history("wide", told(by_standing))
    assert states(study) == [TrialState.COMPLETE, TrialState.RUNNING]
    assert study.trials[1].params == {"width": 0.3, "depth": 4}
    assert study.trials[1].values is None


def test_a_trial_under_way_with_a_parameter_that_no_other_has_is_not_told(
    make_told: Callable[..., Told],
) -> None:
    """Nobody knows its range here; the sampler has nothing to set beside it either."""
    given = make_told()
    given.end("deep", {"kind": "plain"}, curve((0.5, 300)))
    given.begin("deep", {"kind": "soft", "gamma": 0.25})
    given.begin("deep", {"kind": "plain", "beta": 2.0})
    assert states(given.history("deep", told())) == [TrialState.COMPLETE, TrialState.RUNNING]
    given.end("deep", {"kind": "soft", "gamma": 0.75}, curve((0.4, 300)))
    found = given.history("deep", told()).trials
    assert [t.state for t in found] == [TrialState.COMPLETE] * 2 + [TrialState.RUNNING] * 2
    assert [t.params.get("gamma") for t in found] == [None, 0.75, 0.25, None]


def test_configs_outside_of_the_present_space_are_left_out_but_their_curves_still_count(
    make_fake: Callable[..., Any],
) -> None:
    class Wide(Space):
        width: Annotated[float, FloatDistribution(0.0, 1.0)] = 0.5
        depth: int = 2

    task = make_fake()
    task.spaces["wide"] = SearchSpace(Wide).narrow({"width": {"low": 0.2, "high": 0.6}})
    given = Told(task)
    given.end("wide", {"width": 0.1}, curve((0.7, 200)))
    given.end("wide", {"width": 0.3}, curve((0.5, 300)))
    given.begin("wide", {"width": 0.9})
    assert given.pending("wide")[0].params is None
    study = history(told(by_standing=True), given.ended("wide"), [], NOTHING, given.evidence.edge)
    [trial] = study.trials
    assert trial.params == {"width": 0.3}
    assert trial.distributions == {"width": FloatDistribution(0.2, 0.6)}
    assert trial.value == pytest.approx(-0.2)


def test_what_a_sampler_left_for_itself_is_given_back(make_told: Callable[..., Told]) -> None:
    given = make_told()
    given.end("wide", {"width": 0.1}, curve((0.5, 300)), generation=3)
    given.begin("wide", {"width": 0.2}, {"generation": 4})
    found = given.history("wide", told()).trials
    assert [trial.system_attrs["generation"] for trial in found] == [3, 4]


def ladder(make_told: Callable[..., Told]) -> Told:
    """40 trials in a mixed order: accuracies 0.01 to 0.30 within the budget, ten over it."""
    given = make_told()
    for i in range(40):
        rung = (7 * i) % 40
        if rung < 30:
            given.end("wide", {"width": rung / 100}, curve((0.01 * (rung + 1), 400)))
        else:
            given.end("wide", {"width": rung / 100}, curve((0.9, 500 + rung)))
    return given


@pytest.mark.parametrize("by_standing", [False, True])
@pytest.mark.parametrize("most", [1, 2, 5, 10, 39])
def test_where_trials_are_too_many_the_best_and_some_of_the_rest_are_told_in_their_order(
    make_told: Callable[..., Told], most: int, by_standing: bool
) -> None:
    found = params(ladder(make_told).history("wide", told(by_standing, most)).trials, "width")
    rungs = [round(width * 100) for width in found]
    assert len(rungs) == len(set(rungs)) == most
    best = range(29, 29 - most // 2, -1)
    assert set(best) <= set(rungs), "the most accurate within the budget"
    rest = set(rungs) - set(best)
    if len(rest) > 1:
        assert 39 in rest, "the one that is furthest over the budget"
        assert min(rest) < 15
    order = [(7 * i) % 40 for i in range(40)]
    assert rungs == sorted(rungs, key=order.index)


@pytest.mark.parametrize("most", [None, 40, 100])
def test_where_trials_are_not_too_many_all_are_told(make_told: Callable[..., Told], most: int | None) -> None:
    found = params(ladder(make_told).history("wide", told(most=most)).trials, "width")
    assert found == [((7 * i) % 40) / 100 for i in range(40)]


def test_a_sampler_that_reads_nothing_is_told_nothing(make_told: Callable[..., Told]) -> None:
    given = ladder(make_told)
    given.begin("wide", {"width": 0.5})
    assert given.history("wide", told(most=0)).trials == []


def test_no_trials_are_an_empty_history(make_told: Callable[..., Told]) -> None:
    given = make_told()
    assert given.history("wide", told()).trials == []
    assert given.history("wide", told(by_standing=True)).trials == []


def test_two_histories_do_not_share_their_trials(make_told: Callable[..., Told]) -> None:
    given = make_told()
    given.end("wide", {"width": 0.1}, curve((0.5, 300)))
    first = given.history("wide", told())
    first.tell(first.ask(), state=TrialState.FAIL)
    assert len(first.trials) == 2
    assert len(given.history("wide", told()).trials) == 1
