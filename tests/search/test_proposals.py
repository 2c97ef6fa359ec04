"""What is tried next of a method."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from routesearch.results.journal import Journal
from routesearch.results.points import Interval, OperatingPoint
from routesearch.results.record import Outcome, State, TrialRecord
from routesearch.search import config_history
from routesearch.search.design import Design
from routesearch.search.effort import Effort
from routesearch.search.evidence import Evidence
from routesearch.search.observations import config_text
from routesearch.search.offers import distributions_of
from routesearch.search.proposals import LEADERS, Proposals
from routesearch.search.resume import open_trials
from routesearch.search.sampler import derive, strategy_of
from routesearch.search.trials import Trials
from routesearch.space.space import SearchSpace, Space
from routesearch.study.search_settings import SAMPLERS

OPTUNA = [name for name in SAMPLERS if name != "auto"]


class Few(Space):
    """Fifteen configs; what they cost is between 60 and 420 MACs."""

    kind: Annotated[str, CategoricalDistribution(list("abc"))] = "a"
    size: Annotated[int, IntDistribution(1, 5)] = 2


class One(Space):
    """A space with nothing to draw."""

    size: int = 2


class Narrow(Space):
    """A space of one config that has something to draw."""

    size: Annotated[int, IntDistribution(3, 3)] = 3


def train(record: TrialRecord) -> Outcome:
    """An outcome that follows from the config alone."""
    config, bounds = record.config, record.bounds
    assert bounds is not None
    if record.method == "deep":
        accuracy = 0.5 + 0.04 * config["beta"] - 0.03 * len(config["cuts"])
        accuracy += 0.1 * config["gamma"] if config["kind"] == "soft" else 0.0
    elif "width" in config:
        accuracy = 0.9 - abs(config["width"] - 0.3) - 0.02 * config["depth"]
    else:
        accuracy = 0.1 + 0.05 * config["size"] + 0.03 * "abc".index(config.get("kind", "a"))
    macs, depth = float(bounds.min), config.get("depth", 0)
    accuracy = min(max(accuracy, 0.05), 0.99)
    points = OperatingPoint({"t": 0}, accuracy, macs + 30), OperatingPoint({"t": 1}, accuracy * 0.8, macs)
    return Outcome(State.FINISHED, points, params=7, training_macs=bounds.max * (1 + depth) * 1000)


def draw(trials: Trials, count: int, method: str | None = None) -> list[TrialRecord]:
    """So many draws, refused ones included; what may be trained is, at once."""
    found = []
    for _ in range(count):
        record = trials.ask(method or str(trials.next_method()))
        running = record.state is State.RUNNING
        found.append(trials.finish(record.number, train(record)) if running else record)
    return found


@pytest.fixture
def only(make_fake: Callable[..., Any]) -> Callable[..., Any]:
    """A study of one method with a small space."""

    def make(space: type[Space], sampler: str, **changes: Any) -> Any:
        task = make_fake(sampler=sampler, **changes)
        task.spaces.clear()
        task.spaces["wide"] = SearchSpace(space)
        task.bounds = lambda method, config: Interval(
            60 * config.size + 60 * "abc".index(getattr(config, "kind", "a")), 1000
        )
        return task

    return make


def texts(records: Sequence[TrialRecord]) -> list[str]:
    return [config_text(record.config) for record in records]


# ---- the order of what is tried ----------------------------------------------------------------------


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_default_is_first(make_fake: Callable[..., Any], folder: Path, sampler: str) -> None:
    task = make_fake(sampler=sampler, budget=600.0)
    with Journal.open_for_writing(folder) as journal:
        trials = open_trials(journal, task)[0]
        for method in ("wide", "deep"):
            [first] = draw(trials, 1, method)
            assert first.config == task.spaces[method].default().model_dump(mode="json")


def designed(task: Any, method: str, count: int) -> list[str]:
    """The first configs of a method's design."""
    space, seed = task.spaces[method], task.config.search.seed
    design = Design(derive(seed, method, "design"), distributions_of(space))
    found = []
    for place in range(count):
        model = space.ask(lambda name, values, at=place: design.suggest(at, name, values))
        found.append(config_text(model.model_dump(mode="json")))
    return found


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_the_design_follows_until_enough_have_ended_and_then_the_sampler(
    make_fake: Callable[..., Any], folder: Path, sampler: str
) -> None:
    task = make_fake(sampler=sampler, budget=None, search={"trials": 30})
    start = strategy_of(task.config.search, 2).start
    assert start == 5
    with Journal.open_for_writing(folder) as journal:
        trials = open_trials(journal, task)[0]
        found = texts(draw(trials, start + 3, "wide"))
    expected = designed(task, "wide", start + 3)
    assert found[1:start] == expected[: start - 1]
    assert not set(found[start:]) & set(expected)


def test_trials_that_failed_or_are_under_way_are_not_enough_for_the_sampler(
    make_fake: Callable[..., Any], folder: Path
) -> None:
    task = make_fake(sampler="tpe", budget=None, search={"trials": 6})
    assert strategy_of(task.config.search, 2).start == 3
    with Journal.open_for_writing(folder) as journal:
        trials = open_trials(journal, task)[0]
        asked = [trials.ask("wide") for _ in range(8)]
        for record in asked[:6]:
            trials.finish(record.number, Outcome.failure("out of memory"))
        asked += [trials.ask("wide") for _ in range(2)]
    assert texts(asked)[1:] == designed(task, "wide", 9)


def test_all_of_qmc_is_the_design_and_nothing_of_random_is(
    make_fake: Callable[..., Any], tmp_path: Path
) -> None:
    found, expected = {}, []
    for sampler in ("qmc", "random"):
        task = make_fake(sampler=sampler, budget=None, search={"trials": 10})
        with Journal.open_for_writing(tmp_path / sampler) as journal:
            found[sampler] = texts(draw(open_trials(journal, task)[0], 25, "wide"))
        expected = designed(task, "wide", 24)
    assert found["qmc"][1:] == expected
    assert not set(found["random"]) & set(expected)


def test_auto_draws_from_the_design_until_a_first_trial_has_ended(
    make_fake: Callable[..., Any], folder: Path
) -> None:
    task = make_fake(sampler="auto", budget=None)
    with Journal.open_for_writing(folder) as journal:
        trials = open_trials(journal, task)[0]
        asked = [trials.ask("wide") for _ in range(4)]
        assert texts(asked)[1:] == designed(task, "wide", 3)
        trials.finish(asked[0].number, train(asked[0]))
        later = texts(draw(trials, 4, "wide"))
    assert not set(later) & set(designed(task, "wide", 12))


def test_where_the_default_is_over_the_budget_the_design_is_first(
    make_fake: Callable[..., Any], folder: Path
) -> None:
    task = make_fake(sampler="qmc", budget=500.0)  # the default takes 550
    with Journal.open_for_writing(folder) as journal:
        found = draw(open_trials(journal, task)[0], 6, "wide")
    assert texts(found) == designed(task, "wide", 6)
    assert {record.state for record in found} == {State.FINISHED, State.REFUSED}


# ---- what is not tried again -------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_config_is_not_refused_again_while_something_else_is_there(
    only: Callable[..., Any], folder: Path, sampler: str, seed: int
) -> None:
    task = only(Few, sampler, budget=200.0, seed=seed, search={"trials": 12})
    with Journal.open_for_writing(folder) as journal:
        found = draw(open_trials(journal, task)[0], 12)
    refused = Counter(texts([record for record in found if record.state is State.REFUSED]))
    assert refused
    assert set(refused.values()) == {1}
    assert all(record.state is not State.REFUSED or record.bounds.min > 200 for record in found)  # type: ignore[union-attr]


@pytest.mark.parametrize("sampler", ["auto", "qmc"])
@pytest.mark.parametrize("seed", range(4))
def test_every_config_of_a_small_space_is_trained_before_one_is_trained_again(
    only: Callable[..., Any], folder: Path, sampler: str, seed: int
) -> None:
    task = only(Few, sampler, budget=None, seed=seed, search={"trials": 20})
    with Journal.open_for_writing(folder) as journal:
        found = draw(open_trials(journal, task)[0], 20)
    times = Counter(texts(found))
    first = len(set(texts(found)[:15]))
    assert len(times) == 15
    assert first >= (15 if sampler == "auto" else 14), "a design is looked through so far and no further"
    assert len({record.seed for record in found}) == 20


@pytest.mark.parametrize("sampler", OPTUNA)
def test_a_sampler_is_asked_again_before_a_config_is_trained_again(
    only: Callable[..., Any], folder: Path, sampler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = only(Few, sampler, budget=None, search={"trials": 12})
    repeated = {}
    for declined in (0, config_history.MAX_DECLINED):
        monkeypatch.setattr(config_history, "MAX_DECLINED", declined)
        with Journal.open_for_writing(folder / str(declined)) as journal:
            found = texts(draw(open_trials(journal, task)[0], 12))
        repeated[declined] = len(found) - len(set(found))
    assert repeated[config_history.MAX_DECLINED] < max(1, repeated[0])
    assert repeated[config_history.MAX_DECLINED] <= 2


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("space", [One, Narrow])
def test_a_space_with_one_config_is_trained_again_with_a_new_seed(
    only: Callable[..., Any], folder: Path, sampler: str, space: type[Space]
) -> None:
    task = only(space, sampler, budget=None)
    with Journal.open_for_writing(folder) as journal:
        found = draw(open_trials(journal, task)[0], 4)
    assert len(set(texts(found))) == 1
    assert {record.state for record in found} == {State.FINISHED}
    assert len({record.seed for record in found}) == 4


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_space_with_one_config_that_is_over_the_budget_is_refused_at_every_draw(
    only: Callable[..., Any], folder: Path, sampler: str
) -> None:
    task = only(Narrow, sampler, budget=100.0)
    with Journal.open_for_writing(folder) as journal:
        found = draw(open_trials(journal, task)[0], 3)
    assert [record.state for record in found] == [State.REFUSED] * 3


def test_a_config_under_way_is_not_drawn_again(only: Callable[..., Any], folder: Path) -> None:
    task = only(Few, "qmc", budget=None)
    with Journal.open_for_writing(folder) as journal:
        trials = open_trials(journal, task)[0]
        asked = texts([trials.ask("wide") for _ in range(12)])
    assert len(set(asked)) == 12


def test_what_was_refused_may_be_trained_under_a_larger_budget(
    only: Callable[..., Any], folder: Path
) -> None:
    with Journal.open_for_writing(folder) as journal:
        before = draw(open_trials(journal, only(Few, "qmc", budget=150.0))[0], 14)
    refused = {config_text(r.config) for r in before if r.state is State.REFUSED}
    with Journal.open_for_writing(folder) as journal:
        after = draw(open_trials(journal, only(Few, "qmc", budget=None))[0], 15)
    assert len(refused) >= 5
    assert {record.state for record in after} == {State.FINISHED}
    assert refused & set(texts(after))


# ---- a search that goes on ---------------------------------------------------------------------------


def whole_and_parts(make: Callable[[], Any], folder: Path, count: int, each: int) -> tuple[list[Any], ...]:
    """So many draws in one run, and with the journal opened anew after some of them."""

    def plain(records: list[TrialRecord]) -> list[Any]:
        return [(r.number, r.method, config_text(r.config), r.state, r.seed) for r in records]

    with Journal.open_for_writing(folder / "whole") as journal:
        whole = draw(open_trials(journal, make())[0], count)
    parts: list[TrialRecord] = []
    while len(parts) < count:
        with Journal.open_for_writing(folder / "parts") as journal:
            parts += draw(open_trials(journal, make())[0], min(each, count - len(parts)))
    return plain(whole), plain(parts)


@pytest.mark.parametrize("each", [1, 4])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_search_that_goes_on_draws_what_it_would_have_drawn(
    make_fake: Callable[..., Any], folder: Path, sampler: str, each: int
) -> None:
    count = 10 if sampler == "gp" else 14  # an Optuna GP takes its time
    whole, parts = whole_and_parts(
        lambda: make_fake(sampler=sampler, seed=4, search={"trials": 30}), folder, count, each
    )
    assert parts == whole


@pytest.mark.parametrize("budget", [None, 200.0])
@pytest.mark.parametrize("sampler", ["auto", "tpe", "nsga2", "qmc", "random"])
def test_a_search_of_a_small_space_goes_on_the_same_when_nothing_new_is_left(
    only: Callable[..., Any], folder: Path, sampler: str, budget: float | None
) -> None:
    whole, parts = whole_and_parts(
        lambda: only(Few, sampler, budget=budget, search={"trials": 20}), folder, 22, 1
    )
    assert parts == whole


# ---- what is promised --------------------------------------------------------------------------------


def test_what_a_trial_promised_is_known_when_it_ends_and_after_a_resume(
    make_fake: Callable[..., Any], folder: Path
) -> None:
    found: list[list[tuple[float, float]]] = []
    for at_once in (12, 6, 6):  # twelve draws in one run, or in two
        name = "whole" if at_once == 12 else "parts"
        with Journal.open_for_writing(folder / name) as journal:
            trials = open_trials(journal, make_fake(sampler="auto", search={"trials": 30}))[0]
            draw(trials, at_once)
            found.append(
                [pair for summary in trials.evidence.summaries.values() for pair in summary.promises]
            )
    whole, _, parts = found
    assert len(whole) > 3
    assert all(gain >= 0 and added >= 0 for gain, added in whole)
    assert parts == whole


def test_of_methods_that_promise_alike_the_one_comes_first_that_kept_its_promises(
    make_fake: Callable[..., Any], folder: Path
) -> None:
    with Journal.open_for_writing(folder) as journal:
        trials = open_trials(journal, make_fake(sampler="auto", search={"trials": 30}))[0]
        draw(trials, 8)
        summaries, best_offer = trials.evidence.summaries, trials._proposals.best_offer
        for summary in summaries.values():
            summary.promises = []
        best, worth = best_offer(list(summaries))
        summaries[best].promises = [(0.1, 0.02)] * 4
        assert best_offer([best]) == (best, pytest.approx(worth * 0.18 / 0.5))
        summaries[best].promises = [(1e9, 0.0)] * 8
        other, less = best_offer(list(summaries))
        assert other != best or less == pytest.approx(worth / 9)


def test_a_method_with_leaders_left_is_weighed_by_the_next_of_them(make_fake: Callable[..., Any]) -> None:
    task = make_fake(sampler="auto", search={"trials": 30})
    wide = [("wide", {"width": width}, accuracy) for width, accuracy in ((0.1, 0.2), (0.2, 0.3), (0.3, 0.4))]
    found = after(task, *LADDER, *wide)
    for method in ("wide", "deep"):
        found._begin(method)
        found._configs[method].queue.pop(0)  # the default was tried
    assert found._configs["wide"].queue, "its best config is to be tried next"
    best = found.best_offer(["wide", "deep"])
    alone = {method: found.best_offer([method]) for method in ("wide", "deep")}
    assert None not in alone.values()
    assert best == max(alone.values(), key=lambda each: each[1] if each else 0)
    offer = found._opened("deep").offer
    assert offer is not None
    assert offer.params["beta"] == 3.0, "the leader, not what would be drawn without one"


def test_a_method_that_has_nothing_new_is_not_the_best_offer(only: Callable[..., Any], folder: Path) -> None:
    with Journal.open_for_writing(folder) as journal:
        trials = open_trials(journal, only(One, "auto", search={"trials": 20}))[0]
        draw(trials, 3)
        assert trials._proposals.best_offer(list(trials.evidence.summaries)) is None


# ---- another study's leaders -------------------------------------------------------------------------


def after(task: Any, *configs: tuple[str, dict[str, Any], float]) -> Proposals:
    """Proposals after another study's trials: method, config, accuracy at the cheapest route."""
    evidence = Evidence(task)
    for number, (method, config, accuracy) in enumerate(configs):
        model = task.spaces[method].parse(config)
        bounds = task.bounds(method, model)
        points = (OperatingPoint({}, accuracy, float(bounds.min)),)
        record = TrialRecord(number, method, model.model_dump(mode="json"), 1, bounds)
        evidence.learn_from([record.with_outcome(Outcome(State.FINISHED, points, training_macs=100))])
    found = Proposals(task, evidence, Effort(task.config.search, evidence))
    found.try_leaders()
    return found


def drawn(found: Proposals, method: str, count: int) -> list[dict[str, Any]]:
    """So many draws, each of them noted as under way."""
    configs = []
    for number in range(count):
        proposal = found.draw(method, number)
        state = None if proposal.violation is None else Outcome(State.REFUSED, reason="over the budget")
        found.note(TrialRecord(number, method, proposal.config, 1, proposal.bounds, state))
        configs.append(proposal.config)
    return configs


LADDER = [
    ("deep", {"beta": beta}, accuracy)
    for beta, accuracy in ((2.0, 0.3), (3.0, 0.6), (4.0, 0.5), (5.0, 0.2), (6.0, 0.4))
]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_best_of_another_study_are_tried_after_the_default_the_best_first(
    make_fake: Callable[..., Any], sampler: str
) -> None:
    found = [config["beta"] for config in drawn(after(make_fake(sampler=sampler), *LADDER), "deep", 6)]
    assert found[: 1 + LEADERS] == [1.0, 3.0, 4.0, 6.0]
    assert not {2.0, 5.0} & set(found), "no more of them"


def test_leaders_are_of_their_own_method(make_fake: Callable[..., Any]) -> None:
    found = after(make_fake(sampler="tpe", budget=None), *LADDER, ("wide", {"width": 0.25}, 0.9))
    assert [config["width"] for config in drawn(found, "wide", 2)] == [0.5, 0.25]
    assert [config["beta"] for config in drawn(found, "deep", 2)] == [1.0, 3.0]


def test_leaders_over_the_budget_are_passed_over_and_none_is_tried_twice(
    make_fake: Callable[..., Any],
) -> None:
    default = {"width": 0.2, "depth": 1}
    task = make_fake(sampler="qmc")
    task.spaces["wide"] = task.spaces["wide"].narrow({"width": {"low": 0.2, "high": 1.0}, "depth": 1})
    given = [("wide", default, 0.9), ("wide", {"width": 0.9, "depth": 1}, 0.99), ("wide", default, 0.8)]
    first, *later = drawn(after(task, *given), "wide", 5)
    assert first["width"] == 0.2, "the default, moved into the space and the leader of the other study"
    assert not {0.2, 0.9} & {config["width"] for config in later}


def test_leaders_that_were_tried_are_not_tried_again_and_the_others_still_are_after_a_resume(
    make_fake: Callable[..., Any],
) -> None:
    task = make_fake(sampler="qmc")
    before = after(task, *LADDER)
    whole = drawn(before, "deep", 7)
    for cut in range(1, 7):
        again = after(task, *LADDER)
        for number, config in enumerate(whole[:cut]):
            model = task.spaces["deep"].parse(config)
            over = config["beta"] > 9
            bounds = None if over else task.bounds("deep", model)
            outcome = Outcome(State.REFUSED, reason="over") if over else None
            again.recall(TrialRecord(number, "deep", config, 1, bounds, outcome))
        assert again.draw("deep", cut).config == whole[cut]


class Wider(Space):
    width: Annotated[float, FloatDistribution(0.0, 1.0)] = 0.5


def test_leaders_outside_of_the_present_space_are_not_tried(make_fake: Callable[..., Any]) -> None:
    task = make_fake(sampler="qmc", budget=None)
    task.spaces["wide"] = SearchSpace(Wider).narrow({"width": {"low": 0.4, "high": 0.6}})
    given = [("wide", {"width": 0.1}, 0.9), ("wide", {"width": 0.45}, 0.5)]
    widths = [config["width"] for config in drawn(after(task, *given), "wide", 4)]
    assert widths[:2] == [0.5, 0.45]
    assert all(0.4 <= width <= 0.6 for width in widths)
