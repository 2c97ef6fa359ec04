"""What is told of the user's data: whole, in a bounded number of lines, each of a bounded length."""

from __future__ import annotations

import copy

import pytest

from routesearch.data.survey import MANY, NOTHING_TO_TELL, BrokenFiles, Survey, refuse_broken


def survey(broken: int = 0, passed: int = 0, classes: int = 2) -> Survey:
    return Survey(
        where="/photos",
        counts={"train": {f"c{i}": 1000 + i for i in range(classes)}},
        broken={f"c0/{i:03}.jpg": "it is empty" for i in range(broken)},
        passed_over={"hidden": [f".{i}" for i in range(passed)]} if passed else {},
        remarks=("something else",),
    )


def test_nothing_is_told_of_nothing() -> None:
    assert NOTHING_TO_TELL.lines() == []


def test_lines() -> None:
    assert survey(broken=1, passed=2).lines() == [
        "/photos: 2 classes; images: 2,001 (c0 1,000, c1 1,001)",
        "left out 1 that cannot be read (data.skip_broken: true)",
        "left out c0/000.jpg: it is empty",
        "passed over 2: hidden (.0, .1)",
        "something else",
    ]


def test_splits_are_counted_each() -> None:
    counts = {"train": {"a": 3, "b": 4}, "test": {"a": 0, "b": 1}}
    assert Survey("x", counts).count_line() == "x: 2 classes; images: train 7 (a 3, b 4); test 1 (a 0, b 1)"


@pytest.mark.parametrize("count", [MANY - 1, MANY, MANY + 1, 5000])
def test_many_are_counted_and_few_named(count: int) -> None:
    told = survey(broken=count, passed=count, classes=count).lines()
    assert len(told) <= MANY + 6
    assert sum(map(len, told)) < 2000
    assert f"left out {count:,} that cannot be read (data.skip_broken: true)" in told
    assert f"passed over {count:,}: hidden (.0, .1, .2 and {count - 3:,} more)" in told
    more = f"left out {count - MANY:,} more; `routesearch -v` names all"
    assert (more in told) is (count > MANY)
    whole = "\n".join(survey(broken=count, passed=count).lines(whole=True))
    assert all(f"c0/{i:03}.jpg: " in whole and f".{i}" in whole for i in range(count))
    assert "more" not in whole


def test_broken_files_are_refused_in_one_line() -> None:
    refuse_broken("photos", {}, 9, "repair them")
    broken = {f"{i}.jpg": "it is empty" for i in range(42)}
    with pytest.raises(BrokenFiles) as refusal:
        refuse_broken("photos", broken, 1000, "repair them")
    named = "0.jpg (it is empty), 1.jpg (it is empty), 2.jpg (it is empty) and 39 more"
    assert str(refusal.value) == f"photos: 42 of 1,000 images cannot be read: {named}; repair them"
    assert str(copy.copy(refusal.value)) == str(refusal.value)
