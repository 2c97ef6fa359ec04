"""Search spaces: what may be drawn, how it travels to a sampler and back, what a study may narrow."""

from __future__ import annotations

import json
from random import Random
from typing import Annotated, Any, Literal

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from pydantic import Field, model_validator

from routesearch.errors import Refusal
from routesearch.space.domains import Choices, Cuts
from routesearch.space.space import SearchSpace, Space, When


class Config(Space):
    positions: Annotated[tuple[int, ...], Cuts(last=8)] = (3, 5)
    kind: Annotated[Literal["soft", "hard"], CategoricalDistribution(("soft", "hard"))] = "soft"
    alpha: Annotated[float, FloatDistribution(0.1, 10.0, log=True), When("kind", "hard")] = 1.0
    count: Annotated[int, IntDistribution(2, 10, step=2)] = 4
    scales: Annotated[tuple[float, ...], Choices(([1.0, 2.0], [4.0]))] = (4.0,)
    hidden: int = Field(16, ge=1)


SPACE = SearchSpace(Config)
CUTS = st.integers(1, 4).flatmap(
    lambda first: st.integers(first, first + 9).flatmap(
        lambda last: st.integers(1, last - first + 1).flatmap(
            lambda most: st.integers(1, most).map(lambda least: Cuts(last, first, most, least))
        )
    )
)


class Replay:
    """A sampler that answers with given parameters, and remembers what it was asked."""

    def __init__(self, params: dict[str, Any]) -> None:
        self.params = params
        self.asked: dict[str, BaseDistribution] = {}

    def __call__(self, name: str, distribution: BaseDistribution) -> Any:
        self.asked[name] = distribution
        value = self.params[name]
        assert distribution._contains(distribution.to_internal_repr(value)), (name, value, distribution)
        return value


# ---- drawing ---------------------------------------------------------------------------------------


@given(CUTS, st.randoms(use_true_random=False))
def test_every_draw_of_cuts_is_a_valid_list(cuts: Cuts, rng: Random) -> None:
    drawn = cuts.suggest("p", lambda _, d: rng.randint(d.low, d.high))  # type: ignore[attr-defined]
    assert cuts.violation(drawn) is None
    assert cuts.least <= len(drawn) <= cuts.most
    assert list(drawn) == sorted(set(drawn))
    assert all(cuts.first <= k <= cuts.last for k in drawn)


@given(CUTS, st.randoms(use_true_random=False))
def test_cuts_come_back_from_their_encoding(cuts: Cuts, rng: Random) -> None:
    value = tuple(sorted(rng.sample(range(cuts.first, cuts.last + 1), rng.randint(cuts.least, cuts.most))))
    assert cuts.suggest("p", Replay(cuts.encode("p", value))) == value


@given(CUTS)
def test_extremes_of_cuts_are_draws(cuts: Cuts) -> None:
    for ends in cuts.extremes():
        assert cuts.violation(ends) is None
        assert cuts.suggest("p", Replay(cuts.encode("p", ends))) == ends
    assert {len(e) for e in cuts.extremes()} == {cuts.least, cuts.most}


@given(st.randoms(use_true_random=False))
@settings(max_examples=200)
def test_a_drawn_config_comes_back_from_its_encoding(rng: Random) -> None:
    config = SPACE.draw(rng)
    replay = Replay(SPACE.encode(config))
    assert SPACE.ask(replay) == config
    assert set(replay.asked) == set(replay.params)
    assert SPACE.parse(json.loads(config.model_dump_json())) == config


@given(st.randoms(use_true_random=False))
def test_a_narrowed_space_draws_within_its_bounds(rng: Random) -> None:
    space = SPACE.narrow(
        {
            "positions": {"low": 3, "high": 6},
            "alpha": {"high": 2},
            "kind": "hard",
            "count": {"choices": [4, 8]},
        }
    )
    config: Any = space.draw(rng)
    assert all(3 <= k <= 6 for k in config.positions)
    assert 0.1 <= config.alpha <= 2.0
    assert config.kind == "hard"
    assert config.count in (4, 8)
    assert space.ask(Replay(space.encode(config))) == config


@given(st.randoms(use_true_random=False))
def test_logarithmic_and_stepped_draws_stay_inside(rng: Random) -> None:
    class Scales(Space):
        wide: Annotated[int, IntDistribution(3, 2000, log=True)] = 3
        even: Annotated[int, IntDistribution(2, 10, step=4)] = 2
        grid: Annotated[float, FloatDistribution(0.1, 0.7, step=0.2)] = 0.1
        small: Annotated[float, FloatDistribution(1e-6, 1e-2, log=True)] = 1e-4

    config: Any = SearchSpace(Scales).draw(rng)
    assert 3 <= config.wide <= 2000
    assert config.even in (2, 6, 10)
    assert min(abs(config.grid - g) for g in (0.1, 0.3, 0.5, 0.7)) < 1e-9
    assert 0.1 <= config.grid <= 0.7
    assert 1e-6 <= config.small <= 1e-2


def test_an_optuna_study_can_ask_and_be_told_what_to_ask() -> None:
    """The encoding as it is used: enqueued parameters, then ``trial._suggest``-like calls."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    wanted = Config(positions=(2, 7), kind="hard", alpha=3.0, count=6, scales=(1.0, 2.0))
    study.enqueue_trial(SPACE.encode(wanted))

    def suggest(name: str, distribution: BaseDistribution) -> Any:
        return trial._suggest(name, distribution)

    trial = study.ask()
    assert SPACE.ask(suggest) == wanted
    trial = study.ask()
    drawn: Any = SPACE.ask(suggest)
    assert ("alpha" in trial.params) == (drawn.kind == "hard")


# ---- conditions ------------------------------------------------------------------------------------


def test_a_conditional_field_is_drawn_only_where_it_counts() -> None:
    params = SPACE.encode(Config(kind="soft"))
    assert "alpha" not in params
    assert SPACE.ask(Replay(params)) == Config(kind="soft")
    assert "alpha" in SPACE.encode(Config(kind="hard"))


def test_a_fixed_condition_switches_its_field_on() -> None:
    space = SPACE.narrow({"kind": "hard"})
    assert {"kind", "alpha"} & space.encode(space.default()).keys() == {"alpha"}


class Late(Space):
    """Its condition is no searched field until a study makes it one."""

    kind: Literal["soft", "hard"] = "soft"
    alpha: Annotated[float, FloatDistribution(0.0, 1.0), When("kind", "hard")] = 0.5


def test_a_condition_that_a_study_opens_is_drawn_before_what_depends_on_it() -> None:
    space = SearchSpace(Late).narrow({"kind": {"choices": ["hard"]}})
    asked = Replay({"kind": "hard", "alpha": 0.25})
    assert space.ask(asked) == Late(kind="hard", alpha=0.25)
    assert list(asked.asked) == ["kind", "alpha"]


# ---- defaults --------------------------------------------------------------------------------------


def test_the_default_is_the_methods_own_choice() -> None:
    assert SPACE.default() == Config()
    assert SPACE.refine({"positions": (7,)}).default() == Config(positions=(7,))


def test_the_default_moves_into_a_narrowed_space() -> None:
    space = SPACE.narrow({"positions": {"low": 4}, "count": {"choices": [8, 10]}, "hidden": 32})
    assert space.default() == Config(positions=(4,), count=8, hidden=32)


def test_a_whole_number_is_not_lost_among_choices() -> None:
    class Whole(Space):
        beta: Annotated[float, FloatDistribution(0, 9)] = 3

    assert SearchSpace(Whole).narrow({"beta": {"choices": [1, 3]}}).default() == Whole(beta=3.0)


def test_a_default_may_come_from_a_factory() -> None:
    class Made(Space):
        sizes: tuple[int, ...] = Field(default_factory=lambda: (1, 2))
        beta: Annotated[float, FloatDistribution(0, 1)] = 0.5

    assert SearchSpace(Made).default() == Made()
    assert SearchSpace(Made).draw(Random(0)).sizes == (1, 2)  # type: ignore[attr-defined]


def test_a_config_is_immutable_and_knows_its_fields() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Config().hidden = 3  # type: ignore[misc]
    with pytest.raises(ValueError, match="Extra inputs"):
        Config(unheard=1)  # type: ignore[call-arg]


class Offset(Space):
    beta: Annotated[float, FloatDistribution(0.1, 10.0)] = 20.0


class Loud(Space):
    kind: Annotated[str, CategoricalDistribution(("soft", "hard"))] = "loud"


class Waiting(Space):
    """Its range is known for a backbone only."""

    positions: Annotated[tuple[int, ...], Cuts()] = ()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Offset, "Offset.beta: 0.1 <= value <= 10.0 must hold for its default, got 20.0"),
        (Loud, "Loud.kind: one of soft, hard must hold for its default, got 'loud'"),
    ],
)
def test_a_default_outside_its_own_range_is_refused(config: type[Space], message: str) -> None:
    with pytest.raises(Refusal) as refused:
        SearchSpace(config)
    assert str(refused.value) == message


def test_a_default_may_wait_for_a_backbone() -> None:
    space = SearchSpace(Waiting)
    assert space.refine({"positions": (2,)}, positions=Cuts(last=3)).default() == Waiting(positions=(2,))
    with pytest.raises(Refusal, match=r"^Waiting\.positions: 1 <= position <= 3 must hold for its default"):
        space.refine({"positions": (4,)}, positions=Cuts(last=3))


class Unheard(Space):
    kind: Literal["soft", "hard"] = "soft"
    alpha: Annotated[float, FloatDistribution(0.0, 1.0), When("knid", "hard")] = 0.5


class Backwards(Space):
    alpha: Annotated[float, FloatDistribution(0.0, 1.0), When("kind", "hard")] = 0.5
    kind: Literal["soft", "hard"] = "soft"


class Circular(Space):
    alpha: Annotated[float, FloatDistribution(0.0, 1.0), When("alpha", 1.0)] = 0.5


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Unheard, "Unheard.alpha: When must name an earlier field (kind), got 'knid'"),
        (Backwards, "Backwards.alpha: When must name an earlier field (none), got 'kind'"),
        (Circular, "Circular.alpha: When must name an earlier field (none), got 'alpha'"),
    ],
)
def test_a_condition_names_an_earlier_field(config: type[Space], message: str) -> None:
    with pytest.raises(Refusal) as refused:
        SearchSpace(config)
    assert str(refused.value) == message


class Paired(Space):
    """A constraint on two fields."""

    low: int = 1
    high: int = 5

    @model_validator(mode="after")
    def _ordered(self) -> Paired:
        if self.low > self.high:
            raise ValueError("low <= high must hold")
        return self


def test_a_law_of_the_whole_config_names_the_field_that_broke_it() -> None:
    with pytest.raises(Refusal, match=r"^low: low <= high must hold, got \{'low': 7\}$"):
        SearchSpace(Paired).narrow({"low": 7})


# ---- refining --------------------------------------------------------------------------------------


def test_refining_replaces_and_adds_domains_in_the_order_of_the_fields() -> None:
    space = SPACE.refine({"positions": (2,)}, hidden=IntDistribution(1, 4), positions=Cuts(last=3))
    assert list(space.domains) == ["positions", "kind", "alpha", "count", "scales", "hidden"]
    assert space.domains["positions"] == Cuts(last=3)
    assert SPACE.domains["positions"] == Cuts(last=8), "the first space stays as it was"


def test_refining_an_unknown_field_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"must be fields of the config, got \['unheard'\]"):
        SPACE.refine(unheard=Cuts(last=3))


# ---- narrowing: constraints and refusals -------------------------------------------------------------


@pytest.mark.parametrize(
    ("wishes", "fixed"),
    [
        ({"positions": [1, 8]}, {"positions": (1, 8)}),
        ({"kind": "hard"}, {"kind": "hard"}),
        ({"alpha": 2}, {"alpha": 2.0}),
        ({"count": 10}, {"count": 10}),
        ({"scales": [1.0, 2.0]}, {"scales": (1.0, 2.0)}),
        ({"hidden": 99}, {"hidden": 99}),
    ],
)
def test_a_plain_value_fixes_a_field(wishes: dict[str, Any], fixed: dict[str, Any]) -> None:
    space = SPACE.narrow(wishes)
    assert not wishes.keys() & space.domains.keys()
    for seed in range(5):
        assert space.draw(Random(seed)).model_dump().items() >= fixed.items()


def test_choices_of_a_field_without_a_range_open_it() -> None:
    space = SPACE.narrow({"hidden": {"choices": [4, 8]}})
    assert {space.draw(Random(seed)).hidden for seed in range(20)} == {4, 8}  # type: ignore[attr-defined]


def test_choices_of_lists_travel_as_text() -> None:
    space = SPACE.narrow({"positions": {"choices": [[3, 6], [2]]}})
    config = Config(positions=(3, 6))
    assert space.encode(config)["positions"] == "[3, 6]"
    assert space.ask(Replay(space.encode(config))) == config


def test_narrowing_twice_narrows_further() -> None:
    space = SPACE.narrow({"alpha": {"low": 1.0}}).narrow({"alpha": {"high": 2.0}})
    assert space.domains["alpha"].extremes() == [1.0, 2.0]
    with pytest.raises(Refusal, match=r"alpha: 1.0 <= value <= 2.0 must hold, got 0.5"):
        space.narrow({"alpha": 0.5})


def test_cuts_of_two_or_more_can_be_narrowed() -> None:
    space = SPACE.refine({"positions": (1, 2)}, positions=Cuts(last=8, least=2))
    narrowed = space.narrow({"positions": {"low": 3, "high": 5}})
    assert narrowed.domains["positions"] == Cuts(last=5, first=3, least=2)
    with pytest.raises(Refusal, match="positions: room for 2 of them must stay, got low=3, high=3"):
        space.narrow({"positions": {"low": 3, "high": 3}})


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        ({"unheard": 1}, "unknown field 'unheard'; fields: positions, kind, alpha, count, scales, hidden"),
        ({"positions": [0, 3]}, "positions: 1 <= position <= 8 must hold, got [0, 3]"),
        ({"positions": [3, 9]}, "positions: 1 <= position <= 8 must hold, got [3, 9]"),
        ({"positions": [5, 3]}, "positions: increasing unit numbers must hold, got [5, 3]"),
        ({"positions": [3, 3]}, "positions: increasing unit numbers must hold, got [3, 3]"),
        ({"positions": []}, "positions: at least 1 of them must hold, got []"),
        ({"positions": [1.5]}, "positions: a list of unit numbers must hold, got [1.5]"),
        ({"positions": [True]}, "positions: a list of unit numbers must hold, got [True]"),
        ({"positions": 3}, "positions: a list of unit numbers must hold, got 3"),
        ({"positions": None}, "positions: a list of unit numbers must hold, got None"),
        ({"kind": "loud"}, "kind: one of soft, hard must hold, got 'loud'"),
        ({"alpha": 0.01}, "alpha: 0.1 <= value <= 10.0 must hold, got 0.01"),
        ({"alpha": float("nan")}, "alpha: 0.1 <= value <= 10.0 must hold, got nan"),
        ({"alpha": "much"}, "alpha: 0.1 <= value <= 10.0 must hold, got 'much'"),
        ({"alpha": True}, "alpha: 0.1 <= value <= 10.0 must hold, got True"),
        ({"count": 3}, "count: a multiple of 2 from 2 must hold, got 3"),
        ({"count": 12}, "count: 2 <= value <= 10 must hold, got 12"),
        ({"scales": [1.0]}, "scales: one of [1.0, 2.0], [4.0] must hold, got [1.0]"),
        ({"hidden": 0}, "hidden: must be greater than or equal to 1, got 0"),
        ({"hidden": "x"}, "hidden: must be an integer, got 'x'"),
        ({"alpha": {"low": 3, "high": 2}}, "alpha: low <= high must hold, got low=3, high=2"),
        ({"alpha": {"low": 0}}, "alpha: 0.1 <= value <= 10.0 must hold, got 0"),
        ({"alpha": {"high": 11}}, "alpha: 0.1 <= value <= 10.0 must hold, got 11"),
        ({"alpha": {"low": "a", "high": 2}}, "alpha: 0.1 <= value <= 10.0 must hold, got 'a'"),
        ({"count": {"low": 1.5}}, "count: 2 <= value <= 10 must hold, got 1.5"),
        ({"count": {"low": 2.5}}, "count: a multiple of 2 from 2 must hold, got 2.5"),
        ({"positions": {"low": 0}}, "positions: 1 <= position <= 8 must hold, got 0"),
        ({"positions": {"high": "x"}}, "positions: 1 <= position <= 8 must hold, got 'x'"),
        ({"kind": {"low": "soft"}}, "kind: low and high need a numeric range; use {choices: [...]}"),
        ({"hidden": {"low": 1}}, "hidden: low and high need a declared range, and this field has none"),
        ({"alpha": {}}, "alpha: a mapping must be {choices: [...]} or {low:, high:}, got {}"),
        ({"alpha": {"choices": []}}, "alpha: a mapping must be {choices: [...]} or {low:, high:}"),
        ({"alpha": {"choices": [0.01, 1.0]}}, "alpha: 0.1 <= value <= 10.0 must hold, got 0.01"),
        ({"alpha": {"lo": 1}}, "alpha: a mapping must be {choices: [...]} or {low:, high:}, got {'lo': 1}"),
    ],
)
def test_what_lies_outside_the_declared_range_is_refused(wishes: dict[str, Any], message: str) -> None:
    with pytest.raises(Refusal) as refused:
        SPACE.narrow(wishes)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


# ---- extremes and schema -----------------------------------------------------------------------------


def test_extremes_show_every_end_of_every_field() -> None:
    found: list[Any] = list(SPACE.extremes())
    assert found[0] == Config()
    assert {c.alpha for c in found} >= {0.1, 10.0}
    assert {c.count for c in found} >= {2, 10}
    assert {c.kind for c in found} == {"soft", "hard"}
    assert {c.positions for c in found} >= {(1,), (8,), (1, 2, 3), (6, 7, 8)}
    assert any(c.alpha == 10.0 and c.count == 10 and c.kind == "hard" for c in found), "all at their last end"


def test_schema_says_what_may_be_drawn() -> None:
    properties = SPACE.narrow({"positions": {"low": 2}}).schema()["properties"]
    assert {name: p.get("search") for name, p in properties.items()} == {
        "positions": {"positions": [2, 8], "count": [1, 3]},
        "kind": {"choices": ["soft", "hard"]},
        "alpha": {"low": 0.1, "high": 10.0, "log": True, "when": {"kind": ["hard"]}},
        "count": {"low": 2, "high": 10, "log": False},
        "scales": {"choices": [[1.0, 2.0], [4.0]]},
        "hidden": None,
    }
    json.dumps(SPACE.schema())


def test_positions_whose_end_nobody_gave_are_refused_by_name() -> None:
    class Fields(Space):
        positions: Annotated[tuple[int, ...], Cuts()] = (2, 4)

    told = r"^positions: the last position must be known, got none; space\(backbone\) must give it: refine\("
    with pytest.raises(Refusal, match=told):
        SearchSpace(Fields).narrow({})
    assert SearchSpace(Fields).refine(positions=Cuts(last=6)).narrow({}).default().model_dump() == {
        "positions": (2, 4)
    }
    assert SearchSpace(Fields).narrow({"positions": [3]}).default().model_dump() == {"positions": (3,)}
