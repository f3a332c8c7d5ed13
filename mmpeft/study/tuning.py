"""How much of a score is the learning rate: the best of so many trials, what a wrong rate costs, who leads at which budget.

A *trial* is a rate of the question's grid. The rates of the paper (``params/scales/paper.yaml``) are runs of their own
beside the grid: they stand for a method that was not tuned here. Scores are averages over all tasks of the plan.
Baselines are tuned as methods are, but where the spread over methods is asked for they do not count as such.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from math import comb

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from mmpeft.decide import verdicts
from mmpeft.errors import MmpeftError
from mmpeft.methods import METHODS
from mmpeft.methods.baselines import Baseline
from mmpeft.plan import read_yaml, scale_file
from mmpeft.stats import Estimate, joint_shifts
from mmpeft.study import comparison
from mmpeft.study.comparison import Results, Variant
from mmpeft.study.curves import ALL, LEVEL, lines, of_shared_runs, pooled, spec_of
from mmpeft.study.differences import Cells, compared, counted, framed
from mmpeft.study.report import Prose, Table, cell, grids, listed, percent, rate_text, to_html, with_interval

Floats = NDArray[np.float64]
BASELINES = {kind.label for kind in METHODS.values() if issubclass(kind, Baseline)}
PAPER, BEST = "the paper's rates", "best rate each"


@dataclass(frozen=True, eq=False)
class Sweep:
    """The scores at every rate that has all its runs, and how they move together when pictures and seeds are redrawn.

    Attributes:
        rates: (P,) the learning rates.
        labels: (P,) the method of each.
        is_trial: (P,) whether the rate is one of the grid.
        is_paper: (P,) whether it is the one that the paper uses.
        mean: (P,) the averages over all tasks.
        draws: (B, P) the same under redrawn pictures and seeds.
    """

    rates: Floats
    labels: NDArray[np.str_]
    is_trial: NDArray[np.bool_]
    is_paper: NDArray[np.bool_]
    mean: Floats
    draws: Floats

    @property
    def methods(self) -> list[str]:
        """The methods with two trials or more, in the order of tables."""
        return [label for label in dict.fromkeys(self.labels.tolist()) if self.trials_of(label).sum() > 1]

    def trials_of(self, label: str) -> NDArray[np.bool_]:
        """(P,) which rates are trials of this method."""
        return (self.labels == label) & self.is_trial

    def paper_of(self, label: str) -> NDArray[np.bool_]:
        """(P,) which rate is the paper's for this method."""
        return (self.labels == label) & self.is_paper


def rate_of(results: Results, variant: Variant) -> float | None:
    """The learning rate of a row: the method's, or the connector's where it alone is trained."""
    spec = spec_of(results, variant)
    return spec.connector.learning_rate if spec.method.tunes_connector else spec.train.learning_rate


@cache
def paper_rates() -> Mapping[str, float]:
    """The paper's rates by the method's printed name, from the file of the scale ``paper``."""
    rates = read_yaml(scale_file("paper"))["learning_rates"]
    return {METHODS[name].label: rate for name, rate in rates.items()}


@cache
def sweep(results: Results) -> Sweep | None:
    """The sweep of a question; None without a single rate that has all its runs."""
    points = [(line.label, point) for line in lines(results, rate_of) for point in line.points]
    scored = [(label, point.x, scores) for label, point in points if (scores := pooled(results, point.rows, ALL))]
    runs = [set.intersection(*(set(task.seeds.tolist()) for task in scores.values())) for *_, scores in scored]
    if not runs or not set.intersection(*runs):
        return None
    grid = grids(results)
    mean = np.array([np.mean([task.scores.mean() for task in scores.values()]) for *_, scores in scored])
    parts = of_shared_runs([scores for *_, scores in scored])
    shifts = joint_shifts(parts, np.random.default_rng(0), comparison.NUM_DRAWS, LEVEL)
    return Sweep(
        rates=np.array([rate for _, rate, _ in scored]),
        labels=np.array([label for label, *_ in scored]),
        is_trial=np.array([rate in grid.get(label, ()) for label, rate, _ in scored]),
        is_paper=np.array([rate == paper_rates().get(label) for label, rate, _ in scored]),
        mean=mean,
        draws=mean + shifts,
    )


def expected_best(scores: ArrayLike, num_trials: int) -> Floats:
    """The expected highest score of trials drawn from all those made, without putting one back: exact.

    The i-th lowest of n scores is the highest of k drawn ones in C(i - 1, k - 1) of the C(n, k) draws.

    Args:
        scores: (..., n).
        num_trials: k, from 1 to n.

    Returns:
        (...,) means.

    Raises:
        MmpeftError: k is not between 1 and n.

    Source: Dodge et al. 2019, "Show Your Work", arXiv:1909.03004, which draws with putting back.
    """
    ordered = np.sort(np.asarray(scores, dtype=float), axis=-1)
    size = ordered.shape[-1]
    if not 1 <= num_trials <= size:
        raise MmpeftError(f"num_trials: must be between 1 and the {size} trials that were made, got {num_trials}.")
    weights = np.array([comb(below, num_trials - 1) for below in range(size)]) / comb(size, num_trials)
    found: Floats = ordered @ weights
    return found


def budgets(results: Results) -> dict[str, list[Estimate]]:
    """For each method the expected best score of one trial, of two, … of all of its grid, with intervals."""
    found = sweep(results)
    if not found:
        return {}
    trials = {label: found.trials_of(label) for label in found.methods}
    return {
        label: [_estimate(expected_best(found.mean[of], k), expected_best(found.draws[:, of], k)) for k in range(1, of.sum() + 1)]
        for label, of in trials.items()
    }


def _estimate(mean: ArrayLike, draws: Floats) -> Estimate:
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(mean), float(low), float(high), float(draws.std()), np.inf, 1)  # type: ignore[arg-type]


def budgets_table(results: Results) -> Table:
    """A row for each method: its score at the paper's rate, and what so many trials can be expected to find."""
    found = sweep(results)
    rows: Cells = {}
    shown: Cells = {}
    for label, best in budgets(results).items():
        at_paper = _at_paper(found, label) if found else None
        rows[label] = {"paper": at_paper.mean if at_paper else None} | {k: e.mean for k, e in enumerate(best, 1)}
        shown[label] = {"the paper's rate": cell(at_paper)}
        shown[label] |= {f"{k} trial{'s' if k > 1 else ''}": cell(e) for k, e in enumerate(best, 1)}
    return framed(rows, shown, "No method has two rates with all their runs yet.", results)


def _at_paper(found: Sweep, label: str) -> Estimate | None:
    mine = found.paper_of(label)
    return _estimate(found.mean[mine][0], found.draws[:, mine][:, 0]) if mine.any() else None


# --------------------------------------------------------------------------------------------------
# Who leads at which budget
# --------------------------------------------------------------------------------------------------


def ranking_table(results: Results) -> Table:
    """The methods in order of their score: at the paper's rates, for each number of trials, at the best rate of each."""
    orders = _orders(results)
    places = max((len(order) for order in orders.values()), default=0)
    frame = pd.DataFrame({name: [*order, *[""] * (places - len(order))] for name, order in orders.items()}).T
    frame.columns = [f"{place}." for place in range(1, places + 1)]
    return counted(Table(frame, to_html(frame) if places else "<p>Nothing can be ranked yet.</p>"), results)


def _orders(results: Results) -> dict[str, list[str]]:
    found, best = sweep(results), budgets(results)
    if not found or not best:
        return {}
    at_paper = {label: e.mean for label in best if (e := _at_paper(found, label))}
    orders = {PAPER: _ordered(at_paper)} if len(at_paper) > 1 else {}
    for k in range(1, min(len(each) for each in best.values()) + 1):
        orders[f"{k} trial{'s' if k > 1 else ''} each"] = _ordered({label: each[k - 1].mean for label, each in best.items()})
    return orders | {BEST: _ordered({label: each[-1].mean for label, each in best.items()})}


def _ordered(scores: Mapping[str, float]) -> list[str]:
    return sorted(scores, key=lambda label: -scores[label])


def ranking(results: Results) -> Prose:
    """Whether the order of the methods depends on the number of trials, or on taking the paper's rates."""
    orders, found = _orders(results), sweep(results)
    if not orders or not found:
        return Prose("Whether the ranking depends on the tuning is not known yet: too few rates have all their runs.")
    swapped = _swapped(orders["1 trial each"], orders[BEST])
    text = "The ranking of the methods is the same after one trial each as at the best rate of each."
    if swapped:
        text = f"Between one trial each and the best rate of each, {_said(swapped)} change places."
    if PAPER not in orders:
        return Prose(text)
    swapped = _swapped(orders[PAPER], orders[BEST])
    if not swapped:
        return Prose(f"{text} At the paper's rates it is the same as at the best rate of each.")
    clear, num_looked_at = _clearly_swapped(found, orders[PAPER])
    text += f" Between the paper's rates and the best rate of each, {_said(swapped)} change places"
    text += f"; {_said(clear) if clear else 'none of them'} with both differences told apart from zero"
    return Prose(f"{text}, after Holm's correction for all {num_looked_at} differences between two methods.")


def _said(pairs: Iterable[tuple[str, str]]) -> str:
    return ", ".join(f"{a} and {b}" for a, b in pairs)


def _swapped(a: list[str], b: list[str]) -> list[tuple[str, str]]:
    """The pairs that stand in another order in b than in a."""
    return [(x, y) for x, y in combinations(a, 2) if x in b and y in b and b.index(x) > b.index(y)]


def _clearly_swapped(found: Sweep, labels: Sequence[str]) -> tuple[list[tuple[str, str]], int]:
    """The pairs of which one is surely ahead at the paper's rates and surely behind at the best ones.

    The family is that of all pairs at both rates, since which of them swap is known from the same runs; its size comes second.
    """
    pairs = list(combinations(labels, 2))
    at_paper = {label: int(np.flatnonzero(found.paper_of(label))[0]) for label in labels}
    leads = {}
    for a, b in pairs:
        for rates, i, j in (("paper", at_paper[a], at_paper[b]), ("best", _best(found, a), _best(found, b))):
            leads[a, b, rates] = _estimate(found.mean[i] - found.mean[j], found.draws[:, i] - found.draws[:, j])
    sure = verdicts(leads, 0.0)
    return [(a, b) for a, b in pairs if {sure[a, b, "paper"], sure[a, b, "best"]} == {"higher", "lower"}], len(leads)


def _best(found: Sweep, label: str) -> int:
    trials = np.flatnonzero(found.trials_of(label))
    return int(trials[np.argmax(found.mean[trials])])


# --------------------------------------------------------------------------------------------------
# What the rate does, beside what the method does
# --------------------------------------------------------------------------------------------------


def spread_table(results: Results) -> Table:
    """For each method: its best rate, how far the grid spreads its score, what a neighboring rate and the paper's cost."""
    found = sweep(results)
    rows: Cells = {}
    shown: Cells = {}
    for label in found.methods if found else []:
        assert found is not None
        trials = np.flatnonzero(found.trials_of(label))
        best, place = _best(found, label), int(np.argmax(found.mean[trials]))
        near = [trials[i] for i in (place - 1, place + 1) if 0 <= i < len(trials)]
        costs = {
            "over the grid": _estimate(np.ptp(found.mean[trials]), np.ptp(found.draws[:, trials], axis=1)),
            "one rate off": _cost(found, best, min(near, key=lambda i: found.mean[i])),
            "the paper's rate": _cost(found, best, *np.flatnonzero(found.paper_of(label))[:1]),
        }
        rows[label] = {"best rate": found.rates[best]} | {name: e.mean if e else None for name, e in costs.items()}
        shown[label] = {"best rate": rate_text(found.rates[best])}
        shown[label] |= {"over the grid, points": cell(costs.pop("over the grid"), sign=True)}  # never below zero: no test
        shown[label] |= {f"{name}, points": e for name, e in costs.items()}
    return compared(rows, shown, "No method has two rates with all their runs yet.", results)


def _cost(found: Sweep, best: int, other: int | None = None) -> Estimate | None:
    """How much lower another rate scores than the best one, as a negative number."""
    if other is None:
        return None
    return _estimate(found.mean[other] - found.mean[best], found.draws[:, other] - found.draws[:, best])


def larger_effect(results: Results) -> Prose:
    """Whether the rate moves a method's score more than the choice of the method does, each at its best rate.

    Compared are two standard deviations: over the rates of a grid, averaged over the methods, and over the methods.
    Baselines are no methods here; what would come out with them is told beside it.
    """
    found = sweep(results)
    methods = [label for label in found.methods if label not in BASELINES] if found else []
    if not found or len(methods) < 2:
        return Prose("Whether the rate matters more than the method is not known yet: too few rates have all their runs.")
    ranges = [float(np.ptp(found.mean[found.trials_of(label)])) for label in methods]
    apart = float(np.ptp(found.mean[[_best(found, label) for label in methods]]))
    lead, told = _rates_over_methods(found, methods)
    text = f"From the worst rate of its grid to the best, a method's average moves by {percent(min(ranges))} to "
    text += f"{percent(max(ranges))} points; at their best rates, the methods lie {percent(apart)} points apart. "
    text += f"As standard deviations: {told}. "
    if lead.low > 0:
        text += "Within these grids the rate is the larger effect: it moves a score more than the method."
    elif lead.high < 0:
        text += "Within these grids the rate is not the larger effect: the method moves a score more."
    else:
        text += "Which of the two is larger, these runs cannot tell."
    beside = [label for label in found.methods if label in BASELINES]
    if beside:
        text += f" With {listed(beside)} counted as methods too: {_rates_over_methods(found, found.methods)[1]}."
    return Prose(text)


def _rates_over_methods(found: Sweep, labels: Sequence[str]) -> tuple[Estimate, str]:
    """The SD over rates, a mean over methods, less the SD over the methods at their best rates; and all three in words."""
    grids_of = [np.flatnonzero(found.trials_of(label)) for label in labels]
    tops = [_best(found, label) for label in labels]
    over_rates = [np.mean([of[..., grid].std(axis=-1, ddof=1) for grid in grids_of], axis=0) for of in (found.mean, found.draws)]
    over_methods = [of[..., tops].std(axis=-1, ddof=1) for of in (found.mean, found.draws)]
    lead = _estimate(over_rates[0] - over_methods[0], over_rates[1] - over_methods[1])
    told = f"{percent(float(over_rates[0]))} points over rates, {percent(float(over_methods[0]))} over methods"
    return lead, f"{told}, a difference of {with_interval(lead, sign=True)}"
