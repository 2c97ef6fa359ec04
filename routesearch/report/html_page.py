"""The front as one HTML file that needs nothing else: a plotly chart, script inside, and a table."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import log10
from pathlib import Path
from typing import Any

from routesearch.report.chart import Chart, chart_of, shape
from routesearch.report.table import Table, between, front_table, mega, percent, short
from routesearch.results.points import Point
from routesearch.results.reader import StudyResults
from routesearch.utils.files import save_file

SYMBOLS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x", "star")
INK, GREY, RED = "#333333", "#8a8a8a", "#c0392b"

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 15px/1.45 system-ui, sans-serif; color: #222; background: #fff; margin: 1.5rem auto;
  max-width: 1100px; padding: 0 1rem; }}
h1 {{ font-size: 1.3rem; margin: 0; }}
p {{ color: #555; margin: .3rem 0 1rem; }}
.scroll {{ overflow-x: auto; margin-top: 1rem; }}
table {{ border-collapse: collapse; font-size: 13px; width: 100%; }}
th, td {{ text-align: left; padding: .3rem .6rem; border-bottom: 1px solid #e5e5e5; white-space: nowrap; }}
td:nth-last-child(-n+2) {{ white-space: normal; font-family: ui-monospace, monospace; font-size: 12px; }}
th {{ color: #555; font-weight: 600; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>{caption}</p>
{chart}
<div class="scroll">{table}</div>
</body>
</html>
"""


def front_html(results: StudyResults, path: Path, split: str = "validation", title: str = "") -> None:
    """Write the front as an interactive page that works without a network.

    Args:
        path: of the page; an older file is replaced.
        split: where the points are measured; on validation, the table has their test results too.
        title: of the study.

    Raises:
        Refusal: where the path cannot be written, and as :meth:`StudyResults.front_on`.
    """
    from plotly.io import to_html

    c = chart_of(results, split)
    figure = {"data": _traces(c), "layout": _layout(c)}
    # A plain dict, not validated: plotly's figure classes take long to import and add nothing here.
    drawn = to_html(
        figure,
        full_html=False,
        include_plotlyjs=True,
        validate=False,
        default_height="560px",
        div_id="front",
        config={"displaylogo": False, "responsive": True},
    )
    test = list(results.tested.values()) if split == "validation" else ()
    table = _table(front_table(c.front, results.backbone_macs, test, shrinkage=results.shrinkage))
    page = _PAGE.format(
        title=escape(title or "Front"),
        caption=escape(_caption(c, results.mean_shrinkage)),
        chart=drawn,
        table=table,
    )
    save_file(path, page.encode())


def _caption(c: Chart, shrinkage: float | None) -> str:
    text = (
        f"Accuracy on {c.split} against mean MACs per image; the backbone costs {mega(1e6 * c.backbone)} M."
    )
    if c.limits:
        text += f" Budget: {c.limits}. "
        text += (
            f"Best within it: {percent(c.best.accuracy)}, {c.best.method}, trial {c.best.trial}, "
            f"{mega(c.best.macs)} M."
            if c.best
            else "No point is within it."
        )
    if shrinkage is not None:
        lost = f"{100 * shrinkage:+.2f} percentage points"
        text += f" Accuracy of confirmed points on validation less that on test: {lost} in the mean."
    if c.dropped:
        text += f" Of the points off the front, {c.dropped} of {c.dropped + len(c.faint)} are not drawn."
    return text


def _traces(c: Chart) -> list[dict[str, Any]]:
    """Faint points, the stairs, the front's points (hollow over the budget), a ring around the best."""
    xs, ys = c.stairs()
    line = {"shape": "hv", "color": INK, "width": 1.5}
    stairs = {"type": "scatter", "mode": "lines", "name": "front", "x": xs, "y": ys, "line": line}
    behind: list[dict[str, Any]] = []
    ahead: list[dict[str, Any]] = []
    for i, (method, colour) in enumerate(c.colours.items()):
        symbol = shape(i, SYMBOLS)
        faint = [p for p in c.faint if p.method == method]
        look: dict[str, Any] = {"color": colour, "symbol": symbol, "size": 5, "opacity": 0.3}
        behind.append(_dots(c, faint, f"{method}, off the front", look))
        look = {"color": colour, "size": 10, "line": {"color": colour, "width": 1.5}}
        for feasible, name in ((True, method), (False, f"{method}, over the budget")):
            chosen = [p for p in c.front if p.method == method and p.feasible is feasible]
            ahead.append(_dots(c, chosen, name, {**look, "symbol": symbol + ("" if feasible else "-open")}))
        ahead.append(_bars(c, method, colour))
    if c.best is not None:
        ring = {"symbol": "circle-open", "size": 22, "color": INK, "line": {"width": 1.5}}
        ahead.append({**_dots(c, [c.best], "best within the budget", ring), "hoverinfo": "skip"})
        del ahead[-1]["hovertemplate"]
    return [t for t in (*behind, {**stairs, "hoverinfo": "skip"}, *ahead) if t["x"]]


def _dots(c: Chart, points: Sequence[Point], name: str, marker: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": escape(name),
        "marker": marker,
        "x": [p.macs / 1e6 for p in points],
        "y": [100 * p.accuracy for p in points],
        "text": [_hover(c, p) for p in points],
        "hovertemplate": "%{text}<extra></extra>",
    }


def _bars(c: Chart, method: str, colour: str) -> dict[str, Any]:
    """Means over seeds, each with its interval."""
    macs, mean, down, up = c.bars(method)
    error = {
        "type": "data",
        "symmetric": False,
        "array": up,
        "arrayminus": down,
        "thickness": 1.4,
        "width": 5,
    }
    return {
        "type": "scatter",
        "mode": "markers",
        "name": escape(f"{method}, mean over seeds (95 %)"),
        "x": macs,
        "y": mean,
        "error_y": {**error, "color": colour},
        "marker": {"symbol": "line-ew-open", "size": 13, "color": colour, "line": {"width": 1.6}},
        "hoverinfo": "skip",
    }


def _hover(c: Chart, p: Point) -> str:
    note = "" if p.feasible else ", over the budget"
    lines = [
        f"<b>{escape(p.method)}</b>, trial {p.trial}",
        f"{percent(p.accuracy)} at {mega(p.macs)} M MACs ({p.macs / 1e6 / c.backbone:.3g}x){note}",
    ]
    if p.confirmation is not None:
        k = p.confirmation
        lines.append(f"over {k.seeds} seeds: {percent(k.mean)}, {between(*k.interval())} at 95 %")
    lines += [escape(short({name: value})) for name, value in {**p.knob, **p.config}.items()]
    return "<br>".join(lines)


def _layout(c: Chart) -> dict[str, Any]:
    upright = {"type": "line", "yref": "paper", "y0": 0, "y1": 1, "layer": "below"}
    grey = {"color": GREY, "width": 1, "dash": "dot"}
    lines: list[dict[str, Any]] = [{**upright, "x0": c.backbone, "x1": c.backbone, "line": grey}]
    away = "right" if c.budget is not None and c.budget > c.backbone else "left"  # from the budget's label
    labels = [(c.backbone, "backbone 1.0x", GREY, away)]
    if c.budget is not None:
        red = {"color": RED, "width": 1.5, "dash": "dash"}
        lines.append({**upright, "x0": c.budget, "x1": c.budget, "line": red})
        labels.append((c.budget, f"budget {c.budget / c.backbone:.3g}x", RED, "right"))
    return {
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": INK},
        "margin": {"l": 60, "r": 70, "t": 30, "b": 100},
        "hovermode": "closest",
        "legend": {"orientation": "h", "x": 0, "y": -0.16, "yanchor": "top"},
        "xaxis": _axis("M MACs per image (mean)", c.x, c.logarithmic),
        "yaxis": _axis(f"accuracy on {c.split} (%)", c.y, logarithmic=False),
        "shapes": lines,
        "annotations": [
            {
                "x": log10(x) if c.logarithmic else x,
                "xanchor": side,
                "y": 1,
                "yref": "paper",
                "yanchor": "bottom",
                "showarrow": False,
                "text": text,
                "font": {"size": 12, "color": colour},
            }
            for x, text, colour, side in labels
        ],
    }


def _axis(name: str, window: tuple[float, float], logarithmic: bool) -> dict[str, Any]:
    ticks = [digit * 10.0**decade for decade in range(-6, 7) for digit in (1, 2, 5)]
    ends = [log10(end) for end in window] if logarithmic else list(window)
    return {
        "title": {"text": name},
        "type": "log" if logarithmic else "linear",
        "range": ends,
        **({"tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]} if logarithmic else {}),
        "gridcolor": "#ececec",
        "zeroline": False,
        "showline": True,
        "linecolor": "#bbbbbb",
        "ticks": "outside",
        "tickcolor": "#bbbbbb",
    }


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in table.columns)
    rows = ("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
