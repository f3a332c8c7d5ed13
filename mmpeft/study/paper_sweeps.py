"""The paper's tables about one setting at a time beside ours: location, data, seeds, learning rate.

Its Tables 2, 3, 6 and 14, LLaVA-1.5-7B, as far as they can be read; one run a cell but in Tables 6 and 14, which have
three seeds. They tune the connector. Only signs and orders are compared: what the paper's numbers say is a claim, which our
runs bear out or not by the rule of the claims ledger (verdicts.weighed), with its margins.
"""

import math
from typing import Any

import numpy as np
import pandas as pd

from mmpeft.methods import METHODS
from mmpeft.stats import Estimate
from mmpeft.study.comparison import RATIO_MARGIN, Results, margin
from mmpeft.study.curve_report import Arms, groups_of
from mmpeft.study.curves import Point, level, step, weighted
from mmpeft.study.differences import Cells, framed
from mmpeft.study.locations import PLACES, families
from mmpeft.study.paper import METHOD_OF, MODEL, NO_SIGN_BELOW, Check, Verdict, published
from mmpeft.study.report import DASH, Prose, Table, listed, percent, with_interval
from mmpeft.study.spread import middle, ratio, settings
from mmpeft.study.verdicts import ERROR_RATE, ruled, weighed
from mmpeft.study.verdicts import Verdict as Judgment
from mmpeft.tasks import TASKS


def table(number: int) -> pd.DataFrame:
    """The legible cells of one of its tables for LLaVA-1.5-7B: label, location, size, examples, dataset, value, sd (0–1)."""
    cells = published()
    rows = cells[(cells["table"] == number) & (cells["model"] == MODEL)]
    return pd.DataFrame(
        {
            "label": [METHODS[METHOD_OF[name]].label for name in rows["method"]],
            "location": rows["location"],
            "size": rows["method_size"],
            "examples": rows["train_examples"],
            "dataset": rows["dataset"],
            "value": rows["value"] / 100,
            "sd": rows["sd"] / 100,
        }
    ).reset_index(drop=True)


def _columns(results: Results, group: str | None = None) -> list[str]:
    return [TASKS[task].column for task in results.tasks(group)]


def _our_averages(results: Results, values: pd.Series) -> dict[str, float]:
    """The paper's averages over the columns of a group that we have too; nan if one of them cannot be read."""
    means = {group: values.reindex(_columns(results, group)).mean(skipna=False) for group in groups_of(results)}
    return {f"{group}, these columns": float(mean) for group, mean in means.items()}


AGREEMENT: dict[str, Verdict] = {"supported": "agrees", "contradicted": "disagrees", "undecided": "undecided"}


def _of_sign(theirs: float, ours: Estimate) -> Verdict:
    """Whether a difference of ours bears out the sign of the paper's; undecided where that has none."""
    return "undecided" if abs(theirs) < NO_SIGN_BELOW else _borne_out(theirs > 0, ours.low, ours.high, margin())


def _borne_out(above: bool, low: float, high: float, least: float) -> Verdict:
    """What an interval of ours makes of the claim that a value lies above zero, or below it."""
    return AGREEMENT[weighed("above" if above else "below", low, high, least)]


def _wide(rows: Cells, digits: int = 1) -> Table:
    heads = {c: tuple(name.replace(" columns", "<br>columns") for name in c) if isinstance(c, tuple) else c for c in _keys(rows)}
    shown = {key: {heads[c]: DASH if pd.isna(v) else percent(v, digits) for c, v in row.items()} for key, row in rows.items()}
    return framed(rows, shown, "None of its rows can be read.")


def _keys(rows: Cells) -> list[Any]:
    return list(dict.fromkeys(column for row in rows.values() for column in row))


# --------------------------------------------------------------------------------------------------
# Location: Table 2
# --------------------------------------------------------------------------------------------------


def published_locations(results: Results) -> Table:
    """The paper's Table 2 over the columns that we have, with its own average over all of its seven."""
    theirs = table(2)
    rows: Cells = {}
    for (label, place), cells in theirs.groupby(["label", "location"], sort=False):
        values = cells.set_index("dataset")["value"]
        row = {("average (%)", name): mean for name, mean in _our_averages(results, values).items()}
        row["average (%)", "all of its columns"] = values.mean()
        rows[label, place] = row | {("column (%)", name): values.get(name, math.nan) for name in _columns(results)}
    order = [METHODS[name].label for name in METHODS]
    return _wide({key: rows[key] for key in sorted(rows, key=lambda key: (order.index(key[0]), PLACES.index(key[1])))})


def location_checks(results: Results) -> list[Check]:
    """For each method the best location at one size, on the seen and the unseen columns that we have.

    Ours bears it out if the paper's best is above both others, as a claim of two contrasts is judged. Undecided where the
    paper's lead is under half a point. Shown is the lead of our best one over the paper's, or over our second.
    """
    theirs, found, coverage = table(2), [], 1 - ERROR_RATE / (len(PLACES) - 1)
    for name, by_place in families(results).get("same size", {}).items():
        label = name.split(",")[0]
        points = {place: Point(0.0, (row,)) for place, row in by_place.items()}
        for group in groups_of(results):
            mine = theirs[(theirs["label"] == label) & theirs["dataset"].isin(_columns(results, group))]
            means = mine.groupby("location")["value"].mean().sort_values(ascending=False)
            ours = {place: e.mean for place, point in points.items() if (e := level(results, point, group))}
            if len(means) < len(PLACES) or len(ours) < len(PLACES):
                continue
            there, *others = map(str, means.index)
            leads = [step(results, points[other], points[there], group, coverage) for other in others]
            ahead = round(float(means.iloc[0] - means.iloc[1]), 6)  # to the printed digits
            sides: list[Judgment] = [weighed("above", e.low, e.high, margin()) if e else "undecided" for e in leads]
            verdict = AGREEMENT[ruled("all", sides)] if ahead >= NO_SIGN_BELOW else "undecided"
            here, second, _ = sorted(ours, key=lambda place: -ours[place])
            over = there if here != there else second
            lead = step(results, points[over], points[here], group, coverage)
            told = f"{here}, {with_interval(lead, sign=True)} over {over}" if lead else here
            statement = f"best location of {label}, {group} columns"
            found.append(Check(statement, f"{there}, by {percent(ahead)} points", told, verdict))
    return found


# --------------------------------------------------------------------------------------------------
# Data: Table 3
# --------------------------------------------------------------------------------------------------


def published_data(results: Results) -> Table:
    """The legible rows of the paper's Table 3: averages over our columns and over all of its own but the captions."""
    theirs = table(3)
    rows: Cells = {}
    for label, cells in theirs.groupby("label", sort=False):
        for name, values in _three_sizes(cells).items():
            others = values.drop("Flickr30k", errors="ignore")
            rows[label, name] = _our_averages(results, values) | {"all of its columns but captions": others.mean()}
    return _wide(rows)


def _three_sizes(cells: pd.DataFrame) -> dict[str, pd.Series]:
    """Its low, medium and high sets: the highest has fewer examples for one dataset than for the others."""
    sizes = cells["examples"].astype(int)
    bands = {"1,000 examples": sizes <= 1000, "5,000 examples": sizes.between(1001, 5000), "10,000 examples": sizes > 5000}
    by_dataset = {name: cells[band].set_index("dataset")["value"] for name, band in bands.items()}
    return by_dataset


def data_checks(results: Results, arms: Arms) -> list[Check]:
    """Whether more data help, and whether the first step brings more than the second, under a fixed number of epochs.

    For the second, the difference of the two steps has an interval of its own: that those of the steps overlap would not
    say that they are alike.
    """
    name = next((arm for arm in arms if arm.endswith("epochs")), None)
    theirs, found = table(3), []
    for line in arms[name] if name else ():
        cells = theirs[theirs["label"] == line.label]
        if cells.empty or len(line.points) < 3:
            continue
        small, middle_one, large = line.points[0], line.points[len(line.points) // 2], line.points[-1]
        for group in groups_of(results):
            low, medium, high = (values.reindex(_columns(results, group)).mean() for values in _three_sizes(cells).values())
            whole = step(results, small, large, group)
            first, second = step(results, small, middle_one, group), step(results, middle_one, large, group)
            if whole:
                statement = f"what the largest set brings {line.label} over the smallest, {group} columns"
                told = with_interval(whole, sign=True)
                found.append(Check(statement, f"{percent(high - low, sign=True)} points", told, _of_sign(high - low, whole)))
            more = weighted(results, ((2.0, middle_one), (-1.0, small), (-1.0, large)), group)
            if first and second and more:
                theirs_more = 2 * medium - low - high
                ways = ((medium - low, high - medium), (first.mean, second.mean))
                said = [f"{percent(a, sign=True)}, then {percent(b, sign=True)}" for a, b in ways]
                told = f"{said[1]}: {with_interval(more, sign=True)} more"
                statement = f"{line.label} gains more from the first step than from the second, {group} columns"
                found.append(Check(statement, said[0], told, _of_sign(theirs_more, more)))
    return found


# --------------------------------------------------------------------------------------------------
# Seeds: Table 6
# --------------------------------------------------------------------------------------------------


def published_seeds() -> Table:
    """The paper's Table 6: mean and SD over three seeds, by method and size."""
    return _means_and_sds(6)


def _means_and_sds(number: int) -> Table:
    rows: Cells = {}
    shown: Cells = {}
    for (label, size), cells in table(number).groupby(["label", "size"], sort=False):
        by_dataset = cells.set_index("dataset")
        rows[label, size] = {(d, part): by_dataset.loc[d, part] for d in by_dataset.index for part in ("value", "sd")}
        digits = {"value": 1, "sd": 2}
        heads = {"value": "mean (%)", "sd": "SD (points)"}
        shown[label, size] = {(d, heads[p]): percent(v, digits[p]) for (d, p), v in rows[label, size].items()}
    return framed(rows, shown, "None of its rows can be read.")


def seed_checks(results: Results) -> list[Check]:
    """Whether a method is steadier than another, and whether its largest size is steadier than its smallest.

    The paper's are over three seeds each, of which an interval would hold almost any ratio; they are taken as printed, beyond
    a fifth either way. The same fifth is the margin of ours.
    """
    theirs, found = table(6), []
    own = {one.label: one for one in middle(results)}
    for task in results.tasks():
        cells = theirs[theirs["dataset"] == TASKS[task].column]
        sds = {label: of["sd"].to_numpy() for label, of in cells.groupby("label", sort=False)}
        for label in sds:
            for other in sds:
                pair = [own.get(name) for name in (label, other)]
                if label < other and pair[0] and pair[1] and (ours := ratio(results, pair[0], pair[1], task)):
                    there = float(np.exp(np.log(sds[label]).mean() - np.log(sds[other]).mean()))
                    statement = f"seed SD of {label} over that of {other} on {TASKS[task].column}"
                    found.append(_ratio_check(statement, there, ours.interval))
        for label in sds:
            mine = [one for one in settings(results) if one.label == label]
            if len(mine) > 1 and (ours := ratio(results, mine[-1], mine[0], task)):
                statement = f"seed SD of {label}, largest over smallest size, on {TASKS[task].column}"
                found.append(_ratio_check(statement, float(sds[label][-1] / sds[label][0]), ours.interval))
    return found


def _ratio_check(statement: str, there: float, ours: Any) -> Check:
    low, high = (math.log(end) if end > 0 else -math.inf for end in (ours.low, ours.high))
    signed = abs(math.log(there)) > RATIO_MARGIN
    verdict = _borne_out(there > 1, low, high, RATIO_MARGIN) if signed else "undecided"
    return Check(statement, f"{there:.2f}", f"{ours.value:.2f} ({ours.low:.2f} to {ours.high:.2f})", verdict)


# --------------------------------------------------------------------------------------------------
# Rates: Table 14
# --------------------------------------------------------------------------------------------------


def published_rates() -> Table:
    """The legible rows of the paper's Table 14: mean and SD over three seeds, by method and learning rate."""
    return _means_and_sds(14)


def published_spread() -> Prose:
    """How far the rate moves a method in the paper's Table 14, beside how far its methods lie apart at their best rates."""
    cells, told = table(14), []
    for dataset, of in cells.groupby("dataset", sort=False):
        values = of.groupby("label")["value"]
        ranges, best = (values.max() - values.min())[values.count() > 1], values.max()
        widest = f"{percent(ranges.min())} to {percent(ranges.max())} points"
        apart = percent(best.max() - best.min())
        told.append(f"on {dataset} the rate moves a method by {widest}, while the methods' best lie {apart} points apart")
    return Prose(f"In the legible rows of the paper's own Table 14, {listed(told)}. Its rates were judged on the test split.")
