"""How much chance decides: what the seed does, what the draw of the training set does, which items were asked.

A row of a comparison that differs from another in the draw of the training subset alone is the same *setting*. Tables of
seeds read the first draw; what is told apart by draws reads the settings that the plan has several draws of.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mmpeft.decide import verdicts
from mmpeft.records import Store
from mmpeft.stats import Estimate, TaskScores
from mmpeft.study.comparison import Results, Variant, detectable
from mmpeft.study.curves import LEVEL, spec_of
from mmpeft.study.differences import Cells, below, framed, holm_note, marked, stars
from mmpeft.study.report import DASH, Prose, Table, listed, percent
from mmpeft.summaries import Interval, agreement, log_sd_ratio, sd_interval, sd_ratio, seed_sd, variance_components
from mmpeft.tasks import TASKS

SMOOTHED_STEPS = 10
"""A loss is averaged over so many steps: each is that of other examples."""


@dataclass(frozen=True)
class Setting:
    """A method at one size.

    Attributes:
        label: The method's printed name.
        connector: ``frozen`` or ``tuned``.
        size: The value of its size field; 0 for a method of one size.
        size_field: That field's name.
        draws: The rows, one a draw of the training subset, in the order of the draws.
    """

    label: str
    connector: str
    size: int
    size_field: str
    draws: tuple[Variant, ...]

    @property
    def size_text(self) -> str:
        """``r 16``, or a dash."""
        return f"{self.size_field} {self.size}" if self.size_field else DASH


@cache
def settings(results: Results) -> tuple[Setting, ...]:
    """The trained settings of a plan, in the order of tables, small sizes first."""
    found: dict[tuple[int, str, str, int, str], list[Variant]] = {}
    for variant in results.variants:
        method = spec_of(results, variant).method
        if method.trains:
            key = (variant.rank, variant.label, variant.connector, method.size or 0, method.size_field or "")
            found.setdefault(key, []).append(variant)
    by_draw = {key: sorted(rows, key=lambda row: spec_of(results, row).train.subset_seed) for key, rows in found.items()}
    return tuple(Setting(*key[1:], draws=tuple(rows)) for key, rows in sorted(by_draw.items()))


def middle(results: Results) -> list[Setting]:
    """The setting of middle size of each method and connector."""
    found = []
    for _, group in groupby(settings(results), key=lambda one: (one.label, one.connector)):
        sizes = list(group)
        found.append(sizes[len(sizes) // 2])
    return found


def seeds_of(results: Results, setting: Setting, task: str) -> TaskScores | None:
    """The scores of a setting's first draw, one row a seed; None with fewer than two seeds."""
    scores = results.scores.get(setting.draws[0], {}).get(task)
    return scores if scores is not None and len(scores.seeds) > 1 else None


def _column(task: str) -> str:
    return TASKS[task].column


def seeds_table(results: Results) -> Table:
    """A row for each setting: on each task its mean score, the SD between seeds with its interval, and the number of seeds."""
    rows: Cells = {}
    shown: Cells = {}
    for one in settings(results):
        key = (f"{one.label}, {one.connector}", one.size_text)
        rows[key], shown[key] = {}, {}
        for task in results.tasks():
            scores = seeds_of(results, one, task)
            means = scores.scores.mean(axis=1) if scores is not None else None
            mean, sd = (means.mean(), sd_interval(means, level=LEVEL)) if means is not None else (None, None)
            rows[key] |= {(_column(task), "mean"): mean, (_column(task), "sd"): sd.value if sd else None}
            shown[key][_column(task), "mean (%)"] = percent(mean) if mean is not None else DASH
            shown[key][_column(task), "SD (points)"] = _spread_cell(sd, percent_of=True)
            shown[key][_column(task), "seeds"] = str(len(scores.seeds)) if scores is not None else DASH
    return framed(rows, shown, "The plan trains nothing.", results)


def _spread_cell(found: Interval | None, *, percent_of: bool = False) -> str:
    if found is None or math.isnan(found.value):
        return DASH
    value, low, high = (percent(part, 2) if percent_of else f"{part:.2f}" for part in found)
    return f"{value}<small>{low} to {high}</small>"


# --------------------------------------------------------------------------------------------------
# One spread against another
# --------------------------------------------------------------------------------------------------


class Ratio(NamedTuple):
    """One spread over another.

    Attributes:
        interval: The ratio with its interval.
        logarithm: What is tested against zero, that is against a ratio of one.
    """

    interval: Interval
    logarithm: Estimate


@cache
def ratio(results: Results, a: Setting, b: Setting, task: str) -> Ratio | None:
    """The seed SD of one setting over another's; None with fewer than two seeds, or without any spread."""
    scores = [seeds_of(results, one, task) for one in (a, b)]
    if any(each is None for each in scores):
        return None
    x, y = (each.scores.mean(axis=1) for each in scores if each is not None)
    found = sd_ratio(x, y, level=LEVEL)
    return None if math.isnan(found.value) else Ratio(found, log_sd_ratio(x, y, level=LEVEL))


def ratios_table(results: Results, label: str) -> Table:
    """The seed SD of a method over that of each other one, at their middle sizes; below one it is the steadier."""
    mine = next((one for one in middle(results) if one.label == label), None)
    pairs = {other.label: (mine, other) for other in middle(results) if mine and other.label != label}
    return _ratios(results, pairs, f"The plan does not compare {label} with another method.")


def sizes_ratio_table(results: Results) -> Table:
    """The seed SD at a method's largest size over that at its smallest; above one, more parameters are less steady."""
    pairs = {f"{small.label}, {large.size_text} over {small.size}": (large, small) for small, large in _ends(results)}
    return _ratios(results, pairs, "The plan has no method at two sizes.")


def _ratios(results: Results, pairs: Mapping[str, tuple[Setting, Setting]], nothing: str) -> Table:
    """A row a pair of settings, a column a task; the ratios of a table are one family."""
    found = {(row, task): ratio(results, *pair, task) for row, pair in pairs.items() for task in results.tasks()}
    family = {place: each.logarithm if each else None for place, each in found.items()}
    starred = stars(family)
    rows: Cells = {row: {} for row in pairs}
    shown: Cells = {row: {} for row in pairs}
    for (row, task), each in found.items():
        rows[row][_column(task)] = each.interval.value if each else None
        shown[row][_column(task)] = marked(_spread_cell(each.interval if each else None), starred[row, task])
    known = [e for e in family.values() if e]
    told = holm_note(known, "one", "ratios")
    needed = [math.exp(detectable(e)) for e in known if 0 < e.standard_error < math.inf]
    if needed:
        text = "The smallest true ratio above one that such runs would find four times in five, looked at alone"
        told.append(f"{text}: {min(needed):.1f} to {max(needed):.1f}, by cell.")
    return below(framed(rows, shown, nothing, results), *told)


def _ends(results: Results) -> list[tuple[Setting, Setting]]:
    """The smallest and the largest setting of each method that has two."""
    found = []
    for _, group in groupby(settings(results), key=lambda one: (one.label, one.connector)):
        sizes = list(group)
        if len(sizes) > 1:
            found.append((sizes[0], sizes[-1]))
    return found


def steadiest(results: Results, task: str) -> Prose:
    """Which method's scores move least between seeds on a task, and which others are surely less steady."""
    found = {one: scores for one in middle(results) if (scores := seeds_of(results, one, task)) is not None}
    if len(found) < 2:
        return Prose(f"Which method is steadiest on {_column(task)} is not known yet: too few have two seeds.")
    sds = {one: seed_sd(scores.scores) for one, scores in found.items()}
    best = min(sds, key=lambda one: sds[one])
    ratios = {one: each for one in found if one != best and (each := ratio(results, one, best, task))}
    higher = verdicts({one: each.logarithm for one, each in ratios.items()}, 0.0)
    sure = [one.label for one in ratios if higher[one] == "higher"]
    order = listed(f"{one.label} {percent(sds[one], 2)}" for one in sorted(sds, key=lambda one: sds[one]))
    text = f"On {_column(task)}, at their middle sizes, the SD between seeds is, in points: {order}."
    if len(sure) == len(ratios):
        return Prose(f"{text} All others are surely less steady than {best.label}.")
    return Prose(f"{text} Surely less steady than {best.label}: {listed(sure) or 'none'}.")


# --------------------------------------------------------------------------------------------------
# Seeds, draws, items
# --------------------------------------------------------------------------------------------------


def crossed(results: Results, setting: Setting, task: str) -> NDArray[np.float64] | None:
    """(D, S, I) scores of a setting over draws and the seeds that all of them have; None with under two of either."""
    parts = [results.scores.get(row, {}).get(task) for row in setting.draws]
    some = [scores for scores in parts if scores is not None]
    seeds = sorted(set.intersection(*(set(scores.seeds.tolist()) for scores in some))) if some else []
    if len(some) < 2 or len(seeds) < 2:
        return None
    return np.stack([scores.scores[[scores.seeds.tolist().index(seed) for seed in seeds]] for scores in some])


def components_table(results: Results) -> Table:
    """What seed, draw and items add to the standard error of a setting's mean, in points; the squares add up.

    ``draw`` is the training subset, ``items`` all that items bring, with chance answers. A component that came out at
    or below zero is shown as zero: nothing of it was found.
    """
    rows: Cells = {}
    shown: Cells = {}
    for one in settings(results):
        for task in results.tasks():
            matrix = crossed(results, one, task)
            if matrix is None:
                continue
            found = variance_components(matrix)
            errors = {"seed": found["seed"].standard_error, "draw": found["subset"].standard_error}
            errors["seed × draw"] = found["subset × seed"].standard_error
            of_items = [part.standard_error for name, part in found.items() if "item" in name or name == "left"]
            errors["items"] = math.hypot(*of_items)
            errors["all"] = math.hypot(*errors.values())
            sds = {name: math.sqrt(max(0.0, found[part].variance)) for name, part in (("seed", "seed"), ("draw", "subset"))}
            key = (_column(task), f"{one.label}, {one.size_text}")
            rows[key] = errors | {f"SD of the {name}": value for name, value in sds.items()}
            shown[key] = {("standard error of the mean, from", name): percent(value, 2) for name, value in errors.items()}
            shown[key] |= {("SD of a run, from", name): percent(value, 2) for name, value in sds.items()}
            shown[key]["draws ×", "seeds"] = f"{matrix.shape[0]} × {matrix.shape[1]}"
    order = sorted(rows, key=lambda key: [_column(task) for task in results.tasks()].index(key[0]))
    rows, shown = ({key: content[key] for key in order} for content in (rows, shown))
    return framed(rows, shown, "No setting has two seeds on two draws yet.", results)


def components(results: Results) -> Prose:
    """Which of seed, draw and items adds most to the standard error, over the settings that tell."""
    frame = components_table(results).frame
    if frame.empty:
        return Prose("What seed, draw and items each do is not known yet: no setting has two seeds on two draws.")
    names = ["seed", "draw", "seed × draw", "items"]
    squares = frame[names].astype(float) ** 2
    shares = squares.mean() / squares.mean().sum() if squares.to_numpy().sum() > 0 else squares.mean()
    told = listed(f"{name} {percent(shares[name], 0)} %" for name in sorted(names, key=lambda name: -shares[name]))
    return Prose(f"Of the squared standard error of a mean here, on the average of {len(frame)} settings: {told}.")


def agreement_table(results: Results) -> Table:
    """How often two seeds of a setting score an item the same, and how much of that is beyond chance (Fleiss' κ)."""
    rows: Cells = {}
    shown: Cells = {}
    for one in settings(results):
        key = (f"{one.label}, {one.connector}", one.size_text)
        rows[key], shown[key] = {}, {}
        for task in results.tasks():
            scores = seeds_of(results, one, task)
            found = agreement(scores.scores) if scores is not None else None
            rows[key] |= {(_column(task), "same"): found.same if found else None}
            shown[key][_column(task), "same score (%)"] = percent(found.same) if found else DASH
            beyond = found is not None and not math.isnan(found.kappa)
            shown[key][_column(task), "beyond chance, κ"] = f"{found.kappa:.2f}" if found and beyond else DASH
    return framed(rows, shown, "The plan trains nothing.", results)


# --------------------------------------------------------------------------------------------------
# Losses
# --------------------------------------------------------------------------------------------------


def losses(results: Results, store: Store, task: str) -> dict[str, pd.DataFrame]:
    """For each method at its middle size: index the step, columns mean, low, high of the smoothed loss over seeds.

    The band reaches one SD between seeds to either side of the mean. A step is averaged with those before it.
    """
    found = {}
    for one in middle(results):
        curves = _curves(results, store, one, task)
        if len(curves.columns) > 1:
            smooth = curves.rolling(SMOOTHED_STEPS, min_periods=1).mean()
            mean, sd = smooth.mean(axis=1), smooth.std(axis=1, ddof=1)
            found[one.label] = pd.DataFrame({"mean": mean, "low": mean - sd, "high": mean + sd})
    return found


def _curves(results: Results, store: Store, setting: Setting, task: str) -> pd.DataFrame:
    """Index the step, a column a seed, of the first draw."""
    columns = {}
    for run in results.variants[setting.draws[0]]:
        record = store.load(run.run_id) if run.spec.task == task else None
        if record and record.status == "ok" and record.curve:
            columns[run.spec.seed] = pd.Series({at: loss for at, loss in record.curve if loss is not None})
    return pd.DataFrame(columns)


def unrest(results: Results, store: Store) -> Prose:
    """In which order the methods' losses differ between seeds, as a share of the loss, averaged over steps and tasks."""
    shares: dict[str, list[float]] = {}
    for task in results.tasks():
        for label, curve in losses(results, store, task).items():
            shares.setdefault(label, []).append(float(((curve["high"] - curve["mean"]) / curve["mean"]).mean()))
    if len(shares) < 2:
        return Prose("How far the losses of the seeds lie apart is not known yet.")
    means: Mapping[str, float] = {label: float(np.mean(values)) for label, values in shares.items()}
    order = listed(f"{label} {percent(means[label])} %" for label in sorted(means, key=lambda label: -means[label]))
    return Prose(f"The smoothed loss differs between seeds by this share of itself, on the average of steps and tasks: {order}.")
