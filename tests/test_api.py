"""A study as a Python object: what must hold before anything is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from routesearch import Refusal, Study, build


@pytest.mark.parametrize("fresh", [False, True])
def test_a_budget_out_of_reach_leaves_everything_as_it_was(
    fresh: bool, write_study: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def search(*args: Any, **settings: Any) -> None:
        raise AssertionError("nothing may be started")

    monkeypatch.setattr("routesearch.search.driver.run_search", search)
    study = Study.load(write_study(budget={"max_macs": 12}))
    folder = study.config.dir
    folder.mkdir(parents=True)
    (folder / "journal.log").write_text("old\n")
    with pytest.raises(Refusal, match="some route must cost at most 12 MACs"):
        study.search(fresh=fresh)
    assert [f.name for f in folder.parent.iterdir()] == [folder.name]
    assert [f.name for f in folder.iterdir()] == ["journal.log"]


def test_build_knows_plugins_in_plain_files(fixtures: Path) -> None:
    files = [fixtures / "own_backbone.py", str(fixtures / "own_method.py")]
    net = build("skipper", backbone="pocket", shape=(1, 8, 8), classes=3, plugins=files)
    assert net.bounds().min < net.bounds().max
    with pytest.raises(Refusal, match="no backbone 'pocket'"):
        build("static", backbone="pocket", shape=(1, 8, 8), classes=3)


def test_build_blames_a_plugin_that_cannot_be_loaded(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("import no_such_module")
    with pytest.raises(Refusal, match=r"no method 'own'; .* \(not loaded: plugin '.*bad.py'"):
        build("own", backbone="nin", dataset="digits", plugins=[tmp_path / "bad.py"])
