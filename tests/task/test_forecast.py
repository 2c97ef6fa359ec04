from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from routesearch.errors import Refusal
from routesearch.task.forecast import Forecast, forecast
from routesearch.training.confusion import equivalent_epochs

if TYPE_CHECKING:
    from routesearch.task.resolve import Task


def test_a_forecast_of_every_method(make_task: Callable[..., Task]) -> None:
    task = make_task(methods=["static", "skipper", "dgate"])
    threads = torch.get_num_threads()
    found = forecast(task)
    assert torch.get_num_threads() == threads
    assert set(found.reach) == set(found.seconds) == set(task.spaces)
    assert all(seconds is not None and seconds > 0 for seconds in found.seconds.values())
    assert found.trunk_seconds is not None
    assert found.trunk_seconds > 0
    assert found.reach["static"] == task.reach("static")


def test_more_epochs_take_longer(make_task: Callable[..., Task]) -> None:
    """A factor of a hundred: no load on the machine can turn that round."""
    short, long = (
        forecast(make_task(methods=["static"], training={"epochs": epochs, "batch_size": 16})).seconds[
            "static"
        ]
        for epochs in (1, 1000)
    )
    assert short is not None
    assert long is not None
    assert long > 10 * short


def test_without_a_trunk_none_is_timed(make_task: Callable[..., Task]) -> None:
    assert forecast(make_task(methods=["static"])).trunk_seconds is None


def test_the_trunks_confusion_is_timed_too(
    make_task: Callable[..., Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seconds grow by the epochs that are asked for, not by the clock."""
    task = make_task(methods=["static", "dgate"], training={"trunk_epochs": 6, "batch_size": 16})
    asked: list[float] = []
    monkeypatch.setattr("routesearch.task.forecast._trial_seconds", lambda *_: 1.0)
    monkeypatch.setattr("routesearch.task.forecast._fit_seconds", lambda *a: asked.append(a[3]) or 8.0)
    forecast(task)
    monkeypatch.setattr(task.methods["static"], "needs_confusion", True)
    assert forecast(task).trunk_seconds == 8.0
    monkeypatch.setattr(task.methods["dgate"], "needs_trunk", False)
    forecast(task)
    confusion = equivalent_epochs(task.data, task.config.training)
    assert confusion > 1
    assert asked == [6, 6 + confusion, confusion]


def test_pretrained_weights_that_do_not_fit_are_refused(
    make_task: Callable[..., Task], tmp_path: Path
) -> None:
    (tmp_path / "w.pth").write_bytes(b"no weights")
    with pytest.raises(Refusal, match=r"backbone\.weights: weights must be a whole file of tensors"):
        forecast(make_task(backbone={"name": "pocket", "weights": "w.pth"}, methods=["dgate"]))


def test_a_method_that_fails_is_told_and_the_others_are_timed(
    make_task: Callable[..., Task], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    task = make_task()
    skipper = task.methods["skipper"]

    def stages(self: object) -> None:
        raise RuntimeError("no stage")

    monkeypatch.setattr(skipper, "stages", stages)
    with caplog.at_level("WARNING", "routesearch"):
        found = forecast(task)
    assert found.seconds["skipper"] is None
    assert found.seconds["static"] is not None
    assert "skipper: a trial of its default config fails: RuntimeError: no stage" in caplog.text


def test_more_cores_than_there_are_are_told_and_not_used(
    make_task: Callable[..., Task], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("routesearch.utils.machine.cores", lambda: 2)
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    with caplog.at_level("WARNING", "routesearch"):
        found = forecast(make_task(methods=["static"], resources={"cpu": 4096}))
    assert asked[0] == 2
    assert max(asked) < 4096
    assert "resources.cpu: a trial asks for 4096 cores and this machine has 2: none fits" in caplog.text
    assert found.seconds["static"] is not None


def test_the_whole_search_by_rounds() -> None:
    found = Forecast({}, {"a": 10.0, "b": 30.0, "c": None}, 5.0)
    assert found.search_seconds(trials=5, at_once=2) == 5 + 3 * 20
    assert Forecast({}, {"a": None}, 5.0).search_seconds(3, 1) is None
