"""Figures of sweeps: scores along sizes, data, places, rates and seeds. One color is one method, as in figures.py."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from mmpeft.records import Store
from mmpeft.stats import Estimate
from mmpeft.study.comparison import Results, find
from mmpeft.study.curve_report import Arms, groups_of
from mmpeft.study.curves import Line, Point, level
from mmpeft.study.factors import BASE, CONNECTOR, effect, labels
from mmpeft.study.figures import COLORS, OF_LABEL, Picture, base_line, new_panels
from mmpeft.study.locations import PLACES, families
from mmpeft.study.spread import losses, seeds_of, settings
from mmpeft.study.tuning import budgets, sweep
from mmpeft.tasks import TASKS

DASHES = ("-", "--", ":")
MARKS = ("o", "s", "D")
FEW_PLACES = 6
"""So many numbers or fewer are written at the axis, and lines that share them stand a little apart."""

SHIFT = 1.03


def plot_lines(results: Results, arms: Arms, number: str) -> Picture:
    """The averages along a number on a logarithmic axis, with intervals: a color a method, a line style an arm.

    Args:
        results: From comparison.read.
        arms: Lines by what is held the same along them.
        number: What the axis counts, in words.
    """
    figure, panels = new_panels(max(1, len(groups_of(results))), 4.2)
    places = sorted({point.x for of in arms.values() for line in of for point in line.points})
    for group, panel in zip(groups_of(results), panels, strict=False):
        for place, of in enumerate(arms.values()):
            for number_of, line in enumerate(of):
                shift = SHIFT ** (number_of - len(of) / 2) if len(places) <= FEW_PLACES else 1.0
                _line(panel, line, [level(results, point, group) for point in line.points], place, shift)
        base_line(panel, results, group, level=True)
        panel.set_xscale("log")
        if 0 < len(places) <= FEW_PLACES:
            panel.set_xticks(places, [f"{x:,.0f}" for x in places])
            panel.minorticks_off()
        panel.set_title(f"{group} tasks")
        panel.set_xlabel(f"{number} (number, log scale)")
        panel.set_ylabel("average score (%)")
        panel.margins(x=0.1, y=0.1)
    drawn = [line.label for of in arms.values() for line in of]
    styles = list(arms) if len(arms) > 1 else []
    _named(figure, drawn, styles, base=bool(find(results, BASE)))
    return figure


def _line(
    panel: Axes, line: Line, found: Sequence[Estimate | None], style: int, shift: float = 1.0, *, joined: bool = True
) -> None:
    known = [(point.x * shift, e) for point, e in zip(line.points, found, strict=True) if e]
    color = OF_LABEL[line.label]
    face = color if line.connector == "tuned" else "white"
    for x, e in known:
        panel.plot([x, x], [100 * e.low, 100 * e.high], color=color, linewidth=1.4)
    look: dict[str, Any] = {"marker": MARKS[style], "linestyle": DASHES[style] if joined else ""}
    look |= {"markerfacecolor": face, "markeredgewidth": 1.8}
    panel.plot([x for x, _ in known], [100 * e.mean for _, e in known], color=color, linewidth=2, markersize=8, **look)


def _named(figure: Picture, names: Sequence[str], styles: Sequence[str] = (), *, base: bool = False) -> None:
    """The legend: methods by color, arms by line style and mark, the base by its dashed line."""
    handles = [Line2D([], [], color=OF_LABEL[name], label=name, linewidth=3) for name in dict.fromkeys(names)]
    for style, name in enumerate(styles):
        look: dict[str, Any] = {"linestyle": DASHES[style], "marker": MARKS[style]}
        handles.append(Line2D([], [], color="0.35", label=name, **look))
    if base:
        handles.append(Line2D([], [], color=COLORS["zero-shot"], linestyle="--", linewidth=1.2, label="base, not trained"))
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(handles)), frameon=False)


def plot_locations(results: Results) -> Picture:
    """The averages at each location, a row of panels for each comparison: the same size, the same count.

    Points are not joined: locations have no order, and nothing lies between two of them.
    """
    shown, groups = families(results), groups_of(results)
    rows = max(1, len(shown))
    figure, panels = new_panels(max(1, len(groups)), 3.6, rows, sharey="col")
    cells = [(name, group) for name in (shown or {"same size": {}}) for group in groups]
    names: list[str] = []
    for (family, group), panel in zip(cells, panels, strict=False):
        for shift, by_place in enumerate(shown.get(family, {}).values()):
            found = [level(results, Point(0.0, (by_place[place],)), group) for place in PLACES]
            label = by_place[PLACES[0]].label
            xs = [x + 0.09 * (shift - 1) for x in range(len(PLACES))]
            line = Line(label, by_place[PLACES[0]].connector, tuple(Point(x, ()) for x in xs))
            _line(panel, line, found, 0, joined=False)
            names.append(label)
        base_line(panel, results, group, level=True)
        panel.set_xticks(range(len(PLACES)), PLACES)
        panel.set_xlabel("location")
        panel.set_xlim(-0.4, len(PLACES) - 0.6)
        panel.set_title(f"{group} tasks, {family}")
        panel.set_ylabel("average score (%)")
        panel.grid(visible=False, axis="x")
    _named(figure, names, base=bool(find(results, BASE)))
    return figure


def plot_effects(results: Results) -> Picture:
    """For each method what it brings alone (hollow) and with a tuned connector (filled); the band: the connector alone."""
    groups, rows = groups_of(results), list(reversed(labels(results)))
    figure, panels = new_panels(max(1, len(groups)), 1.6 + 0.42 * max(3, len(rows)), sharey=True)
    for group, panel in zip(groups, panels, strict=False):
        for place, label in enumerate(rows):
            for name, shift in (("method alone", 0.14), ("both", -0.14)):
                e = effect(results, label, name, group)
                if e:
                    face = OF_LABEL[label] if name == "both" else "white"
                    panel.plot([100 * e.low, 100 * e.high], [place + shift] * 2, color=OF_LABEL[label], linewidth=2)
                    look: dict[str, Any] = {"color": OF_LABEL[label], "markerfacecolor": face, "markeredgewidth": 2}
                    panel.plot(100 * e.mean, place + shift, "o", markersize=8, **look)
        alone = effect(results, rows[0], "connector alone", group) if rows else None
        if alone:
            panel.axvspan(100 * alone.low, 100 * alone.high, color=OF_LABEL[CONNECTOR], alpha=0.3, linewidth=0)
            panel.axvline(100 * alone.mean, color=OF_LABEL[CONNECTOR], linewidth=2)
        panel.axvline(0, color=COLORS["zero-shot"], linestyle="--", linewidth=1.2, zorder=0)
        panel.set_title(f"{group} tasks")
        panel.set_xlabel("gain over the base (points)")
        panel.grid(visible=False, axis="y")
    panels[0].set_yticks(range(len(rows)), rows)
    panels[0].set_ylim(-0.6, max(2.6, len(rows) - 0.4))
    marks = [
        Line2D([], [], color="0.35", marker="o", linestyle="", markerfacecolor="white", markeredgewidth=2, label="method alone"),
        Line2D([], [], color="0.35", marker="o", linestyle="", label="method and connector"),
        Line2D([], [], color=OF_LABEL[CONNECTOR], linewidth=3, label="connector alone"),
        Line2D([], [], color=COLORS["zero-shot"], linestyle="--", label="base, not trained"),
    ]
    figure.legend(handles=marks, loc="outside lower center", ncols=2, frameon=False)
    return figure


def plot_trials(results: Results) -> Picture:
    """The expected best score against the number of rates tried, with bands; diamonds: the paper's rate, not tuned here."""
    found, best = sweep(results), budgets(results)
    figure, (panel,) = new_panels(1, 4.4, width=1.6)
    for label, each in best.items():
        ks = list(range(1, len(each) + 1))
        panel.plot(ks, [100 * e.mean for e in each], "o-", color=OF_LABEL[label], linewidth=2.2)
        low, high = [100 * e.low for e in each], [100 * e.high for e in each]
        panel.fill_between(ks, low, high, color=OF_LABEL[label], alpha=0.12, linewidth=0)
        mine = found.paper_of(label) if found else np.zeros(0, dtype=bool)
        if found and mine.any():
            panel.plot(0, 100 * found.mean[mine][0], "D", color=OF_LABEL[label], markersize=8)
    most = max((len(each) for each in best.values()), default=1)
    panel.set_xticks(range(most + 1), ["the paper's\nrate", *(str(k) for k in range(1, most + 1))])
    panel.set_xlabel("rates tried (number)")
    panel.set_ylabel(f"expected best {results.question.split} score (%)")
    panel.grid(visible=False, axis="x")
    _named(figure, list(best))
    return figure


def plot_seeds(results: Results) -> Picture:
    """The score of every seed, a column for each method and size; the bar is the mean."""
    tasks, rows = results.tasks(), settings(results)
    figure, panels = new_panels(len(tasks), 4.0, width=1.3)
    for task, panel in zip(tasks, panels, strict=True):
        for place, one in enumerate(rows):
            scores = seeds_of(results, one, task)
            if scores is None:
                continue
            means = 100 * scores.scores.mean(axis=1)
            spots = place + np.linspace(-0.2, 0.2, len(means))
            panel.plot(spots, means, "o", color=OF_LABEL[one.label], markersize=5, alpha=0.7)
            panel.plot([place - 0.3, place + 0.3], [means.mean()] * 2, color=OF_LABEL[one.label], linewidth=2.5)
        panel.set_xticks(range(len(rows)), [str(one.size or "") for one in rows])
        panel.set_xlabel("size: r, bottleneck or tokens (number)")
        panel.set_ylabel("score (%)")
        panel.set_title(f"{TASKS[task].column} ({'seen' if TASKS[task].seen else 'unseen'})")
        panel.grid(visible=False, axis="x")
    _named(figure, [one.label for one in rows])
    return figure


def plot_losses(results: Results, store: Store) -> Picture:
    """The training loss of each method at its middle size: mean over seeds, and a band of one SD to either side."""
    tasks = results.tasks()
    figure, panels = new_panels(len(tasks), 3.8, width=1.1)
    names: list[str] = []
    for task, panel in zip(tasks, panels, strict=True):
        for label, curve in losses(results, store, task).items():
            panel.plot(curve.index, curve["mean"], color=OF_LABEL[label], linewidth=2)
            panel.fill_between(curve.index, curve["low"], curve["high"], color=OF_LABEL[label], alpha=0.2, linewidth=0)
            names.append(label)
        panel.set_xlabel("optimizer step")
        panel.set_ylabel("training loss (nats a token)")
        panel.set_title(TASKS[task].column)
    _named(figure, names)
    return figure
