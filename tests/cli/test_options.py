from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from routesearch import Refusal
from routesearch.cli.options import open_study, parse_settings


def test_values_are_yaml() -> None:
    texts = ["a.b=3", "c=[3, 6]", "d=null", "e=1e-3", "f=0.5x", "g=a=b", "h=", "i={low: 1}", " j = x "]
    assert parse_settings(texts) == {
        "a.b": 3,
        "c": [3, 6],
        "d": None,
        "e": 0.001,
        "f": "0.5x",
        "g": "a=b",
        "h": None,
        "i": {"low": 1},
        "j": "x",
    }
    assert parse_settings(None) == {}


def test_the_last_of_two_counts() -> None:
    assert parse_settings(["a=1", "a=2"]) == {"a": 2}


@pytest.mark.parametrize(
    "text", ["search.trials", "=3", "", "a=[1, 2", "a={b: 1, b: 2}", "a=!!python/name:os.system"]
)
def test_what_is_no_setting_is_refused(text: str) -> None:
    with pytest.raises(Refusal, match="--set"):
        parse_settings([text])


def test_settings_and_options_reach_the_study(write_study: Callable[..., Path]) -> None:
    settings = ["training.epochs=7", "methods.skipper.price=0.1", "search.trials=3"]
    study = open_study(write_study(), settings, search__trials=5, budget__max_macs="0.4x", search__seed=None)
    config = study.config
    assert (config.training.epochs, config.search.trials, config.search.seed) == (7, 5, 0)
    assert config.methods == {"static": {"start": "scratch"}, "skipper": {"price": 0.1}}
    assert config.budget.max_macs == "0.4x"
