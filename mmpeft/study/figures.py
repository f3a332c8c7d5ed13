"""Figures from records. One color is one method through the whole book."""

import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mmpeft.methods import METHODS
from mmpeft.study.beyond import profile
from mmpeft.study.beyond import rows as trained_rows
from mmpeft.study.comparison import GROUPS, Results, Variant, estimate, find
from mmpeft.study.paper import parameters
from mmpeft.study.report import rate_curves, row_name
from mmpeft.study.tuning import paper_rates

# Okabe & Ito's palette, told apart under the common color blindnesses; gray stands for what is not trained.
COLORS = {
    "zero-shot": "#767676",
    "connector": "#56B4E9",
    "full": "#000000",
    "lora": "#0072B2",
    "ia3": "#E69F00",
    "adapter": "#009E73",
    "prefix": "#CC79A7",
}
"""The one color of each method, in figures and drawings."""

MARKS = ("o", "s", "^", "D", "v", "P")
"""Marks of lines that would else be told apart by color alone."""

OF_LABEL = {METHODS[name].label: color for name, color in COLORS.items()}
PANEL_INCHES = 4.4
POINTS_PER_INCH = 130


class Picture(Figure):
    """A figure that notebooks show by themselves, once."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=POINTS_PER_INCH, bbox_inches="tight", facecolor="white")
        return buffer.getvalue()


def new_panels(columns: int, height: float, rows: int = 1, *, width: float = 1.0, **options: Any) -> tuple[Picture, list[Axes]]:
    """An empty figure and its panels, row by row.

    Args:
        columns: Panels beside each other.
        height: Of a row, in inches.
        rows: Panels above each other.
        width: Of a panel, as a multiple of PANEL_INCHES.
        options: Of matplotlib's ``subplots``.
    """
    # Text is read at a phone's width too, so it is large beside the panels.
    style = {**sns.axes_style("whitegrid"), **sns.plotting_context("notebook")}
    with sns.plotting_context("notebook"), sns.axes_style(style):
        figure = Picture(figsize=(PANEL_INCHES * width * columns, height * rows), layout="constrained")
        axes = np.atleast_1d(figure.subplots(rows, columns, squeeze=False, **options)).ravel()
    for panel in axes:
        panel.spines[["top", "right"]].set_visible(False)
    return figure, list(axes)


def plot_methods(results: Results) -> Picture:
    """The two averages of every variant with their intervals; filled where the connector is tuned.

    A dashed line marks the base without any training.
    """
    variants = [v for v in reversed(list(results.variants)) if any(estimate(results, v, g) for g in GROUPS)]
    height = 1.4 + 0.36 * max(3, len(variants))
    figure, panels = new_panels(2, height, sharey=True)
    for group, panel in zip(GROUPS, panels, strict=True):
        for place, variant in enumerate(variants):
            _point(panel, results, variant, group, place)
        base_line(panel, results, group)
        panel.set_title(f"{group} tasks")
        panel.set_xlabel("average score (%)")
        panel.grid(visible=False, axis="y")
        panel.margins(x=0.08)
    panels[0].set_yticks(range(len(variants)), [row_name(v) for v in variants])
    panels[0].set_ylim(-0.6, max(2.6, len(variants) - 0.4))
    return figure


def _point(panel: Axes, results: Results, variant: Variant, group: str, place: float) -> None:
    e = estimate(results, variant, group)
    if e is None:
        return
    color = OF_LABEL[variant.label]
    face = color if variant.connector == "tuned" else "white"
    panel.plot([100 * e.low, 100 * e.high], [place, place], color=color, linewidth=2, solid_capstyle="butt")
    panel.plot(100 * e.mean, place, "o", color=color, markerfacecolor=face, markeredgewidth=2, markersize=9)


def base_line(panel: Axes, results: Results, group: str, *, level: bool = False) -> None:
    """Draw the score of the base without training as a dashed line: upright, or level; nothing if it has no run."""
    base = find(results, METHODS["zero-shot"].label)
    e = estimate(results, base, group) if base else None
    if e:
        draw = panel.axhline if level else panel.axvline
        draw(100 * e.mean, color=COLORS["zero-shot"], linestyle="--", linewidth=1.2, zorder=0)


def plot_parameters(results: Results) -> Picture:
    """The two averages against the number of trained parameters, logarithmic; filled: connector tuned."""
    figure, panels = new_panels(2, 4.2)
    trained = [(v, count) for v in results.variants if (count := parameters(results, v))]
    for group, panel in zip(GROUPS, panels, strict=True):
        for variant, count in trained:
            e = estimate(results, variant, group)
            if e is None:
                continue
            color = OF_LABEL[variant.label]
            face = color if variant.connector == "tuned" else "white"
            panel.plot([count, count], [100 * e.low, 100 * e.high], color=color, linewidth=2)
            panel.plot(count, 100 * e.mean, "o", color=color, markerfacecolor=face, markeredgewidth=2, markersize=9)
        base_line(panel, results, group, level=True)
        panel.set_xscale("log")
        panel.margins(x=0.12, y=0.12)
        panel.set_title(f"{group} tasks")
        panel.set_xlabel("trained parameters (number, log scale)")
        panel.set_ylabel("average score (%)")
    _legend(figure, [v.label for v, _ in trained])
    return figure


def _legend(figure: Picture, labels: Sequence[str]) -> None:
    """The methods by color, and what a filled and a hollow point mean."""
    point: dict[str, Any] = {"marker": "o", "linestyle": ""}
    marks = [Line2D([], [], color=OF_LABEL[label], label=label, **point) for label in dict.fromkeys(labels)]
    for face, label in (("0.35", "connector tuned"), ("white", "connector frozen")):
        marks.append(Line2D([], [], color="0.35", markerfacecolor=face, markeredgewidth=2, label=label, **point))
    marks.append(Line2D([], [], color=COLORS["zero-shot"], linestyle="--", label="base, not trained"))
    figure.legend(handles=marks, loc="outside lower center", ncols=4, frameon=False)


def plot_learning_rates(results: Results) -> Picture:
    """The average score against the learning rate, a panel for each swept method; thin lines: single tasks.

    The ring marks the best rate, a diamond the paper's.
    """
    curves = rate_curves(results)
    columns = min(3, max(1, len(curves)))
    rows = max(1, math.ceil(len(curves) / columns))
    figure, panels = new_panels(columns, 3.2, rows, sharey=True)
    for panel in panels[len(curves) :]:
        panel.set_visible(False)
    for (label, curve), panel in zip(curves.items(), panels, strict=False):
        tasks = curve.drop(columns="score")
        panel.plot(tasks.index, 100 * tasks, color="0.75", linewidth=1)
        panel.plot(curve.index, 100 * curve["score"], "o-", color=OF_LABEL[label], linewidth=2.4)
        best = curve["score"].idxmax()
        panel.plot(best, 100 * curve["score"][best], "o", markersize=14, markerfacecolor="none", color=OF_LABEL[label])
        untuned = paper_rates().get(label)
        if untuned is not None and untuned in curve.index:
            panel.plot(untuned, 100 * curve["score"][untuned], "D", markersize=8, color=OF_LABEL[label])
        panel.set_xscale("log")
        panel.set_title(label)
        panel.set_xlabel("learning rate (log scale)")
    for panel in panels[::columns]:
        panel.set_ylabel(f"{results.question.split} score (%)")
    return figure


def plot_profiles(results: Results) -> Picture:
    """The share of runs that went further than each part of the way to full fine-tuning; a panel frozen, a panel tuned.

    A color and a mark is a method, the band its interval at each place by itself.
    """
    figure, panels = new_panels(2, 4.2, sharey=True)
    shown: dict[str, str] = {}
    for connector, panel in zip(("frozen", "tuned"), panels, strict=True):
        for row in trained_rows(results, connector):
            found = profile(results, row)
            if found is None:
                continue
            mark = shown.setdefault(row.label, MARKS[len(shown) % len(MARKS)])
            color, xs = OF_LABEL[row.label], 100 * found.thresholds
            panel.fill_between(xs, 100 * found.low, 100 * found.high, color=color, alpha=0.12, linewidth=0)
            falls = np.flatnonzero((found.share > 0) & (found.share < 1))[MARKS.index(mark) % 3 :: 3]  # level, lines run together
            panel.plot(xs, 100 * found.share, color=color, linewidth=2)
            panel.plot(xs[falls], 100 * found.share[falls], mark, color=color, markersize=7, markerfacecolor="white")
        for end in (0, 100):
            panel.axvline(end, color=COLORS["zero-shot"], linestyle="--", linewidth=1.2, zorder=0)
        panel.set_title(f"connector {connector}")
        panel.set_xlabel("part of the way to full fine-tuning (%)")
    panels[0].set_ylabel("runs that went further (%)")
    look: dict[str, Any] = {"markersize": 7, "markerfacecolor": "white", "linewidth": 2}
    handles = [Line2D([], [], color=OF_LABEL[label], marker=mark, label=label, **look) for label, mark in shown.items()]
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    return figure


def plot_coverage(table: pd.DataFrame) -> Picture:
    """How often each kind of interval holds the truth, and how wide it is, against the number of seeds.

    Args:
        table: From :func:`mmpeft.simulate.coverage`.
    """
    figure, panels = new_panels(2, 3.8)
    looks = (("--", "s"), (":", "^"), ("-", "o"))  # no colors: a color is a method
    for (name, rows), (dash, mark) in zip(table.groupby("interval", sort=False), looks, strict=True):
        look: dict[str, Any] = {"color": "0.15", "linestyle": dash, "marker": mark, "linewidth": 2.2}
        panels[0].errorbar(rows["num_seeds"], 100 * rows["coverage"], 100 * rows["margin"], label=name, **look)
        panels[1].plot(rows["num_seeds"], 100 * rows["width"], **look)
    panels[0].axhline(95, color="0.35", linewidth=1.2, zorder=1)
    panels[0].set_ylabel("intervals that hold the truth (%)")
    panels[1].set_ylabel("mean width (points)")
    for panel in panels:
        panel.set_ylim(bottom=0)
        panel.set_xscale("log")
        panel.set_xticks(table["num_seeds"].unique(), table["num_seeds"].unique(), minor=False)
        panel.xaxis.minorticks_off()
        panel.set_xlabel("seeds (number, log scale)")
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


def plot_detections(table: pd.DataFrame) -> Picture:
    """How often a true difference is found, by its size; the ring: what such studies say they could find.

    Args:
        table: From :func:`mmpeft.simulate.detections`.
    """
    figure, (panel,) = new_panels(1, 3.8)
    panel.plot(100 * table["difference"], 100 * table["found"], "o-", color="0.15", linewidth=2.2)
    panel.plot(100 * table["detectable"].mean(), 80, "o", markersize=14, markerfacecolor="none", color="0.15")
    for share in (5, 80):
        panel.axhline(share, color="0.35", linestyle="--", linewidth=1.2, zorder=1)
    panel.set_ylim(0, 103)
    panel.set_xlabel("true difference (points)")
    panel.set_ylabel("studies that find it (%)")
    return figure
