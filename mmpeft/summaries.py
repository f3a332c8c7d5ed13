"""What else than a mean can be said of many runs: the typical run, who wins how often, and where the spread is from.

**Of runs** (one score a run, :func:`run_scores`): :func:`interquartile_mean`, :func:`probability_of_improvement`,
:func:`performance_profile`, :func:`seed_sd`, :func:`sd_ratio`. **Of items**: :func:`normalize`,
:func:`variance_components`, :func:`agreement`.

Intervals of the first kind redraw the runs of each task and keep the tasks and the test items, as Agarwal et al. do.
They are blind to which items were asked, and with fewer than ten runs a task rather too narrow: where two averages
are compared, the paired bootstrap of :mod:`mmpeft.stats` is the one to trust.

Source: Agarwal et al. 2021, Deep Reinforcement Learning at the Edge of the Statistical Precipice, arXiv:2108.13264.
"""

import math
from collections.abc import Mapping
from itertools import chain, combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from mmpeft.errors import MmpeftError
from mmpeft.stats import Estimate, Floats, Scores, TaskScores, difference

RunScores = Mapping[str, ArrayLike]
"""For each task, (S,): one score a run."""


class Interval(NamedTuple):
    """A value with the ends of its interval."""

    value: float
    low: float
    high: float


def run_scores(scores: Scores) -> dict[str, Floats]:
    """For each task, (S,): the score of each seed, averaged over items."""
    return {name: task.scores.mean(axis=1) for name, task in scores.items()}


def _runs(scores: RunScores) -> dict[str, Floats]:
    found = {name: np.asarray(values, dtype=float).ravel() for name, values in scores.items()}
    if not found or not all(len(values) and np.isfinite(values).all() for values in found.values()):
        raise MmpeftError("scores: at least one task is needed, and in each task at least one run, all of them finite.")
    return found


def _drawn_shares(num_runs: int, rng: np.random.Generator, num_draws: int) -> Floats:
    """(B, S) how large a part of a redrawn sample each of the S runs makes up."""
    drawn = rng.integers(num_runs, size=(num_draws, num_runs))
    cells = drawn + num_runs * np.arange(num_draws)[:, None]
    counts = np.bincount(cells.ravel(), minlength=num_draws * num_runs)
    shares: Floats = counts.reshape(num_draws, num_runs) / num_runs
    return shares


def _percentiles(draws: Floats, level: float) -> Floats:
    """The lower and the upper end of a percentile interval, over the first axis."""
    if not 0 < level < 1:
        raise MmpeftError(f"level: a coverage between 0 and 1 is needed, got {level}.")
    ends: Floats = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return ends


# --------------------------------------------------------------------------------------------------
# The typical run
# --------------------------------------------------------------------------------------------------


def interquartile_mean(values: ArrayLike) -> float:
    """The mean of the middle half of all values: a quarter, rounded down, is cut at each end.

    Less moved by one failed run than the mean, and surer than the median.

    Raises:
        MmpeftError: No values.
    """
    ordered = np.asarray(values, dtype=float).ravel()
    if not ordered.size:
        raise MmpeftError("values: the interquartile mean of nothing is not defined.")
    return float(stats.trim_mean(ordered, proportiontocut=0.25))


def interquartile_interval(
    scores: RunScores, rng: np.random.Generator, *, num_draws: int = 2000, level: float = 0.95
) -> Interval:
    """The interquartile mean over all tasks and runs, with a percentile interval of runs redrawn within each task."""
    runs = _runs(scores).values()
    drawn = [values[rng.integers(len(values), size=(num_draws, len(values)))] for values in runs]
    means = stats.trim_mean(np.concatenate(drawn, axis=1), proportiontocut=0.25, axis=1)
    return Interval(interquartile_mean(np.concatenate(list(runs))), *map(float, _percentiles(means, level)))


def probability_of_improvement(
    a: RunScores, b: RunScores, rng: np.random.Generator, *, num_draws: int = 2000, level: float = 0.95
) -> Interval:
    """How often a run of ``a`` beats a run of ``b`` on the same task, averaged over tasks; a tie counts half.

    ``mean over tasks of P(X > Y) + P(X = Y) / 2``: in each task the Mann-Whitney U of the two sets of runs over the
    number of pairs. It says how sure a win is, not how large.

    Args:
        a: Scores of one variant's runs.
        b: Scores of the other's, of the same tasks.
        rng: Source of the draws; runs are redrawn within each task, for both variants apart.
        num_draws: Bootstrap draws.
        level: Coverage aimed at.

    Raises:
        MmpeftError: Tasks differ, or a task without runs.
    """
    if set(a) != set(b):
        raise MmpeftError(f"tasks: these are in one variant alone: {', '.join(sorted(set(a) ^ set(b)))}.")
    first, second = _runs(a), _runs(b)
    value, draws = 0.0, np.zeros(num_draws)
    for name, x in first.items():
        y = second[name]
        wins = (x[:, None] > y) + 0.5 * (x[:, None] == y)  # (S of a, S of b)
        drawn_a, drawn_b = (_drawn_shares(len(runs), rng, num_draws) for runs in (x, y))
        value += float(wins.mean()) / len(first)
        draws += (drawn_a @ wins * drawn_b).sum(axis=1) / len(first)
    return Interval(value, *map(float, _percentiles(draws, level)))


class Profile(NamedTuple):
    """How many runs get past each threshold, with a band.

    Attributes:
        thresholds: (P,).
        share: (P,) of the runs that score more than the threshold, each task counting the same.
        low: (P,) lower edge of the band.
        high: (P,) upper edge.
    """

    thresholds: Floats
    share: Floats
    low: Floats
    high: Floats


def performance_profile(
    scores: RunScores,
    thresholds: ArrayLike,
    rng: np.random.Generator,
    *,
    num_draws: int = 2000,
    level: float = 0.95,
) -> Profile:
    """The share of task × seed scores above each threshold, with pointwise bootstrap bands.

    A variant whose curve lies above another's everywhere is better at every quantile; curves that cross mean that
    one is better on its good runs and the other on its bad ones. Unlike metrics need :func:`normalized_score` first.

    Args:
        scores: Scores of one variant's runs.
        thresholds: (P,) in units of the scores.
        rng: Source of the draws; runs are redrawn within each task.
        num_draws: Bootstrap draws.
        level: Coverage aimed at, at each threshold by itself.
    """
    points = np.asarray(thresholds, dtype=float).ravel()
    runs = _runs(scores)
    share, draws = np.zeros(len(points)), np.zeros((num_draws, len(points)))
    for values in runs.values():
        above = (values[:, None] > points).astype(float)  # (S, P)
        share += above.mean(axis=0) / len(runs)
        draws += _drawn_shares(len(values), rng, num_draws) @ above / len(runs)
    return Profile(points, share, *_percentiles(draws, level))


# --------------------------------------------------------------------------------------------------
# Between zero-shot and full fine-tuning
# --------------------------------------------------------------------------------------------------


def normalized_score(score: ArrayLike, zero_shot: ArrayLike, full: ArrayLike) -> Floats:
    """How far a score got from zero-shot (0) to full fine-tuning (1), so that unlike metrics can be averaged.

    ``(score - zero_shot) / (full - zero_shot)``; nan where full fine-tuning did not beat zero-shot, since
    then there is no such way. Broadcasts, so a whole score matrix can be passed; the two ends are taken as
    known. :func:`normalize` takes their uncertainty in.
    """
    score, zero_shot, full = (np.asarray(value, dtype=float) for value in (score, zero_shot, full))
    gain = full - zero_shot
    way: Floats = (score - zero_shot) / np.where(gain > 0, gain, np.nan)
    return way


class Normalized(NamedTuple):
    """Scores between zero-shot (0) and full fine-tuning (1).

    Attributes:
        scores: For each task that has such a way, what the functions of :mod:`mmpeft.stats` take.
        left_out: Tasks on which full fine-tuning did not gain enough; to be named wherever the average is.
    """

    scores: dict[str, TaskScores]
    left_out: tuple[str, ...]


def normalize(scores: Scores, zero_shot: Scores, full: Scores, *, least_gain: float = 0.0) -> Normalized:
    """A variant's scores as parts of the way from zero-shot to full fine-tuning, item by item and seed by seed.

    With m, z and f the means of variant, zero-shot and full fine-tuning, a task's normalized score is
    n = (m - z) / (f - z). Entry (s, i) of its matrix is ``n + ((m_si - z_i) - n (f_si - z_i)) / (f - z)``, whose mean
    is n and whose spread over pictures and seeds is, to first order, that of the ratio. So ::

        hierarchical_bootstrap(normalize(a, zero_shot, full).scores, rng)
        paired_difference(normalize(a, …).scores, normalize(b, …).scores, rng)

    give averages over unlike metrics, and their differences, with intervals that hold the uncertainty of both ends.
    Simulated with a gain f - z of one to ten of its standard errors, a 95 % interval covers in 95 to 99 %. But where the
    gain is hardly known, its task makes the average useless: the interval grows as one over the gain. ``least_gain`` keeps
    such tasks out.

    Args:
        scores: A trained variant.
        zero_shot: The base, one run a task.
        full: Full fine-tuning. Seeds that it shares with the variant are used.
        least_gain: A task counts if full fine-tuning gains more than this, in units of its score.

    Raises:
        MmpeftError: Tasks or items differ, no seed in common, or zero-shot with more than one run.

    Source: linearization of a ratio, Woodruff 1971, doi:10.1080/01621459.1971.10482279.
    """
    gains = difference(scores, zero_shot, untrained_baseline=True)
    ways = difference(full, zero_shot, untrained_baseline=True)
    short = difference(ways, gains)  # how far the variant stays behind full fine-tuning, over common seeds
    found, left_out = {}, []
    for name, behind in short.items():
        rows = np.intersect1d(ways[name].seeds, behind.seeds, return_indices=True)[1]  # both in the order of seeds
        way = ways[name].scores[rows]
        gain = way.mean()
        if not gain > least_gain:
            left_out.append(name)
            continue
        part = 1 - behind.scores.mean() / gain
        entries = part + (way - behind.scores - part * way) / gain
        found[name] = TaskScores(entries, behind.seeds, behind.examples, behind.pictures)
    return Normalized(found, tuple(left_out))


# --------------------------------------------------------------------------------------------------
# Where the spread is from
# --------------------------------------------------------------------------------------------------


def seed_sd(scores: ArrayLike) -> float:
    """Standard deviation between seeds (ddof 1) of the score averaged over items; nan for a single seed.

    Every seed answers the same items, so which items were drawn does not enter; chance answers of single
    seeds to single items do.

    Args:
        scores: (S, I) of one task, or (S,) means already taken.
    """
    values = np.asarray(scores, dtype=float)
    means = values.reshape(len(values), -1).mean(axis=1)
    return float(means.std(ddof=1)) if len(means) > 1 else math.nan


def sd_interval(scores: ArrayLike, *, level: float = 0.95) -> Interval:
    """The SD between seeds with the jackknife interval of its logarithm; nan without spread. See :func:`sd_ratio`."""
    values, center, variance, freedom = _log_sd(scores, level)
    return _around(seed_sd(values), center, float(stats.t.ppf((1 + level) / 2, freedom)) * math.sqrt(variance))


def sd_ratio(a: ArrayLike, b: ArrayLike, *, level: float = 0.95) -> Interval:
    """The seed SD of ``a`` over that of ``b``, with the jackknife interval of its logarithm; nan if either does not vary.

    Each seed is left out once, and what that does to log SD says how well it is known (Tukey's pseudo-values); two sides
    make a t interval with Satterthwaite's degrees of freedom. Simulated for normal, uniform, Laplace, t(3), gamma and
    exponential scores and for one wild run in ten, a 95 % interval covers in 89 to 97 % with five and ten seeds; the F
    interval, exact for normal scores, in 75 to 99 %. Two seeds can leave none out: their interval is from 0 to infinity.

    Args:
        a: (S,) scores of one variant's seeds.
        b: (S',) scores of the other's.
        level: Coverage aimed at.

    Raises:
        MmpeftError: Fewer than two seeds on a side, or a level outside (0, 1).

    Source: Miller 1968, Jackknifing variances, doi:10.1214/aoms/1177698418.
    """
    (x, *_), (y, *_) = (_log_sd(side, level) for side in (a, b))
    ratio = seed_sd(x) / seed_sd(y) if seed_sd(y) > 0 else math.nan
    e = log_sd_ratio(a, b, level=level)
    return _around(ratio, e.mean, e.high - e.mean)


def log_sd_ratio(a: ArrayLike, b: ArrayLike, *, level: float = 0.95) -> Estimate:
    """The logarithm of :func:`sd_ratio` as an estimate to test; its standard error is infinite where nothing is known."""
    (x, above, of_above, freedom_above), (y, below, of_below, freedom_below) = (_log_sd(side, level) for side in (a, b))
    variance = of_above + of_below
    squares = of_above**2 / freedom_above + of_below**2 / freedom_below
    freedom = variance**2 / squares if 0 < squares < math.inf else 1.0
    half = float(stats.t.ppf((1 + level) / 2, freedom)) * math.sqrt(variance)
    mean = above - below
    return Estimate(mean, mean - half, mean + half, math.sqrt(variance), freedom, min(len(x), len(y)))


def _log_sd(scores: ArrayLike, level: float) -> tuple[Floats, float, float, float]:
    """The scores; mean of the pseudo-values of their log SD, its variance (infinite if not known), degrees of freedom."""
    values = np.asarray(scores, dtype=float).ravel()
    number = len(values)
    if number < 2 or not 0 < level < 1:
        raise MmpeftError(f"scores, level: two seeds at least and a coverage in (0, 1); got {number} and {level}.")
    without = np.array([np.delete(values, i).std(ddof=1) for i in range(number)]) if number > 2 else np.zeros(1)
    if not (without > 0).all():
        return values, 0.0, math.inf, 1.0
    pseudo = number * math.log(seed_sd(values)) - (number - 1) * np.log(without)
    return values, float(pseudo.mean()), float(pseudo.var(ddof=1)) / number, number - 1.0


def _around(value: float, center: float, half: float) -> Interval:
    """The value with the ends of an interval that was made for its logarithm."""
    if math.isnan(value) or value == 0:
        return Interval(math.nan, math.nan, math.nan)
    if math.isinf(half):
        return Interval(value, 0.0, math.inf)
    return Interval(value, math.exp(center - half), math.exp(min(center + half, 700.0)))


class Component(NamedTuple):
    """One source of spread.

    Attributes:
        variance: Unbiased, so it may come out below zero: then nothing of this source was found.
        standard_error: Of the grand mean, from this source alone: √(variance / how often it was drawn).
    """

    variance: float
    standard_error: float


def variance_components(scores: ArrayLike, *, nested: bool = False) -> dict[str, Component]:
    """How much of the spread of one task's scores is from training subsets, from seeds, from items, and the rest.

    Every subset, seed and item is taken as a draw from many. With σ²_B the variance of the joint effect B of some of
    the factors, the mean square of A has the expectation ``Σ_{B ⊇ A} σ²_B × levels of the factors not in B``; solved
    from the largest A down. The squared standard errors of the components add up to that of the grand mean, where none is
    cut at zero.

    Components: ``subset``, ``seed``, ``item``; what one of them changes about another, ``subset × seed``,
    ``subset × item``, ``seed × item``; and ``left``, which differs from one answer to the next. Items of one picture
    count as independent here.

    Args:
        scores: (D, S, I) subset draws by seeds by items, or (S, I) with one draw; at least two of each.
        nested: Seed number s of one draw has nothing to do with number s of another. Then ``seed`` holds
            ``subset × seed`` as well, and ``left`` holds ``seed × item``.

    Raises:
        MmpeftError: Another shape, or a factor with a single level.

    Source: Searle, Casella & McCulloch 1992, Variance Components, ch. 4.
    """
    values = np.asarray(scores, dtype=float)
    if values.ndim not in (2, 3) or min(values.shape) < 2:
        raise MmpeftError(f"scores: (subsets, seeds, items) or (seeds, items), two of each at least; got {values.shape}.")
    factors = ("subset", "seed", "item")[-values.ndim :]
    levels = dict(zip(factors, values.shape, strict=True))
    squares, freedom = _sums_of_squares(values, factors)
    if nested and "subset" in levels:
        for lone in (frozenset({"seed"}), frozenset({"seed", "item"})):
            squares[lone | {"subset"}] += squares.pop(lone)
            freedom[lone | {"subset"}] += freedom.pop(lone)
    variances: dict[frozenset[str], float] = {}
    for term in sorted(squares, key=len, reverse=True):
        held = sum(_replicates(levels, other) * found for other, found in variances.items() if other > term)
        variances[term] = (squares[term] / freedom[term] - held) / _replicates(levels, term)
    names = {term: _name(term, factors, nested) for term in sorted(variances, key=len)}
    drawn = {term: math.prod(levels[f] for f in term) for term in names}
    return {names[t]: Component(variances[t], math.sqrt(max(0.0, variances[t]) / drawn[t])) for t in names}


def _sums_of_squares(
    values: Floats, factors: tuple[str, ...]
) -> tuple[dict[frozenset[str], float], dict[frozenset[str], int]]:
    """Sum of squares and degrees of freedom of each effect of a full crossing with one value a cell."""
    axes = range(len(factors))
    squares, freedom = {}, {}
    for kept in chain.from_iterable(combinations(axes, size) for size in range(1, len(factors) + 1)):
        effect = values.mean(axis=tuple(set(axes) - set(kept)), keepdims=True)
        for axis in kept:
            effect = effect - effect.mean(axis=axis, keepdims=True)
        term = frozenset(factors[axis] for axis in kept)
        squares[term] = float((effect**2).sum()) * values.size / effect.size
        freedom[term] = math.prod(values.shape[axis] - 1 for axis in kept)
    return squares, freedom


def _replicates(levels: Mapping[str, int], term: frozenset[str]) -> int:
    """How many values share one level of the term."""
    return math.prod(number for factor, number in levels.items() if factor not in term)


def _name(term: frozenset[str], factors: tuple[str, ...], nested: bool) -> str:
    if len(term) == len(factors):
        return "left"
    if nested and term == {"subset", "seed"}:
        return "seed"
    return " × ".join(factor for factor in factors if factor in term)


class Agreement(NamedTuple):
    """How alike the seeds of a variant score the same items.

    Attributes:
        same: Share of pairs (two seeds, one item) with exactly the same score.
        kappa: The same beyond chance (Fleiss): 0 if seeds agree as often as scores drawn at random, 1 if always.
        alpha: Krippendorff's, on squared distances: near misses count as near. For graded scores such as CIDEr-D.
    """

    same: float
    kappa: float
    alpha: float


def agreement(scores: ArrayLike) -> Agreement:
    """Per-item agreement between seeds; nan beyond chance if all scores are one and the same.

    ``kappa = (same - P_e) / (1 - P_e)`` with P_e the chance that two of all scores are the same, and
    ``alpha = 1 - D_o / D_e`` with the mean squared distances of two scores of one item and of any two scores.

    Args:
        scores: (S, I), at least two seeds.

    Raises:
        MmpeftError: Fewer than two seeds.

    Source: Fleiss 1971, doi:10.1037/h0031619; Krippendorff 2004, Content Analysis, ch. 11.
    """
    values = np.asarray(scores, dtype=float)
    if values.ndim != 2 or len(values) < 2 or not values.size:
        raise MmpeftError(f"scores: (seeds, items) with at least two seeds; got {values.shape}.")
    num_seeds, num_items = values.shape
    kinds, kind = np.unique(values, return_inverse=True)
    cells: NDArray[np.int64] = kind.reshape(values.shape) + len(kinds) * np.arange(num_items)
    counts = np.unique(cells, return_counts=True)[1].astype(float)  # seeds with the same score, for each item and score
    same = float((counts * (counts - 1)).sum() / (num_items * num_seeds * (num_seeds - 1)))
    by_chance = float(((np.bincount(kind.ravel()) / values.size) ** 2).sum())
    if len(kinds) == 1:
        return Agreement(same, math.nan, math.nan)
    within, overall = values.var(axis=0, ddof=1).mean(), values.var(ddof=1)  # half the squared distances
    return Agreement(same, (same - by_chance) / (1 - by_chance), float(1 - within / overall))
