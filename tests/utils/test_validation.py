"""Pydantic's complaints in plain words: nothing of its own phrasing comes through."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, ValidationError, field_validator, model_validator

from routesearch.utils.validation import explain


class Window(BaseModel):
    low: int = 0
    high: int = 9

    @field_validator("low")
    @classmethod
    def _even(cls, value: int) -> int:
        if value % 2:
            raise AssertionError("must be even")
        return value

    @model_validator(mode="after")
    def _ordered(self) -> Window:
        if self.low > self.high:
            raise ValueError("low <= high must hold")
        return self


@pytest.mark.parametrize(
    ("values", "under", "told"),
    [
        ({"low": 4, "high": 2}, "", "low <= high must hold, got {'low': 4, 'high': 2}"),
        ({"low": 4, "high": 2}, "data", "data: low <= high must hold, got {'low': 4, 'high': 2}"),
        ({"low": 3}, "data", "data.low: must be even, got 3"),
        ({"low": "x"}, "", "low: must be an integer, got 'x'"),
    ],
)
def test_a_complaint(values: dict[str, int], under: str, told: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Window(**values)
    assert explain(caught.value, Window, under) == told
