from __future__ import annotations

import pytest

from routesearch.errors import Refusal, UnknownName


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("nim", "no backbone 'nim'; did you mean 'nin'? installed: nin, resnet110, resnet38"),
        ("resnet39", "no backbone 'resnet39'; did you mean 'resnet38'? installed: nin, resnet110, resnet38"),
        ("tree2", "no backbone 'tree2'; installed: nin, resnet110, resnet38"),
        ("", "no backbone ''; installed: nin, resnet110, resnet38"),
    ],
)
def test_an_unknown_name_and_what_may_have_been_meant(name: str, told: str) -> None:
    error = UnknownName("backbone", name, ["resnet38", "nin", "resnet110"])
    assert isinstance(error, Refusal)
    assert str(error) == told


def test_nothing_is_known() -> None:
    assert str(UnknownName("method", "static", [])) == "no method 'static'; installed: none"
