"""Scores along a number: how large a method is, how many examples it saw.

    lines(results, x)     -> [Line]       rows of a comparison that differ in one number, in its order
    slope, step           -> Estimate     what a doubling does; what the way from one point to another does
    weighted              -> Estimate     any weighted sum of points
    crossing              -> Crossing     where two lines cross, with an interval

Rows that differ in the draw of the training subset alone are one point. Its intervals take in other draws and other seeds:
both are drawn anew, so two draws count as two, however many seeds each has.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmpeft.errors import MmpeftError
from mmpeft.registry import known_dims
from mmpeft.spec import RunSpec, TrainSpec
from mmpeft.stats import Estimate, TaskScores, draws_of, hierarchical_bootstrap, joint_shifts, pool
from mmpeft.study import comparison
from mmpeft.study.comparison import GROUPS, Results, Variant
from mmpeft.study.paper import parameters

Scores = dict[str, TaskScores]
Number = Callable[[Results, Variant], float | None]
LEVEL = 0.95
UNTRAINED = "untrained"
"""Stands for the seed of a row that is not trained: its one run stands against every run of another."""
ALL = "all"
"""Stands for the average over all tasks of the plan, where ``unseen`` and ``seen`` are each that over a group."""


@dataclass(frozen=True)
class Point:
    """One place of a line: its number, and the rows that stand there."""

    x: float
    rows: tuple[Variant, ...]


@dataclass(frozen=True)
class Line:
    """The rows of one method that differ in one number.

    Attributes:
        label: The method's printed name.
        connector: ``frozen`` or ``tuned``.
        points: In the order of their numbers.
    """

    label: str
    connector: str
    points: tuple[Point, ...]


class Crossing(NamedTuple):
    """Where two lines cross.

    Attributes:
        x: By straight lines between the points over a logarithmic axis; nan if they do not cross between their ends.
        low: Lower end of the interval; 0 where it lies before the first point.
        high: Upper end; infinite where it lies behind the last one.
        first: The label that is higher before the crossing, or at the first point.
    """

    x: float
    low: float
    high: float
    first: str


# --------------------------------------------------------------------------------------------------
# Lines
# --------------------------------------------------------------------------------------------------


def spec_of(results: Results, variant: Variant) -> RunSpec:
    """The settings that all runs of a row share, as its first run has them."""
    return results.variants[variant][0].spec


def method_parameters(results: Results, variant: Variant) -> float | None:
    """How many parameters the method itself trains, the connector left out; None for an untrained row.

    By the method's formula where the model's sizes are known without loading it, else as its runs counted them, which
    takes a tuned connector in.
    """
    spec = spec_of(results, variant)
    if not spec.method.trains:
        return None
    dims = known_dims(spec.model)
    return float(spec.method.num_trainable(dims, spec.location)) if dims else parameters(results, variant)


def training_examples(results: Results, variant: Variant) -> float | None:
    """How many examples a row was trained on; None if on none, or on all there are."""
    return spec_of(results, variant).train.num_examples


def lines(results: Results, x: Number, among: Sequence[Variant] | None = None) -> list[Line]:
    """The methods' lines, in the order of tables; rows without a number are left out.

    Args:
        results: From comparison.read.
        x: The number of a row, for example :func:`method_parameters`.
        among: Only these rows.
    """
    found: dict[tuple[str, str], dict[float, list[Variant]]] = {}
    for variant in results.variants:
        number = x(results, variant) if among is None or variant in among else None
        if number is not None and number > 0:
            found.setdefault((variant.label, variant.connector), {}).setdefault(number, []).append(variant)
    return [
        Line(*name, tuple(Point(number, tuple(rows)) for number, rows in sorted(points.items())))
        for name, points in found.items()
    ]


def length(train: TrainSpec) -> tuple[float, int] | None:
    """Passes over the training subset, and optimizer steps; None if the size of the subset is not said."""
    if train.num_examples is None:
        return None
    if train.num_steps is not None:
        return train.num_steps * train.batch_size / train.num_examples, train.num_steps
    passes = train.num_epochs or 0.0
    return passes, max(1, math.ceil(passes * train.num_examples / train.batch_size))


def arms(results: Results) -> dict[str, tuple[Variant, ...]]:
    """The rows trained for the same number of passes, and those trained for the same number of steps.

    Of each, the number that most sizes share, and at least two; a row may be in both. Named ``2 epochs``, ``100 steps``.
    """
    lengths = {v: length(spec_of(results, v).train) for v in results.variants if spec_of(results, v).method.trains}
    known = {variant: both for variant, both in lengths.items() if both}
    found = {}
    for place, word in enumerate(("epochs", "steps")):
        sizes: dict[float, set[int | None]] = {}
        for variant, both in known.items():
            sizes.setdefault(both[place], set()).add(spec_of(results, variant).train.num_examples)
        most = max(sizes, key=lambda value: len(sizes[value]), default=None)
        if most is not None and len(sizes[most]) > 1:
            found[f"{most:g} {word}"] = tuple(variant for variant, both in known.items() if both[place] == most)
    return found


# --------------------------------------------------------------------------------------------------
# Scores of a point, and what lies between points
# --------------------------------------------------------------------------------------------------


def tasks_of(results: Results, what: str) -> list[str]:
    """The tasks behind an average, or the one task itself."""
    return results.tasks(None if what == ALL else what) if what in (*GROUPS, ALL) else [what]


def pooled(results: Results, rows: Sequence[Variant], what: str) -> Scores:
    """The scores of a point, a run of each (draw, seed) one row; nothing unless every task has some.

    Args:
        results: From comparison.read.
        rows: Rows that differ in the draw alone.
        what: A task, or ``unseen``, ``seen`` or ``all`` for the average.
    """
    found: Scores = {}
    for task in tasks_of(results, what):
        parts = [(spec_of(results, row).train.subset_seed, results.scores.get(row, {}).get(task)) for row in rows]
        some = [(draw, scores) for draw, scores in parts if scores is not None]
        if not some or any(not np.array_equal(scores.examples, some[0][1].examples) for _, scores in some):
            return {}
        one = pool(some)
        found[task] = one if spec_of(results, rows[0]).method.trains else untrained(one)
    return found


def untrained(scores: TaskScores) -> TaskScores:
    """The scores of a row that is not trained: its run named such that it stands against every run of another row."""
    return TaskScores(scores.scores[:1], np.array([UNTRAINED]), scores.examples, scores.pictures)


def combined(parts: Sequence[tuple[float, Mapping[str, TaskScores]]]) -> Scores:
    """For each task the weighted sum of scores, run by run and item by item, over the runs that all trained parts have.

    A part weighs by the number of its tasks, so that the mean over all tasks is the weighted sum of the parts' averages,
    also where the parts are looked at in different tasks. Nothing if a part has no scores, or if no run is in all.

    Raises:
        MmpeftError: The parts were not scored on the same examples of a task.
    """
    found: Scores = {}
    if not all(scores for _, scores in parts):
        return found
    tasks = list(dict.fromkeys(task for _, scores in parts for task in scores))
    for task in tasks:
        several = [(weight * len(tasks) / len(scores), scores[task]) for weight, scores in parts if task in scores]
        trained = [seeds for _, part in several if (seeds := part.seeds.tolist()) != [UNTRAINED]]
        runs = sorted(set.intersection(*map(set, trained))) if trained else [UNTRAINED]
        if not runs:
            return {}
        first = several[0][1]
        if any(not np.array_equal(part.examples, first.examples) for _, part in several):
            raise MmpeftError(f"task {task}: the rows were not scored on the same examples; rerun one of them.")
        total = sum(weight * part.scores[_places_of(runs, part)] for weight, part in several)
        exact = np.round(np.asarray(total), 12)  # weights that add up to zero leave no dust where nothing differs
        found[task] = TaskScores(exact, np.array(runs), first.examples, first.pictures, draws_of(runs))
    return found


def _places_of(runs: Sequence[object], part: TaskScores) -> list[int]:
    """Where the runs stand among a part's rows; always its only row if it was not trained."""
    at = {run: place for place, run in enumerate(part.seeds.tolist())}
    return [at.get(run, 0) for run in runs]


def _bootstrapped(scores: Scores, level: float = LEVEL) -> Estimate | None:
    rng = np.random.default_rng(0)
    return hierarchical_bootstrap(scores, rng, num_draws=comparison.NUM_DRAWS, level=level) if scores else None


@cache
def level(results: Results, point: Point, what: str) -> Estimate | None:
    """A point's score with its interval; None if a task has no run."""
    return _bootstrapped(pooled(results, point.rows, what))


@cache
def step(results: Results, start: Point, end: Point, what: str, level: float = LEVEL) -> Estimate | None:
    """How much higher ``end`` scores than ``start``, run by run and item by item, with an interval of this level."""
    return weighted(results, ((1.0, end), (-1.0, start)), what, level)


@cache
def weighted(results: Results, points: tuple[tuple[float, Point], ...], what: str, level: float = LEVEL) -> Estimate | None:
    """The weighted sum of points' scores, run by run and item by item; None if a point has no run."""
    return _bootstrapped(combined([(weight, pooled(results, point.rows, what)) for weight, point in points]), level)


@cache
def slope(results: Results, line: Line, what: str) -> Estimate | None:
    """What a doubling of the number does to the score: the least-squares slope over log2; None with under three points."""
    scored = [(math.log2(point.x), pooled(results, point.rows, what)) for point in line.points]
    known = [(x, scores) for x, scores in scored if scores]
    if len(known) < 3:
        return None
    places = np.array([x for x, _ in known]) - np.mean([x for x, _ in known])
    weights = places / (places**2).sum()
    return _bootstrapped(combined([(float(w), scores) for w, (_, scores) in zip(weights, known, strict=True)]))


# --------------------------------------------------------------------------------------------------
# Crossings
# --------------------------------------------------------------------------------------------------


@cache
def crossing(results: Results, a: Line, b: Line, what: str) -> Crossing | None:
    """Where two lines cross over a logarithmic axis; None if they have fewer than two scored points in common.

    Pictures and runs are redrawn for all points at once, the draws of each point as wide as its own t interval, so that two
    draws of the training set count as two: simulated with two draws of three seeds, a 95 % interval holds the place in at least
    86 % of studies (tests/test_curves.py repeats it). A draw in which the lines no longer cross between their ends
    has its crossing beyond one of them. If more than one draw in forty has them cross the other way, nothing is known
    of the place, and the interval is all there is.
    """
    other = {point.x: point for point in b.points}
    pairs = [(p.x, p, other[p.x]) for p in a.points if p.x in other]
    scored = [(x, combined([(1.0, pooled(results, p.rows, what)), (-1.0, pooled(results, q.rows, what))])) for x, p, q in pairs]
    known = [(x, scores) for x, scores in scored if scores]
    if len(known) < 2:
        return None
    return crossing_of([x for x, _ in known], [scores for _, scores in known], (a.label, b.label))


def crossing_of(xs: Sequence[float], differences: Sequence[Scores], labels: tuple[str, str]) -> Crossing:
    """Where differences of two lines' scores along a number, the first label's minus the second's, change their sign."""
    places, parts = np.log(xs), of_shared_runs(differences)
    mean = np.array([[task.scores.mean() for task in scores.values()] for scores in parts]).mean(axis=1)
    first = labels[0] if mean[0] >= 0 else labels[1]
    if np.sign(mean[0]) * np.sign(mean[-1]) >= 0:
        return Crossing(math.nan, math.nan, math.nan, first)
    draws = mean + joint_shifts(parts, np.random.default_rng(0), comparison.NUM_DRAWS, LEVEL)
    found = _crossings(np.sign(mean[0]) * draws, places)
    low, high = -math.inf, math.inf
    if np.isnan(found).mean() <= (1 - LEVEL) / 2:
        sure = found[~np.isnan(found)]
        low = float(np.quantile(sure, (1 - LEVEL) / 2, method="lower"))
        high = float(np.quantile(sure, (1 + LEVEL) / 2, method="higher"))
    here = float(_crossings(np.sign(mean[0]) * mean[None], places)[0])
    return Crossing(math.exp(here), math.exp(low), math.exp(high), first)


def _crossings(draws: NDArray[np.float64], places: NDArray[np.float64]) -> NDArray[np.float64]:
    """(B,) where each row of ``draws`` (B, P) goes from positive to negative; ±inf beyond the ends, nan the other way."""
    starts, ends = draws[:, 0] > 0, draws[:, -1] > 0
    found = np.where(starts & ends, np.inf, np.where(~starts & ~ends, -np.inf, np.nan))
    within = np.flatnonzero(starts & ~ends)
    after = np.argmax(draws[within] <= 0, axis=1)  # the first point behind the crossing
    above, below = draws[within, after - 1], draws[within, after]
    share = above / (above - below)
    found[within] = places[after - 1] + share * (places[after] - places[after - 1])
    return found


def of_shared_runs(parts: Sequence[Scores]) -> list[Scores]:
    """Sets of scores, each cut to the runs that all of them have, task by task."""
    found: list[Scores] = [{} for _ in parts]
    for task in parts[0]:
        runs = sorted(set.intersection(*(set(scores[task].seeds.tolist()) for scores in parts)))
        for mine, scores in zip(found, parts, strict=True):
            one = scores[task]
            mine[task] = TaskScores(one.scores[_places_of(runs, one)], np.array(runs), one.examples, one.pictures, draws_of(runs))
    return found
