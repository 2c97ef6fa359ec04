"""A saved model in MLflow's registry: what is registered, and a real server that answers like the model."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from routesearch import Refusal, Study, load
from routesearch.results.reader import StudyResults
from routesearch.saved import SavedModel
from routesearch.tracking.client import CALM, artifact_folder, connect, default_uri
from routesearch.tracking.experiment import TRIAL
from routesearch.tracking.registry import register


@pytest.fixture(scope="module")
def model(trained_model: Path) -> SavedModel:
    return load(trained_model, plugins=sorted((trained_model / "plugins").iterdir()))


def results_in(folder: Path, study: Path) -> StudyResults:
    """Those of the trained study, tracked in a folder of their own."""
    return Study.load(study, {"tracking.uri": default_uri(folder)}).results()


@pytest.fixture(scope="module")
def registered(
    trained_model: Path, trained_study: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, str]:
    """Tracking URI, and the model's: registered before its trial is published, and again after that."""
    folder = tmp_path_factory.mktemp("mlflow") / "50% of #1? é; &"
    results, uri = results_in(folder, trained_study), default_uri(folder)
    assert register(results, "toys", trained_model) == "models:/toys/1"
    trial = json.loads((trained_model / "model.json").read_text())["trial"]
    client = connect(uri)
    client.create_run(client.get_experiment_by_name("toy").experiment_id, tags={TRIAL: str(trial)})
    return uri, register(results, "toys", trained_model)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Five images as a request holds them."""
    return np.random.default_rng(0).random((5, 8, 8, 1), np.float32)


def test_the_registry_tells_of_the_model(registered: tuple[str, str], model: SavedModel) -> None:
    uri, name = registered
    assert name == "models:/toys/2"
    version = connect(uri).get_model_version("toys", "2")
    assert version.status == "READY"
    assert version.tags["method"] == "skipper"
    assert float(version.tags["accuracy"]) == pytest.approx(model.card.validation.accuracy, rel=1e-5)
    (run,) = connect(uri).search_runs([connect(uri).get_experiment_by_name("toy").experiment_id])
    assert version.run_id == run.info.run_id
    assert version.description == f"skipper on pocket, study toy, trial {model.card.trial}"


def test_nothing_in_it_is_pickled(registered: tuple[str, str], trained_model: Path) -> None:
    artifacts = artifact_folder(registered[0])
    assert artifacts is not None
    files = [f for f in artifacts.rglob("*") if f.is_file()]
    assert not [f for f in files if f.suffix in (".pkl", ".pickle", ".pt", ".pth")]
    assert not [f for f in files if f.read_bytes().startswith(b"\x80")]
    copies = [f for f in files if f.name == "model.safetensors"]
    assert len(copies) == 2
    assert copies[0].read_bytes() == (trained_model / "model.safetensors").read_bytes()
    (needs,) = {f.read_text() for f in files if f.name == "requirements.txt"}
    assert "routesearch==" in needs
    assert "torch==" in needs


def test_loaded_as_a_pyfunc(
    registered: tuple[str, str], model: SavedModel, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow.artifacts
    from mlflow.exceptions import MlflowException
    from mlflow.pyfunc import load_model

    uri, name = registered
    source = connect(uri).get_model_version("toys", name[-1]).source
    served = load_model(mlflow.artifacts.download_artifacts(source))
    answer = served.predict(images)
    expected = model.predict(images)
    assert answer["label"].tolist() == [model.classes[label] for label in expected.labels]
    assert answer["macs"].tolist() == expected.macs.tolist()
    with pytest.raises(MlflowException, match=r"must lie in \[0, 1\]"):
        served.predict(images * 255)


@pytest.mark.parametrize("name", ["", "a/b", "../x", "a:b", "x" * 201])
def test_names_that_cannot_be(name: str, trained_model: Path, trained_study: Path, tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="a registered model's name must be letters"):
        register(results_in(tmp_path, trained_study), name, trained_model)
    assert not (tmp_path / "mlflow.db").exists()


def test_a_folder_that_mlflow_would_read_as_another(
    trained_model: Path, trained_study: Path, tmp_path: Path
) -> None:
    with pytest.raises(Refusal, match="MLflow takes %41 in the name of a folder for another character"):
        register(results_in(tmp_path / "a%41", trained_study), "toys", trained_model)
    assert not (tmp_path / "a%41").exists()


def test_a_folder_that_is_no_model_is_not_registered(trained_study: Path, tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="a saved model is a folder"):
        register(results_in(tmp_path, trained_study), "toys", tmp_path / "nowhere")
    assert not (tmp_path / "mlflow.db").exists()


@pytest.fixture
def server(registered: tuple[str, str], tmp_path: Path) -> Iterator[str]:
    """``mlflow models serve`` as a user runs it; its address."""
    uri, name = registered
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    bin_ = Path(sys.executable).parent
    command = [bin_ / "mlflow", "models", "serve", "-m", name, "--env-manager", "local"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    path = f"{bin_}{os.pathsep}{os.environ.get('PATH', '')}"  # as in an activated environment
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            command,
            env={**os.environ, **CALM, "MLFLOW_TRACKING_URI": uri, "PATH": path},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + 180
            while True:
                assert process.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < deadline, (tmp_path / "log").read_text()
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5).close()
                    break
                except OSError:
                    time.sleep(0.3)
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def ask(address: str, body: Any) -> tuple[int, Any]:
    request = urllib.request.Request(
        f"{address}/invocations", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_a_real_server_answers_like_the_model(server: str, model: SavedModel, images: np.ndarray) -> None:
    status, answer = ask(server, {"inputs": images.tolist()})
    assert status == 200
    expected = model.predict(images)
    rows = answer["predictions"]
    assert [row["label"] for row in rows] == [model.classes[label] for label in expected.labels]
    assert [row["macs"] for row in rows] == expected.macs.tolist()
    assert [row["route"] for row in rows] == expected.route.tolist()
    assert [row["confidence"] for row in rows] == pytest.approx(expected.confidence.tolist(), abs=1e-5)
    for wrong, told in (
        (images * 255, "must lie in [0, 1]"),
        (images[:, :4], "does not match expected shape"),
    ):
        status, text = ask(server, {"inputs": wrong.tolist()})
        assert status == 400
        assert told in text
