"""Estimates with intervals from scores per seed and item, as pure functions of arrays.

**One data shape.** The scores of one variant are a ``dict[str, TaskScores]``: for each task a complete matrix
of S seeds by I items, and the picture each item asks about. :func:`group_scores` makes it from the columns
``task, seed, example_id, picture_id, score`` with one row a prediction (a DataFrame or a dict of lists).

Seeds and items are *crossed*: every seed answers the same items, and an item that is hard for one seed stays
hard for the next. Drawing fresh items for every seed, as a nested bootstrap does, would understate the error
by pretending that S seeds saw S test sets. Here what redrawn pictures do and what redrawn seeds do to the
mean of a task are drawn apart and added.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from mmpeft.errors import MmpeftError

Floats = NDArray[np.float64]
_MAX_CELLS = 1 << 16  # resampled at once: what a processor's cache holds, a third faster than all in one


@dataclass(frozen=True, eq=False)
class TaskScores:
    """The scores of one variant in one task.

    Attributes:
        scores: (S, I), one row a seed, one column an item, without gaps.
        seeds: (S,), the seed of each row, distinct.
        examples: (I,), the example_id of each column, distinct.
        pictures: (I,), the picture_id of each column: items that share one are resampled together.
        draws: (S,), which draw of the training set each row has learned from, where there are several; then each draw
            has the same seeds, one after the other, and ``seeds`` names the run, not the seed alone.
    """

    scores: Floats
    seeds: NDArray[Any]
    examples: NDArray[Any]
    pictures: NDArray[Any]
    draws: NDArray[Any] | None = None


Scores = Mapping[str, TaskScores]


class Estimate(NamedTuple):
    """A mean with its interval.

    Attributes:
        mean: Over items, seeds and tasks.
        low: Lower end of the interval.
        high: Upper end.
        standard_error: Of the mean, by the bootstrap.
        degrees_of_freedom: How well the standard error is known; infinite if it is exactly 0.
        num_seeds: Of the task that has fewest.
    """

    mean: float
    low: float
    high: float
    standard_error: float
    degrees_of_freedom: float
    num_seeds: int

    @property
    def reversed(self) -> "Estimate":
        """The same difference, the other way round."""
        return self._replace(mean=-self.mean, low=-self.high, high=-self.low)


def group_scores(columns: Mapping[str, ArrayLike] | Any) -> dict[str, TaskScores]:
    """One variant's predictions as a score matrix for each task, tasks in order of first appearance.

    Args:
        columns: ``task``, ``seed``, ``example_id``, ``picture_id``, ``score``, equally long, one row a
            prediction.

    Raises:
        MmpeftError: A column is missing, a score is not finite, or some seed did not answer some item exactly
            once.
    """
    names = ("task", "seed", "example_id", "picture_id", "score")
    missing = [name for name in names if name not in columns]
    if missing:
        raise MmpeftError(f"columns: scores need {', '.join(names)}; missing: {', '.join(missing)}.")
    task, seed, example, picture, score = (np.asarray(columns[name]) for name in names)
    if not np.isfinite(score.astype(float)).all():
        raise MmpeftError("score: some scores are not finite numbers; leave failed runs out before grouping.")
    return {
        str(name): _score_matrix(
            str(name), *(column[task == name] for column in (seed, example, picture, score))
        )
        for name in dict.fromkeys(task.tolist())
    }


def _score_matrix(
    task: str, seed: NDArray[Any], example: NDArray[Any], picture: NDArray[Any], score: NDArray[Any]
) -> TaskScores:
    seeds, row = np.unique(seed, return_inverse=True)
    examples, first, column = np.unique(example, return_index=True, return_inverse=True)
    shape = (len(seeds), len(examples))
    answered = np.bincount(row * shape[1] + column, minlength=shape[0] * shape[1]).reshape(shape)
    if (answered != 1).any():
        bad_row, bad_column = np.argwhere(answered != 1)[0]
        raise MmpeftError(
            f"task {task}: every seed must answer every item once, but seed {seeds[bad_row]} has "
            f"{answered[bad_row, bad_column]} rows for example {examples[bad_column]}; "
            "leave incomplete runs out."
        )
    matrix = np.empty(shape)
    matrix[row, column] = score
    return TaskScores(matrix, seeds, examples, picture[first])


def pool(parts: Sequence[tuple[Any, TaskScores]]) -> TaskScores:
    """The runs on several draws of the training set as one matrix, a row for each draw and seed, named ``draw/seed``.

    Only the seeds that all draws have; if those are fewer than two, only the draw with most seeds.

    Args:
        parts: A draw's name and the scores of its runs, all on the same items.

    Raises:
        MmpeftError: Items differ, or no parts.
    """
    if not parts or any(not np.array_equal(scores.examples, parts[0][1].examples) for _, scores in parts):
        raise MmpeftError("parts: the draws were not scored on the same examples; rerun one of them.")
    common = sorted(set.intersection(*(set(scores.seeds.tolist()) for _, scores in parts)))
    if len(parts) > 1 and len(common) < 2:
        return pool([max(parts, key=lambda part: len(part[1].seeds))])
    rows = [scores.scores[[scores.seeds.tolist().index(seed) for seed in common]] for _, scores in parts]
    names = np.array([f"{draw}/{seed}" for draw, _ in parts for seed in common])
    return TaskScores(np.concatenate(rows), names, parts[0][1].examples, parts[0][1].pictures, draws_of(names.tolist()))


def draws_of(names: Sequence[Any]) -> NDArray[Any] | None:
    """(S,) the draw in each run's name ``draw/seed``; None if it is the same in all, or if names are seeds alone."""
    draws = [name.partition("/")[0] for name in names if isinstance(name, str) and "/" in name]
    return np.array(draws) if len(set(draws)) > 1 else None


# --------------------------------------------------------------------------------------------------
# Bootstrap
# --------------------------------------------------------------------------------------------------


def hierarchical_bootstrap(
    scores: Scores,
    rng: np.random.Generator,
    *,
    num_draws: int = 4000,
    level: float = 0.95,
    resample_tasks: bool = False,
) -> Estimate:
    """The score averaged over items, seeds and tasks, with an interval for seeds and pictures drawn anew.

    In each task, one draw takes K - 1 of the K pictures (a picture brings all its items) and, apart from it,
    S - 1 of the S seeds, both with replacement, and adds the two shifts of the mean; the draw of the average
    is the mean over tasks. Three things keep few seeds honest:

    - *One unit fewer is drawn* than there are, which makes the variance of a bootstrap mean unbiased (Rao &
      Wu 1988): with three seeds the plain bootstrap would lose a third of it.
    - *Noise is counted once.* Chance answers of one seed to one item move the seed means as well as the item
      means, so the seed shifts are shrunk by the share of their variance that such noise explains (two-way
      analysis of variance). Drawing seeds and pictures jointly (Owen 2007) would count it three times.
    - *The percentiles are scaled* about the mean to the width of a t interval, 2 t SE with Satterthwaite's
      degrees of freedom: a spread guessed from three seeds is itself uncertain, and three seeds have too few
      resamples for percentiles of their own. With eight tasks the factor is close to 1.

    Simulated, a 95 % interval covers in 92–98 % of cases for one task with three or more seeds, whether
    seeds, pictures or noise dominate (89 % with two), and in 95–98 % for eight tasks; tests/test_stats.py
    repeats part of it. A task with a single seed (zero-shot) has only its pictures resampled: right for a
    variant that no seed changes, blind to seeds otherwise. CIDEr-D scores are resampled as they are, document
    frequencies fixed.

    Where the rows come from several draws of the training set, each with the same seeds, draws and seeds are both drawn
    anew: a few draws are few units, however many seeds each has. Simulated with two draws of three seeds a 95 % interval
    covers in 88–97 %; taking the six runs for independent ones it would cover in 67–91 %, the less the more draws differ.

    Args:
        scores: One variant's scores, or the differences of two (:func:`difference`).
        rng: Source of the draws; the same state gives the same interval.
        num_draws: Bootstrap draws.
        level: Coverage aimed at, between 0 and 1.
        resample_tasks: By default tasks are fixed: the eight columns are what is asked about. True speaks
            about tasks *like* these: T - 1 of the T task means are drawn, whose spread holds all beneath.

    Raises:
        MmpeftError: No task, a task with fewer than two pictures, a single task to resample, or a level
            outside (0, 1).

    Source: Rao & Wu 1988, doi:10.1080/01621459.1988.10478591; Owen 2007, doi:10.1214/07-AOAS122;
    Satterthwaite 1946, doi:10.2307/3002019.
    """
    if not 0 < level < 1:
        raise MmpeftError(f"level: a coverage between 0 and 1 is needed, got {level}.")
    if not scores:
        raise MmpeftError("scores: nothing to average; give at least one task.")
    task_means = np.array([task.scores.mean() for task in scores.values()])
    if resample_tasks:
        shifts, freedom = _shifts_between_tasks(task_means, rng, num_draws)
    else:
        (shifts,), (freedom,) = _shifts_within_tasks([scores], rng, num_draws)
    below, above = np.quantile(shifts, [(1 - level) / 2, (1 + level) / 2])
    scaling = _to_the_width_of_t(shifts, freedom, level)
    return Estimate(
        mean=float(task_means.mean()),
        low=float(task_means.mean() + scaling * below),
        high=float(task_means.mean() + scaling * above),
        standard_error=float(shifts.std()),
        degrees_of_freedom=float(freedom),
        num_seeds=min(len(task.scores) for task in scores.values()),
    )


def joint_shifts(
    parts: Sequence[Scores], rng: np.random.Generator, num_draws: int = 4000, level: float = 0.95
) -> Floats:
    """(B, P) how far redrawn pictures and runs move the averages of P sets of scores at once.

    The draws of :func:`hierarchical_bootstrap`, the same pictures and runs for all sets, each set's scaled to the width of
    its own t interval: the percentiles of a column are the ends of that interval.

    Args:
        parts: Scores of the same tasks, items and runs.
        rng: Source of the draws.
        num_draws: B.
        level: Of the intervals whose width the draws are given.
    """
    shifts, freedom = _shifts_within_tasks(parts, rng, num_draws)
    return np.stack([_to_the_width_of_t(of, df, level) * of for of, df in zip(shifts, freedom, strict=True)], axis=1)


def _to_the_width_of_t(shifts: Floats, freedom: float, level: float) -> float:
    """What draws are to be multiplied by for their percentiles to be as far apart as the ends of a t interval."""
    below, above = np.quantile(shifts, [(1 - level) / 2, (1 + level) / 2])
    width = 2 * float(stats.t.ppf((1 + level) / 2, freedom)) * float(shifts.std())
    return width / float(above - below) if above > below else 1.0


def _shifts_between_tasks(
    task_means: Floats, rng: np.random.Generator, num_draws: int
) -> tuple[Floats, float]:
    """(B,) how far redrawn tasks move their mean, and the degrees of freedom."""
    num_tasks = len(task_means)
    if num_tasks < 2:
        raise MmpeftError("resample_tasks: at least two tasks are needed to speak about tasks in general.")
    (means,) = _resampled_means(task_means[None], np.ones(num_tasks), rng, num_draws)
    return means - task_means.mean(), float(num_tasks - 1)


def _shifts_within_tasks(
    parts: Sequence[Scores], rng: np.random.Generator, num_draws: int
) -> tuple[Floats, Floats]:
    """(P, B) how far redrawn pictures and seeds move each average over tasks, and (P,) the degrees of freedom."""
    total, uncertainty = np.zeros((len(parts), num_draws)), np.zeros(len(parts))
    for name, task in parts[0].items():
        if len(set(task.pictures.tolist())) < 2:
            raise MmpeftError(f"task {name}: an interval needs items about at least two pictures.")
        shifts, squares = _task_shifts([scores[name] for scores in parts], rng, num_draws)
        total += shifts
        uncertainty += squares
    variance = total.var(axis=1)
    freedom = np.divide(variance**2, uncertainty, out=np.full(len(parts), math.inf), where=uncertainty > 0)
    return total / len(parts[0]), freedom


def _task_shifts(
    tasks: Sequence[TaskScores], rng: np.random.Generator, num_draws: int
) -> tuple[Floats, Floats]:
    """(P, B) shifts of the means in one task, and (P,) Satterthwaite's sums of variance² / degrees of freedom."""
    _, cluster = np.unique(tasks[0].pictures, return_inverse=True)
    sizes = np.bincount(cluster).astype(float)  # (K,) items of each picture
    sums = np.stack([[np.bincount(cluster, weights=row) for row in task.scores] for task in tasks])  # (P, S, K)
    run_means = np.stack([task.scores.mean(axis=1) for task in tasks])
    _, num_runs, num_pictures = sums.shape
    means = run_means.mean(axis=1, keepdims=True)
    picture_shifts = _resampled_means(sums.mean(axis=1), sizes, rng, num_draws) - means
    squares = picture_shifts.var(axis=1) ** 2 / (num_pictures - 1)
    if num_runs == 1:
        return picture_shifts, squares
    residuals = sums - run_means[:, :, None] * sizes
    residuals -= residuals.mean(axis=1, keepdims=True)
    noise = (residuals**2).sum(axis=(1, 2)) / (num_runs - 1) * num_pictures / (num_pictures - 1)
    noise = noise / sizes.sum() ** 2 / num_runs
    num_subsets = 1 if tasks[0].draws is None else len(np.unique(tasks[0].draws))
    by_draw = run_means.reshape(len(tasks), num_subsets, -1)
    run_shifts, variance, own_squares = _run_shifts(by_draw, rng, num_draws)
    share = np.divide(noise, variance, out=np.ones(len(tasks)), where=variance > 0)
    kept = np.sqrt(np.maximum(0.0, 1 - share))
    return picture_shifts + kept[:, None] * run_shifts, squares + own_squares


def _run_shifts(means: Floats, rng: np.random.Generator, num_draws: int) -> tuple[Floats, Floats, Floats]:
    """How far redrawn draws and seeds move means of runs, (P, B), their variances and Satterthwaite's sums for them, (P,).

    With mean squares M of draws, seeds and the rest, a variance is (M_draw + M_seed - M_rest) / DS, but at least that of
    either alone: the rest moves both, and would be counted twice.

    Args:
        means: (P, D, S) the mean of every run: by set of scores, by draw of the training set, by seed.
        rng: Source of the draws.
        num_draws: B.
    """
    sides = [side for side in (means.mean(axis=2), means.mean(axis=1)) if side.shape[1] > 1]
    of_sides = np.stack([side.var(axis=1, ddof=1) / side.shape[1] for side in sides])  # M / DS of each
    shifts = np.zeros((len(means), num_draws))
    for side in sides:
        of_side = _resampled_means(side, np.ones(side.shape[1]), rng, num_draws)
        shifts += of_side - means.mean(axis=(1, 2))[:, None]
    freedom = np.array([side.shape[1] - 1 for side in sides])
    squares, variance = (of_sides**2 / freedom[:, None]).sum(axis=0), of_sides.sum(axis=0)
    if len(sides) > 1:
        rest = means - sides[0][:, :, None] - sides[1][:, None, :] + means.mean(axis=(1, 2), keepdims=True)
        both = (rest**2).sum(axis=(1, 2)) / freedom.prod() / means[0].size
        kept = np.maximum(variance - both, of_sides.max(axis=0))
        share = np.divide(kept, variance, out=np.ones(len(means)), where=variance > 0)
        shifts, variance, squares = np.sqrt(share)[:, None] * shifts, share * variance, share**2 * squares
    return shifts, variance, squares


def _resampled_means(totals: Floats, sizes: Floats, rng: np.random.Generator, num_draws: int) -> Floats:
    """(P, B) sums of (P, n) totals over sums of their (n,) sizes, for n - 1 units drawn with replacement from n."""
    num_units = totals.shape[1]
    equal = bool((sizes == sizes[0]).all())
    block = max(1, _MAX_CELLS // num_units)
    means = []
    for start in range(0, num_draws, block):
        shape = (min(block, num_draws - start), num_units - 1)
        drawn = rng.integers(num_units, size=shape, dtype=np.int32).astype(np.intp)
        # mode="clip" spares the check of each index, all of which are in range.
        weights = sizes[0] * shape[1] if equal else sizes.take(drawn, mode="clip").sum(axis=1)
        means.append(_sums_of_drawn(totals, drawn) / weights)
    return np.concatenate(means, axis=1)


def _sums_of_drawn(totals: Floats, drawn: NDArray[np.intp]) -> Floats:
    """(P, B) sums of (P, n) totals over the units (B, m) that were drawn; of several rows by how often each unit was."""
    if len(totals) == 1:
        return totals[0].take(drawn, mode="clip").sum(axis=1)[None]
    num_draws, num_units = len(drawn), totals.shape[1]
    places = drawn + num_units * np.arange(num_draws)[:, None]
    often = np.bincount(places.ravel(), minlength=num_draws * num_units).reshape(num_draws, num_units)
    found: Floats = totals @ often.T
    return found


# --------------------------------------------------------------------------------------------------
# Two variants
# --------------------------------------------------------------------------------------------------


def difference(a: Scores, b: Scores, *, untrained_baseline: bool = False) -> dict[str, TaskScores]:
    """Scores of ``a`` minus scores of ``b``, item by item and seed by seed, over the seeds that both have.

    Args:
        a: One variant.
        b: The other, with the same tasks and items.
        untrained_baseline: ``b`` was not trained (zero-shot): its one run stands against every seed of ``a``.

    Raises:
        MmpeftError: Tasks or items differ, no seed in common, or a baseline with more than one run.
    """
    if set(a) != set(b):
        raise MmpeftError(
            f"tasks: only the same tasks can be compared, but these are in one variant alone: "
            f"{', '.join(sorted(set(a) ^ set(b)))}."
        )
    return {task: _task_difference(task, a[task], b[task], untrained_baseline) for task in a}


def _task_difference(task: str, a: TaskScores, b: TaskScores, untrained_baseline: bool) -> TaskScores:
    if not np.array_equal(a.examples, b.examples):
        raise MmpeftError(
            f"task {task}: the two variants were not scored on the same examples; rerun one of them."
        )
    if untrained_baseline:
        if len(b.seeds) != 1:
            raise MmpeftError(f"task {task}: an untrained baseline has one run, this one has {len(b.seeds)}.")
        return TaskScores(a.scores - b.scores, a.seeds, a.examples, a.pictures, a.draws)
    seeds, rows_a, rows_b = np.intersect1d(a.seeds, b.seeds, return_indices=True)
    if not len(seeds):
        raise MmpeftError(f"task {task}: no seed in common ({a.seeds.tolist()} and {b.seeds.tolist()}).")
    draws = None if a.draws is None else a.draws[rows_a]
    return TaskScores(a.scores[rows_a] - b.scores[rows_b], seeds, a.examples, a.pictures, draws)


def paired_difference(
    a: Scores,
    b: Scores,
    rng: np.random.Generator,
    *,
    untrained_baseline: bool = False,
    num_draws: int = 4000,
    level: float = 0.95,
    resample_tasks: bool = False,
) -> Estimate:
    """How much higher ``a`` scores than ``b``, with an interval: the bootstrap of their paired differences.

    What makes a picture or a seed easy for both cancels, which two separate intervals cannot use. Arguments
    and errors are those of :func:`difference` and :func:`hierarchical_bootstrap`.
    """
    gain = difference(a, b, untrained_baseline=untrained_baseline)
    return hierarchical_bootstrap(gain, rng, num_draws=num_draws, level=level, resample_tasks=resample_tasks)
