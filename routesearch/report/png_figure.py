"""The front as a PNG, by matplotlib."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from routesearch.report.chart import Chart, chart_of, shape
from routesearch.report.table import mega, percent
from routesearch.results.points import Point
from routesearch.results.reader import StudyResults
from routesearch.utils.files import save_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
INK, GREY = "#333333", "#8a8a8a"


def front_figure_png(results: StudyResults, path: Path, split: str = "validation", title: str = "") -> None:
    """Draw accuracy against MACs: the front as a line of stairs, everything else faint behind it.

    Args:
        path: of the PNG; an older file is replaced.
        split: where the points are measured.
        title: of the study.

    Raises:
        Refusal: where the path cannot be written, and as :meth:`StudyResults.front_on`.
    """
    # Figure and canvas by hand: pyplot keeps global state and asks for a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    c = chart_of(results, split)
    _frame(axes, c, title)
    _lines(axes, c)
    _points(axes, c)
    if c.front or c.faint:
        figure.legend(loc="outside lower center", ncols=6, frameon=False, fontsize=9)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=130)
    save_file(path, picture.getvalue())


def _frame(axes: Axes, c: Chart, title: str) -> None:
    """Axes and their names, below in M MACs, above in shares of the backbone."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    if c.logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(*c.x)
    axes.set_ylim(*c.y)
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_major_formatter(plain)
    axes.set_xlabel("M MACs per image (mean)")
    axes.set_ylabel(f"accuracy on {c.split} (%)")
    axes.grid(color="#ececec", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    above = axes.secondary_xaxis(
        "top",
        functions=(
            lambda macs: np.asarray(macs) / c.backbone,
            lambda share: np.asarray(share) * c.backbone,
        ),
    )
    if c.logarithmic:
        above.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        above.xaxis.set_minor_formatter(NullFormatter())
    above.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))
    above.set_xlabel("of the backbone's MACs", fontsize=9, color=GREY)
    above.tick_params(labelsize=8, colors=GREY)
    above.spines["top"].set_color("#d0d0d0")
    if title:
        axes.set_title(title, fontsize=12, color=INK, loc="left")


def _lines(axes: Axes, c: Chart) -> None:
    """Budget, backbone and the stairs of the front."""
    side: dict[str, Any] = {
        "rotation": 90,
        "va": "bottom",
        "fontsize": 8.5,
        "transform": axes.get_xaxis_transform(),
    }
    axes.axvline(c.backbone, color=GREY, linewidth=1, linestyle=":", zorder=1)
    away = "right" if c.budget is not None and c.budget > c.backbone else "left"  # from the budget's label
    axes.text(c.backbone, 0.015, " backbone 1.0x ", ha=away, color=GREY, **side)
    if c.budget is not None:
        label = f"budget {mega(1e6 * c.budget)} M ({c.budget / c.backbone:.3g}x) "
        axes.axvspan(c.budget, c.x[1], color="#000000", alpha=0.035, linewidth=0, zorder=0)
        axes.axvline(c.budget, color="#c0392b", linewidth=1.3, linestyle="--", zorder=1)
        axes.text(c.budget, 0.015, label, ha="right", color="#c0392b", **side)
    axes.step(*c.stairs(), where="post", color=INK, linewidth=1.3, zorder=3, label="front")


def _points(axes: Axes, c: Chart) -> None:
    """Faint points, then the front's: hollow over the budget, bars where confirmed; the best is ringed."""
    for i, (method, colour) in enumerate(c.colours.items()):
        look: dict[str, Any] = {"marker": shape(i, MARKERS), "color": colour}
        faint = [p for p in c.faint if p.method == method]
        axes.scatter(*_places(faint), s=14, alpha=0.25, linewidths=0, zorder=2, **look)
        within = [p for p in c.front if p.method == method and p.feasible]
        beyond = [p for p in c.front if p.method == method and not p.feasible]
        axes.scatter(*_places(within), s=46, zorder=4, label=method, **look)
        macs, mean, down, up = c.bars(method)
        if macs:
            bar: dict[str, Any] = {
                "fmt": "_",
                "color": colour,
                "markersize": 11,
                "capsize": 3,
                "linewidth": 1.3,
            }
            axes.errorbar(macs, mean, yerr=(down, up), zorder=3.5, **bar)
        axes.scatter(
            *_places(beyond), s=46, zorder=4, marker=look["marker"], facecolors="white", edgecolors=colour
        )
    if not all(p.feasible for p in c.front):
        axes.scatter([], [], s=46, facecolors="white", edgecolors=GREY, label="over the budget")
    if any(p.confirmation is not None for p in c.front):
        axes.errorbar([], [], yerr=[], fmt="_", color=GREY, capsize=3, label="mean over seeds, 95 %")
    if c.faint:
        axes.scatter([], [], s=14, color=GREY, alpha=0.5, linewidths=0, label="off the front")
    if c.best is not None:
        place = (c.best.macs / 1e6, 100 * c.best.accuracy)
        axes.scatter(*place, s=170, facecolors="none", edgecolors=INK, linewidths=1.2, zorder=5)
        note = f"best within the budget: {percent(c.best.accuracy)} at {mega(c.best.macs)} M MACs"
        axes.set_title(f"{note}\n{c.best.method}, trial {c.best.trial}", fontsize=8.5, color=INK, loc="right")


def _places(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    return [p.macs / 1e6 for p in points], [100 * p.accuracy for p in points]
