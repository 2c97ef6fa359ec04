"""Saved models in MLflow's model registry, as pyfuncs that ``mlflow models serve`` can answer for.

A model is registered as the saved folder, unchanged, and the name of the module that loads it: nothing is
pickled. Whoever serves it needs routesearch and the plugins of its method installed.
"""

from __future__ import annotations

import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from routesearch.errors import Refusal, RouteSearchError, RunFailed, headline
from routesearch.results.reader import StudyResults
from routesearch.saved import Card, SavedModel, code_file, load, read
from routesearch.tracking.client import artifact_folder, connect, tracking_uri
from routesearch.tracking.experiment import TRIAL, open_experiment
from routesearch.tracking.own_database import check_writable, mend
from routesearch.tracking.publication import publish

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.models import ModelSignature
    from pandas import DataFrame


def register(results: StudyResults, name: str, folder: Path) -> str:
    """Log a saved model to its study's experiment and register it as the next version of ``name``.

    Args:
        results: of the study, whose tracking URI's registry is used.
        folder: a saved model.

    Returns:
        ``models:/NAME/VERSION``.

    Raises:
        Refusal: the folder is no saved model, or the name cannot be a registered model's; or the
            database is of a newer MLflow, or cannot be written.
        RunFailed: MLflow did not take it.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._ -]{0,199}", name):
        rule = "a registered model's name must be letters, digits, '.', '_', '-' and spaces, 200 at most"
        raise Refusal(f"{rule}, got {name!r}")
    card, _ = read(folder)  # a damaged one is not to be registered
    uri = tracking_uri(results.config)
    if coded := re.search("%[0-9A-Fa-f]{2}", str(artifact_folder(uri))):
        rule = f"MLflow takes {coded[0]} in the name of a folder for another character"
        raise Refusal(
            f"a registered model must lie where MLflow finds it; {rule}, got {artifact_folder(uri)}"
        )
    try:
        if mend(results):
            publish(results)
        check_writable(uri)
        return _register(connect(uri), uri, results, name, folder, card)
    except RouteSearchError:
        raise
    except Exception as error:  # MLflow's, its database's or the network's
        raise RunFailed(f"could not register the model in MLflow at {uri}: {headline(error)}") from error


def _register(
    client: MlflowClient, uri: str, results: StudyResults, name: str, folder: Path, card: Card
) -> str:
    from mlflow.entities import LoggedModelStatus
    from mlflow.exceptions import MlflowException
    from mlflow.models import Model
    from mlflow.pyfunc import save_model

    study = results.config.name, results.id
    place = open_experiment(client, *study, artifact_folder(uri)).experiment_id
    run = _run_of(client, place, card.trial)
    facts = _facts(card)
    logged = client.create_logged_model(place, name, source_run_id=run, params=facts, model_type="classifier")
    try:
        with TemporaryDirectory() as scratch:
            path = Path(scratch) / "model"
            save_model(
                str(path),
                loader_module=__name__,
                data_path=str(folder.resolve()),
                signature=_signature(card),
                input_example=np.zeros((1, *_form(card)), np.float32),
                pip_requirements=_requirements(card),
                mlflow_model=Model(
                    artifact_path=logged.artifact_location,
                    run_id=run,
                    model_uuid=logged.model_id,
                    model_id=logged.model_id,
                ),
            )
            client.log_model_artifacts(logged.model_id, str(path))
        client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
    except BaseException:
        client.finalize_logged_model(logged.model_id, LoggedModelStatus.FAILED)
        raise
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    version = client.create_model_version(
        name,
        source=logged.artifact_location,
        run_id=run,
        tags=facts,
        description=f"{card.method} on {card.backbone}, study {card.study}, trial {card.trial}",
        # without a run, MLflow looks the model up under its process-wide tracking URI, which is not ours
        model_id=None if run is None else logged.model_id,
    )
    return f"models:/{name}/{version.version}"


def _run_of(client: MlflowClient, experiment: str, trial: int) -> str | None:
    """The trial's run, so that MLflow's pages lead from one to the other; None where it is not published."""
    runs = client.search_runs([experiment], f"tags.`{TRIAL}` = '{trial}'", max_results=1)
    return runs[0].info.run_id if runs else None


def _facts(card: Card) -> dict[str, str]:
    """What is worth seeing in the registry without opening the model."""
    on_test = {} if card.test is None else {"test_accuracy": f"{card.test.accuracy:.6g}"}
    return {
        "study": card.study,
        "trial": str(card.trial),
        "method": card.method,
        "backbone": card.backbone,
        "accuracy": f"{card.validation.accuracy:.6g}",
        "macs": f"{card.validation.macs:.6g}",
        **on_test,
    }


def _form(card: Card) -> tuple[int, int, int]:
    channels, height, width = card.shape
    return height, width, channels


def _signature(card: Card) -> ModelSignature:
    """N,H,W,C floats in [0, 1]: pixels up to 255 sent as they are violate that constraint and are refused.

    With uint8 instead, MLflow would turn floats in [0, 1] into zeros without a word.
    """
    from mlflow.models import ModelSignature
    from mlflow.types.schema import ColSpec, DataType, Schema, TensorSpec

    columns = {
        "label": DataType.string,
        "confidence": DataType.double,
        "macs": DataType.long,
        "route": DataType.long,
    }
    return ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(np.float32), (-1, *_form(card)))]),
        outputs=Schema([ColSpec(kind, name) for name, kind in columns.items()]),
    )


def _requirements(card: Card) -> list[str]:
    """The packages that a server needs, as pip names them."""
    versions = [
        f"{name} {card.versions[name].partition('+')[0]}"
        for name in ("torch", "routesearch")
        if name in card.versions
    ]
    versions += [code.version for code in card.code.values() if code.file is None]
    pairs = [version.split(" ") for version in versions]
    return sorted({"==".join(pair) for pair in pairs if len(pair) == 2})


class Served:
    """What MLflow calls for a request."""

    def __init__(self, model: SavedModel) -> None:
        self.model = model

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> DataFrame:
        """Label N,H,W,C images: one row each, label (the class's name), confidence, macs, route."""
        from mlflow.exceptions import MlflowException
        from pandas import DataFrame

        try:
            found = self.model.predict(model_input)
        except Refusal as refusal:
            raise MlflowException.invalid_parameter_value(str(refusal)) from None
        names = np.array(self.model.classes, dtype=object)[found.labels]
        columns = {"label": names, "confidence": found.confidence.astype(np.float64)}
        return DataFrame({**columns, "macs": found.macs, "route": found.route})


def _load_pyfunc(path: str) -> Served:
    """What MLflow calls to load the model, by this name.

    Plain files with code that lie in the folder are run: who loads a model from a registry runs its code.
    """
    card, _ = read(Path(path))
    files = {code_file(Path(path), code.file) for code in card.code.values()}
    return Served(load(path, plugins=sorted(file for file in files if file is not None)))
