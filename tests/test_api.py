"""A study as a Python object, from its file to its front, and ``build``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from routesearch import Refusal, Study, build, load

if TYPE_CHECKING:
    from routesearch.data.base import Data


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


def test_a_study_that_was_never_searched_has_nothing_to_show(write_study: Callable[..., Path]) -> None:
    study = Study.load(write_study())
    for ask in (study.results, study.front, study.best, study.publish):
        with pytest.raises(Refusal, match="run `routesearch search` first"):
            ask()
    assert not study.config.dir.exists()


def test_overrides_reach_the_study_and_wrong_ones_are_refused(write_study: Callable[..., Path]) -> None:
    file = write_study()
    assert Study.load(file, {"search.trials": 7}).task.config.search.trials == 7
    with pytest.raises(Refusal, match=r"search\.trials"):
        Study.load(file, {"search.trials": 0})


def test_front_and_best_are_those_of_the_results(trained_study: Path) -> None:
    study = Study.load(trained_study)
    results = study.results()
    assert study.front() == list(results.front)
    costs = [p.macs for p in study.front()]
    assert costs == sorted(costs)
    tested = study.front("test")
    assert [(p.trial, p.knob) for p in tested] == [(p.trial, p.knob) for p in study.front()]
    assert {p.split for p in tested} == {"test"}

    limit = costs[len(costs) // 2]
    within = [p for p in results.points if p.macs <= limit]
    assert study.best(limit).accuracy == max(p.accuracy for p in within)
    assert study.best(f"{limit / results.backbone_macs}x").macs <= limit * (1 + 1e-9)
    with pytest.raises(Refusal, match="the cheapest is"):
        study.best(costs[0] / 2)
    with pytest.raises(Refusal, match="split"):
        study.front("train")


def test_what_is_saved_is_the_best_and_predicts(trained_study: Path, data: Data, tmp_path: Path) -> None:
    study = Study.load(trained_study)
    point = study.save(tmp_path / "model", "10x")
    assert point == study.best("10x")
    plugins = sorted((tmp_path / "model" / "plugins").iterdir())
    model = load(tmp_path / "model", plugins=plugins)
    found = model.predict(data.validation.pixels.permute(0, 2, 3, 1).numpy())  # N, H, W, C
    labels = data.validation.labels.numpy()
    assert float((found.labels == labels).mean()) == pytest.approx(point.accuracy)
    assert float(found.macs.mean()) == pytest.approx(point.macs)


def test_mlflow_is_refilled_from_what_is_stored(trained_study: Path, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    study = Study.load(trained_study, {"tracking.uri": uri})
    for _ in range(2):  # a second time adds nothing
        summary = study.publish()
        client = MlflowClient(summary.tracking_uri)
        experiment = client.get_experiment_by_name(summary.experiment)
        assert experiment is not None
        runs = client.search_runs([experiment.experiment_id], "tags.method = 'skipper'")
        assert len(runs) == summary.finished == 2
    assert summary.best == study.results().best


def test_build_knows_plugins_in_plain_files(fixtures: Path) -> None:
    files = [fixtures / "own_backbone.py", str(fixtures / "own_method.py")]
    net = build("skipper", backbone="pocket", shape=(1, 8, 8), classes=3, plugins=files)
    assert net.bounds().min < net.bounds().max
    with pytest.raises(Refusal, match="no backbone 'pocket'"):
        build("static", backbone="pocket", shape=(1, 8, 8), classes=3)


def test_build_names_a_plugin_that_cannot_be_loaded(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("import no_such_module")
    with pytest.raises(Refusal, match=r"no method 'own'; .* \(not loaded: plugin '.*bad.py'"):
        build("own", backbone="nin", dataset="digits", plugins=[tmp_path / "bad.py"])
