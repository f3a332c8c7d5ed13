"""Invented runs of which the truth is known, to see what an interval is worth.

Every item of an invented task has its difficulty and every seed its luck, both normal. Seed s answers item i right with
the probability Φ(ability + luck_s - difficulty_i), so that over all seeds and items there could be, the score is
``Φ(ability / √(1 + seed_spread² + item_spread²))``: the truth that an interval should hold.

    invent(design, rng) -> Scores          one study
    coverage(…) -> DataFrame               how often three kinds of interval hold the truth, by number of seeds
    detections(…) -> DataFrame             how often a true difference is found, by its size
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import special

from mmpeft.decide import minimum_detectable_difference
from mmpeft.errors import MmpeftError
from mmpeft.stats import Floats, Scores, TaskScores, hierarchical_bootstrap, paired_difference

NUM_DRAWS = 400
"""Bootstrap draws for each interval of a simulation; a page of results takes more."""


@dataclass(frozen=True)
class Design:
    """How an invented study is made.

    Attributes:
        num_seeds: Runs of the variant.
        num_items: Test items, each about a picture of its own.
        truth: The score over all seeds and items there could be, between 0 and 1.
        seed_spread: Standard deviation of the seeds' luck, on the scale of the ability.
        item_spread: Standard deviation of the items' difficulty, on the same scale.
    """

    num_seeds: int = 5
    num_items: int = 500
    truth: float = 0.7
    seed_spread: float = 0.1
    item_spread: float = 1.0

    def __post_init__(self) -> None:
        if not (0 < self.truth < 1 and self.num_seeds >= 1 and self.num_items >= 2):
            raise MmpeftError("truth, num_seeds, num_items: a score between 0 and 1, one seed and two items at least.")

    @property
    def ability(self) -> float:
        """What makes the expected score the truth."""
        return float(special.ndtri(self.truth)) * math.sqrt(1 + self.seed_spread**2 + self.item_spread**2)


def invent(design: Design, rng: np.random.Generator, difficulty: Floats | None = None) -> dict[str, TaskScores]:
    """The scores of one invented study: a task of right and wrong answers.

    Args:
        design: How it is made.
        rng: Source of luck, difficulty and answers.
        difficulty: (I,) that of the items, so that two variants can answer the same ones; drawn unless given.
    """
    if difficulty is None:
        difficulty = rng.normal(0, design.item_spread, design.num_items)
    luck = rng.normal(0, design.seed_spread, (design.num_seeds, 1))
    right = rng.random((design.num_seeds, design.num_items)) < special.ndtr(design.ability + luck - difficulty)
    items = np.arange(design.num_items)
    return {"invented": TaskScores(right.astype(float), np.arange(design.num_seeds), items, items)}


# --------------------------------------------------------------------------------------------------
# Coverage
# --------------------------------------------------------------------------------------------------


def _of_items(scores: Scores, rng: np.random.Generator) -> tuple[float, float]:
    """A plain bootstrap over items: which seeds there were is forgotten."""
    return _plain(scores["invented"].scores.mean(axis=0), rng)


def _of_seeds(scores: Scores, rng: np.random.Generator) -> tuple[float, float]:
    """A plain bootstrap over seeds: which items there were is forgotten."""
    return _plain(scores["invented"].scores.mean(axis=1), rng)


def _plain(values: Floats, rng: np.random.Generator) -> tuple[float, float]:
    means = values[rng.integers(len(values), size=(NUM_DRAWS, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def _of_both(scores: Scores, rng: np.random.Generator) -> tuple[float, float]:
    estimate = hierarchical_bootstrap(scores, rng, num_draws=NUM_DRAWS)
    return estimate.low, estimate.high


INTERVALS: dict[str, Callable[[Scores, np.random.Generator], tuple[float, float]]] = {
    "items redrawn": _of_items,
    "seeds redrawn": _of_seeds,
    "both, as in this book": _of_both,
}
"""The kinds of 95 % interval that a simulation compares."""


def coverage(
    nums_seeds: Sequence[int], num_studies: int, rng: np.random.Generator, design: Design | None = None
) -> pd.DataFrame:
    """How often each kind of 95 % interval holds the truth.

    Args:
        nums_seeds: Numbers of seeds to try.
        num_studies: Invented studies for each.
        rng: Source of everything.
        design: All but the number of seeds.

    Returns:
        Columns ``interval, num_seeds, coverage`` (share of studies), ``width`` (mean) and ``margin``: twice the standard
        error of the share, from the number of studies.
    """
    base = design or Design()
    rows = []
    for num_seeds in nums_seeds:
        one = Design(num_seeds, base.num_items, base.truth, base.seed_spread, base.item_spread)
        studies = [invent(one, rng) for _ in range(num_studies)]
        for name, interval in INTERVALS.items():
            ends = np.array([interval(study, rng) for study in studies])
            held = float(((ends[:, 0] <= base.truth) & (base.truth <= ends[:, 1])).mean())
            margin = 2 * math.sqrt(held * (1 - held) / num_studies)
            rows.append((name, num_seeds, held, float((ends[:, 1] - ends[:, 0]).mean()), margin))
    return pd.DataFrame(rows, columns=["interval", "num_seeds", "coverage", "width", "margin"])


# --------------------------------------------------------------------------------------------------
# What can be found
# --------------------------------------------------------------------------------------------------


def detections(
    differences: Sequence[float], num_studies: int, rng: np.random.Generator, design: Design | None = None
) -> pd.DataFrame:
    """How often the interval of a paired difference lies off zero, and what each study would have promised.

    Two variants answer the same items; the better one's true score is higher by the difference.

    Args:
        differences: True differences to try, at least 0.
        num_studies: Invented studies for each.
        rng: Source of everything.
        design: That of the lower variant.

    Returns:
        Columns ``difference, found`` (share of studies whose interval excludes zero) and ``detectable``, the mean over
        studies of the smallest detectable difference that each works out from its own scores.
    """
    base = design or Design()
    rows = []
    for true in differences:
        other = Design(base.num_seeds, base.num_items, base.truth + true, base.seed_spread, base.item_spread)
        found, promised = [], []
        for _ in range(num_studies):
            difficulty = rng.normal(0, base.item_spread, base.num_items)
            high, low = (invent(each, rng, difficulty) for each in (other, base))
            gain = paired_difference(high, low, rng, num_draws=NUM_DRAWS)
            found.append(not gain.low <= 0 <= gain.high)
            freedom = gain.degrees_of_freedom
            promised.append(minimum_detectable_difference(gain.standard_error, 1, degrees_of_freedom=freedom))
        rows.append((true, float(np.mean(found)), float(np.mean(promised))))
    return pd.DataFrame(rows, columns=["difference", "found", "detectable"])
