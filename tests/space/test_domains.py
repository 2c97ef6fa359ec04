"""What one field may take: its identity, which stored studies rest on, and the constraint of its steps."""

from __future__ import annotations

from typing import Any

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from routesearch.space.domains import Choices, Cuts, Domain, Scalar

# Golden: a change here cuts stored studies off from their samplers' history.
IDENTITIES: list[tuple[Domain, dict[str, Any]]] = [
    (Cuts(last=8), {"kind": "cuts", "first": 1, "last": 8, "least": 1, "most": 3}),
    (Scalar(CategoricalDistribution(("soft", "hard"))), {"kind": "categorical", "choices": ["soft", "hard"]}),
    (
        Scalar(FloatDistribution(0.1, 10, log=True)),
        {"kind": "float", "low": 0.1, "high": 10.0, "step": None, "log": True},
    ),
    (
        Scalar(FloatDistribution(0, 1, step=0.25)),
        {"kind": "float", "low": 0.0, "high": 1.0, "step": 0.25, "log": False},
    ),
    (Scalar(IntDistribution(2, 10, step=2)), {"kind": "int", "low": 2, "high": 10, "step": 2, "log": False}),
    (Choices(([1.0, 2.0], [4.0])), {"kind": "choices", "values": [[1.0, 2.0], [4.0]]}),
]


@pytest.mark.parametrize(("domain", "identity"), IDENTITIES, ids=lambda each: type(each).__name__)
def test_identities_stay_what_they_are(domain: Domain, identity: dict[str, Any]) -> None:
    assert domain.identity() == identity


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (FloatDistribution(0.1, 1), FloatDistribution(0.1, 1, log=True)),
        (FloatDistribution(0, 1), FloatDistribution(0, 1, step=0.5)),
        (IntDistribution(1, 9), IntDistribution(1, 9, step=2)),
        (IntDistribution(1, 9), FloatDistribution(1, 9)),
    ],
)
def test_what_is_drawn_differently_is_another_domain(one: Any, other: Any) -> None:
    assert Scalar(one).identity() != Scalar(other).identity()


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        (0.1, None),
        (0.1 + 2 * 0.2, None),
        (0.30000000000000004, None),
        (0.7, None),
        (0.2, "a multiple of 0.2 from 0.1"),
        (0.69, "a multiple of 0.2 from 0.1"),
        (0.9, "0.1 <= value <= 0.7"),
    ],
)
def test_a_float_keeps_to_its_steps(value: float, rule: str | None) -> None:
    assert Scalar(FloatDistribution(0.1, 0.7, step=0.2)).violation(value) == rule


def test_a_range_that_waits_for_a_backbone_is_not_complete() -> None:
    assert [Cuts().complete, Cuts(last=1).complete, Scalar(FloatDistribution(0, 1)).complete] == [
        False,
        True,
        True,
    ]
