"""Figures of what runs said on the way: lines over epochs, one color a method, and what is learned against what is lost."""

from collections.abc import Sequence

import numpy as np
from matplotlib.lines import Line2D

from mmpeft.stats import Estimate
from mmpeft.study.comparison import Variant
from mmpeft.study.figures import COLORS, OF_LABEL, Picture, new_panels
from mmpeft.study.track_report import NAMES
from mmpeft.study.tracks import Tracks, estimate

PANELS = {
    "chair_s": ("captions that invent a thing", "share of captions (%)", 100.0),
    "chair_i": ("invented things", "share of mentions (%)", 100.0),
    "recall": ("things that are named", "share of the things (%)", 100.0),
    "num_words": ("length", "words a caption", 1.0),
}
"""Of a measure of captions: the panel's title, the axis, and the factor to its unit."""


def plot_epochs(tracks: Tracks, whats: Sequence[str], measures: Sequence[str] = ("score",)) -> Picture:
    """The mean over epochs, a panel for each group (or measure): one line a method, its interval as a band.

    The dashed line is the base without any training.

    Args:
        tracks: From tracks.read.
        whats: Groups or tasks, see tracks.pairs.
        measures: Of tracks.MEASURES; a single one serves all groups.
    """
    wanted = [(what, measure) for what in whats for measure in measures]
    columns = min(2, len(wanted))
    figure, axes = new_panels(columns, 3.4, -(-len(wanted) // columns))
    for panel in axes[len(wanted) :]:
        panel.set_visible(False)
    for (what, measure), panel in zip(wanted, axes, strict=False):
        title, axis, factor = PANELS.get(measure, (NAMES.get(what, what), f"{measure} (%)", 100.0))
        for row in tracks.trained:
            course = _course(tracks, row, what, measure)
            if not course:
                continue
            epochs, found = list(course), list(course.values())
            color = OF_LABEL[row.label]
            panel.fill_between(epochs, [factor * e.low for e in found], [factor * e.high for e in found], color=color, alpha=0.15)
            panel.plot(epochs, [factor * e.mean for e in found], "o-", color=color, linewidth=2, markersize=4)
        base = estimate(tracks, tracks.base, what, 0, measure) if tracks.base else None
        if base:
            panel.axhline(factor * base.mean, color=COLORS["zero-shot"], linestyle="--", linewidth=1.2, zorder=0)
        panel.set_title(title)
        panel.set_xlabel("epochs of training")
        panel.set_ylabel(axis)
        panel.margins(x=0.03)
    _legend(figure, tracks)
    return figure


def _course(tracks: Tracks, row: Variant, what: str, measure: str) -> dict[int, Estimate]:
    found = {epoch: estimate(tracks, row, what, epoch, measure) for epoch in tracks.epochs}
    return {epoch: e for epoch, e in found.items() if e}


def plot_learned_against_kept(tracks: Tracks, whats: Sequence[str]) -> Picture:
    """Each method's way through training: what it knows of its source from left to right, what it knows of others upward.

    One line a method, from the hollow point before training to the large one at the end. The dashed lines are the base.

    Args:
        tracks: From tracks.read.
        whats: Groups or tasks, a panel each.
    """
    columns = min(2, len(whats))
    figure, axes = new_panels(columns, 3.8, -(-len(whats) // columns))
    for panel in axes[len(whats) :]:
        panel.set_visible(False)
    for what, panel in zip(whats, axes, strict=False):
        for row in tracks.trained:
            across, upward = (_course(tracks, row, name, "score") for name in ("source", what))
            epochs = [epoch for epoch in across if epoch in upward]
            if not epochs:
                continue
            x, y = (np.array([100 * course[epoch].mean for epoch in epochs]) for course in (across, upward))
            color = OF_LABEL[row.label]
            panel.plot(x, y, "o-", color=color, linewidth=1.6, markersize=3)
            panel.plot(x[0], y[0], "o", color=color, markerfacecolor="white", markeredgewidth=2, markersize=8)
            panel.plot(x[-1], y[-1], "o", color=color, markersize=9)
        for draw, name in ((panel.axvline, "source"), (panel.axhline, what)):
            base = estimate(tracks, tracks.base, name, 0) if tracks.base else None
            if base:
                draw(100 * base.mean, color=COLORS["zero-shot"], linestyle="--", linewidth=1.2, zorder=0)
        panel.set_title(NAMES.get(what, what))
        panel.set_xlabel(f"score on {NAMES['source']} (%)")
        panel.set_ylabel(f"score on {NAMES.get(what, what)} (%)")
        panel.margins(0.08)
    _legend(figure, tracks)
    return figure


def _legend(figure: Picture, tracks: Tracks) -> None:
    marks = [Line2D([], [], color=OF_LABEL[row.label], marker="o", label=row.label) for row in tracks.trained]
    marks.append(Line2D([], [], color=COLORS["zero-shot"], linestyle="--", label="base, not trained"))
    figure.legend(handles=marks, loc="outside lower center", ncols=5, frameon=False)
