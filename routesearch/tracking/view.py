"""What MLflow's pages show: a stored view of the runs, and Markdown notes.

The stored view is an experiment tag whose format belongs to MLflow's pages and is documented nowhere. If a
later MLflow stops reading it, its pages show their defaults; the front's PNG and HTML do not depend on it.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from routesearch.report import front_table
from routesearch.report.table import limits, mega, percent
from routesearch.results.reader import StudyResults

KEY = "front"
TAG = f"mlflow.sharedViewState.{KEY}"
TRAINING = "workflowType=machine_learning"
"""MLflow's pages for training models, which a fresh browser does not open by itself."""

MAX_ROWS = 50
"""Points of the front in a note; the table, the page and the picture have all."""

MAX_TEXT = 8000
"""Characters of a note: MLflow cuts what is longer, in the middle of a row."""


def link(experiment_id: str) -> str:
    """The address of the stored view's charts, behind the server's."""
    query = f"{TRAINING}&compareRunsMode=CHART&viewStateShareKey={KEY}"
    return f"#/experiments/{experiment_id}/runs?{query}"


def shared_view(fields: Mapping[str, Sequence[str]]) -> str:
    """The tag's value: runs with a curve, those of the front first, since the charts ask for 100 runs only.

    Args:
        fields: method -> its fields that vary, for one parallel-coordinates chart each.
    """
    scatter = {
        **_card("scatter", "front-section", "SCATTER"),
        "xaxis": {"key": "macs", "type": "METRIC"},
        "yaxis": {"key": "accuracy", "type": "METRIC"},
        "runsCountToCompare": 1000,
    }
    spent = {
        **_card("spent", "front-section", "SCATTER"),
        "xaxis": {"key": "training_macs", "type": "METRIC"},
        "yaxis": {"key": "accuracy", "type": "METRIC"},
        "runsCountToCompare": 1000,
    }
    charts: list[dict[str, Any]] = [scatter, spent]
    sections = [_section("front-section", "Accuracy against MACs")]
    for method, names in fields.items():
        place = f"section-{method}"
        sections.append(_section(place, f"{method}: its fields", columns=1))
        parallel = {
            "selectedParams": list(names),
            "selectedMetrics": ["macs", "accuracy"],
            "showAllRuns": True,
        }
        charts.append({**_card(f"parallel-{method}", place, "PARALLEL"), **parallel})
    columns = [f"metrics.`{name}`" for name in ("accuracy", "macs", "params")]
    columns += [f"tags.`{name}`" for name in ("method", "on_front", "feasible", "state")]
    state = {
        "searchFilter": "metrics.macs > 0",
        "orderByKey": "tags.`on_front`",
        "orderByAsc": False,
        "runsHiddenMode": "SHOW_ALL",
        "selectedColumns": columns,
        "compareRunCharts": charts,
        "compareRunSections": sections,
    }
    packed = zlib.compress(json.dumps(state, separators=(",", ":")).encode())
    return "deflate;" + base64.b64encode(packed).decode()


def _card(uuid: str, section: str, kind: str) -> dict[str, Any]:
    return {"uuid": uuid, "type": kind, "metricSectionId": section, "deleted": False, "isGenerated": False}


def _section(uuid: str, name: str, columns: int = 2) -> dict[str, Any]:
    look = {"display": True, "isReordered": False, "columns": columns, "cardHeight": 430}
    return {"uuid": uuid, "name": name, **look}


def pointer(experiment_id: str, parent: str) -> str:
    """The experiment's note: where the front is, which the charts of trials do not show whole."""
    run = f"#/experiments/{experiment_id}/runs/{parent}"
    return (
        f"The front: [table and picture]({run}?{TRAINING}), "
        f"[interactive page]({run}/artifacts/front.html?{TRAINING}). "
        f"[Charts of the trials]({link(experiment_id)}): those on the front come first, in strong colours."
    )


def note(results: StudyResults) -> str:
    """The front in Markdown, for the parent run."""
    front, budget, backbone_macs, one = results.front, results.budget, results.backbone_macs, results.best
    test = list(results.tested.values())
    backbone = f"The backbone costs {mega(backbone_macs)} M MACs per image."
    if budget:
        found = f"{percent(one.accuracy)}, {one.method}, trial {one.trial}" if one else "none"
        budgeted = f"Best within the budget of {limits(budget, backbone_macs)}: **{found}**."
    head = f"{budgeted} {backbone}" if budget else backbone
    rows = MAX_ROWS
    while True:
        shown = front if len(front) <= rows else front[:: -(-len(front) // rows)]
        if len(shown) < len(front):
            note = f"{len(shown)} of {len(front)} points; the artifact `front.html` shows all."
        else:
            note = "Chosen on validation data; the artifact `front.html` shows the points off the front too."
        text = "\n\n".join([head, note, front_table(shown, backbone_macs, test).markdown()])
        if len(text) <= MAX_TEXT or rows == 1:
            return text
        rows //= 2
