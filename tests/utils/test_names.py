from __future__ import annotations

import pytest

from routesearch.utils.names import is_field, is_name

HOSTILE = [
    "",
    ".",
    "..",
    "a/b",
    "a\\b",
    "a b",
    "a\n",
    "\x1b[2J",
    "é",
    "a" * 101,
    "-rf",
    ".hidden",
    "\u202eabc",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_what_leads_elsewhere_or_acts_is_no_name(name: str) -> None:
    assert not is_name(name)
    assert not is_field(name)


def test_names_and_fields() -> None:
    assert all(map(is_name, ["nin", "wrn28_10", "a.b-c", "7", "a" * 100]))
    assert all(map(is_field, ["k_cpt", "_x", "a" * 100]))
    assert not any(map(is_field, ["7", "a-b", "a.b"]))
