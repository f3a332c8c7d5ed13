"""Figures of what methods cost, as multiples of one of them; one color a method."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from mmpeft.study.efficiency import COSTS, Measurement, ratios
from mmpeft.study.figures import OF_LABEL, Picture, new_panels


def plot_costs(measurement: Measurement | None) -> Picture:
    """Each cost against the number of trained parameters, a panel each; lines from the least to the largest ratio."""
    figure, panels = new_panels(len(COSTS), 3.8)
    rows = [row for row in measurement.rows if row.method.trains] if measurement else []
    for (cost, words), panel in zip(COSTS.items(), panels, strict=True):
        for label in dict.fromkeys(row.method.label for row in rows):
            mine = [row for row in rows if row.method.label == label]
            points = [(row.trainable_params, ratios(measurement, row, cost)) for row in mine] if measurement else []
            _points(panel, [(count, values) for count, values in points if values], OF_LABEL[label])
        panel.axhline(1, color="0.5", linestyle="--", linewidth=1.2, zorder=0)
        panel.set_xscale("log")
        panel.set_title(words)
        panel.set_xlabel("trained parameters (number, log scale)")
        panel.set_ylabel("multiple of LoRA's")
        panel.margins(x=0.1)
    labels = dict.fromkeys(row.method.label for row in rows)
    marks = [Line2D([], [], color=OF_LABEL[label], marker="o", label=label) for label in labels]
    if marks:
        figure.legend(handles=marks, loc="outside lower center", ncols=6, frameon=False)
    return figure


def _points(panel: Axes, points: Sequence[tuple[int, Sequence[float]]], color: str) -> None:
    """The medians of one method, joined in the order of their sizes, with their spread."""
    ordered = sorted(points)
    for count, values in ordered:
        panel.plot([count, count], [min(values), max(values)], color=color, linewidth=1.6)
    panel.plot([count for count, _ in ordered], [float(np.median(v)) for _, v in ordered], "o-", color=color, linewidth=1.2)
