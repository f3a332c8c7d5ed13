"""Beyond the mean: parts of the way to full fine-tuning, the typical run, who beats whom, and where an interval is from.

Scores of unlike metrics are put on one scale first: 0 is the base without training, 1 full fine-tuning with the connector.
Only unseen tasks: on seen ones there is hardly a way to go.
"""

import math
from functools import cache
from itertools import combinations
from typing import Any

import numpy as np

from mmpeft.decide import verdicts
from mmpeft.methods import METHODS
from mmpeft.stats import Estimate, Floats, hierarchical_bootstrap
from mmpeft.study import comparison
from mmpeft.study.comparison import Results, Variant, estimate, find, gain
from mmpeft.study.differences import Cells, below, framed
from mmpeft.study.report import DASH, Prose, Table, cell, listed, percent, row_name
from mmpeft.summaries import (
    Interval,
    Normalized,
    Profile,
    interquartile_interval,
    normalize,
    normalized_score,
    performance_profile,
    probability_of_improvement,
    run_scores,
    variance_components,
)
from mmpeft.tasks import TASKS

GROUP = "unseen"
LEAST_GAIN = 0.02
"""A task counts only if full fine-tuning gains more: a normalized score is known as badly as one over the gain, and two
points are also the margin below which the claims ledger calls a difference none."""

FEW_PAIRS = 3
"""So many pairs of rows that change places or fewer are named."""

THRESHOLDS = np.linspace(-0.5, 1.75, 91)


def ends(results: Results) -> tuple[Variant, Variant] | None:
    """The base and full fine-tuning, with the connector if that is in the plan; None if either has no run."""
    base = find(results, METHODS["zero-shot"].label)
    full = find(results, METHODS["full"].label, "tuned") or find(results, METHODS["full"].label, "frozen")
    return (base, full) if base and full and base in results.scores and full in results.scores else None


def rows(results: Results, connector: str | None = None) -> list[Variant]:
    """The trained rows that have runs on every unseen task, full fine-tuning among them.

    Args:
        results: From comparison.read.
        connector: Only those with the connector ``frozen`` or ``tuned``.
    """
    base, tasks = find(results, METHODS["zero-shot"].label), results.tasks(GROUP)
    known = [row for row in results.scores if row != base and tasks and all(task in results.scores[row] for task in tasks)]
    return [row for row in known if connector in (None, row.connector)]


# --------------------------------------------------------------------------------------------------
# Parts of the way to full fine-tuning
# --------------------------------------------------------------------------------------------------


@cache
def way(results: Results, row: Variant) -> Normalized | None:
    """The row's normalized scores on the unseen tasks; None without both ends or without a seed in common with full."""
    both = ends(results)
    if both is None:
        return None
    three = [{t: s for t, s in results.scores[each].items() if t in results.tasks(GROUP)} for each in (row, *both)]
    if any(set(scores) != set(three[0]) for scores in three):
        return None
    if any(not set(three[0][task].seeds.tolist()) & set(three[2][task].seeds.tolist()) for task in three[0]):
        return None
    return normalize(*three, least_gain=LEAST_GAIN)


@cache
def normalized(results: Results, row: Variant) -> Estimate | None:
    """The row's average part of the way from the base to full fine-tuning, with its interval."""
    found = way(results, row)
    if found is None or not found.scores:
        return None
    return hierarchical_bootstrap(found.scores, np.random.default_rng(0), num_draws=comparison.NUM_DRAWS)


def normalized_table(results: Results) -> Table:
    """The unseen average as it is and normalized, a row a method; names the tasks that are left out."""
    numbers: Cells = {}
    shown: Cells = {}
    for row in rows(results):
        raw, part = estimate(results, row, GROUP), normalized(results, row)
        numbers[row_name(row)] = {"raw": raw.mean if raw else None, "normalized": part.mean if part else None}
        way_there = cell(part, beyond=True)
        shown[row_name(row)] = {f"{GROUP} average (%)": cell(raw), "part of the way to full fine-tuning (%)": way_there}
    table = framed(numbers, shown, "The plan has no row with runs on every unseen task.", results)
    found = next((each for row in rows(results) if (each := way(results, row))), None)
    if found is None:
        return table
    columns = [TASKS[task].column for task in found.left_out]
    text = "No task is left out of the second column: everywhere full fine-tuning gains more than"
    if columns:
        text = f"Left out of the second column: {listed(columns)}, where full fine-tuning gains no more than"
    return below(table, f"{text} {percent(LEAST_GAIN, 0)} points over the base.")


def normalized_order(results: Results) -> Prose:
    """Whether the order of the rows is another with normalized scores, and which pairs change places."""
    known = {
        row: (raw.mean, part.mean)
        for row in rows(results)
        if (raw := estimate(results, row, GROUP)) and (part := normalized(results, row))
    }
    if len(known) < 2:
        return Prose("Whether normalized scores order the rows differently is not known yet: too few runs have a record.")
    turned = [(a, b) for a, b in combinations(known, 2) if np.prod(np.subtract(known[a], known[b])) < 0]
    best = [max(known, key=lambda row: known[row][which]) for which in (0, 1)]
    text = f"With normalized scores the order of the {len(known)} rows is the same as with raw averages."
    if turned:
        sure = verdicts({pair: gain(results, *pair, GROUP) for pair in turned}, 0.0)
        clear = sum(side in ("higher", "lower") for side in sure.values())
        text = "With normalized scores the order is another than with raw averages: "
        text += f"of {math.comb(len(known), 2)} pairs of rows {len(turned)} change{'s' if len(turned) == 1 else ''} places"
        text += f" ({'; '.join(f'{a} and {b}' for a, b in turned)})" if len(turned) <= FEW_PAIRS else ""
        text += f", of which {clear} {'was' if clear == 1 else 'were'} told apart by their raw averages."
    if best[0] == best[1]:
        return Prose(f"{text} The highest row is {best[0]} either way.")
    return Prose(f"{text} The highest row is {best[0]} by raw and {best[1]} by normalized averages.")


# --------------------------------------------------------------------------------------------------
# Runs instead of means
# --------------------------------------------------------------------------------------------------


def runs(results: Results, row: Variant) -> dict[str, Floats]:
    """For each unseen task with a way to go (S,) the part of it that each seed of a row went; {} without both ends."""
    both = ends(results)
    if both is None:
        return {}
    found = {}
    for task in results.tasks(GROUP):
        three = [results.scores[each].get(task) for each in (row, *both)]
        if any(scores is None for scores in three):
            return {}
        mine, base, full = (scores.scores for scores in three if scores is not None)
        if full.mean() - base.mean() > LEAST_GAIN:
            found[task] = normalized_score(mine.mean(axis=1), base.mean(), full.mean())
    return found


@cache
def typical(results: Results, row: Variant) -> Interval | None:
    """The interquartile mean over tasks and seeds of the part of the way that a row's runs went."""
    found = runs(results, row)
    return interquartile_interval(found, np.random.default_rng(0)) if found else None


def typical_table(results: Results) -> Table:
    """Mean and interquartile mean over tasks and seeds, normalized, a row a method."""
    numbers: Cells = {}
    shown: Cells = {}
    for row in rows(results):
        mean, middle = normalized(results, row), typical(results, row)
        numbers[row_name(row)] = {"mean": mean.mean if mean else None, "interquartile mean": middle.value if middle else None}
        shown[row_name(row)] = {"mean (%)": cell(mean), "interquartile mean (%)": _cell(middle)}
    return framed(numbers, shown, "The plan has no row with runs on every unseen task.", results)


def _cell(found: Interval | None) -> str:
    return f"{percent(found.value)}<small>{percent(found.low)} to {percent(found.high)}</small>" if found else DASH


@cache
def better(results: Results, a: Variant, b: Variant) -> Interval | None:
    """How often a run of ``a`` beats one of ``b`` on the same unseen task; None if either has no run on one of them."""
    first, second = ({t: results.scores[row][t] for t in results.tasks(GROUP) if t in results.scores[row]} for row in (a, b))
    if not first or set(first) != set(second):
        return None
    return probability_of_improvement(run_scores(first), run_scores(second), np.random.default_rng(0))


def better_table(results: Results, connector: str = "tuned") -> Table:
    """How often a run of the row beats one of the column, in percent."""
    found = rows(results, connector)
    names = {row: row_name(row) for row in found}
    numbers: Cells = {names[a]: {names[b]: _value(better(results, a, b)) if a != b else None for b in found} for a in found}
    shown: Cells = {names[a]: {names[b]: _cell(better(results, a, b)) if a != b else "" for b in found} for a in found}
    return framed(numbers, shown, "The plan has no such rows.", results)


def _value(found: Interval | None) -> float | None:
    return found.value if found else None


@cache
def profile(results: Results, row: Variant) -> Profile | None:
    """The share of a row's runs that went further than each of THRESHOLDS; None without both ends."""
    found = runs(results, row)
    return performance_profile(found, THRESHOLDS, np.random.default_rng(0)) if found else None


# --------------------------------------------------------------------------------------------------
# Where an interval is from
# --------------------------------------------------------------------------------------------------


SOURCES = ("seed", "item", "left")


def _squares(matrix: Floats) -> dict[str, float]:
    """The squared standard error of the mean of (S, I) scores from each of SOURCES; below zero if nothing was found."""
    seeds, items = matrix.shape
    parts = variance_components(matrix)
    return {name: parts[name].variance / times for name, times in zip(SOURCES, (seeds, items, seeds * items), strict=True)}


def seeds_and_items(results: Results, group: str = GROUP) -> Prose:
    """How much of a row's interval is from seeds and how much from items, on the average of the rows of a group.

    Components are averaged over rows and tasks before one below zero is taken for zero: what chance pushes below zero in
    one place it pushes up in another.
    """
    found: list[dict[str, float]] = []
    for row in rows(results):
        scores = results.scores[row]
        tasks = [scores[task].scores for task in results.tasks(group) if task in scores and len(scores[task].scores) > 1]
        if tasks:
            found.append({name: sum(_squares(matrix)[name] for matrix in tasks) / len(tasks) ** 2 for name in SOURCES})
    if not found:
        return Prose("How much of the intervals is from seeds is not known yet: no row has two seeds.")
    squares = {name: max(0.0, float(np.mean([each[name] for each in found]))) for name in SOURCES}
    total: Any = sum(squares.values()) or math.nan
    shares = {name: value / total for name, value in squares.items()}
    points = {name: percent(math.sqrt(value), 2) for name, value in squares.items()}
    text = f"Of the squared standard error of an average on the {group} tasks, {percent(shares['seed'], 0)} % is from seeds, "
    text += f"{percent(shares['item'], 0)} % from which items were asked, and {percent(shares['left'], 0)} % from chance "
    text += f"answers of single seeds to single items (mean of {len(found)} rows; as standard errors "
    text += f"{points['seed']}, {points['item']} and {points['left']} points)."
    return Prose(text)
