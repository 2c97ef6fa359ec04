"""Labels as users have them: taken where they can mean one thing only, else refused with what would help."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routesearch.data.labels import as_classes, as_names, as_numbers
from routesearch.errors import Refusal

Y = np.arange(30) % 3
ONES = np.eye(3, dtype=np.uint8)[Y]


def taken(train: Any, names: Any = None, **others: Any) -> tuple[tuple[str, ...], dict[str, list[int]]]:
    given = {"y_train": np.asarray(train), **{name: np.asarray(each) for name, each in others.items()}}
    classes, labels = as_classes(given, names, "mine.npz")
    assert {str(each.dtype) for each in labels.values()} == {"torch.int64"}
    return classes, {name: each.tolist() for name, each in labels.items()}


def refusal(train: Any, names: Any = None, **others: Any) -> str:
    with pytest.raises(Refusal) as found:
        taken(train, names, **others)
    assert str(found.value).startswith("mine.npz: ")
    assert "\n" not in str(found.value)
    return str(found.value)


@pytest.mark.parametrize(
    "labels",
    [
        Y,
        Y.astype(np.uint8),
        Y.astype(">i8"),
        Y.astype(np.uint64),
        Y[:, None],
        Y.astype(float),
        Y.astype(np.float16)[:, None],
        ONES,
        ONES.astype(bool),
        ONES.astype(np.float32),
        Y.astype(str),
        Y.astype(str).astype(bytes),
        Y.astype(str)[:, None],
        Y[::-1][::-1],
    ],
)
def test_forms_that_can_mean_one_thing_only(labels: Any) -> None:
    assert taken(labels) == (("0", "1", "2"), {"y_train": Y.tolist()})
    assert taken(labels, y_test=labels[5:9])[1]["y_test"] == Y[5:9].tolist()


def test_truth_is_two_classes() -> None:
    assert taken(Y[:20] % 2 == 1) == (("0", "1"), {"y_train": (Y[:20] % 2).tolist()})


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (
            Y + 1,
            "be 0 to C-1 with none left out, got 3 different ones up to 3, the least 1: y_train - 1",
        ),
        (Y * 2, "got 3 different ones up to 4, the least 0: np.unique(y_train, return_inverse=True)[1]"),
        (Y + 7, "got 3 different ones up to 9, the least 7: np.unique(y_train"),
        (Y.astype(np.uint64) + 2**63, "got 3 different ones up to 9223372036854775810"),
        (Y - 1, "y_train must be labels from 0, got -1: leave these images out, or np.unique(y_train"),
        (Y % 2 * 2 - 1, "y_train must be labels from 0, got -1: (y_train + 1) // 2"),
        (Y / 2, "y_train must be N integers, got shape (30,) of float64: 0.5 is no class"),
        (np.where(Y == 1, np.nan, Y), "got shape (30,) of float64: nan is no class"),
        (np.where(Y == 1, np.inf, Y), "inf is no class"),
        (Y * 1e300, "2e+300 is no class"),
        (Y[None], "got shape (1, 30) of int64: y_train.ravel()"),
        (ONES * 0.5 + 0.1, "y_train.argmax(1), where a row holds the classes' shares"),
        (ONES * 2, "or rows of zeros with a one, got shape (30, 3) of uint8"),
        (
            ONES | np.roll(ONES, 1, 1),
            "30 of 30 rows have another number (row 0 has 2); an image has one class",
        ),
        (ONES * (np.arange(30) != 4)[:, None], "1 of 30 rows have another number (row 4 has 0)"),
        (ONES[:, :, None], "y_train must be N integers, or N texts, got shape (30, 3, 1)"),
        (np.array(5), "got shape () of int64"),
        (Y.astype("datetime64[D]"), "got shape (30,) of datetime64[D]"),
        (Y.astype(complex), "of complex128"),
        (np.array([b"a", b"\xff"]), "y_train must be valid UTF-8, got b'\\xff'"),
    ],
)
def test_other_forms_are_refused_with_their_cure(labels: Any, told: str) -> None:
    assert told in refusal(labels)


@pytest.mark.parametrize(
    ("cure", "labels"),
    [
        (lambda y: y - 1, Y + 1),
        (lambda y: np.unique(y, return_inverse=True)[1], Y * 5 - 3),
        (lambda y: (y + 1) // 2, Y % 2 * 2 - 1),
        (lambda y: y.ravel(), Y[None]),
        (lambda y: y.argmax(1), ONES * 0.5 + 0.1),
    ],
)
def test_a_cure_cures(cure: Any, labels: Any) -> None:
    refusal(labels)
    classes, found = taken(cure(labels))
    assert found["y_train"] == np.unique(labels.ravel(), return_inverse=True)[1].tolist() or len(classes) == 3


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ([0, 1, 3, 3], "y_test must hold no class that y_train lacks, got 3 (2 of 4 labels)"),
        ([-1, 0, 1], "y_test must hold no class that y_train lacks, got -1 (1 of 3 labels)"),
        (["a", "b"], "y_test must be labels of the kind of y_train, got texts and numbers"),
        (np.arange(100), "got 3, 4, 5, 6, 7 and 92 more (97 of 100 labels)"),
        ([0.5], "y_test must be N integers"),
    ],
)
def test_a_split_of_other_classes(other: Any, told: str) -> None:
    assert told in refusal(Y, y_test=np.asarray(other))


def test_texts_and_their_names() -> None:
    texts = np.array(["b", "a", "c"])
    assert taken(texts) == (("a", "b", "c"), {"y_train": [1, 0, 2]})
    assert taken(texts, ("c", "b", "a")) == (("c", "b", "a"), {"y_train": [1, 2, 0]})
    assert "class_names must be the labels in y_train, got 'c', 'x' in one alone" in refusal(
        texts, ("a", "b", "x")
    )
    assert "got 'x', 'y' (2 of 3 labels)" in refusal(texts, y_val=np.array(["x", "y", "a"]))
    assert "got numbers and texts" in refusal(texts, y_val=Y)
    assert taken(np.array(["e\u0301", "x"]))[0] == ("\xe9", "x")


def test_numbers_and_their_names() -> None:
    assert taken(Y, ("x", "y", "z"))[0] == ("x", "y", "z")
    for names in (("x", "y"), ("x", "y", "z", "w")):
        assert f"class_names must name each of the 3 classes in y_train, got {len(names)}" in refusal(
            Y, names
        )


@given(st.lists(st.integers(0, 6), min_size=1, max_size=40), st.booleans())
def test_ranks_are_places_among_the_sorted(values: list[int], texts: bool) -> None:
    """Whatever the texts are, each image keeps its own."""
    labels = np.array([f"class {value}" for value in values])
    classes, found = taken(labels, y_val=labels[::-1])
    assert [classes[label] for label in found["y_train"]] == labels.tolist()
    assert [classes[label] for label in found["y_val"]] == labels[::-1].tolist()
    assert list(classes) == sorted(set(labels.tolist()))


def test_further_labels_may_leave_some_out() -> None:
    assert as_numbers(np.array([[7], [0], [2]]), "a").tolist() == [7, 0, 2]
    assert as_numbers(np.array([7.0, 0.0]), "a").tolist() == [7, 0]
    for wrong, rule in (
        (np.array([-1]), "must be labels from 0, got -1"),
        (np.array([0.5]), "0.5 is no class"),
        (np.array(["a"]), r"must be N integers, got texts: np\.unique\(a,"),
        (np.array([2**63], np.uint64), "must be labels from 0, got 9223372036854775808"),
    ):
        with pytest.raises(Refusal, match=rule):
            as_numbers(wrong, "mine.npz: a")


def test_names_are_texts() -> None:
    assert as_names(np.array(["a", "b"]), "n") == as_names(np.array([b"a", b"b"]), "n") == ("a", "b")
    with pytest.raises(Refusal, match="n must be C texts"):
        as_names(np.array([1, 2]), "n")
