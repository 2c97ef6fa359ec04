"""A study published to MLflow from what is stored, and found there again."""

from __future__ import annotations

from routesearch.errors import RouteSearchError, RunFailed, headline
from routesearch.results.reader import StudyResults
from routesearch.tracking.client import tracking_uri
from routesearch.tracking.experiment import link_of
from routesearch.tracking.own_database import check_writable, mend
from routesearch.tracking.sync import ExperimentSync, StudyInfo


def publish(results: StudyResults) -> str:
    """Make MLflow show exactly what is stored: runs, tags, curves and the front; nothing is doubled.

    Returns:
        The experiment's name.

    Raises:
        Refusal: the database is of a newer MLflow, or cannot be written; or it is the user's own and broken.
        RunFailed: MLflow did not take it.
    """
    uri = tracking_uri(results.config)
    try:
        mend(results)
        check_writable(uri)
        sync = ExperimentSync(uri, StudyInfo.of(results))
        sync.publish(results)
    except RouteSearchError:
        raise
    except Exception as error:  # MLflow's, its database's or the network's
        raise RunFailed(f"could not publish to MLflow at {uri}: {headline(error)}") from error
    return sync.experiment


def charts_link(results: StudyResults) -> str:
    """Where the study's charts are behind an MLflow server's address; published first if need be.

    Raises:
        Refusal: as :func:`publish`.
        RunFailed: MLflow could not be reached, or did not take the study.
    """
    uri = tracking_uri(results.config)
    link = _find(uri, results)
    if link is None:
        publish(results)
        link = _find(uri, results)
    if link is None:
        raise RunFailed(f"MLflow at {uri} does not show a study that was just published")
    return link


def _find(uri: str, results: StudyResults) -> str | None:
    try:
        mend(results)
        return link_of(uri, results.config.name, results.id)
    except RouteSearchError:
        raise
    except Exception as error:  # MLflow's, its database's or the network's
        raise RunFailed(f"could not reach MLflow at {uri}: {headline(error)}") from error
