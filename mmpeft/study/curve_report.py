"""Tables and sentences about scores along a number: sizes of methods, sizes of training sets."""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise, product
from typing import Any

import numpy as np
import pandas as pd

from mmpeft.decide import ERROR_RATE, t_interval, verdicts
from mmpeft.plan import Question
from mmpeft.stats import Estimate
from mmpeft.study.comparison import CONNECTOR_SAID, GROUPS, Results, margin, variants_of
from mmpeft.study.curves import (
    Crossing,
    Line,
    Point,
    crossing,
    length,
    level,
    lines,
    method_parameters,
    slope,
    spec_of,
    step,
    training_examples,
)
from mmpeft.study.curves import arms as arms_of
from mmpeft.study.differences import Cells, below, compared, framed, smallest, with_leads
from mmpeft.study.report import DASH, Prose, Table, cell, listed, percent, to_html, with_interval

Arms = Mapping[str, Sequence[Line]]
"""Lines by the name of what is held the same along them."""

def data_arms(results: Results) -> dict[str, list[Line]]:
    """Score against the number of training examples, once for the same passes over them and once for the same steps."""
    return {name: lines(results, training_examples, rows) for name, rows in arms_of(results).items()}


def name_of(line: Line) -> str:
    """The line's name in tables and figures."""
    return line.label if line.label in CONNECTOR_SAID else f"{line.label}, {line.connector}"


def groups_of(results: Results) -> list[str]:
    """Those of unseen and seen that the plan has tasks of."""
    return [group for group in GROUPS if results.tasks(group)]


# --------------------------------------------------------------------------------------------------
# Sizes of methods
# --------------------------------------------------------------------------------------------------


def sizes_table(results: Results) -> Table:
    """A row for each method and size: its parameters, and the two averages; the base first if it is in the plan."""
    rows: Cells = {}
    shown: Cells = {}
    for variant in sorted(results.variants, key=lambda row: (row.rank, spec_of(results, row).method.size or 0)):
        spec = spec_of(results, variant)
        size = f"{spec.method.size_field} {spec.method.size}" if spec.method.size_field else DASH
        count = method_parameters(results, variant)
        found = {group: level(results, Point(0.0, (variant,)), group) for group in groups_of(results)}
        key = (name_of(Line(variant.label, variant.connector, ())), size)
        rows[key] = {"parameters": count} | {group: e.mean if e else None for group, e in found.items()}
        shown[key] = {"parameters": f"{count:,.0f}" if count else DASH}
        shown[key] |= {f"{group} average (%)": cell(e) for group, e in found.items()}
    return with_leads(framed(rows, shown, "The plan has no rows."), results)


def slopes_table(results: Results, of: Sequence[Line]) -> Table:
    """What a doubling of the number does to each average, in points, by the slope over all points of a line."""
    rows: Cells = {}
    shown: Cells = {}
    for line in (line for line in of if len(line.points) > 2):
        found = {group: slope(results, line, group) for group in groups_of(results)}
        rows[name_of(line)] = {(g, part): getattr(e, part, None) for g, e in found.items() for part in ("mean", "low", "high")}
        shown[name_of(line)] = {"from": f"{line.points[0].x:,.0f}", "to": f"{line.points[-1].x:,.0f}"}
        shown[name_of(line)] |= {f"{group}, points a doubling": e for group, e in found.items()}
    return compared(rows, shown, "The plan has no line of three points.", results)


def trend(results: Results, of: Sequence[Line], group: str, what: str = "parameters") -> Prose:
    """For which methods the average of a group rises or falls along the number, and by how much a doubling.

    The family of slopes is that of the table: all lines, both groups.
    """
    family = {(line.label, g): slope(results, line, g) for line in of for g in groups_of(results)}
    known = {line.label: e for line in of if (e := family.get((line.label, group)))}
    sure = verdicts(family, 0.0)
    if not known:
        return Prose(f"What more {what} do on the {group} tasks is not known yet: no line has three points with records.")
    sides = {
        "rises for": _with_numbers({label: e for label, e in known.items() if sure[label, group] == "higher"}),
        "falls for": _with_numbers({label: e for label, e in known.items() if sure[label, group] == "lower"}),
        "has a slope not told apart from zero for": [n for n in known if sure[n, group] not in ("higher", "lower")],
    }
    parts = [f"{words} {listed(found)}" for words, found in sides.items() if found]
    return Prose(f"On the {group} tasks, with each doubling of the {what}, the average {listed(parts)}.")


def _with_numbers(found: Mapping[str, Estimate]) -> list[str]:
    return [f"{label} by {with_interval(e, sign=True)}" for label, e in found.items()]


def smaller_is_enough(results: Results, of: Sequence[Line], group: str) -> Prose:
    """For each method the smallest size whose average is, with its whole interval, at most the margin below the largest's.

    The margin is that of the claims ledger. The intervals are of 1 - 0.05 / (number of sizes compared with the largest).
    """
    found = {}
    for line in (line for line in of if len(line.points) > 1):
        *smaller, largest = line.points
        gains = [(point, step(results, point, largest, group)) for point in smaller]
        if any(e is None for _, e in gains):
            continue
        sure = 1 - ERROR_RATE / len(gains)
        enough = next((point for point, e in gains if e and t_interval(e, sure)[1] < margin()), largest)
        found[line.label] = f"{line.label} {enough.x:,.0f} of {largest.x:,.0f}"
    if not found:
        return Prose(f"Which size is enough on the {group} tasks is not known yet.")
    text = f"The smallest number of parameters that is surely no more than {percent(margin(), 0)} points below the largest"
    return Prose(f"{text}, on the {group} tasks: {listed(found.values())}.")


# --------------------------------------------------------------------------------------------------
# Sizes of training sets
# --------------------------------------------------------------------------------------------------


def trainings_table(question: Question) -> Table:
    """The training sets of a plan: sizes, how long each is trained on, how many draws of it, how many runs."""
    kept: dict[tuple[int, str, str], list[Any]] = {}
    for planned in variants_of(question.planned()).values():
        train = planned[0].spec.train
        both = length(train)
        if both and train.num_examples:
            key = (train.num_examples, f"{both[0]:g}", f"{both[1]:,}")
            kept.setdefault(key, []).extend((run.spec.train.subset_seed, run.run_id) for run in planned)
    frame = pd.DataFrame(sorted(kept), columns=["training examples", "epochs", "steps"])
    frame["draws"] = [len({draw for draw, _ in kept[key]}) for key in sorted(kept)]
    frame["runs"] = [len(kept[key]) for key in sorted(kept)]
    written = frame.assign(**{"training examples": [f"{number:,}" for number in frame["training examples"]]})
    return Table(frame, to_html(written, index=False))


def points_table(results: Results, arms: Arms, head: str) -> Table:
    """Averages at each point of each line: a row for a method and a number, a column for a group and an arm."""
    rows: Cells = {}
    shown: Cells = {}
    leads: list[Estimate | None] = []
    points = {(name_of(line), point.x, arm): point for arm, of in arms.items() for line in of for point in line.points}
    for name in dict.fromkeys(name for name, _, _ in points):
        for x in sorted({place for line, place, _ in points if line == name}):
            key = (name, f"{x:,.0f} {head}")
            rows[key], shown[key] = {}, {}
            for group in groups_of(results):
                for arm in arms:
                    point = points.get((name, x, arm))
                    e = level(results, point, group) if point else None
                    rows[key][group, arm] = e.mean if e else None
                    shown[key][f"{group} average (%)", arm] = cell(e)
    for arm, x, group in product(arms, sorted({x for _, x, _ in points}), groups_of(results)):
        here = [point for (_, place, of), point in points.items() if (place, of) == (x, arm) and level(results, point, group)]
        best = max(here, key=lambda point: getattr(level(results, point, group), "mean", 0.0), default=None)
        leads += [step(results, point, best, group) for point in here if best and point != best]
    told = [f"At each size the best method over each other one. {text}" for text in smallest(leads)]
    return below(framed(rows, shown, "The plan has no such line.", results), *told)


def steps_table(results: Results, arms: Arms) -> Table:
    """What each step to the next larger number brings, in points: a row for a method and an arm."""
    rows: Cells = {}
    shown: Cells = {}
    for arm, of in arms.items():
        for line in (line for line in of if len(line.points) > 1):
            key = (name_of(line), arm)
            rows[key], shown[key] = {}, {}
            for group in groups_of(results):
                for start, end in pairwise(line.points):
                    e = step(results, start, end, group)
                    way = f"{start.x:,.0f} to {end.x:,.0f}"
                    rows[key] |= {(group, way): e.mean if e else None}
                    shown[key][f"{group} average, points", way] = e
    order = _methods_first(rows)
    rows, shown = ({key: content[key] for key in order} for content in (rows, shown))
    return compared(rows, shown, "The plan has no line of two points.", results)


def _methods_first(rows: Mapping[tuple[str, str], Any]) -> list[tuple[str, str]]:
    names = list(dict.fromkeys(name for name, _ in rows))
    return sorted(rows, key=lambda key: names.index(key[0]))


def confound(results: Results, arms: Arms, group: str) -> Prose:
    """How much of what the larger set brings under a fixed number of epochs is left under a fixed number of steps."""
    names = list(arms)
    if len(names) != 2:
        return Prose("The plan does not hold both arms.")
    found = []
    for line in arms[names[0]]:
        twin = next((other for other in arms[names[1]] if name_of(other) == name_of(line)), None)
        gains = [step(results, of.points[0], of.points[-1], group) for of in (line, twin) if of and len(of.points) > 1]
        if len(gains) == 2 and gains[0] and gains[1]:
            found.append((line, gains[0], gains[1]))
    if not found:
        return Prose(f"What data alone do on the {group} tasks is not known yet.")
    smallest, largest = found[0][0].points[0].x, found[0][0].points[-1].x
    told = [f"{line.label} {with_interval(a, sign=True)} and {with_interval(b, sign=True)}" for line, a, b in found]
    text = f"On the {group} tasks, from {smallest:,.0f} to {largest:,.0f} examples the average changes, "
    text += f"at {names[0]} and at {names[1]}: {'; '.join(told)}."
    totals = [np.mean([e.mean for e in side]) for side in ([a for _, a, _ in found], [b for _, _, b in found])]
    means = [percent(float(total), sign=True) for total in totals]
    return Prose(f"{text} Averaged over the methods: {means[0]} points at {names[0]}, {means[1]} at {names[1]}.")


# --------------------------------------------------------------------------------------------------
# Crossings
# --------------------------------------------------------------------------------------------------


def crossings_table(results: Results, arms: Arms) -> Table:
    """Where two methods change places between the ends of their lines, with intervals: only the pairs that do."""
    rows: Cells = {}
    shown: Cells = {}
    for arm, group, a, b, found in _crossings(results, arms):
        if not math.isnan(found.x):
            key = (f"{found.first} before, {b if found.first == a else a} behind", group, arm)
            rows[key] = {"x": found.x, "low": found.low, "high": found.high}
            shown[key] = {"crosses at": f"{found.x:,.0f}", "interval": _interval(results, arms, found)}
    nothing = "No two methods change places between the smallest and the largest number, as far as there are runs."
    return framed(rows, shown, nothing, results)


def crossings(results: Results, arms: Arms) -> Prose:
    """How many pairs change places from end to end, and for how many it is known where."""
    found = [c for *_, c in _crossings(results, arms)]
    if not found:
        return Prose("Whether the order of the methods changes is not known yet: no two lines have two points in common.")
    crossed = [c for c in found if not math.isnan(c.x)]
    placed = [c for c in crossed if c.low > 0 and not math.isinf(c.high)]
    pairs = f"Of {len(found)} pairs of lines (pairs of methods, arms and groups of tasks)"
    if not crossed:
        return Prose(f"{pairs} none stands in another order at the largest size than at the smallest.")
    stand = "stands" if len(crossed) == 1 else "stand"
    text = f"{pairs} {len(crossed)} {stand} in another order at the largest size than at the smallest."
    return Prose(f"{text} For {len(placed)} of these the whole interval of the place lies between the two.")


def _crossings(results: Results, arms: Arms) -> list[tuple[str, str, str, str, Crossing]]:
    return [
        (arm, group, a.label, b.label, found)
        for arm, of in arms.items()
        for group in groups_of(results)
        for a, b in combinations([line for line in of if len(line.points) > 1], 2)
        if (found := crossing(results, a, b, group))
    ]


def _interval(results: Results, arms: Arms, found: Crossing) -> str:
    """The interval in words: an end beyond the points is said, not drawn."""
    ends = [point.x for of in arms.values() for line in of for point in line.points]
    low = f"{found.low:,.0f}" if found.low > 0 else f"below {min(ends):,.0f}"
    high = f"{found.high:,.0f}" if not math.isinf(found.high) else f"above {max(ends):,.0f}"
    return f"{low} to {high}"
